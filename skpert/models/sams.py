r"""SAMS-VAE and its relatives: effects of perturbations add up in latent space.

.. math::

    m_t \sim \mathrm{Bernoulli}(\alpha), \quad e_t \sim \mathcal{N}(0, s^2 I), \quad
    z^b \sim \mathcal{N}(0, I), \qquad
    z = z^b + \sum_t a_t \, (m_t \circ e_t), \quad
    x_g \mid z \sim \mathrm{NB}(l \, \mathrm{softmax}_g f(z), \theta_g)

with dosages :math:`a_t`, masks :math:`m`, embeddings :math:`e` (``embedding_``), basal states
:math:`z^b` and observed library size :math:`l`. ``CPAVAE`` has :math:`m = 1`; ``ConditionalVAE``
has no sum, but a decoder :math:`f(z, a)` that reads the dosages (Bereket and Karaletsos,
Modelling cellular perturbations with the sparse additive mechanism shift variational
autoencoder, NeurIPS 2023).
"""

import math
from numbers import Integral, Real
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from .._data import ENCODE_SIZE, Cells
from .._input.values import is_positive_integer
from .._ranks import rows_of_all
from ..base import PerturbationVAE
from ..exceptions import warn_of_data
from ..module import PerturbationModule, Phase
from ..nn import InputTransform, Table
from ..objectives import (
    Costs,
    Reweighting,
    iwelbo,
    kl_from_unit_normal,
    log_unit_normal,
    log_unit_normal_around,
    reparametrised,
    reweightings,
    sampled_ratio,
)
from ..parameters import N_LATENT, Interval, StrOptions, with_shared_parameters
from ..sparsity.edges import check_edges
from ..sparsity.effects import (
    LatentEffects,
    additive_effects,
    dense_then_narrow,
    dense_then_sparse,
    edges_to_start,
    found_again,
    narrowed,
)
from ..sparsity.embeddings import EmbeddingNetwork, Embeddings, SharedDraw, check_widths
from ..sparsity.interactions import Interactions, combinations_of
from ..sparsity.masks import CalledMasks, FixedMasks, check_mask_prior, learned_masks
from ..sparsity.treatments import n_treated_cells, state_of_unknown

DISPERSION_RATE = 30.0  # relative; while dispersions are far off, latents collapse for good
N_READINGS = 3  # times that the states of new perturbations are read given their effects
N_JOINT = 100  # particles that are weighed together in ``joint_score``

OBJECTIVE_CONSTRAINTS = N_LATENT | {
    "objective": [StrOptions({"elbo", "monte_carlo", "iwelbo"})],
    "n_train_particles": [Interval(Integral, 1, None, closed="left")],
    "input_transform": [StrOptions({"auto", "log", "standardize", "log_standardize"}), None],
}
ADDITIVE_CONSTRAINTS = OBJECTIVE_CONSTRAINTS | {
    "embedding_scale": [Interval(Real, 0, None, closed="neither")],
    "correlated_basal": ["boolean"],
}


class SampledModule(PerturbationModule):
    """Objectives of the paper: the ELBO, in closed form or at samples, and the IWELBO."""

    def __init__(
        self,
        encoder,
        decoder,
        transform,
        *,
        columns=None,
        objective,
        n_particles,
        weights=None,
        n_most=None,
    ):
        super().__init__(encoder, decoder, columns)
        self.transform = transform  # of x, for the encoder
        self.objective = objective
        self.n_particles = n_particles
        self.weights = weights or {}  # a Reweighting by variable
        self.n_most = n_most  # latents to keep, at most; None keeps all that the data have

    def phases(self, n_epochs: int) -> list[Phase]:
        """One, unless the number of latents is to be found."""
        return [Phase(n_epochs)] if self.n_most else dense_then_narrow(n_epochs, self.narrow)

    def narrow(self, cells: Cells) -> None:
        """Keep the latents that the cells have."""
        projection, lift, centre = narrowed(lambda batch: self.guide(batch).mean, cells)
        self.encoder.project(projection, centre)
        self.decoder.project(lift, centre)

    def features(self, x: Tensor) -> Tensor:
        """What the encoder reads, (n_cells, n_genes)."""
        features: Tensor = self.transform(x)
        return features

    def _sample_shape(self) -> tuple[int, ...]:
        """Leading shape of what is sampled in training."""
        one = self.n_particles == 1 and self.objective != "iwelbo"
        return () if one else (self.n_particles,)

    def _cost_of_state(self, q_z: Normal, z: Tensor, prior_mean: Tensor) -> Tensor:
        """Nats of the latent state of each cell, expected under q or at its samples."""
        square, spread = (z - prior_mean).square(), ((z - q_z.mean) / q_z.stddev).square()
        if self.objective == "elbo":
            cost = kl_from_unit_normal(q_z, prior_mean).sum(-1)
            square = (q_z.mean - prior_mean).square() + q_z.stddev.square()
        else:
            cost = ((square - spread) / 2 - q_z.stddev.log()).sum(-1)
        if "z_basal" not in self.weights:
            return cost
        weight = self.weights["z_basal"]
        log_p = -(square + math.log(2 * math.pi)).sum(-1) / 2
        of_q, of_p = weight.q + weight.added_q, weight.p + weight.added_p
        return of_q * cost + (of_q - of_p) * log_p

    def _objective(
        self, log_likelihood: Tensor, per_cell: dict[str, Tensor], kl_weight: float
    ) -> dict[str, Tensor]:
        """Negative ELBO by its terms, or negative importance-weighted ELBO; nats per cell."""
        if self.objective == "iwelbo":
            costs = kl_weight * sum(per_cell.values())
            return {"iwelbo": -iwelbo(log_likelihood - costs).mean()}
        terms = {f"kl_{name}": kl_weight * cost.mean() for name, cost in per_cell.items()}
        return {"reconstruction": -log_likelihood.mean()} | terms


class AdditiveModule(SampledModule):
    """The equation above in torch, with the same symbols."""

    rates = {"masks": 3.0, "embeddings": 3.0, "log_dispersion": DISPERSION_RATE}
    n_treated: Tensor  # (n_perturbations,) training cells of each; interactions count as some
    n_known: Tensor  # () perturbations, the first ones, that networks were trained on

    def __init__(
        self,
        encoder,
        decoder,
        transform,
        masks,
        embeddings,
        n_treated,
        *,
        columns=None,
        objective="elbo",
        n_particles=1,
        weights=None,
        rotated=False,
        n_most=None,
        interactions=None,
    ):
        super().__init__(
            *(encoder, decoder, transform),
            columns=columns,  # that read the shift: q(z | x, shift) with them
            objective=objective,
            n_particles=n_particles,
            weights=weights,
            n_most=n_most,
        )
        self.masks = masks  # q(m)
        self.embeddings = embeddings  # q(e | m)
        self.register_buffer("n_treated", n_treated)
        self.rotated = rotated  # whether training looks for the axes on which effects are sparse
        self.interactions = interactions  # whose rows come before those of perturbations, or None
        self.register_buffer("n_known", torch.tensor(len(n_treated) - self.n_first))

    @property
    def divisible(self) -> bool:
        """Whether processes can share a minibatch: a Beta posterior draws what no one counts."""
        return getattr(self.masks, "log_size", None) is None

    def loss_terms(self, cells: Cells, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Terms whose sum is the negative ELBO, in nats per cell.

        A cell bears the share 1 / (number of cells that received it) of the KL of a perturbation,
        so that every one counts once over the training cells; a control cell bears none.
        """
        shape, cells = self._sample_shape(), self._rows(cells)
        effect, costs = self._effects(cells.part, shape)
        shift = cells.summed(effect)
        q_z, prior_mean = self._read(cells, shift)
        z = reparametrised(q_z, shape if self.columns is None else ())
        p_x = self.decoder(self._state(z, shift), cells.library, cells.environment)
        share = (cells.dosage > 0) / self.n_treated[cells.part].clamp(min=1)
        per_cell = {"z": self._cost_of_state(q_z, z, prior_mean)}
        for name, (log_p, log_q) in costs.items():
            weight = self.weights.get(name, Reweighting())
            per_cell[name] = weight.cost(log_p, log_q, share).sum(-1)
        return self._objective(cells.log_prob(p_x), per_cell, kl_weight)

    def _rows(self, cells: Cells) -> Cells:
        """Cells whose parts are rows of masks and embeddings."""
        return cells if self.interactions is None else self.interactions(cells)

    def _effects(self, part: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Costs]:
        """Masked embeddings of each part of each cell, (..., n_cells, n_parts, n_latent).

        One draw of a perturbation serves all its cells, unless perturbations are more than cells.
        """
        analytic = self.objective == "elbo"
        rows = part if len(self.n_treated) > rows_of_all(part) * part.shape[1] else None
        mask, costs = self.masks.draw(rows, shape, analytic)
        embedding, costs_of_embedding = self.embeddings.draw(rows, mask, analytic)
        effect, costs = mask * embedding, costs | costs_of_embedding
        if rows is None:
            effect = effect[..., part, :]
            costs = {k: (p[..., part], q[..., part]) for k, (p, q) in costs.items()}
        return effect, costs

    def _read(self, cells: Cells, shift: Tensor) -> tuple[Normal, Tensor]:
        """What the encoder infers, and the prior mean of that.

        With columns it is q(z | x, shift), the published q(z_basal | x, shift) moved by the
        shift, else q(z_basal | x).
        """
        x = self.features(cells.x)
        if self.columns is None:
            return self.encoder(x), x.new_zeros(1)
        return self.encoder(x, self.columns(shift)), shift

    def _state(self, inferred: Tensor, shift: Tensor) -> Tensor:
        return inferred + shift if self.columns is None else inferred

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean of the state of cells that may have any perturbation, (.., n_latent)."""
        columns, features = self.columns, self.features(x)
        if columns is None:
            return super().encode(x)
        effects = self.effect()[self.n_first :], self.n_known
        return state_of_unknown(lambda shift: self.encoder(features, columns(shift)), *effects)

    def encode_untreated(self, x: Tensor) -> Tensor:
        """Posterior mean of the state of cells without perturbation, (n_cells, n_latent)."""
        return super().encode(x)

    def draw(self, n_draws: int) -> SharedDraw:
        """Samples of masks times embeddings."""
        mask, costs = self.masks.draw(None, (n_draws,), False)
        embedding, costs_of_embedding = self.embeddings.draw(None, mask, False)
        ratios = [log_p - log_q for log_p, log_q in (costs | costs_of_embedding).values()]
        return SharedDraw(mask * embedding, torch.stack(torch.broadcast_tensors(*ratios)).sum(0))

    def log_weights(self, cells: Cells, n_particles: int, shared: Any = None) -> Tensor:
        """Log p(x, z | a, m, e) - log q(z | x, a, m, e) at samples of all."""
        shared, cells = self.draw(n_particles) if shared is None else shared, self._rows(cells)
        shift = cells.summed(shared.effect[:, cells.part])
        q_z, prior_mean = self._read(cells, shift)
        z, log_ratio = sampled_ratio(q_z, prior_mean, n_particles)
        p_x = self.decoder(self._state(z, shift), cells.library, cells.environment)
        return cells.log_prob(p_x) + log_ratio

    def guide(self, cells: Cells) -> Normal:
        """Posterior of the state z given these expected effects."""
        return self._guide(self._rows(cells))

    def _guide(self, cells: Cells) -> Normal:
        shift = cells.summed(self.effect(cells.part))
        q_z, _ = self._read(cells, shift)
        return Normal(self._state(q_z.mean, shift), q_z.stddev, validate_args=False)

    def log_joint(self, cells: Cells, z: Tensor, shared: Any = None) -> Tensor:
        """Log p(x, z | a, m, e) for each draw of masks and embeddings."""
        cells = self._rows(cells)
        shift = cells.summed(shared.effect[:, cells.part])  # (n_draws, n_cells, n_latent)
        log_p_z = log_unit_normal_around(z, shift)
        p_x = self.decoder(z, cells.library, cells.environment)
        return cells.log_prob(p_x) + log_p_z

    def joint_log_weights(self, cells: Cells, n_particles: int) -> Tensor:
        """Log p(m, e, all x and z) - log q of all latent variables, (n_particles,), float64.

        Perturbations that these cells did not receive play no part.
        """
        shared = self.draw(n_particles)
        rows = self._rows(cells._replace(x=cells.library).to(self.n_treated.device))
        received = rows.part[rows.dosage > 0].unique()
        total = shared.log_ratio[:, received].double().sum(-1)
        for batch in cells.minibatches(ENCODE_SIZE // n_particles + 1, shuffle=False):
            batch = batch.to(self.n_treated.device)
            total = total + self.log_weights(batch, n_particles, shared).double().sum(-1)
        return total.cpu()

    def effect(self, part: Tensor | None = None) -> Tensor:
        """Posterior mean of these effects, or all, under the most probable mask."""
        mask = (self.masks.acting(part) > 0).to(self.n_treated)
        return mask * self.embeddings.posterior(part, mask).mean

    def shift(self, cells: Cells) -> Tensor:
        """Sum of the expected effects on each cell, (n_cells, n_latent)."""
        cells = self._rows(cells)
        return cells.summed(self.effect(cells.part))

    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression of these states after the effects of ``cells``."""
        shift = self.shift(cells)
        if sampled:
            rows = self._rows(cells)
            mask, _ = self.masks.draw(rows.part, (), False)
            embedding, _ = self.embeddings.draw(rows.part, mask, False)
            shift = rows.summed(mask * embedding)
        z = z_basal + shift
        p_x: Distribution = self.decoder(z, cells.library, cells.environment)
        return p_x

    def learned(self) -> dict[str, Tensor]:
        """Embeddings and, where there are any, masks, (n_perturbations, n_latent)."""
        return {name: rows[self.n_first :] for name, rows in self.learned_rows().items()}

    def learned_rows(self) -> dict[str, Tensor]:
        """The same with those of interactions first."""
        mask = self.masks.most_probable()
        q = self.embeddings.posterior(None, mask.to(self.n_treated))
        if isinstance(self.masks, FixedMasks):
            return {"embedding": q.mean}
        called, probability = isinstance(self.masks, CalledMasks), self.masks.probability()
        error = self.masks.standard_error() if called else q.stddev
        found = {"mask": probability > 0.5, "mask_probability": probability}
        return {"embedding": q.mean, "standard_error": error} | found

    @property
    def n_first(self) -> int:
        """Number of interactions, whose rows come before those of perturbations."""
        return 0 if self.interactions is None else len(self.interactions)

    def phases(self, n_epochs: int) -> list[Phase]:
        """Without sparsity, then on the axes on which effects are sparse."""
        if self.rotated:
            return dense_then_sparse(n_epochs, self.narrow, self.find_axes, self.call_edges)
        return super().phases(n_epochs)

    def effects(self, cells: Cells, n_rows: int | None = None) -> LatentEffects:
        """What perturbations, and interactions, do to the latent states of these cells."""
        return self._explained(self._rows(cells), n_rows)

    def _explained(self, rows: Cells, n_rows: int | None = None) -> LatentEffects:
        n = len(self.n_treated) if n_rows is None else n_rows
        return additive_effects(lambda batch: self._guide(batch).mean, rows, n)

    def _seen(self, cells: Cells) -> LatentEffects:
        """The same of training cells, where combinations without a called interaction add up."""
        if self.interactions is None:
            return self.effects(cells)
        self.interactions.find_scales(self.effects(cells))
        effects = self.effects(cells)
        called = (self.interactions.logit(effects, self._error(effects)) > 0).any(1)
        return effects.beside(self._explained(self.interactions(cells, called)), self.n_first)

    def _error(self, effects: LatentEffects) -> Tensor:
        return effects.error_of_basal if self.columns is None else effects.standard_error

    @torch.no_grad()
    def narrow(self, cells: Cells) -> None:
        """Keep the latents that the cells have; with axes to be found, let the decoder follow."""
        self._go_to(*narrowed(lambda batch: self.guide(batch).mean, cells))
        self.n_found = self.encoder.n_latent
        self.encoder.requires_grad_(not self.rotated)

    @torch.no_grad()
    def _go_to(
        self, projection: Tensor, lift: Tensor, centre: Tensor, *, basal: bool = True
    ) -> None:
        """Go over to the latents ``(z - centre) @ projection``; the decoder reads them as before.

        Without ``basal``, where the encoder infers basal states, effects are to have the centre.
        """
        by_basal = self.columns is not None or basal
        self.encoder.project(projection, centre if by_basal else torch.zeros_like(centre))
        self.decoder.project(lift, centre)
        self.masks.narrow(projection.shape[1])
        self.embeddings.project(projection)
        if self.columns is not None:
            columns = nn.Linear(projection.shape[1], self.columns.out_features, bias=False)
            trained = self.columns.weight.requires_grad
            columns.weight = nn.Parameter(self.columns.weight @ lift.T, requires_grad=trained)
            self.columns = columns

    def find_axes(self, cells: Cells) -> None:
        """Rotate the latent space to where effects are sparse, and start masks from them.

        Nothing else changes: the decoder makes of the rotated states what it made before, unless
        there are to be fewer latents.
        """
        self.encoder.requires_grad_(True)
        n, known = self.n_first, self.interactions
        effects = self.effects(cells) if known is None else self._explained(known(cells, False))
        R, centre = effects.after(n).axes(self.n_most)
        self._go_to(R.float(), R.T.float(), centre.float(), basal=bool(effects.controlled))
        for part in (self.columns, self.embeddings.network):
            if part is not None:
                part.requires_grad_(True)
        effects = effects.rotated(R, centre) if known is None else self._seen(cells)
        error = self._error(effects)
        edges = edges_to_start(effects.after(n), error[n:])
        if known is not None:
            edges = torch.cat([known.logit(effects, error) > 0, edges])
        self.masks.start(edges)
        self.embeddings.start(effects.difference.float())

    def call_edges(self, cells: Cells) -> None:
        """Set masks to the probability of an effect on the mean state, unless they are learned."""
        if not isinstance(self.masks, CalledMasks):
            return
        effects, trained = self._seen(cells), self.masks.most_probable()
        error, of_first = self._error(effects), None
        if self.interactions is not None:
            of_first, trained[: self.n_first] = self.interactions.logit(effects, error), False
        self.masks.record(effects.difference, error)
        missing = self.encoder.n_latent < self.n_found
        self.masks.call_first(effects, missing=missing, of_first=of_first)
        known, seen = self.embeddings.loc().detach(), effects.difference.to(self.n_treated)
        self.embeddings.start(torch.where(trained, known, seen))

    def extended(self, cells: Cells, n_new: int) -> "AdditiveModule":
        """A copy with all frozen, and masks and embeddings of ``n_new`` more perturbations."""
        module = self.continued(frozen=True)
        n_known = len(self.n_treated)
        received = n_treated_cells(self._rows(cells), n_known + n_new)[n_known:]
        module.n_treated = torch.cat([self.n_treated, received.to(self.n_treated)])
        module.masks.extend(n_new)
        module.embeddings.extend(torch.zeros(n_new, self.encoder.n_latent))
        for _ in range(N_READINGS):
            effects = module.effects(cells, n_known + n_new)
            module.embeddings.place(effects.mean[n_known:])
        if isinstance(module.masks, CalledMasks):
            error = self._error(effects)[n_known:]
            module.masks.record(effects.mean[n_known:], error)
            module.masks.call()
        return module

    def continued(self, *, frozen: bool) -> Self:
        """A copy whose training goes on; networks learn of all perturbations unless frozen."""
        module = super().continued(frozen=frozen)
        if not frozen:
            module.n_known.fill_(len(self.n_treated) - self.n_first)
        return module

    def refined(self) -> "AdditiveModule":
        """A copy whose masks are fixed at their most probable value, without their prior."""
        module = super().refined()
        module.masks.fix(self.masks.probability() > 0.5)
        return module

    def restarted(self, n_epochs: int) -> tuple["AdditiveModule", list[Phase]]:
        """A copy to be trained again from these weights, and the phases of that."""
        module, phases = super().restarted(n_epochs)
        return module, found_again(module, n_epochs, self.n_first) if self.rotated else phases


class ConditionalModule(SampledModule):
    """A decoder, and an encoder, that read the dosages: f(z, a)."""

    rates = {"encoder_columns": 3.0, "decoder_columns": 3.0, "log_dispersion": DISPERSION_RATE}

    def __init__(
        self, encoder, decoder, transform, n_perturbations, *, objective, n_particles, n_most=None
    ):
        options = {"objective": objective, "n_particles": n_particles, "n_most": n_most}
        super().__init__(encoder, decoder, transform, **options)
        first = encoder.hidden.linears[0]
        bound = (first.in_features + n_perturbations) ** -0.5
        columns = (2 * torch.rand(2, n_perturbations, first.out_features) - 1) * bound
        self.encoder_columns, self.decoder_columns = Table(columns[0]), Table(columns[1])

    def loss_terms(self, cells: Cells, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Terms whose sum is the negative ELBO, in nats per cell."""
        q_z = self.guide(cells)
        z = reparametrised(q_z, self._sample_shape())
        per_cell = {"z": self._cost_of_state(q_z, z, z.new_zeros(1))}
        return self._objective(cells.log_prob(self.intervene(z, cells)), per_cell, kl_weight)

    def guide(self, cells: Cells) -> Normal:
        """Posterior q(z | x, a)."""
        q_z: Normal = self.encoder(self.features(cells.x), cells.shift(self.encoder_columns()))
        return q_z

    def log_joint(self, cells: Cells, z: Tensor, shared: None = None) -> Tensor:
        """Log p(x, z | a)."""
        return cells.log_prob(self.intervene(z, cells)) + log_unit_normal(z).sum(-1)

    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression of these states under the design of ``cells``."""
        extra = cells.shift(self.decoder_columns())
        p_x: Distribution = self.decoder(z_basal, cells.library, cells.environment, extra)
        return p_x


@with_shared_parameters
class ConditionalVAE(PerturbationVAE):
    """VAE whose encoder and decoder read the dosages: the baseline without a latent effect.

    The latent state is N(0, I) for every cell and the decoder is f(z, a), so that a perturbation
    may do anything to expression, and nothing is said of which processes it moves. Unseen
    combinations of known perturbations, and other dosages, are extrapolated by the networks.

    Parameters
    ----------
    {n_latent_found}
    {objective_parameters}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    {shared_attributes}

    See Also
    --------
    SAMSVAE : Effects that are sparse and add up.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023.

    Examples
    --------
    >>> from skpert import ConditionalVAE
    >>> from skpert.datasets import make_additive_shift
    >>> screen = make_additive_shift(5, n_cells_per_perturbation=40, n_control_cells=40,
    ...                              n_latent=3, n_genes=50, random_state=0)
    >>> model = ConditionalVAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> model.predict_intervention(["P0+P3"]).shape
    (1, 50)
    """

    _parameter_constraints = PerturbationVAE._parameter_constraints | OBJECTIVE_CONSTRAINTS

    def __init__(
        self,
        n_latent: int | str = "auto",
        *,
        objective: str = "elbo",
        n_train_particles: int = 1,
        input_transform: str | None = "auto",
        n_hidden: int = 128,
        n_layers: int = 2,
        dropout: float = 0.0,
        batch_norm: bool = True,
        likelihood: str = "negative_binomial",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        environment: str | list[str] | None = None,
        layer: str | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 1e-2,
        schedule: str = "one_cycle",
        weight_decay: float = 1e-6,
        adam_epsilon: float = 1e-8,
        max_gradient_norm: float | None = None,
        n_epochs_kl_warmup: int | str = "auto",
        validation_fraction: float = 0.1,
        patience: int | None = None,
        n_init: int = 1,
        n_particles: int = 100,
        device: str = "auto",
        memory: str = "auto",
        checkpoint=None,
        warm_start: bool = False,
        random_state=None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())

    def _make_module(self, cells):
        return ConditionalModule(
            *self._networks(cells),
            _transform(self, cells),
            len(self.perturbations_),
            objective=self.objective,
            n_particles=self.n_train_particles,
            n_most=self._n_most,
        )


class _AdditiveVAE(PerturbationVAE):
    """What estimators of effects with a posterior do."""

    _parameter_constraints = PerturbationVAE._parameter_constraints | ADDITIVE_CONSTRAINTS

    def joint_score(self, X, A, *, n_particles=None) -> float:
        r"""Importance-weighted bound of the log evidence of all cells together; higher is better.

        .. math:: \frac1N \log \frac1K \sum_k \frac{p(M_k, E_k)}{q(M_k, E_k)}
                  \prod_i \frac{p(x_i, z_{ik} \mid M_k, E_k)}{q(z_{ik} \mid x_i, M_k, E_k)}

        Equations 6 and 7 of the paper. Weights of whole data sets differ by hundreds of nats, so
        that the bound is tight for few cells only; ``score`` is for all others.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Design, of known perturbations.
        n_particles : int or None, default=None
            Samples of masks and embeddings, with one latent state per cell each; None is the
            constructor's.

        Returns
        -------
        score : float
            Nats per cell, a lower bound in expectation.
        """
        n_particles = self.n_particles if n_particles is None else n_particles
        if not is_positive_integer(n_particles):
            raise ValueError(f"n_particles must be an integer of at least 1, got {n_particles!r}")
        cells = self._check(X, A)
        with self._inference():
            weights = [
                self.module_.joint_log_weights(cells, len(chunk))
                for chunk in torch.arange(n_particles).split(N_JOINT)
            ]
        return float(iwelbo(torch.cat(weights)[:, None])) / cells.n_cells


@with_shared_parameters
class CPAVAE(_AdditiveVAE):
    """VAE in which perturbations add up in latent space, each with a dense embedding.

    The model of CPA (compositional perturbation autoencoder) without its adversary, in a fully
    probabilistic form: ``SAMSVAE`` with every mask at one. Its latents have no meaning of their
    own: any rotation of them fits as well.

    Parameters
    ----------
    {n_latent_found}
    {embedding_parameters}
    {objective_parameters}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    embedding_ : ndarray of shape (n_perturbations, n_latent)
        Posterior mean of the effect of each perturbation on each latent.
    {shared_attributes}

    See Also
    --------
    SAMSVAE : The same with few effects per perturbation.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023.
    .. [2] Lotfollahi et al., Predicting cellular responses to complex perturbations in
       high-throughput screens, Molecular Systems Biology 2023.

    Examples
    --------
    >>> from skpert import CPAVAE
    >>> from skpert.datasets import make_additive_shift
    >>> screen = make_additive_shift(5, n_cells_per_perturbation=40, n_control_cells=40,
    ...                              n_latent=3, n_genes=50, random_state=0)
    >>> model = CPAVAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> model.embedding_.shape
    (5, 3)
    """

    def __init__(
        self,
        n_latent: int | str = "auto",
        *,
        embedding_scale: float = 1.0,
        correlated_basal: bool = True,
        objective: str = "elbo",
        n_train_particles: int = 1,
        input_transform: str | None = "auto",
        n_hidden: int = 128,
        n_layers: int = 2,
        dropout: float = 0.0,
        batch_norm: bool = True,
        likelihood: str = "negative_binomial",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        environment: str | list[str] | None = None,
        layer: str | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 1e-2,
        schedule: str = "one_cycle",
        weight_decay: float = 1e-6,
        adam_epsilon: float = 1e-8,
        max_gradient_norm: float | None = None,
        n_epochs_kl_warmup: int | str = "auto",
        validation_fraction: float = 0.1,
        patience: int | None = None,
        n_init: int = 1,
        n_particles: int = 100,
        device: str = "auto",
        memory: str = "auto",
        checkpoint=None,
        warm_start: bool = False,
        random_state=None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())

    def _make_module(self, cells):
        shape = len(self.perturbations_), self._width(cells)
        masks = FixedMasks(torch.full(shape, torch.inf))
        return _additive_module(self, cells, masks, rotated=False)


@with_shared_parameters
class SAMSVAE(_AdditiveVAE):
    """Sparse additive mechanism shift VAE: perturbations move few latents, and add up.

    Parameters
    ----------
    {n_latent_found}
    {edges}
    mask_prior : float, (float, float) or None, default=None
        Of learned masks: prior probability of every edge, in (0, 1); or a pair (a, b), from whose
        Beta distribution it is drawn for each edge. None is 0.01.
    mask_posterior : {"point", "beta"}, default="point"
        With a pair: whether the posterior of each edge's probability is a point or a Beta
        distribution. The posterior of a mask under one prior probability for all is Bernoulli.
    {embedding_parameters}
    correlated_embedding : bool or tuple of int, default=False
        Whether the posterior of an embedding depends on the mask, by a network whose hidden
        layers have these widths; True is those of the encoder.
    {interactions}
    {init}
    reweight : dict or None, default=None
        Weights of priors in the objective: a dict from one of four kinds to a dict from
        variables to their weights. "prior_scale" multiplies the log prior of a variable,
        "kl_scale" the whole of log prior less log posterior; "prior_added" and "kl_added" add
        the weight to the share 1 / (number of cells of the perturbation) with which a cell
        counts it. Variables are "mask", "embedding", "mask_probability" and "z_basal".
    {objective_parameters}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    {mask_attributes}
    {shared_attributes}

    See Also
    --------
    SVAEPlus : Takes a combination as an intervention of its own.
    CPAVAE : The same with dense embeddings.

    Notes
    -----
    ``score`` is the predictive IWELBO of the released code: a mean over cells of the log of the
    average over masks, embeddings and basal states drawn from the posterior. It is no lower bound
    of the log evidence, as the ratio of prior and posterior of masks and embeddings is left out;
    ``joint_score`` is the bound.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023.

    Examples
    --------
    >>> from skpert import SAMSVAE
    >>> from skpert.datasets import make_additive_shift
    >>> screen = make_additive_shift(5, n_cells_per_perturbation=40, n_control_cells=40,
    ...                              n_latent=3, n_genes=50, random_state=0)
    >>> model = SAMSVAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> model.targets_.shape
    (5, 3)
    >>> model.predict_intervention(["P0", "P0+P3"]).shape
    (2, 50)
    """

    _parameter_constraints = _AdditiveVAE._parameter_constraints | {
        "edges": [StrOptions({"called", "learned"})],
        "mask_prior": [Interval(Real, 0, 1, closed="neither"), tuple, None],
        "mask_posterior": [StrOptions({"point", "beta"})],
        "correlated_embedding": ["boolean", tuple],
        "interactions": ["boolean"],
        "init": [StrOptions({"rotation", "random"})],
        "reweight": [dict, None],
    }

    def __init__(
        self,
        n_latent: int | str = "auto",
        *,
        edges: str = "called",
        mask_prior: float | tuple[float, float] | None = None,
        mask_posterior: str = "point",
        embedding_scale: float = 1.0,
        correlated_basal: bool = True,
        correlated_embedding=False,
        interactions: bool = False,
        init: str = "rotation",
        reweight: dict | None = None,
        objective: str = "elbo",
        n_train_particles: int = 1,
        input_transform: str | None = "auto",
        n_hidden: int = 128,
        n_layers: int = 2,
        dropout: float = 0.0,
        batch_norm: bool = True,
        likelihood: str = "negative_binomial",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        environment: str | list[str] | None = None,
        layer: str | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 1e-2,
        schedule: str = "one_cycle",
        weight_decay: float = 1e-6,
        adam_epsilon: float = 1e-8,
        max_gradient_norm: float | None = None,
        n_epochs_kl_warmup: int | str = "auto",
        validation_fraction: float = 0.1,
        patience: int | None = None,
        n_init: int = 1,
        n_particles: int = 100,
        device: str = "auto",
        memory: str = "auto",
        checkpoint=None,
        warm_start: bool = False,
        random_state=None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())

    def _prepare(self, cells):
        if self.interactions:
            self._combinations = combinations_of(self, cells)
        check_mask_prior(self.mask_prior)
        check_edges(self, {"mask_prior": None, "mask_posterior": "point"})
        pair = isinstance(self.mask_prior, tuple)
        if self.edges == "learned" and self.mask_posterior == "beta" and not pair:
            warn_of_data(
                "mask_posterior='beta' is that of a probability with a Beta prior: it has no "
                "effect unless mask_prior is a pair, such as (1, 10)"
            )

    def _make_module(self, cells):
        combinations = self._combinations if self.interactions else ()
        n_rows = len(self.perturbations_) + len(combinations)
        shape, network = (n_rows, self._width(cells)), None
        logit = torch.full(shape, torch.inf if self.init == "rotation" else 0.0)
        logit[: len(combinations)] = -torch.inf  # until interactions are found
        called, prior = self.edges == "called", (self.mask_prior, self.mask_posterior)
        masks = CalledMasks(logit) if called else learned_masks(logit, *prior)
        widths = (self.n_hidden,) * self.n_layers
        if widths := check_widths(self.correlated_embedding, usual=widths):
            network = EmbeddingNetwork(*shape, widths)
        return _additive_module(
            self,
            cells,
            masks,
            rotated=self.init == "rotation",
            network=network,
            weights=reweightings(self.reweight),
            interactions=Interactions(combinations) if len(combinations) else None,
        )


def _transform(estimator, cells):
    """What the encoder reads of expression."""
    batches = () if cells.dosage.is_meta else cells.minibatches(ENCODE_SIZE, shuffle=False)
    expression = (batch.x for batch in batches)
    kind, counts = estimator.input_transform, estimator._counts
    return InputTransform.of(kind, cells.n_genes, expression, counts=counts)


def _additive_module(
    estimator, cells, masks, *, rotated, network=None, weights=None, interactions=None
):
    networks, transform = estimator._networks(cells), _transform(estimator, cells)
    shape = masks.logit.rows.shape
    embeddings = Embeddings(shape, estimator.embedding_scale, network)
    columns = None
    if estimator.correlated_basal:
        columns = nn.Linear(shape[1], estimator.n_hidden, bias=False)
        nn.init.zeros_(columns.weight)
    if rotated:  # until the axes are found
        for part in (columns, network):
            if part is not None:
                part.requires_grad_(False)
    rows = cells if interactions is None or cells.dosage.is_meta else interactions(cells)
    return AdditiveModule(
        *networks,
        transform,
        masks,
        embeddings,
        n_treated_cells(rows, shape[0]),
        columns=columns,
        objective=estimator.objective,
        n_particles=estimator.n_train_particles,
        weights=weights,
        rotated=rotated,
        n_most=estimator._n_most,
        interactions=interactions,
    )
