r"""The sVAE+ family: a perturbation shifts few latents of a cell.

.. math::

    \gamma_{ai} \sim \mathrm{Bernoulli}(\pi_{ai}), \qquad
    z \mid a \sim \mathcal{N}(\gamma_a \circ \mu_a, I), \qquad
    x_g \mid z \sim \mathrm{NB}(l \, \mathrm{softmax}_g f(z), \theta_g)

with shifts :math:`\mu` (``embedding_``), masks :math:`\gamma`, observed library size :math:`l` and
no shift for control cells. The members differ in the prior of z alone: ``VAE`` and ``BetaVAE``
have no shift, and ``IVAE`` has :math:`\gamma = 1`. In ``SVAE`` and ``SVAEPlus`` edges are called
after training; where masks are learned instead, ``SVAE`` pays :math:`\alpha` times the mean of
:math:`\pi`, and ``SVAEPlus`` has :math:`\pi_{ai} \sim \mathrm{Beta}(1, \alpha)` (Lopez et al.,
Learning causal representations of single cells via sparse mechanism shift modeling, CLeaR 2023).
"""

from functools import partial
from math import inf
from numbers import Real
from typing import Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.nn.functional import logsigmoid

from .._data import Cells
from ..base import PerturbationVAE
from ..module import PerturbationModule, Phase
from ..nn import Table
from ..objectives import kl_from_unit_normal, log_unit_normal, reparametrised
from ..parameters import N_LATENT, Interval, StrOptions, with_shared_parameters
from ..sparsity.edges import check_edges
from ..sparsity.effects import (
    LatentEffects,
    dense_then_narrow,
    dense_then_sparse,
    edges_to_start,
    found_again,
    latent_effects,
    narrowed,
    of_responders,
)
from ..sparsity.masks import (
    LOGIT_START,
    BetaPenalty,
    CalledMasks,
    ExactBetaPenalty,
    FixedMasks,
    L1Penalty,
    PenalisedMasks,
)

ALL_RESPOND = 30.0  # logit of a share of 1
LEAST_CONTROLS = 20  # cells that show what did not respond
N_LARGEST = 2  # shifts of each perturbation that are shown as the graph where none is masked


class ShiftModule(PerturbationModule):
    """The equation above in torch, with the same symbols; without shifts a plain VAE."""

    rates = {"embedding": 3.0, "masks": 3.0, "log_dispersion": 3.0}

    def __init__(
        self,
        encoder,
        decoder,
        embedding=None,
        masks=None,
        *,
        response=None,
        beta=1.0,
        rotated=False,
        n_most=None,
    ):
        super().__init__(encoder, decoder)  # q(z | x) and p(x | z)
        self.embedding = embedding  # mu, a Table, or None without shifts
        self.masks = masks  # gamma, or None without shifts
        self.response = response  # logit of the share of responders, a Table, or None if all are
        self.beta = beta  # weight of the KL of z
        self.rotated = rotated  # whether training looks for the axes on which shifts are sparse
        self.n_most = n_most  # latents to keep, at most; None keeps all that the data have

    def loss_terms(self, cells: Cells, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Terms whose sum is the negative ELBO, in nats per cell."""
        q_z = self.guide(cells)
        z = reparametrised(q_z)
        p_x = self.decoder(z, cells.library, cells.environment)
        if self.response is None:
            kl_z = kl_from_unit_normal(q_z, self.prior_mean(cells)).sum(-1)
        else:
            log_p_z = self._mixed(cells, log_unit_normal(z - self.prior_mean(cells)).sum(-1), z)
            kl_z = q_z.log_prob(z).sum(-1) - log_p_z
        terms = {
            "reconstruction": -cells.log_prob(p_x).mean(),
            "kl_z": self.beta * kl_weight * kl_z.mean(),
        }
        return terms if self.masks is None else terms | self.masks.penalties(kl_weight)

    def guide(self, cells: Cells) -> Normal:
        """Posterior q(z | x)."""
        q_z: Normal = self.encoder(self.features(cells.x))
        return q_z

    def log_joint(self, cells: Cells, z: Tensor, shared: None = None) -> Tensor:
        """Log p(x, z | a), summed over the masks."""
        p_x = self.decoder(z, cells.library, cells.environment)
        return cells.log_prob(p_x) + self._log_prior(cells, z)

    def _log_prior(self, cells: Cells, z: Tensor) -> Tensor:
        """Log p(z | a), (n_particles, n_cells); each latent is a mixture over its mask."""
        untreated = log_unit_normal(z)
        if self.embedding is None:
            return untreated.sum(-1)
        treated = log_unit_normal(z - cells.shift(self.embedding()))
        if isinstance(self.masks, FixedMasks):
            return self._mixed(cells, treated.sum(-1), z)
        logit = self.masks.acting(cells.part[:, 0])  # a cell has one intervention, or none
        on, off = logsigmoid(logit), logsigmoid(-logit)
        treated = torch.logaddexp(on + treated, off + untreated)
        return self._mixed(cells, treated.sum(-1), z)

    def _mixed(self, cells: Cells, log_responded: Tensor, z: Tensor) -> Tensor:
        """Log density of states where some of the cells did not respond, and stayed untreated."""
        if self.response is None:
            return log_responded
        logit = self.response.of(cells.part[:, 0])[:, 0]
        escaped = logsigmoid(-logit) + log_unit_normal(z).sum(-1)
        return torch.logaddexp(logsigmoid(logit) + log_responded, escaped)

    def prior_mean(self, cells: Cells, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Shift of each cell under a mask of its own, (*sample_shape, n_cells, n_latent)."""
        if self.embedding is None:
            return cells.dosage.new_zeros(1)
        effect = self.embedding.of(cells.part)  # a row per part
        return cells.summed(effect * self.masks.sample(cells.part, sample_shape))

    def log_weights(self, cells: Cells, n_particles: int) -> Tensor:
        """Log p(x, z | a) - log q(z | x) at samples of q and of the masks."""
        q_z = self.guide(cells)
        noise = torch.randn((n_particles, *q_z.mean.shape), device=q_z.mean.device)
        z = q_z.mean + q_z.stddev * noise
        log_p_z = log_unit_normal(z - self.prior_mean(cells, (n_particles,))).sum(-1)
        log_q_z = log_unit_normal(noise) - q_z.stddev.log()
        p_x = self.decoder(z, cells.library, cells.environment)
        return cells.log_prob(p_x) + self._mixed(cells, log_p_z, z) - log_q_z.sum(-1)

    def shift(self, cells: Cells) -> Tensor:
        """Shift of each cell under the most probable mask, (n_cells, n_latent)."""
        if self.embedding is None:
            return super().shift(cells)
        return cells.summed(self.embedding.of(cells.part) * (self.masks.acting(cells.part) > 0))

    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression of these states after the shifts of ``cells``."""
        shift = self.shift(cells)
        if sampled and self.response is not None:
            shift = shift * self.response.of(cells.part[:, 0]).sigmoid().bernoulli()
        p_x: Distribution = self.decoder(z_basal + shift, cells.library, cells.environment)
        return p_x

    def posterior(self, cells: Cells) -> dict[str, Tensor]:
        """Moments of the guide; a cell's basal state counts its shift as far as it responded."""
        found = super().posterior(cells)
        if self.response is not None:
            z, shift = found["z"], self.shift(cells)
            gain = log_unit_normal(z - shift).sum(-1) - log_unit_normal(z).sum(-1)
            responded = torch.sigmoid(self.response.of(cells.part[:, 0])[:, 0] + gain)
            found["z_basal"] = z - responded[:, None] * shift
        return found

    def learned(self) -> dict[str, Tensor]:
        """Shifts and masks, (n_perturbations, n_latent); without masks the largest shifts."""
        if self.embedding is None:
            return {}
        embedding = self.embedding()
        if isinstance(self.masks, FixedMasks):
            top = embedding.abs().topk(min(N_LARGEST, embedding.shape[1])).indices
            mask = torch.zeros_like(embedding, dtype=torch.bool).scatter(1, top, True)
            return {"embedding": embedding, "mask": mask}
        probability = self.masks.probability()
        found = {"mask": probability > 0.5, "mask_probability": probability}
        if isinstance(self.masks, CalledMasks):
            found["standard_error"] = self.masks.standard_error()
        return {"embedding": embedding} | found

    def phases(self, n_epochs: int) -> list[Phase]:
        """Without sparsity, then on the axes on which shifts are sparse."""
        if self.rotated:
            return dense_then_sparse(n_epochs, self.narrow, self.find_axes, self.call_edges)
        return [Phase(n_epochs)] if self.n_most else dense_then_narrow(n_epochs, self.narrow)

    def effects(self, cells: Cells, n_perturbations: int | None = None) -> LatentEffects:
        """What perturbations do to the latent states of these cells."""
        n = len(self.embedding()) if n_perturbations is None else n_perturbations
        effects = latent_effects(lambda batch: self.encode(batch.x), cells, n)
        if self.response is None:
            return effects
        if not effects.controlled:  # cells of new perturbations only: training put controls at 0
            effects = effects._replace(reference=torch.zeros_like(effects.reference))
        return of_responders(effects, lambda batch: self.encode(batch.x), cells)

    def _take_shares(self, effects: LatentEffects) -> None:
        """Of responders among the cells of these effects; those of frozen rows stay."""
        if self.response is not None and effects.responding is not None:
            logit = torch.logit(effects.responding.float())[:, None].clamp(max=ALL_RESPOND)
            self.response.rows = nn.Parameter(logit[len(self.response.frozen) :], False)

    def narrow(self, cells: Cells) -> None:
        """Keep the latents that the cells have; with axes to be found, let the decoder follow."""
        self._go_to(*narrowed(lambda batch: self.encode(batch.x), cells))
        self.n_found = self.encoder.n_latent
        self.encoder.requires_grad_(not self.rotated)
        if self.embedding is not None:
            effects = self.effects(cells)
            self._take_shares(effects)
            self.embedding = Table(effects.mean.float())

    def _go_to(
        self, projection: Tensor, lift: Tensor, centre: Tensor, *, restart: bool = True
    ) -> None:
        """Go over to the latents ``(z - centre) @ projection``; the decoder reads them as before.

        Shifts do not follow.
        """
        self.encoder.project(projection, centre, restart=restart)
        self.decoder.project(lift, centre)
        if self.masks is not None:
            self.masks.narrow(self.encoder.n_latent)

    def find_axes(self, cells: Cells) -> None:
        """Rotate the latent space to where shifts are sparse, and start masks from them."""
        self.encoder.requires_grad_(True)
        effects = self._rotate(cells, self.n_most)
        self.masks.start(edges_to_start(effects, effects.standard_error))
        self.embedding = Table(effects.difference.float())

    def _rotate(
        self, cells: Cells, n_most: int | None = None, *, restart: bool = True
    ) -> LatentEffects:
        """Go over to the axes on which shifts are sparsest; the effects on these.

        Nothing else changes: the decoder makes of the rotated states what it made before, unless
        there are to be fewer latents.
        """
        effects = self.effects(cells)
        R, centre = effects.axes(n_most)
        self._go_to(R.float(), R.T.float(), centre.float(), restart=restart)
        self._take_shares(effects)
        return effects.rotated(R, centre)

    def call_edges(self, cells: Cells) -> None:
        """Set shifts to the mean latent states, and call edges; those that are learned stay.

        Training leaves latents that one perturbation alone moves where they were when it began,
        so that axes are found again; where latents are missing the others have turned to these.
        """
        if not isinstance(self.masks, CalledMasks):
            return
        missing = self.encoder.n_latent < self.n_found
        if self.rotated and not missing:
            effects = self._rotate(cells, restart=False)
        else:
            effects = self.effects(cells)
        self._take_shares(effects)
        self.embedding = Table(effects.mean.float())
        self.masks.record(effects.mean, effects.standard_error)
        self.masks.call_first(effects, missing=missing)

    def extended(self, cells: Cells, n_new: int, *, sparse: bool = False) -> "ShiftModule":
        """A copy with all frozen and shifts of its own for ``n_new`` more perturbations.

        With masks of one and the encoder frozen, the mean of the posterior means minimises the
        published objective exactly, so that nothing is left to train; with ``sparse`` edges of
        the new perturbations are called beside the known ones, or learned from there.
        """
        module = self.continued(frozen=True)
        if module.embedding is None:
            return module
        n_known = len(self.embedding())
        effects = self.effects(cells, n_known + n_new)
        module.embedding.extend(effects.mean[n_known:])
        if module.response is not None:
            module.response.extend(effects.mean.new_zeros(n_new, 1))
            module._take_shares(effects)
        if isinstance(module.masks, PenalisedMasks):
            module.masks.extend(n_new, cells.n_cells, learned=sparse)
        else:
            module.masks.extend(n_new)
        if isinstance(module.masks, CalledMasks):
            module.masks.record(effects.mean[n_known:], effects.standard_error[n_known:])
            if sparse:
                module.masks.call()
        module.embedding.requires_grad_(sparse and isinstance(module.masks, PenalisedMasks))
        return module

    def refined(self) -> "ShiftModule":
        """A copy whose masks are fixed at their most probable value, without their prior."""
        module = super().refined()
        if module.masks is not None:
            module.masks.fix(self.masks.probability() > 0.5)
        if module.response is not None:
            module.response.requires_grad_(False)
        return module

    def restarted(self, n_epochs: int) -> tuple["ShiftModule", list[Phase]]:
        """A copy to be trained again from these weights, and the phases of that."""
        module, phases = super().restarted(n_epochs)
        return module, found_again(module, n_epochs) if self.rotated else phases


class _ShiftVAE(PerturbationVAE):
    """Member of the family: a combination is an intervention of its own."""

    _parameter_constraints = PerturbationVAE._parameter_constraints | N_LATENT
    _additive = False

    def __init__(
        self,
        n_latent="auto",
        *,
        n_hidden=128,
        n_layers=2,
        dropout=0.0,
        batch_norm=True,
        likelihood="negative_binomial",
        control="control",
        sep="+",
        perturbation="perturbation",
        environment=None,
        layer=None,
        max_epochs="auto",
        batch_size="auto",
        learning_rate=1e-2,
        schedule="one_cycle",
        weight_decay=1e-6,
        adam_epsilon=1e-8,
        max_gradient_norm=None,
        n_epochs_kl_warmup="auto",
        validation_fraction=0.1,
        patience=None,
        n_init=1,
        n_particles=100,
        device="auto",
        memory="auto",
        checkpoint=None,
        warm_start=False,
        random_state=None,
        verbose="auto",
    ) -> None:
        self._store(locals())


class _SparseVAE(_ShiftVAE):
    """What members with masks do."""

    _parameter_constraints = _ShiftVAE._parameter_constraints | {
        "edges": [StrOptions({"called", "learned"})],
        "init": [StrOptions({"rotation", "random"})],
        "escape": ["boolean"],
    }

    def _masked_module(self, cells, penalty):
        """Module with masks that are called after training, or learned under this penalty."""
        networks = self._networks(cells)
        rows = len(self.perturbations_), self._width(cells)
        embedding, rotated = Table(torch.randn(rows)), self.init == "rotation"
        logit = torch.full(rows, inf if rotated else LOGIT_START)
        called = self.edges == "called"
        masks = CalledMasks(logit) if called else PenalisedMasks(logit, penalty)
        response = None
        if self.escape:
            response = Table(torch.full((rows[0], 1), ALL_RESPOND)).requires_grad_(False)
        options = {"response": response, "rotated": rotated, "n_most": self._n_most}
        return ShiftModule(*networks, embedding, masks, **options)

    def _check_escape(self, cells):
        if not self.escape:
            return
        if self.edges == "learned":
            raise ValueError("escape=True needs edges='called': responders are found as edges are")
        n_controls = int((cells.dosage == 0).all(1).sum())
        if n_controls < LEAST_CONTROLS:
            raise ValueError(
                f"escape=True needs at least {LEAST_CONTROLS} control cells, which say what a "
                f"cell looks like that did not respond; training has {n_controls}"
            )

    @property
    def response_share_(self) -> np.ndarray:
        """Share of cells that respond to each perturbation, (n_perturbations,); 1 if all do."""
        check_is_fitted(self)
        response = self.module_.response
        if response is None:
            return np.ones(len(self.perturbations_), dtype=np.float32)
        return response().sigmoid()[:, 0].cpu().numpy()

    def adapt(self, X, A, *, sparse: bool = False) -> Self:
        """Learn perturbations never trained on, with all else kept as it is.

        Encoder and decoder are frozen; the new perturbations get rows of their own after the
        known ones, which stay bitwise identical.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Cells of the new perturbations.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Their design, in any form that ``fit`` takes. Control cells change nothing.
        sparse : bool, default=False
            False sets the new masks to one and the shifts to their exact optimum, the
            published step 3; True learns sparse masks too, by gradient steps.

        Returns
        -------
        adapted : SVAE or SVAEPlus
            A new fitted estimator; this one stays as it is.

        Raises
        ------
        ValueError
            If a perturbation is known already, or X or A are not as ``fit`` wants them.
        """
        check_is_fitted(self)
        return self._adapted(X, A, partial(self.module_.extended, sparse=sparse))


@with_shared_parameters
class VAE(_ShiftVAE):
    """Variational autoencoder that ignores perturbations: the floor of the family.

    The latent state is N(0, I) for every cell, so a latent has no meaning of its own, and every
    intervention is predicted to do nothing.

    Parameters
    ----------
    {n_latent_found}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    {shared_attributes}

    See Also
    --------
    SVAEPlus : Shifts few latents per perturbation.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism
       shift modeling, CLeaR 2023, PMLR 213:662-691.

    Examples
    --------
    >>> from skpert import VAE
    >>> from skpert.datasets import make_sparse_shift
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = VAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> model.transform(screen.X).shape
    (240, 3)
    """

    def _make_module(self, cells):
        return ShiftModule(*self._networks(cells), n_most=self._n_most)


@with_shared_parameters
class BetaVAE(_ShiftVAE):
    """Variational autoencoder whose KL term is multiplied by beta.

    Parameters
    ----------
    {n_latent_found}
    beta : float, default=10
        Weight of the KL of the latent state; 1 is ``VAE``. The score is the ELBO proper.
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    {shared_attributes}

    See Also
    --------
    VAE : The same with ``beta=1``.

    References
    ----------
    .. [1] Higgins et al., beta-VAE: learning basic visual concepts with a constrained
       variational framework, ICLR 2017.

    Examples
    --------
    >>> from skpert import BetaVAE
    >>> from skpert.datasets import make_sparse_shift
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = BetaVAE(n_latent=3, beta=4, max_epochs=2, random_state=0)
    >>> model.fit(screen.X, screen.A).transform(screen.X).shape
    (240, 3)
    """

    _parameter_constraints = _ShiftVAE._parameter_constraints | {
        "beta": [Interval(Real, 0, None, closed="left")]
    }

    def __init__(
        self,
        n_latent: int | str = "auto",
        *,
        beta: float = 10.0,
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
        random_state: int | np.random.RandomState | None = None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())

    def _make_module(self, cells):
        return ShiftModule(*self._networks(cells), beta=self.beta, n_most=self._n_most)


@with_shared_parameters
class IVAE(_ShiftVAE):
    """Identifiable VAE: every perturbation shifts the latent state, by a free vector.

    Parameters
    ----------
    {n_latent_found}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    embedding_ : ndarray of shape (n_perturbations, n_latent)
        Shift of the latent state by each perturbation.
    mask_ : ndarray of bool of shape (n_perturbations, n_latent)
        The two largest shifts of each perturbation, as the paper reads a graph off this model.
        Predictions use all of ``embedding_``.
    targets_ : DataFrame of shape (n_perturbations, n_latent)
        ``mask_ * embedding_`` with names.
    {shared_attributes}

    See Also
    --------
    SVAEPlus : The same with few shifts per perturbation.

    References
    ----------
    .. [1] Khemakhem et al., Variational autoencoders and nonlinear ICA: a unifying framework,
       AISTATS 2020.
    .. [2] Lopez et al., Learning causal representations of single cells via sparse mechanism
       shift modeling, CLeaR 2023, PMLR 213:662-691.

    Examples
    --------
    >>> from skpert import IVAE
    >>> from skpert.datasets import make_sparse_shift
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = IVAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> model.embedding_.shape
    (5, 3)
    """

    def _make_module(self, cells):
        networks, rows = self._networks(cells), (len(self.perturbations_), self._width(cells))
        embedding, masks = Table(torch.randn(rows)), FixedMasks(torch.full(rows, inf))
        return ShiftModule(*networks, embedding, masks, n_most=self._n_most)


@with_shared_parameters
class SVAE(_SparseVAE):
    """Sparse VAE: every perturbation shifts few latents; learned masks have an L1 penalty.

    Parameters
    ----------
    {n_latent_found}
    {edges}
    sparsity : float or None, default=None
        Strength of the penalty on learned masks, nats per cell times the mean edge probability;
        None is 10. It does not depend on the number of cells, but on the size of effects: those
        below ``sqrt(2 * sparsity / n_latent)`` are removed.
    norm : {"mean", "sum"}, default="mean"
        What the penalty on learned masks is of: the "mean" edge probability, as released, or
        their "sum", the L1 norm as printed.
    {init}
    {escape}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    {mask_attributes}
    response_share_ : ndarray of shape (n_perturbations,)
        Share of the cells of each perturbation that responded; 1 without ``escape``.
    {shared_attributes}

    See Also
    --------
    SVAEPlus : The same model with called edges; learned masks have a Beta prior.

    References
    ----------
    .. [1] Lachapelle et al., Disentanglement via mechanism sparsity regularization, CLeaR 2022.
    .. [2] Lopez et al., Learning causal representations of single cells via sparse mechanism
       shift modeling, CLeaR 2023, PMLR 213:662-691.

    Examples
    --------
    >>> from skpert import SVAE
    >>> from skpert.datasets import make_sparse_shift
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> model.mask_probability_.shape
    (5, 3)
    """

    _parameter_constraints = _SparseVAE._parameter_constraints | {
        "sparsity": [Interval(Real, 0, None, closed="left"), None],
        "norm": [StrOptions({"mean", "sum"})],
    }

    def __init__(
        self,
        n_latent: int | str = "auto",
        *,
        edges: str = "called",
        sparsity: float | None = None,
        norm: str = "mean",
        init: str = "rotation",
        escape: bool = False,
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
        random_state: int | np.random.RandomState | None = None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())

    def _prepare(self, cells):
        check_edges(self, {"sparsity": None, "norm": "mean"})
        self._check_escape(cells)

    def _make_module(self, cells):
        strength = 10.0 if self.sparsity is None else self.sparsity
        return self._masked_module(cells, L1Penalty(strength, self.norm))


@with_shared_parameters
class SVAEPlus(_SparseVAE):
    """Sparse VAE (sVAE+): every perturbation shifts few latents; edges are called after training.

    With ``edges="learned"`` masks are trained under a Beta prior, as published.

    Parameters
    ----------
    {n_latent_found}
    {edges}
    sparsity : float or None, default=None
        Of learned masks: parameter of the prior Beta(1, sparsity) of edge probabilities, at least
        1; larger is sparser, and so are fewer cells. None is the published choice, the number of
        perturbations.
    bound : {"practical", "exact"}, default="practical"
        Of learned masks: "practical" sets their posterior equal to their prior (psi = pi), as
        in all experiments of the paper; "exact" learns both (its equation 12).
    pseudo_sample_size : float or None, default=None
        Of learned masks: number of cells against which the prior is weighed (equation 13); None
        is the number of training cells. Smaller is sparser.
    {init}
    {escape}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    {mask_attributes}
    response_share_ : ndarray of shape (n_perturbations,)
        Share of the cells of each perturbation that responded; 1 without ``escape``.
    {shared_attributes}

    See Also
    --------
    SVAE : The same model with called edges; learned masks have an L1 penalty.
    IVAE : The same without masks.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism
       shift modeling, CLeaR 2023, PMLR 213:662-691.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> model.targets_.shape
    (5, 3)
    >>> model.predict_intervention(["P0", "P3"]).shape
    (2, 50)
    """

    _parameter_constraints = _SparseVAE._parameter_constraints | {
        "sparsity": [Interval(Real, 1, None, closed="left"), None],
        "bound": [StrOptions({"practical", "exact"})],
        "pseudo_sample_size": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(
        self,
        n_latent: int | str = "auto",
        *,
        edges: str = "called",
        sparsity: float | None = None,
        bound: str = "practical",
        pseudo_sample_size: float | None = None,
        init: str = "rotation",
        escape: bool = False,
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
        random_state: int | np.random.RandomState | None = None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())

    def _prepare(self, cells):
        check_edges(self, {"sparsity": None, "bound": "practical", "pseudo_sample_size": None})
        self._check_escape(cells)

    def _make_module(self, cells):
        shape = len(self.perturbations_), self._width(cells)
        sparsity = shape[0] if self.sparsity is None else self.sparsity
        n_cells = self.pseudo_sample_size or cells.n_cells
        if self.bound == "exact":
            return self._masked_module(cells, ExactBetaPenalty(sparsity, n_cells, shape))
        return self._masked_module(cells, BetaPenalty(sparsity, n_cells))
