r"""Distributions that torch lacks: expression of one cell, and straight-through masks.

A distribution of expression has the whole cell as its event: ``log_prob`` sums over genes. With
mean :math:`m` and inverse dispersion :math:`\theta`,

.. math:: \log NB(x; m, \theta) = - \tfrac12 D(x; m, \theta) + c(x, \theta) + \log P(x; x)

.. math:: \tfrac12 D = x \log\Bigl(1 + \frac{\theta (x - m)}{m (x + \theta)}\Bigr)
          + \theta \log\Bigl(1 + \frac{m - x}{x + \theta}\Bigr), \qquad
          c = h(x + \theta) - h(\theta), \quad h(z) = \log\Gamma(z) - z \log z + z

The deviance :math:`D` measures from the saturated model, whose means are the counts themselves
[1]_, and alone depends on the latent state. Both of its logarithms are small where :math:`m` is
near :math:`x`, so that a count of a million costs no more digits than a small one;
:math:`x \log m` would lose them. Particles share :math:`c`, and all models
:math:`\log P(x; x) = x \log x - x - \log x!`, the saturated Poisson. A Poisson has
:math:`\theta = \infty`: :math:`\tfrac12 D = x \log(x / m) - x + m` and :math:`c = 0`.

References
----------
.. [1] Loader, Fast and accurate computation of binomial probabilities, 2000.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Bernoulli, Distribution, constraints
from torch.distributions.utils import lazy_property
from torch.nn.functional import hardtanh, logsigmoid

LOG_THETA = (-40.0, 20.0)  # bounds of log dispersions; above, it is Poisson long before
LARGEST_RATE = 1e18  # that is drawn from: torch holds Poisson draws in 64 bits
LOG_MEAN = (-60.0, 40.0)  # bounds of log means, within which no ratio below overflows
MEAN = tuple(math.exp(bound) for bound in LOG_MEAN)
FEW = 0.1  # share of counts above 1 up to which these alone are cheaper than all
# S(y) = log Gamma(y) - (y - 1/2) log y + y - log(2 pi) / 2 is w P(w^2) with w = 1 / y <= 1, its
# slope -w^2 Q(w^2). The coefficients of P and Q are those with the least largest error, 4e-8 and
# 5e-6; the series of Stirling has them for small w.
REMAINDER = (8.33328229e-2, -2.76538702e-3, 7.03645194e-4, -2.75736083e-4, 6.61641027e-5)
SLOPE = (8.32050715e-2, -7.35885997e-3, 1.37477597e-3)


def _half_deviance(
    x: Tensor, mean: Tensor, theta: Tensor, kept: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Half the deviance of each gene, :math:`m - x`, and the logarithm beside :math:`\theta`.

    The arguments of both logarithms have :math:`x + \theta` in common, which is made larger by a
    few ``eps``: the deviance changes by as little, and no argument can round to -1. If what slopes
    need is not kept, it is overwritten, a mean of the shape of all included.
    """
    larger = 1 + 2 * torch.finfo(mean.dtype).eps
    inverse = torch.add(theta * larger, x, alpha=larger).reciprocal_()
    difference = mean - x
    half = torch.div(difference, mean, out=None if kept else mean)
    spread = torch.mul(difference, inverse, out=None if kept else difference).log1p_()
    half = half.mul_(inverse.mul_(-theta)).log1p_()
    return half.mul_(x).addcmul_(spread, theta), difference, spread


def _slopes(
    mean: Tensor, theta: Tensor, difference: Tensor, spread: Tensor
) -> tuple[Tensor, Tensor]:
    """Slopes of minus half the deviance in the log mean and in theta; overwrites the last two."""
    share = difference.div_(mean + theta)
    return share * -theta, share.sub_(spread)


class _OfMeans(torch.autograd.Function):
    """Minus half the deviance of each gene, from log means.

    The slopes are made with the value, while its pieces are at hand; nothing else is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_mean: Tensor, theta: Tensor) -> Tensor:
        mean = log_mean.clamp(*LOG_MEAN).exp_()
        half, *pieces = _half_deviance(x, mean, theta)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*_slopes(mean, theta, *pieces))
            ctx.shape = log_mean.shape
        return half.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        of_log_mean, of_theta = ctx.saved_tensors
        of_theta = (grad * of_theta).sum_to_size(of_theta.shape[-1])
        return None, (grad * of_log_mean).sum_to_size(ctx.shape), of_theta


class _OfLogits(torch.autograd.Function):
    """Minus half the deviance of a cell whose means are shares of a library.

    One node of the graph, whose pieces stay in the cache, in place of four.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, log_library: Tensor, theta: Tensor) -> Tensor:
        sloped = any(ctx.needs_input_grad)
        share = torch.softmax(logits, -1)
        mean = torch.mul(share, log_library.exp(), out=None if sloped else share).clamp_(*MEAN)
        half, *pieces = _half_deviance(x, mean, theta, sloped)
        if sloped:
            slope, of_theta = _slopes(mean, theta, *pieces)
            total = slope.sum(-1, keepdim=True)
            ctx.save_for_backward(slope.addcmul_(share, total, value=-1), of_theta)
        return half.sum(-1).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, Tensor]:
        of_logits, of_theta = ctx.saved_tensors
        return None, grad[..., None] * of_logits, None, _weighted_sum(grad, of_theta)


def _poisson(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Minus half the deviance of each gene from a Poisson, and its slope in the log mean."""
    difference = x - mean
    edge = torch.finfo(mean.dtype).eps - 1  # no count is -1 here, and its logarithm is not taken
    half = (difference / mean).clamp_(min=edge).log1p_().mul_(x)
    return torch.sub(difference, half, out=half), difference


class _PoissonOfMeans(torch.autograd.Function):
    """Minus half the deviance of each gene, from log means."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_mean: Tensor) -> Tensor:
        value, slope = _poisson(x, log_mean.clamp(*LOG_MEAN).exp_())
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(slope)
            ctx.shape = log_mean.shape
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, (grad * slope).sum_to_size(ctx.shape)


class _PoissonOfLogits(torch.autograd.Function):
    """Minus half the deviance of a cell whose means are shares of a library."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, log_library: Tensor) -> Tensor:
        share = torch.softmax(logits, -1)
        value, slope = _poisson(x, (share * log_library.exp()).clamp_(*MEAN))
        if ctx.needs_input_grad[1]:
            total = slope.sum(-1, keepdim=True)
            ctx.save_for_backward(slope.addcmul_(share, total, value=-1))
        return value.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (of_logits,) = ctx.saved_tensors
        return None, grad[..., None] * of_logits, None


def correction(x: Tensor, theta: Tensor, sloped: bool) -> tuple[Tensor, Tensor]:
    r""":math:`c` up to a constant for each theta, and slopes in theta if asked for.

    With :math:`z = x + \theta`, after one step of the recurrence of the gamma function,

    .. math:: h(z) = S(z + 1) + (z + \tfrac12) \log(1 + 1/z) - \tfrac12 \log z + \mathrm{const}

    The slope of the whole shares most of its work with the value, so both are made in one go.
    Constants are tensors: Python scalars would be converted at every operation. They stay on the
    CPU, from which a GPU takes single numbers without waiting.
    """
    slope = theta  # a placeholder if none is asked for
    constants = torch.tensor([1.0, 0.5, *REMAINDER, *SLOPE], dtype=theta.dtype)
    one, half, *coefficients = constants.unbind()
    z = x + theta
    inverse, w = z.reciprocal(), (z + one).reciprocal_()
    step, square = inverse.log1p(), w * w
    if sloped:
        slope = _polynomial(square, coefficients[len(REMAINDER) :]).mul_(square)
        slope = torch.sub(step, slope.add_(w, alpha=0.5).add_(inverse), out=slope)
    value = _polynomial(square, coefficients[: len(REMAINDER)]).mul_(w)
    value.addcmul_(z.add_(half), step)
    return value.sub_((x / theta).log1p_(), alpha=0.5), slope


def exact_correction(x: Tensor, theta: Tensor, sloped: bool) -> tuple[Tensor, Tensor]:
    """The same by the functions of torch, for float64."""
    z = x + theta
    return torch.lgamma(z) - z * z.log() + z, torch.digamma(z) - z.log()


def _polynomial(u: Tensor, coefficients: list[Tensor]) -> Tensor:
    """Polynomial in u, the constant coefficient first, by Horner's rule."""
    *lower, last = coefficients
    value = u * last
    for coefficient in lower[:0:-1]:
        value.add_(coefficient).mul_(u)
    return value.add_(lower[0])


class _Correction(torch.autograd.Function):
    """Sums over genes; a row of no counts has the constants, which are taken off."""

    @staticmethod
    def forward(ctx: Any, counts: Tensor, theta: Tensor) -> Tensor:
        x = torch.cat([counts.new_zeros(1, counts.shape[-1]), counts])
        value, slope = correction(x, theta, ctx.needs_input_grad[1])
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(slope[1:].sub_(slope[0]))
        return value[1:].sub_(value[0]).sum(-1, dtype=torch.float64)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, _weighted_sum(grad.to(slope.dtype), slope)


class _CorrectionOfFew(torch.autograd.Function):
    """The same where most counts are 0, which add nothing, or 1, which add the same in all cells.

    ``ones`` are the counts but no more than 1, (n_cells, n_genes); ``few`` those of another value
    than 0 and 1, (n_few,), and ``cell`` and ``gene`` say where they are.
    """

    @staticmethod
    def forward(
        ctx: Any, ones: Tensor, few: Tensor, cell: Tensor, gene: Tensor, theta: Tensor
    ) -> Tensor:
        sloped = ctx.needs_input_grad[-1]
        value, slope = correction(few, theta.index_select(0, gene), sloped)
        of_none, slope_of_none = correction(torch.zeros_like(theta), theta, sloped)
        of_one, slope_of_one = correction(torch.ones_like(theta), theta, sloped)
        of_one -= of_none
        counted = few.clamp(max=1)  # among the ones
        if sloped:
            slope_of_one -= slope_of_none
            slope -= slope_of_none.index_select(0, gene)
            slope.addcmul_(counted, slope_of_one.index_select(0, gene), value=-1)
            ctx.save_for_backward(ones, slope_of_one, slope, cell, gene)
        value -= of_none.index_select(0, gene)
        value.addcmul_(counted, of_one.index_select(0, gene), value=-1)
        return (ones @ of_one).scatter_add_(0, cell, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None, Tensor]:
        ones, slope_of_one, slope, cell, gene = ctx.saved_tensors
        of_few = grad.index_select(0, cell).mul_(slope)
        of_theta = (grad @ ones).mul_(slope_of_one).scatter_add_(0, gene, of_few)
        return None, None, None, None, of_theta


def _by_blocks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Sums over genes by ``function``, for blocks of a megabyte along the first dimension.

    What is made of a block on the way finds room in the cache. Whole minibatches of thousands of
    genes would ask the system for fresh memory at every operation. Elsewhere than on the CPU,
    where a block costs as many launches as the whole, they have a quarter of a gigabyte.
    """
    size = 2**18 if tensors[0].device.type == "cpu" else 2**26
    n_rows = max(size * len(tensors[0]) // max(tensors[0].numel(), 1), 1)
    if len(tensors[0]) <= n_rows:
        return function(*tensors)
    blocks = zip(*(tensor.split(n_rows) for tensor in tensors), strict=True)
    return torch.cat([function(*block) for block in blocks])


def _of_logits(
    term: Any, x: Tensor, logits: Tensor, log_library: Tensor, *theta: Tensor
) -> Tensor:
    """``term`` of all cells; particles of the same cells share what only x and theta make."""
    counts = x
    if x.shape != logits.shape:
        counts, logits = torch.broadcast_tensors(x, logits)
    log_library = log_library.expand(*logits.shape[:-1], 1)
    if x.ndim < logits.ndim:
        return _by_blocks(lambda *block: term.apply(x, *block, *theta), logits, log_library)
    return _by_blocks(lambda *block: term.apply(*block, *theta), counts, logits, log_library)


def _weighted_sum(weight: Tensor, values: Tensor) -> Tensor:
    """Sum over all but the last dimension of weight times values, (n_genes,)."""
    return weight.reshape(-1) @ values.reshape(-1, values.shape[-1])


def dispersion_term(x: Tensor, theta: Tensor) -> Tensor:
    r"""Sum over genes of :math:`c(x, \theta)`, which no latent state changes, nats.

    Differentiable in ``theta``, (n_genes,), only. In float32 by a formula that is several times
    as fast as ``lgamma`` and does not cancel; in float64 exact. Counts of 0 and 1, which are most
    of those of a cell, are passed over, but for other devices than the CPU, which would have to
    wait until they are counted.
    """
    if x.dtype == torch.float64:
        z = x + theta
        h = torch.lgamma(z) - torch.lgamma(theta) - z * z.log() + theta * theta.log()
        return (h + x).sum(-1)
    if x.ndim != 2:
        return dispersion_term(x.reshape(-1, x.shape[-1]), theta).reshape(x.shape[:-1])
    if x.device.type == "cpu":
        counts = x.detach().numpy()  # which compares and counts in a third of the time
        with np.errstate(over="ignore"):
            more = counts * counts != counts
        if np.count_nonzero(more) < FEW * more.size:
            cell, gene = torch.from_numpy(more).nonzero(as_tuple=True)
            few = x.flatten().index_select(0, cell * x.shape[1] + gene)
            of_few: Tensor = _CorrectionOfFew.apply(x.clamp(max=1), few, cell, gene, theta)
            return of_few.to(torch.float64)
    return _by_blocks(lambda block: _Correction.apply(block, theta), x)


def log_saturated(x: Tensor) -> Tensor:
    r"""Sum over the last dimension of :math:`\log P(x; x) = x \log x - x - \log x!`, nats.

    No parameter of a likelihood of counts changes it.
    """
    if x.dtype == torch.float64:
        return (torch.xlogy(x, x) - x - torch.lgamma(x + 1)).sum(-1)
    w = (x + 1).reciprocal_()
    coefficients = torch.tensor(REMAINDER, dtype=w.dtype).unbind()
    remainder = _polynomial(w * w, [*coefficients]).mul_(w).sub_(sum(REMAINDER))
    step = x.clamp(min=1e-30).reciprocal_().log1p_()  # beside x, so that it may be finite at 0
    step.mul_(x).add_(x.log1p(), alpha=0.5).add_(remainder)
    return step.sum(-1, dtype=torch.float64).neg_()


def _inverse(log_dispersion: Tensor) -> Tensor:
    """Inverse dispersions within bounds; this function has the bounds' derivative in one node."""
    return hardtanh(log_dispersion, *LOG_THETA).exp()


class Counts(Distribution, ABC):
    """Counts of one cell with expected counts ``exp(log_mean)``, (..., n_genes)."""

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.nonnegative, 1)
    theta: Tensor | None = None  # (n_genes,) inverse dispersions; None of a Poisson

    def __init__(self, log_mean: Tensor):
        self.log_mean = log_mean
        super().__init__(log_mean.shape[:-1], log_mean.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected counts, (..., n_genes)."""
        return self.log_mean.exp()

    @abstractmethod
    def latent_term(self, value: Tensor) -> Tensor:
        """The part of ``log_kernel`` that depends on what is expected, nats, (...)."""

    def log_kernel(self, value: Tensor) -> Tensor:
        """Log-probability of a cell relative to the saturated Poisson, nats, (...)."""
        of_latent = self.latent_term(value)
        return of_latent if self.theta is None else of_latent + dispersion_term(value, self.theta)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of a cell, nats, (...)."""
        log_prob = self.log_kernel(value) + log_saturated(value)
        return log_prob.to(value.dtype)  # rounded once: it may have five digits before the point


class PoissonCounts(Counts):
    """Independent Poisson counts of all genes of a cell."""

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, (*sample_shape, ..., n_genes)."""
        mean = self.mean.clamp(max=LARGEST_RATE)
        return torch.poisson(mean.expand(self._extended_shape(sample_shape)))


class Poisson(PoissonCounts):
    """Poisson counts of given means."""

    def latent_term(self, value: Tensor) -> Tensor:
        """Minus half the deviance of a cell, nats, (...)."""
        of_genes: Tensor = _PoissonOfMeans.apply(value, self.log_mean)
        return of_genes.sum(-1)


class PoissonShares(PoissonCounts):
    """Poisson counts whose means are shares of a library, the softmax of logits."""

    def __init__(self, logits: Tensor, log_library: Tensor):
        self.logits = logits
        self.log_library = log_library
        Distribution.__init__(self, logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @lazy_property
    def log_mean(self) -> Tensor:
        """Logarithm of the expected counts, (..., n_genes)."""
        return torch.log_softmax(self.logits, -1) + self.log_library

    def latent_term(self, value: Tensor) -> Tensor:
        """Minus half the deviance of a cell, nats, (...)."""
        return _of_logits(_PoissonOfLogits, value, self.logits, self.log_library)


class NegativeBinomialCounts(Counts):
    """Independent negative binomial counts of all genes of a cell.

    Variance is ``mean + mean^2 / theta`` with ``theta = exp(log_dispersion)``, (n_genes,).
    """

    log_dispersion: Tensor
    theta: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance of the counts, (..., n_genes)."""
        return self.mean + self.mean**2 / self.log_dispersion.exp()

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, (*sample_shape, ..., n_genes)."""
        shape = self._extended_shape(sample_shape)
        log_theta = self.log_dispersion.clamp(*LOG_THETA)
        theta = log_theta.exp().expand(shape)
        rate = torch.distributions.Gamma(theta, 1.0, validate_args=False).sample()
        rate = rate * (self.log_mean - log_theta).exp()
        return torch.poisson(rate.clamp(max=LARGEST_RATE))


class NegativeBinomial(NegativeBinomialCounts):
    """Negative binomial counts of given means."""

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor):
        super().__init__(log_mean)
        self.log_dispersion, self.theta = log_dispersion, _inverse(log_dispersion)

    def latent_term(self, value: Tensor) -> Tensor:
        """Minus half the deviance of a cell, nats, (...)."""
        of_genes: Tensor = _OfMeans.apply(value, self.log_mean, self.theta)
        return of_genes.sum(-1)


class NegativeBinomialShares(NegativeBinomialCounts):
    """Negative binomial counts whose means are shares of a library, the softmax of logits."""

    def __init__(self, logits: Tensor, log_library: Tensor, log_dispersion: Tensor):
        self.logits = logits
        self.log_library = log_library
        self.log_dispersion, self.theta = log_dispersion, _inverse(log_dispersion)
        Distribution.__init__(self, logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @lazy_property
    def log_mean(self) -> Tensor:
        """Logarithm of the expected counts, (..., n_genes)."""
        return torch.log_softmax(self.logits, -1) + self.log_library

    def latent_term(self, value: Tensor) -> Tensor:
        """Minus half the deviance of a cell, nats, (...)."""
        return _of_logits(_OfLogits, value, self.logits, self.log_library, self.theta)


class ZeroInflatedNegativeBinomial(Counts):
    """Negative binomial counts, of which each is lost with probability sigmoid(dropout_logit)."""

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor, dropout_logit: Tensor):
        super().__init__(log_mean)
        self.log_dispersion, self.theta = log_dispersion, _inverse(log_dispersion)
        self.dropout_logit = dropout_logit

    @property
    def mean(self) -> Tensor:
        """Expected counts after dropout, (..., n_genes)."""
        return self.log_mean.exp() * torch.sigmoid(-self.dropout_logit)

    def latent_term(self, value: Tensor) -> Tensor:
        """What is left of ``log_kernel`` without the term of the dispersions, nats, (...)."""
        kept = logsigmoid(-self.dropout_logit)
        seen = kept + _OfMeans.apply(value, self.log_mean, self.theta)
        zero = torch.logaddexp(logsigmoid(self.dropout_logit), seen)
        of_genes = torch.where(value > 0, seen, zero)
        return of_genes.sum(-1, dtype=torch.float64)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, (*sample_shape, ..., n_genes)."""
        counts = NegativeBinomial(self.log_mean, self.log_dispersion).sample(sample_shape)
        kept = torch.sigmoid(-self.dropout_logit).expand(counts.shape)
        return counts * torch.bernoulli(kept)


class StraightThroughBernoulli(Bernoulli):
    r"""Bernoulli whose sample is hard forward and a Gumbel-sigmoid in the gradient.

    .. math:: s = \sigma((\mathrm{logit} + \log u - \log(1 - u)) / \tau), \qquad m = 1[s > 1/2]

    The sample is :math:`m`, its derivative that of :math:`s`; ``log_prob`` is the discrete mass.
    """

    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float = 1.0):
        super().__init__(logits=logits, validate_args=False)
        self.temperature = temperature

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Masks in {0, 1} with a gradient, (*sample_shape, ...)."""
        u = torch.rand(self._extended_shape(sample_shape), device=self.logits.device)
        return self.relaxed(u.to(self.logits.dtype))

    def relaxed(self, u: Tensor) -> Tensor:
        """Mask that the uniform draws ``u`` give."""
        return straight_through(self.logits, u, self.temperature)


def straight_through(logits: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """Sample of ``StraightThroughBernoulli`` that the uniform draws ``u`` give."""
    noise = torch.logit(u, torch.finfo(u.dtype).eps)
    mask: Tensor = _StraightThrough.apply(logits, noise, temperature)
    return mask


class _StraightThrough(torch.autograd.Function):
    """The mask of ``StraightThroughBernoulli`` for logistic noise."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
        soft = (logits + noise).div_(temperature).sigmoid_()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((soft - soft * soft).div_(temperature))
            ctx.shape = logits.shape
        return (soft > 0.5).to(soft)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grad * slope).sum_to_size(ctx.shape), None, None
