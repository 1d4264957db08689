r"""Masks: which latents each perturbation moves, and what is known of that.

.. math:: m_{ti} \sim \mathrm{Bernoulli}(\pi_{ti})

Masks are given, called after training from the effects that are seen, or learned under a prior of
the probabilities :math:`\pi`. A family that draws one mask per perturbation takes it, and what it
costs, from ``draw``: the logarithms of prior and posterior, summed over latents; expectations
under the posterior are used where they have a closed form, and the difference is then minus the
KL. A family in which every cell has a mask of its own takes it from ``sample``.
"""

import math
from abc import ABC, abstractmethod
from numbers import Real

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn.functional import logsigmoid

from .._ranks import drawn
from ..distributions import straight_through
from ..nn import Table
from ..objectives import Costs, beta_log_prob
from .effects import LEAST_STABILITY, LatentEffects, edge_logit, not_sparse

LOGIT_START = 5.0  # from random weights every edge starts with probability 0.993
LOGIT_FOUND = 2.0  # an edge that was found beforehand starts with 0.88, the others with 0.12


class Masks(nn.Module, ABC):
    """Masks of which each edge has a probability; an infinite logit is a mask that is fixed."""

    def __init__(self, logit: Tensor):
        super().__init__()
        self.logit = Table(logit)  # of the probability of an edge
        free = logit.is_meta or bool(logit.isfinite().all())
        self.logit.requires_grad_(free and self.are_learned)

    are_learned = False

    def probability(self) -> Tensor:
        """Probability of each edge, (n_perturbations, n_latent)."""
        # In float64, as the last bit in float32 depends on the number of rows.
        return torch.sigmoid(self.logit().double()).float()

    def acting(self, part: Tensor | None = None) -> Tensor:
        """Logits by which masks act in the model, (*part.shape, n_latent), or all."""
        return self.logit.of(part)

    def most_probable(self) -> Tensor:
        """Mask of the edges more likely than not, bool, (n_perturbations, n_latent)."""
        mask: Tensor = self.acting() > 0
        return mask

    def narrow(self, n_latent: int) -> None:
        """Keep so many latents, before any edge of them is known."""
        for table in self.modules():
            if isinstance(table, Table):
                table.narrow(n_latent)

    def fix(self, mask: Tensor) -> None:
        """Go on with these edges, bool, and learn none."""
        self.requires_grad_(False)
        self.logit = Table(torch.where(mask, torch.inf, -torch.inf)).requires_grad_(False)

    def restart(self, n_first: int = 0) -> None:
        """Have all edges until some are found, but none of the first rows."""
        self.requires_grad_(self.are_learned)
        logit = torch.full_like(self.logit(), torch.inf)
        logit[:n_first] = -torch.inf
        self.logit = Table(logit).requires_grad_(False)

    @abstractmethod
    def start(self, found: Tensor) -> None:
        """Go on from these edges, bool, that were found beforehand."""

    def penalties(self, kl_weight: float) -> dict[str, Tensor]:
        """Terms of the objective that belong to no cell, nats per cell."""
        return {}

    def _hard(self, part: Tensor | None, sample_shape: tuple[int, ...]) -> Tensor:
        """The most probable masks, (*sample_shape, *part.shape, n_latent)."""
        mask = (self.acting(part) > 0).to(self.logit.rows.dtype)
        return mask.expand(*sample_shape, *mask.shape)

    def _drawn(self, part: Tensor | None, sample_shape: tuple[int, ...]) -> Tensor:
        """Masks drawn by their probability, (*sample_shape, *part.shape, n_latent)."""
        return _sampled(self.acting(part), part, sample_shape)

    def _append(self, logit: float, n_new: int) -> None:
        self.logit.extend(self.logit().new_full((n_new, self.logit.rows.shape[1]), logit))


class SharedMasks(Masks):
    """Masks that all cells of a perturbation share."""

    @abstractmethod
    def draw(
        self, part: Tensor | None, sample_shape: tuple[int, ...], analytic: bool
    ) -> tuple[Tensor, Costs]:
        """Masks, (*sample_shape, *part.shape, n_latent), and their costs."""

    @abstractmethod
    def extend(self, n_new: int) -> None:
        """Freeze the rows there are and append new ones."""


class HardMasks(SharedMasks):
    """Masks that are at their most probable value, which costs nothing."""

    def draw(
        self, part: Tensor | None, sample_shape: tuple[int, ...], analytic: bool
    ) -> tuple[Tensor, Costs]:
        """Masks, (*sample_shape, *part.shape, n_latent), without costs."""
        return self._hard(part, sample_shape), {}

    def start(self, found: Tensor) -> None:
        """Go on from these edges, bool."""
        self.fix(found)


class FixedMasks(HardMasks):
    """Masks that are given; new perturbations have every edge."""

    def sample(self, part: Tensor, sample_shape: tuple[int, ...]) -> Tensor:
        """Masks, (*sample_shape, *part.shape, n_latent)."""
        return self._hard(part, sample_shape)

    def extend(self, n_new: int) -> None:
        """Freeze the rows there are and append new ones, with every edge."""
        self._append(torch.inf, n_new)
        self.requires_grad_(False)


class CalledMasks(HardMasks):
    """Masks that are called from the effect of each perturbation that is seen, and its error.

    All edges are there until they are called. Where they do not tell all that perturbations do,
    the model goes on with all.
    """

    whole: Tensor  # (n_latent,) latents of which every shift acts, edge or not
    stability: Tensor  # (n_latent,) of axes, in [0, 1]; an axis that is not stable has no edges

    def __init__(self, logit: Tensor):
        super().__init__(logit)
        self.register_buffer("whole", torch.zeros(logit.shape[1], dtype=torch.bool))
        self.register_buffer("stability", torch.ones(logit.shape[1]))
        self.difference = Table(torch.zeros_like(logit)).requires_grad_(False)
        self.standard_error = Table(torch.zeros_like(logit)).requires_grad_(False)

    def acting(self, part: Tensor | None = None) -> Tensor:
        """Logits by which masks act in the model, (*part.shape, n_latent), or all."""
        return super().acting(part).masked_fill(self.whole, torch.inf)

    def narrow(self, n_latent: int) -> None:
        """Keep so many latents, before any edge of them is known."""
        super().narrow(n_latent)
        self.whole = self.whole[:n_latent].clone()
        self.stability = self.stability[:n_latent].clone()

    def restart(self, n_first: int = 0) -> None:
        """Have all edges until some are found, but none of the first rows."""
        super().restart(n_first)
        self.whole = torch.zeros_like(self.whole)

    def sample(self, part: Tensor, sample_shape: tuple[int, ...]) -> Tensor:
        """Masks drawn by the probability of each edge, (*sample_shape, *part.shape, n_latent)."""
        return self._drawn(part, sample_shape)

    def record(self, difference: Tensor, standard_error: Tensor) -> None:
        """Keep the effects, of all rows or of those appended last, and their errors."""
        for table, rows in ((self.difference, difference), (self.standard_error, standard_error)):
            table.rows = nn.Parameter(rows.float(), requires_grad=False)

    def call_first(
        self, effects: LatentEffects, *, missing: bool, of_first: Tensor | None = None
    ) -> None:
        """Call edges from these effects, which tell which axes to trust as well.

        If latents are ``missing`` those there are turn to them in training, so that an edge counts
        only if it was there when training with sparsity began. ``of_first`` is the logit of first
        rows that are no perturbations, and so are called otherwise.
        """
        n = 0 if of_first is None else len(of_first)
        effects = effects.after(n)
        logit = edge_logit(effects.difference, self.standard_error()[n:])
        if missing:
            logit = logit.masked_fill(self.logit()[n:] <= 0, -torch.inf)
        self.stability = effects.stability(logit > 0).float()
        known = self.stability >= LEAST_STABILITY
        logit = logit.masked_fill(~known, -torch.inf)
        self.whole = ~known
        self.whole[known] = not_sparse(effects.difference[:, known], logit[:, known])
        if of_first is not None:
            logit = torch.cat([of_first.to(logit).masked_fill(~known, -torch.inf), logit])
        self.logit.rows = nn.Parameter(logit.float(), requires_grad=False)

    def call(self) -> None:
        """Call edges of the rows appended last, beside what is known of all perturbations."""
        logit = edge_logit(self.difference(), self.standard_error())
        logit = logit.masked_fill(self.stability < LEAST_STABILITY, -torch.inf)
        rows = logit[len(self.logit.frozen) :].float()
        self.logit.rows = nn.Parameter(rows, requires_grad=False)

    def extend(self, n_new: int) -> None:
        """Freeze the rows there are and append new ones, with every edge until called.

        On axes that hang on single perturbations there are none, though all shifts act there.
        """
        self._append(torch.inf, n_new)
        self.logit.rows = nn.Parameter(
            self.logit.rows.masked_fill(self.stability < LEAST_STABILITY, -torch.inf)
        )
        nothing = self.logit().new_zeros(n_new, self.logit.rows.shape[1])
        for table in (self.difference, self.standard_error):
            table.extend(nothing)
        self.requires_grad_(False)


class LearnedMasks(SharedMasks):
    """Masks with a free posterior probability each."""

    are_learned = True

    def start(self, found: Tensor) -> None:
        """Go on from these edges, bool, with a probability of 0.88 and the others of 0.12."""
        self.logit = Table(torch.where(found, LOGIT_FOUND, -LOGIT_FOUND))

    def extend(self, n_new: int) -> None:
        """Freeze the rows there are and append new ones, to be learned."""
        self._append(LOGIT_FOUND, n_new)
        for table in self.children():
            if isinstance(table, Table) and table is not self.logit:
                table.extend(table().new_zeros(n_new, table.rows.shape[1]))


class BernoulliMasks(LearnedMasks):
    """Masks with one prior probability for all."""

    prior_logit: Tensor

    def __init__(self, logit: Tensor, prior: float):
        super().__init__(logit)
        self.register_buffer("prior_logit", torch.logit(torch.tensor(float(prior))))

    def draw(
        self, part: Tensor | None, sample_shape: tuple[int, ...], analytic: bool
    ) -> tuple[Tensor, Costs]:
        """Masks, (*sample_shape, *part.shape, n_latent), and their costs."""
        logit = self.logit.of(part)
        mask = _sampled(logit, part, sample_shape)
        chosen = torch.sigmoid(logit) if analytic else mask
        finite = logit.clamp(-1e4, 1e4)
        log_p, log_q = (
            _bernoulli_log_prob(chosen, t).masked_fill(logit.isinf(), 0).sum(-1)
            for t in (self.prior_logit, finite)
        )
        return mask, {"mask": (log_p, log_q)}


class BetaBernoulliMasks(LearnedMasks):
    """Masks whose prior probabilities are themselves Beta(a, b), one each.

    The posterior of a mask given its probability is its prior, so that only the probability
    costs. Its own posterior is a point, or a Beta distribution.
    """

    concentrations: Tensor  # a and b

    def __init__(self, logit: Tensor, concentrations: tuple[float, float], posterior: str):
        super().__init__(logit)
        a, b = concentrations
        self.register_buffer("concentrations", torch.tensor([float(a), float(b)]))
        self.log_size = Table(torch.zeros_like(logit)) if posterior == "beta" else None

    def draw(
        self, part: Tensor | None, sample_shape: tuple[int, ...], analytic: bool
    ) -> tuple[Tensor, Costs]:
        """Masks, (*sample_shape, *part.shape, n_latent), and the costs of their probability."""
        logit = self.logit.of(part)
        finite = logit.clamp(-15, 15)
        if self.log_size is None:
            point, shape = finite, sample_shape
            q = finite.new_tensor([1.0, 1.0]).unbind()  # a point has no density
            moments = logsigmoid(finite), logsigmoid(-finite)
        else:
            size = 2 * self.log_size.of(part).exp()
            q = size * torch.sigmoid(finite), size * torch.sigmoid(-finite)
            point = torch.logit(Beta(*q, validate_args=False).rsample(sample_shape), 1e-6)
            shape, moments = (), (logsigmoid(point), logsigmoid(-point))
            if analytic:
                total = torch.digamma(q[0] + q[1])
                moments = torch.digamma(q[0]) - total, torch.digamma(q[1]) - total
        mask = _sampled(torch.where(logit.isinf(), logit, point), part, shape)
        log_p, log_q = (
            _beta_log_prob(*moments, *c).masked_fill(logit.isinf(), 0).sum(-1)
            for c in (self.concentrations, q)
        )
        return mask, {"mask_probability": (log_p, log_q)}


def check_mask_prior(prior: float | tuple[float, float] | None) -> None:
    """ValueError unless a pair is that of a Beta distribution."""
    if not isinstance(prior, tuple):
        return
    good = all(isinstance(c, Real) and 0 < c < math.inf for c in prior)
    if not good or len(prior) != 2:
        raise ValueError(
            f"mask_prior={prior!r}: a pair holds the two concentrations of a Beta distribution, "
            "positive numbers"
        )


def learned_masks(
    logit: Tensor, prior: float | tuple[float, float] | None, posterior: str
) -> LearnedMasks:
    """Masks to be learned under one prior probability, 0.01 for None, or under those of a pair."""
    if isinstance(prior, tuple):
        return BetaBernoulliMasks(logit, prior, posterior)
    return BernoulliMasks(logit, 0.01 if prior is None else prior)


def _sampled(logit: Tensor, part: Tensor | None, sample_shape: tuple[int, ...]) -> Tensor:
    """Masks of these logits, (*sample_shape, *logit.shape), of parts of cells or of all."""
    shape, rows = (*sample_shape, *logit.shape), None if part is None else -3
    u = drawn(torch.rand, shape, rows, logit.device)
    return straight_through(logit, u.to(logit.dtype))


def _bernoulli_log_prob(mask: Tensor, logit: Tensor) -> Tensor:
    """Log-mass of a mask, or its expectation for a probability in place of one."""
    return mask * logsigmoid(logit) + (1 - mask) * logsigmoid(-logit)


def _beta_log_prob(log_x: Tensor, log_rest: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Log-density of Beta(a, b) at x, from log(x) and log(1 - x) or their expectations."""
    normaliser = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return (a - 1) * log_x + (b - 1) * log_rest - normaliser


class PenalisedMasks(Masks):
    """Masks of single cells, with a point estimate of their probability under a penalty."""

    are_learned = True

    def __init__(self, logit: Tensor, penalty: "Penalty"):
        super().__init__(logit)
        self.penalty = penalty

    def penalties(self, kl_weight: float) -> dict[str, Tensor]:
        """The penalty, nats per cell, as long as masks are learned."""
        if not self.logit.rows.requires_grad:
            return {}
        return {"sparsity": self.penalty(self.logit.rows, kl_weight)}

    def sample(self, part: Tensor, sample_shape: tuple[int, ...]) -> Tensor:
        """Masks drawn by the probability of each edge, (*sample_shape, *part.shape, n_latent)."""
        return self._drawn(part, sample_shape)

    def start(self, found: Tensor) -> None:
        """Go on from these edges, bool, with a probability of 0.88 and the others of 0.12."""
        self.logit = Table(torch.where(found, LOGIT_FOUND, -LOGIT_FOUND))

    def extend(self, n_new: int, n_cells: int, *, learned: bool) -> None:
        """Freeze the rows there are and append new ones, with every edge or to be learned."""
        self._append(LOGIT_START if learned else torch.inf, n_new)
        self.penalty.extend(n_new, n_cells)
        self.requires_grad_(learned)


class Penalty(nn.Module, ABC):
    """What the probabilities of edges cost."""

    @abstractmethod
    def forward(self, logit: Tensor, kl_weight: float) -> Tensor:
        """Nats per cell."""

    @abstractmethod
    def extend(self, n_new: int, n_cells: int) -> None:
        """Serve new rows, on that many cells."""


class L1Penalty(Penalty):
    r"""Prior of sVAE: :math:`\alpha` times the mean, or the sum, of edge probabilities."""

    strength: Tensor  # alpha

    def __init__(self, strength: float, norm: str = "mean"):
        super().__init__()
        self.register_buffer("strength", torch.tensor(float(strength)))
        self.norm = norm

    def forward(self, logit: Tensor, kl_weight: float) -> Tensor:
        """Nats per cell; not warmed up."""
        probability = torch.sigmoid(logit)
        return self.strength * (probability.mean() if self.norm == "mean" else probability.sum())

    def extend(self, n_new: int, n_cells: int) -> None:
        """Serve new rows: the penalty is the same."""


class BetaPenalty(Penalty):
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


class ExactBetaPenalty(Penalty):
    r"""Exact bound of sVAE+: :math:`\sum \mathrm{KL}(\pi \| \psi) - \log \mathrm{Beta}(\psi)`."""

    concentration: Tensor  # alpha
    n_cells: Tensor

    def __init__(self, concentration: float, n_cells: float, shape: tuple[int, int]):
        super().__init__()
        self.register_buffer("concentration", torch.tensor(float(concentration)))
        self.register_buffer("n_cells", torch.tensor(float(n_cells)))
        self.prior_logit = Table(torch.ones(shape))  # logit of psi

    def forward(self, logit: Tensor, kl_weight: float) -> Tensor:
        """Nats per cell."""
        prior_logit = self.prior_logit.rows
        on = logit.sigmoid() * (logsigmoid(logit) - logsigmoid(prior_logit))
        off = (-logit).sigmoid() * (logsigmoid(-logit) - logsigmoid(-prior_logit))
        cost = on + off - beta_log_prob(prior_logit, self.concentration)
        return kl_weight * cost.sum() / self.n_cells

    def extend(self, n_new: int, n_cells: int) -> None:
        """Serve new rows, on that many cells."""
        self.n_cells.fill_(n_cells)
        self.prior_logit.extend(torch.ones(n_new, self.prior_logit.rows.shape[1]))
