r"""Latent variables that all cells share: masks and embeddings, their priors and posteriors.

.. math:: m_{ti} \sim \mathrm{Bernoulli}(\alpha), \qquad e_{ti} \sim \mathcal{N}(0, s^2)

A posterior is drawn from with :meth:`draw`, for all perturbations or for those of given cells,
and says what each draw costs: the logarithms of prior and posterior, summed over latents. Their
expectations under the posterior are used where they have a closed form; then the difference is
minus the KL.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Beta, Normal
from torch.nn.functional import embedding, leaky_relu, logsigmoid

from ._effects import edge_logit
from .distributions import StraightThroughBernoulli
from .nn import Table

LOGIT_FOUND = 2.0  # an edge that was found beforehand starts with 0.88, the others with 0.12
SCALE_START = 0.1  # standard deviation of an embedding's posterior

Costs = dict[str, tuple[Tensor, Tensor]]  # by variable: log p and log q, (..., n_rows)


def rows_of(table: Tensor, part: Tensor | None) -> Tensor:
    """Rows of these perturbations, or all."""
    rows: Tensor = table if part is None else embedding(part, table)
    return rows


class FixedMasks(nn.Module):
    """Masks that are given, not learned: they cost nothing."""

    def __init__(self, logit: Tensor):
        super().__init__()
        self.logit = Table(logit).requires_grad_(False)  # of the probability of an edge

    def probability(self) -> Tensor:
        """Probability of each edge, (n_perturbations, n_latent)."""
        # In float64, as the last bit in float32 depends on the number of rows.
        return torch.sigmoid(self.logit().double()).float()

    def most_probable(self) -> Tensor:
        """Mask of the edges more likely than not, bool, (n_perturbations, n_latent)."""
        mask: Tensor = self.logit() > 0
        return mask

    def draw(
        self, part: Tensor | None, sample_shape: tuple[int, ...], analytic: bool
    ) -> tuple[Tensor, Costs]:
        """Masks, (*sample_shape, *part.shape, n_latent), and their costs."""
        mask = (rows_of(self.logit(), part) > 0).to(self.logit.rows.dtype)
        return mask.expand(*sample_shape, *mask.shape), {}

    def start(self, found: Tensor) -> None:
        """Go on from these edges, bool."""
        self.logit = Table(torch.where(found, torch.inf, -torch.inf)).requires_grad_(False)

    def extend(self, n_new: int) -> None:
        """Freeze the rows there are and append new ones, with every edge."""
        self.logit.extend(self.logit().new_full((n_new, self.logit.rows.shape[1]), torch.inf))
        self.logit.requires_grad_(False)


class JudgedMasks(FixedMasks):
    """Masks that follow from what is seen of each perturbation: an effect and its error."""

    def __init__(self, logit: Tensor):
        super().__init__(logit)
        self.difference = Table(torch.zeros_like(logit)).requires_grad_(False)
        self.standard_error = Table(torch.zeros_like(logit)).requires_grad_(False)

    def judge(self, difference: Tensor, standard_error: Tensor) -> None:
        """Judge all rows, or those appended last beside the known ones."""
        n_new = len(difference)
        for table, rows in ((self.difference, difference), (self.standard_error, standard_error)):
            table.rows = nn.Parameter(rows.float(), requires_grad=False)
        logit = edge_logit(self.difference(), self.standard_error())
        self.logit.rows = nn.Parameter(logit[-n_new:].float(), requires_grad=False)

    def extend(self, n_new: int) -> None:
        """Freeze the rows there are and append new ones, with every edge until judged."""
        super().extend(n_new)
        nothing = self.logit().new_zeros(n_new, self.logit.rows.shape[1])
        for table in (self.difference, self.standard_error):
            table.extend(nothing)
            table.requires_grad_(False)


class BernoulliMasks(FixedMasks):
    """Masks with a free posterior probability each, and a prior probability for all.

    An infinite logit is a mask that is fixed, which costs nothing.
    """

    prior_logit: Tensor

    def __init__(self, logit: Tensor, prior: float):
        super().__init__(logit)
        self.logit.requires_grad_(logit.is_meta or bool(logit.isfinite().all()))
        self.register_buffer("prior_logit", torch.logit(torch.tensor(float(prior))))

    def draw(
        self, part: Tensor | None, sample_shape: tuple[int, ...], analytic: bool
    ) -> tuple[Tensor, Costs]:
        """Masks, (*sample_shape, *part.shape, n_latent), and their costs."""
        logit = rows_of(self.logit(), part)
        mask = StraightThroughBernoulli(logit).rsample(sample_shape)
        chosen = torch.sigmoid(logit) if analytic else mask
        finite = logit.clamp(-1e4, 1e4)
        log_p, log_q = (
            _bernoulli_log_prob(chosen, t).masked_fill(logit.isinf(), 0).sum(-1)
            for t in (self.prior_logit, finite)
        )
        return mask, {"mask": (log_p, log_q)}

    def start(self, found: Tensor) -> None:
        """Go on from these edges, bool, with a probability of 0.88 and the others of 0.12."""
        self.logit = Table(torch.where(found, LOGIT_FOUND, -LOGIT_FOUND))

    def extend(self, n_new: int) -> None:
        """Freeze the rows there are and append new ones, to be learned."""
        self.logit.extend(self.logit().new_full((n_new, self.logit.rows.shape[1]), LOGIT_FOUND))


class BetaBernoulliMasks(BernoulliMasks):
    """Masks whose prior probabilities are themselves Beta(a, b), one each.

    The posterior of a mask given its probability is its prior, so that only the probability
    costs. Its own posterior is a point, or a Beta distribution.
    """

    concentrations: Tensor  # a and b

    def __init__(self, logit: Tensor, concentrations: tuple[float, float], posterior: str):
        super().__init__(logit, 0.5)
        a, b = concentrations
        self.register_buffer("concentrations", torch.tensor([float(a), float(b)]))
        self.log_size = Table(torch.zeros_like(logit)) if posterior == "beta" else None

    def draw(
        self, part: Tensor | None, sample_shape: tuple[int, ...], analytic: bool
    ) -> tuple[Tensor, Costs]:
        """Masks, (*sample_shape, *part.shape, n_latent), and the costs of their probability."""
        logit = rows_of(self.logit(), part)
        finite = logit.clamp(-15, 15)
        if self.log_size is None:
            drawn, shape = finite, sample_shape
            q = finite.new_tensor([1.0, 1.0]).unbind()  # a point has no density
            moments = logsigmoid(finite), logsigmoid(-finite)
        else:
            size = 2 * rows_of(self.log_size(), part).exp()
            q = size * torch.sigmoid(finite), size * torch.sigmoid(-finite)
            drawn = torch.logit(Beta(*q, validate_args=False).rsample(sample_shape), 1e-6)
            shape, moments = (), (logsigmoid(drawn), logsigmoid(-drawn))
            if analytic:
                a, b = q
                moments = (
                    torch.digamma(a) - torch.digamma(a + b),
                    torch.digamma(b) - torch.digamma(a + b),
                )
        mask = StraightThroughBernoulli(torch.where(logit.isinf(), logit, drawn)).rsample(shape)
        log_p, log_q = (
            _beta_log_prob(*moments, *c).masked_fill(logit.isinf(), 0).sum(-1)
            for c in (self.concentrations, q)
        )
        return mask, {"mask_probability": (log_p, log_q)}

    def extend(self, n_new: int) -> None:
        """Freeze the rows there are and append new ones, to be learned."""
        super().extend(n_new)
        if self.log_size is not None:
            self.log_size.extend(self.logit().new_zeros(n_new, self.logit.rows.shape[1]))


def _bernoulli_log_prob(mask: Tensor, logit: Tensor) -> Tensor:
    """Log-mass of a mask, or its expectation for a probability in place of one."""
    return mask * logsigmoid(logit) + (1 - mask) * logsigmoid(-logit)


def _beta_log_prob(log_x: Tensor, log_rest: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Log-density of Beta(a, b) at x, from log(x) and log(1 - x) or their expectations."""
    normaliser = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return (a - 1) * log_x + (b - 1) * log_rest - normaliser


class Embeddings(nn.Module):
    """Embeddings with prior N(0, scale^2) and a Gaussian posterior each.

    With a network the posterior depends on the mask: q(e | m).
    """

    prior_scale: Tensor

    def __init__(self, shape: tuple[int, int], prior_scale: float, network: Any = None):
        super().__init__()
        self.loc = Table(torch.zeros(shape))
        self.log_scale = Table(torch.full(shape, math.log(SCALE_START)))
        self.network = network
        self.register_buffer("prior_scale", torch.tensor(float(prior_scale)))

    def posterior(self, part: Tensor | None, mask: Tensor) -> Normal:
        """q(e | m) of these perturbations, (..., n_latent)."""
        loc, log_scale = rows_of(self.loc(), part), rows_of(self.log_scale(), part)
        if self.network is not None:
            of_loc, of_scale = self.network(part, mask).chunk(2, -1)
            loc, log_scale = loc + of_loc, log_scale + of_scale
        return Normal(loc, log_scale.exp() + 1e-4, validate_args=False)

    def draw(self, part: Tensor | None, mask: Tensor, analytic: bool) -> tuple[Tensor, Costs]:
        """Embeddings of the shape of the masks, and their costs."""
        q = self.posterior(part, mask)
        noise = torch.randn(mask.shape, device=mask.device)
        drawn = q.mean + q.stddev * noise
        log_p_scale = self.prior_scale.log() + math.log(2 * math.pi) / 2
        log_q = -q.stddev.log() - math.log(2 * math.pi) / 2
        if analytic:
            square = q.mean.square() + q.stddev.square()
            log_q = log_q - 0.5
        else:
            square = drawn.square()
            log_q = log_q - noise.square() / 2
        log_p = -square / (2 * self.prior_scale.square()) - log_p_scale
        return drawn, {"embedding": (log_p.sum(-1), log_q.sum(-1))}

    def start(self, loc: Tensor) -> None:
        """Go on from these locations."""
        self.loc = Table(loc)

    def settle(self, loc: Tensor) -> None:
        """Set the rows that were appended last."""
        self.loc.rows = nn.Parameter(loc.to(self.loc.rows))

    def thaw(self) -> None:
        """Make all rows learnable again."""
        for table in (self.loc, self.log_scale):
            table.thaw()
        if self.network is not None:
            self.network.of_perturbation.thaw()

    @torch.no_grad()
    def turn(self, R: Tensor) -> None:
        """Let the embeddings be turned by R, and the network, whose axes are others, join in."""
        variance = self.log_scale().exp().square() @ R.square()
        self.loc, self.log_scale = Table(self.loc() @ R), Table(variance.log() / 2)
        if self.network is not None:
            self.network.requires_grad_(True)

    def extend(self, loc: Tensor) -> None:
        """Freeze the rows there are and append new ones, to be learned."""
        self.loc.extend(loc)
        self.log_scale.extend(torch.full_like(loc, math.log(SCALE_START)))
        if self.network is not None:
            self.network.extend(len(loc))


class EmbeddingNetwork(nn.Module):
    """What the mask of a perturbation adds to the posterior of its embedding; nothing at first."""

    def __init__(self, n_perturbations: int, n_latent: int, widths: tuple[int, ...]):
        super().__init__()
        self.of_mask = nn.Linear(n_latent, widths[0])
        bound = (n_perturbations + n_latent) ** -0.5
        self.of_perturbation = Table((2 * torch.rand(n_perturbations, widths[0]) - 1) * bound)
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        self.moments = nn.Linear(widths[-1], 2 * n_latent)
        nn.init.zeros_(self.moments.weight)
        nn.init.zeros_(self.moments.bias)

    def forward(self, part: Tensor | None, mask: Tensor) -> Tensor:
        """Differences of location and of log-scale, side by side, (..., 2 n_latent)."""
        h = leaky_relu(self.of_mask(mask) + rows_of(self.of_perturbation(), part))
        for layer in self.hidden:
            block = leaky_relu(layer(h))
            h = h + block if block.shape == h.shape else block
        moments: Tensor = self.moments(h)
        return moments

    def extend(self, n_new: int) -> None:
        """Append rows for new perturbations, to be learned."""
        rows = self.of_perturbation()
        self.of_perturbation.extend(rows.new_zeros(n_new, rows.shape[1]))
