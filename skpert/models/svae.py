r"""The sVAE+ family: a perturbation shifts few latents of a cell.

.. math::

    \gamma_{ai} \sim \mathrm{Bernoulli}(\pi_{ai}), \qquad
    z \mid a \sim \mathcal{N}(\gamma_a \circ \mu_a, I), \qquad
    x_g \mid z \sim \mathrm{NB}(l \, \mathrm{softmax}_g f(z), \theta_g)

with shifts :math:`\mu` (``embedding_``), masks :math:`\gamma`, observed library size :math:`l` and
no shift for control cells. The members differ in the prior of z alone: ``VAE`` and ``BetaVAE``
have no shift, ``IVAE`` has :math:`\gamma = 1`, ``SVAE`` pays :math:`\alpha` times the mean of
:math:`\pi` and ``SVAEPlus`` has :math:`\pi_{ai} \sim \mathrm{Beta}(1, \alpha)` (Lopez et al.,
Learning causal representations of single cells via sparse mechanism shift modeling, CLeaR 2023).
"""

import copy
from functools import partial
from numbers import Real
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal, kl_divergence
from torch.nn.functional import logsigmoid

from .._data import Cells
from .._effects import edge_logit, latent_effects
from .._phases import in_two_phases
from ..base import Interval, PerturbationVAE, StrOptions, with_shared_parameters
from ..distributions import StraightThroughBernoulli
from ..nn import Decoder, GaussianEncoder, Table
from ..objectives import beta_log_prob, kl_from_unit_normal, log_unit_normal

LOGIT_START = 5.0  # from random weights every edge starts with probability 0.993
LOGIT_FOUND = 2.0  # an edge that was found beforehand starts with 0.88, the others with 0.12
LARGEST_LEAK = 0.2  # of an effect into other latents before sparsity straightens the axes
FAST_RATE = 3.0  # learning rate of shifts, masks and dispersions relative to the networks'


class ShiftModule(nn.Module):
    """The equation above in torch, with the same symbols."""

    def __init__(
        self,
        encoder,
        decoder,
        embedding=None,
        mask_logit=None,
        penalty=None,
        standard_error=None,
        beta=1.0,
    ):
        super().__init__()
        self.encoder = encoder  # q(z | x)
        self.decoder = decoder  # p(x | z)
        self.embedding = embedding  # mu, a Table, or None without shifts
        self.mask_logit = mask_logit  # logit of pi, a Table, or None without masks
        self.penalty = penalty  # of the logits of pi: nats per cell; None if they are judged
        self.standard_error = standard_error  # of mu where edges are judged, a Table
        self.beta = beta  # weight of the KL of z
        self.frozen = False

    def loss_terms(self, cells: Cells, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Terms whose sum is the negative ELBO, in nats per cell."""
        q_z = self.encoder(self.decoder.features(cells.x))
        p_x = self.decoder(q_z.rsample(), cells.library, cells.environment)
        kl_z = kl_from_unit_normal(q_z, self.prior_mean(cells)).sum(-1)
        terms = {
            "reconstruction": -cells.log_prob(p_x).mean(),
            "kl_z": self.beta * kl_weight * kl_z.mean(),
        }
        if self.mask_logit is not None and self.mask_logit.rows.requires_grad:
            terms["sparsity"] = self.penalty(self.mask_logit.rows, kl_weight)
        return terms

    def prior_mean(self, cells: Cells, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Shift of each cell under a mask of its own, (*sample_shape, n_cells, n_latent)."""
        if self.embedding is None:
            return cells.dosage.new_zeros(1)
        effect = nn.functional.embedding(cells.part, self.embedding())  # a row per part
        if self.mask_logit is not None:
            logits = nn.functional.embedding(cells.part, self.mask_logit())
            q_mask = StraightThroughBernoulli(logits)
            effect = effect * q_mask.rsample(sample_shape)
        return (cells.dosage[:, :, None] * effect).sum(-2)

    def draw(self, n_draws: int) -> None:
        """Nothing: every cell has masks of its own."""

    def log_weights(self, cells: Cells, n_particles: int) -> Tensor:
        """Log p(x, z | a) - log q(z | x) at samples of q and of the masks."""
        q_z = self.encoder(self.decoder.features(cells.x))
        noise = torch.randn((n_particles, *q_z.mean.shape), device=q_z.mean.device)
        z = q_z.mean + q_z.stddev * noise
        log_p_z = -(z - self.prior_mean(cells, (n_particles,))).square() / 2
        log_q_z = -noise.square() / 2 - q_z.stddev.log()
        p_x = self.decoder(z, cells.library, cells.environment)
        return cells.log_prob(p_x) + (log_p_z - log_q_z).sum(-1)

    def guide(self, cells: Cells) -> Normal:
        """Posterior q(z | x)."""
        q_z: Normal = self.encoder(self.decoder.features(cells.x))
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
        if self.mask_logit is None:
            return treated.sum(-1)
        logit = self.mask_logit()[cells.part[:, 0]]  # a cell has one intervention, or none
        on, off = logsigmoid(logit), logsigmoid(-logit)
        return torch.logaddexp(on + treated, off + untreated).sum(-1)

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean of the latent state, (n_cells, n_latent)."""
        mean: Tensor = self.encoder(self.decoder.features(x)).mean
        return mean

    def _states(self, cells: Cells) -> Tensor:
        return self.encode(cells.x)

    def posterior(self, cells: Cells) -> dict[str, Tensor]:
        """Moments of q(z | x), and the state without the shift of the cell's perturbation."""
        q_z = self.encoder(self.decoder.features(cells.x))
        z_basal = q_z.mean - self.shift(cells)
        return {"z": q_z.mean, "scale": q_z.stddev, "z_basal": z_basal}

    def shift(self, cells: Cells) -> Tensor:
        """Shift of each cell under the most probable mask, (n_cells, n_latent)."""
        if self.embedding is None:
            return cells.dosage.new_zeros(1)
        effect = self.embedding()
        if self.mask_logit is not None:
            effect = effect * (self.mask_logit() > 0)
        return cells.shift(effect)

    def basal_states(self, n_states: int) -> Tensor:
        """Latent states of control cells, (n_states, n_latent)."""
        device = next(self.parameters()).device
        return torch.randn(n_states, self.encoder.n_latent, device=device)

    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression of these states after the shifts of ``cells``."""
        p_x: Distribution = self.decoder(
            z_basal + self.shift(cells), cells.library, cells.environment
        )
        return p_x

    def learned(self) -> dict[str, Tensor]:
        """Shifts and masks, (n_perturbations, n_latent); without masks the two largest shifts."""
        if self.embedding is None:
            return {}
        embedding = self.embedding()
        if self.mask_logit is None:
            top = embedding.abs().topk(min(2, embedding.shape[1])).indices
            mask = torch.zeros_like(embedding, dtype=torch.bool).scatter(1, top, True)
            return {"embedding": embedding, "mask": mask}
        # In float64, as the last bit in float32 depends on the number of rows.
        probability = torch.sigmoid(self.mask_logit().double()).float()
        return {
            "embedding": embedding,
            "mask": probability > 0.5,
            "mask_probability": probability,
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Networks; and shifts, masks and dispersions, which learn faster and do not decay."""
        tables = [t for t in (self.embedding, self.mask_logit, self.penalty) if t is not None]
        few = [p for table in tables for p in table.parameters()]
        few += [p for name, p in self.decoder.named_parameters() if name.endswith("dispersion")]
        known = {id(p) for p in few}
        others = [p for p in self.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [{"params": others}]
        groups.append({"params": few, "lr": FAST_RATE, "weight_decay": 0.0})
        trained = ({**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups)
        return [group for group in trained if group["params"]]

    def train(self, mode: bool = True) -> "ShiftModule":
        """As ``nn.Module``; networks that are frozen keep their batch statistics."""
        return super().train(mode and not self.frozen)

    def find_axes(self, cells: Cells) -> None:
        """Turn the latent space to where shifts are sparse, and start masks from them.

        Nothing else changes: the decoder makes of the turned states what it made before.
        """
        effects = latent_effects(self._states, cells, len(self.embedding()))
        R, centre = effects.axes()
        for network in (self.encoder, self.decoder):
            network.turn(R.float(), centre.float())
        effects = effects.turned(R, centre)
        evidence = effects.difference, effects.standard_error
        found = edge_logit(*evidence, largest_leak=LARGEST_LEAK) > 0
        start = torch.inf if self.penalty is None else LOGIT_FOUND
        self.embedding = Table(effects.difference.float())
        self.mask_logit = Table(torch.where(found, start, -start).float())
        self.mask_logit.requires_grad_(self.penalty is not None)

    def judge(self, cells: Cells) -> None:
        """Set shifts to the mean latent states, and masks to the probability of an effect.

        Where masks are learned, they stay.
        """
        if self.penalty is not None:
            return
        effects = latent_effects(self._states, cells, len(self.embedding()))
        self.embedding = Table(effects.mean.float())
        logit = edge_logit(effects.difference, effects.standard_error)
        self.mask_logit = Table(logit.float())
        self.standard_error = Table(effects.standard_error.float())
        for table in (self.mask_logit, self.standard_error):
            table.requires_grad_(False)

    def extended(self, cells: Cells, n_new: int, *, sparse: bool = False) -> "ShiftModule":
        """A copy with all frozen and shifts of its own for ``n_new`` more perturbations.

        With masks of one and the encoder frozen, the mean of the posterior means minimises the
        published objective exactly, so that nothing is left to train; with ``sparse`` the new
        masks are judged beside the known ones, or learned from there.
        """
        module = copy.deepcopy(self).requires_grad_(False)
        module.frozen = True
        if self.embedding is None:
            return module
        n_known, n_latent = self.embedding().shape
        effects = latent_effects(self._states, cells, n_known + n_new)
        module.embedding.extend(effects.mean[n_known:])
        if self.standard_error is not None:
            module.standard_error.extend(effects.standard_error[n_known:])
            module.standard_error.requires_grad_(False)
        learned = sparse and self.penalty is not None
        if self.mask_logit is not None:
            start = torch.full((n_new, n_latent), LOGIT_START if learned else torch.inf)
            if sparse and not learned:
                start = edge_logit(module.embedding(), module.standard_error())[n_known:]
            module.mask_logit.extend(start)
            module.mask_logit.requires_grad_(learned)
        if self.penalty is not None:
            module.penalty.extend(n_new, cells.n_cells)
            module.penalty.requires_grad_(learned)
        module.embedding.requires_grad_(learned)
        return module

    def refined(self) -> "ShiftModule":
        """A copy whose masks are fixed at their most probable value, without their prior."""
        module = copy.deepcopy(self).requires_grad_(True)
        module.frozen = False
        if self.embedding is not None:
            module.embedding.thaw()
        if self.mask_logit is not None:
            fixed = torch.where(self.mask_logit() > 0, torch.inf, -torch.inf)
            module.mask_logit = Table(fixed).requires_grad_(False)
        for part in (module.penalty, module.standard_error):
            if part is not None:
                part.requires_grad_(False)
        return module


class L1Penalty(nn.Module):
    r"""Prior of sVAE: :math:`\alpha` times the mean edge probability, as released."""

    strength: Tensor  # alpha

    def __init__(self, strength: float):
        super().__init__()
        self.register_buffer("strength", torch.tensor(float(strength)))

    def forward(self, logit: Tensor, kl_weight: float) -> Tensor:
        """Nats per cell; not warmed up."""
        return self.strength * torch.sigmoid(logit).mean()

    def extend(self, n_new: int, n_cells: int) -> None:
        """Serve new rows, on that many cells."""


class BetaPenalty(nn.Module):
    r"""Prior of sVAE+: :math:`-\sum \log \mathrm{Beta}(\pi; 1, \alpha)` once per data set."""

    concentration: Tensor  # alpha
    n_cells: Tensor

    def __init__(self, concentration: float, n_cells: float):
        super().__init__()
        self.register_buffer("concentration", torch.tensor(float(concentration)))
        self.register_buffer("n_cells", torch.tensor(float(n_cells)))

    def forward(self, logit: Tensor, kl_weight: float) -> Tensor:
        """Nats per cell."""
        return -kl_weight * beta_log_prob(logit, self.concentration).sum() / self.n_cells

    def extend(self, n_new: int, n_cells: int) -> None:
        """Serve new rows, on that many cells."""
        self.n_cells.fill_(n_cells)


class ExactBetaPenalty(BetaPenalty):
    r"""Exact bound of sVAE+: :math:`\sum \mathrm{KL}(\pi \| \psi) - \log \mathrm{Beta}(\psi)`."""

    def __init__(self, concentration: float, n_cells: float, shape: tuple[int, int]):
        super().__init__(concentration, n_cells)
        self.prior_logit = Table(torch.ones(shape))  # logit of psi

    def forward(self, logit: Tensor, kl_weight: float) -> Tensor:
        """Nats per cell."""
        prior_logit = self.prior_logit.rows
        q, p = (Bernoulli(logits=t, validate_args=False) for t in (logit, prior_logit))
        cost = kl_divergence(q, p) - beta_log_prob(prior_logit, self.concentration)
        return kl_weight * cost.sum() / self.n_cells

    def extend(self, n_new: int, n_cells: int) -> None:
        """Serve new rows, on that many cells."""
        super().extend(n_new, n_cells)
        self.prior_logit.extend(torch.ones(n_new, self.prior_logit.rows.shape[1]))


@with_shared_parameters
class VAE(PerturbationVAE):
    """Variational autoencoder that ignores perturbations: the floor of the family.

    The latent state is N(0, I) for every cell, so a latent has no meaning of its own, and every
    intervention is predicted to do nothing.

    Parameters
    ----------
    {n_latent}
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

    _additive = False

    def __init__(
        self,
        n_latent=10,
        *,
        n_hidden=128,
        n_layers=2,
        dropout=0.0,
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
        n_epochs_kl_warmup="auto",
        validation_fraction=0.1,
        patience=None,
        n_init=1,
        n_particles=100,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self._store(locals())

    def _make_module(self, cells):
        return _shift_module(self, cells)


@with_shared_parameters
class BetaVAE(PerturbationVAE):
    """Variational autoencoder whose KL term is multiplied by beta.

    Parameters
    ----------
    {n_latent}
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

    _additive = False
    _parameter_constraints = PerturbationVAE._parameter_constraints | {
        "beta": [Interval(Real, 0, None, closed="left")]
    }

    def __init__(
        self,
        n_latent=10,
        *,
        beta=10.0,
        n_hidden=128,
        n_layers=2,
        dropout=0.0,
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
        n_epochs_kl_warmup="auto",
        validation_fraction=0.1,
        patience=None,
        n_init=1,
        n_particles=100,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self._store(locals())

    def _make_module(self, cells):
        return _shift_module(self, cells, beta=self.beta)


@with_shared_parameters
class IVAE(PerturbationVAE):
    """Identifiable VAE: every perturbation shifts the latent state, by a free vector.

    Parameters
    ----------
    {n_latent}
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

    _additive = False

    def __init__(
        self,
        n_latent=10,
        *,
        n_hidden=128,
        n_layers=2,
        dropout=0.0,
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
        n_epochs_kl_warmup="auto",
        validation_fraction=0.1,
        patience=None,
        n_init=1,
        n_particles=100,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self._store(locals())

    def _make_module(self, cells):
        return _shift_module(self, cells, dense=True)


@with_shared_parameters
class SVAE(PerturbationVAE):
    """Sparse VAE: masked shifts with an L1 prior on the edge probabilities.

    Parameters
    ----------
    {n_latent}
    sparsity : float or None, default=None
        None has the edges judged by what is seen of them, as in ``SVAEPlus``, which is then the
        same model. A number has them learned under the published penalty, that many nats per
        cell times the mean edge probability: it does not depend on the number of cells, but on
        the size of effects, those below ``sqrt(2 * sparsity / n_latent)`` are removed. With
        ``init="random"`` None is 10.
    init : {"rotation", "random"}, default="rotation"
        "rotation" trains without sparsity for a third of the epochs, solves for the rotation of
        the latent space in which shifts are sparse, and goes on from there; "random" begins
        with random weights, as published, and needs several times as long.
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    {mask_attributes}
    {shared_attributes}

    See Also
    --------
    SVAEPlus : The same with a Beta prior, whose strength needs less tuning.

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

    _additive = False
    _parameter_constraints = PerturbationVAE._parameter_constraints | {
        "sparsity": [Interval(Real, 0, None, closed="left"), None],
        "init": [StrOptions({"rotation", "random"})],
    }

    def __init__(
        self,
        n_latent=10,
        *,
        sparsity=None,
        init="rotation",
        n_hidden=128,
        n_layers=2,
        dropout=0.0,
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
        n_epochs_kl_warmup="auto",
        validation_fraction=0.1,
        patience=None,
        n_init=1,
        n_particles=100,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self._store(locals())

    def _make_module(self, cells):
        if self.init == "rotation" and self.sparsity is None:
            return _shift_module(self, cells, judged=True)
        return _shift_module(self, cells, penalty=L1Penalty(_default(self.sparsity, 10.0)))

    def _optimise(
        self, module, cells, validation=None, monitor=None, *, warm=False, max_epochs=None
    ):
        optimise = super()._optimise
        if warm or self.init == "random":
            return optimise(module, cells, validation, monitor, warm=warm, max_epochs=max_epochs)
        return in_two_phases(self, optimise, module, cells, validation, monitor)

    def adapt(self, X, A, *, sparse=False):
        """Learn perturbations never trained on, with all else kept as it is.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Cells of the new perturbations.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Their design. Control cells change nothing.
        sparse : bool, default=False
            False sets the new masks to one and the shifts to their exact optimum; True learns
            sparse masks too, by gradient steps.

        Returns
        -------
        adapted : SVAE
            A new fitted estimator; this one stays as it is.
        """
        check_is_fitted(self)
        return self._adapted(X, A, partial(self.module_.extended, sparse=sparse))


@with_shared_parameters
class SVAEPlus(PerturbationVAE):
    """Sparse VAE with a Beta prior on the edge probabilities, sVAE+.

    Parameters
    ----------
    {n_latent}
    sparsity : float or None, default=None
        None has the edges judged by what is seen of them: the mean latent state of each
        perturbation is an effect if it stands out of an empirical null, whatever the number of
        cells and the size of effects (``skpert.edges``). A number of at least 1 has them
        learned under the published prior Beta(1, sparsity): larger is sparser, and so are fewer
        cells. With ``init="random"`` None is the published choice, the number of perturbations.
    bound : {"practical", "exact"}, default="practical"
        Of learned edges: "practical" sets their posterior equal to their prior (psi = pi), as
        in all experiments of the paper; "exact" learns both (its equation 12).
    pseudo_sample_size : float or None, default=None
        Of learned edges: number of cells against which the prior is weighed (equation 13); None
        is the number of training cells. Smaller is sparser.
    init : {"rotation", "random"}, default="rotation"
        "rotation" trains without sparsity for a third of the epochs, solves for the rotation of
        the latent space in which shifts are sparse, and goes on from there; "random" begins
        with random weights, as published, and needs several times as long.
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    {mask_attributes}
    {shared_attributes}

    See Also
    --------
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

    _additive = False
    _parameter_constraints = PerturbationVAE._parameter_constraints | {
        "sparsity": [Interval(Real, 1, None, closed="left"), None],
        "bound": [StrOptions({"practical", "exact"})],
        "pseudo_sample_size": [Interval(Real, 0, None, closed="neither"), None],
        "init": [StrOptions({"rotation", "random"})],
    }

    def __init__(
        self,
        n_latent=10,
        *,
        sparsity=None,
        bound="practical",
        pseudo_sample_size=None,
        init="rotation",
        n_hidden=128,
        n_layers=2,
        dropout=0.0,
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
        n_epochs_kl_warmup="auto",
        validation_fraction=0.1,
        patience=None,
        n_init=1,
        n_particles=100,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self._store(locals())

    def _make_module(self, cells):
        published = (self.sparsity, self.bound, self.pseudo_sample_size) != (
            None,
            "practical",
            None,
        )
        if self.init == "rotation" and not published:
            return _shift_module(self, cells, judged=True)
        sparsity = _default(self.sparsity, len(self.perturbations_))
        n_cells = _default(self.pseudo_sample_size, cells.n_cells)
        if self.bound == "exact":
            shape = (len(self.perturbations_), self.n_latent)
            penalty = ExactBetaPenalty(sparsity, n_cells, shape)
        else:
            penalty = BetaPenalty(sparsity, n_cells)
        return _shift_module(self, cells, penalty=penalty)

    def _optimise(
        self, module, cells, validation=None, monitor=None, *, warm=False, max_epochs=None
    ):
        optimise = super()._optimise
        if warm or self.init == "random":
            return optimise(module, cells, validation, monitor, warm=warm, max_epochs=max_epochs)
        return in_two_phases(self, optimise, module, cells, validation, monitor)

    def adapt(self, X, A, *, sparse=False):
        """Learn perturbations never trained on, with all else kept as it is.

        Encoder and decoder are frozen; the new perturbations get rows of their own after the
        known ones, whose values do not change by a bit.

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
        adapted : SVAEPlus
            A new fitted estimator; this one stays as it is.

        Raises
        ------
        ValueError
            If a perturbation is known already, or X or A are not as ``fit`` wants them.
        """
        check_is_fitted(self)
        return self._adapted(X, A, partial(self.module_.extended, sparse=sparse))


def _default(value, default):
    return default if value is None else value


def _shift_module(estimator, cells, *, dense=False, judged=False, penalty=None, beta=1.0):
    """Module of the estimator's sizes; shifts are dense, or have masks judged or learned."""
    sizes = {"n_hidden": estimator.n_hidden, "n_layers": estimator.n_layers}
    n_latent, rows = estimator.n_latent, (len(estimator.perturbations_), estimator.n_latent)
    encoder = GaussianEncoder(cells.n_genes, n_latent, dropout=estimator.dropout, **sizes)
    decoder = Decoder(
        n_latent,
        cells.n_genes,
        likelihood=estimator.likelihood,
        n_environments=cells.environment.shape[1],
        **sizes,
    )
    embedding = mask_logit = standard_error = None
    if dense or judged or penalty is not None:
        embedding = Table(torch.randn(rows))
    if judged:
        standard_error = Table(torch.zeros(rows)).requires_grad_(False)
    if judged or penalty is not None:
        found_later = judged or estimator.init == "rotation"
        mask_logit = Table(torch.full(rows, torch.inf if found_later else LOGIT_START))
        mask_logit.requires_grad_(not found_later)
    return ShiftModule(encoder, decoder, embedding, mask_logit, penalty, standard_error, beta)
