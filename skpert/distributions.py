r"""Distributions that torch lacks: expression of one cell, and straight-through masks.

A distribution of expression has the whole cell as its event: ``log_prob`` sums over genes. With
mean :math:`m` and inverse dispersion :math:`\theta`,

.. math:: \log NB(x; m, \theta) = x \log m - (x + \theta) \log(1 + m / \theta)
          + r(x, \theta) - \log x!, \qquad
          r(x, \theta) = \log\Gamma(x + \theta) - \log\Gamma(\theta) - x \log\theta

The first two terms depend on the latent state, the last two only on the cell, so that particles
share them; written so, nothing cancels when :math:`\theta` is large (the Poisson limit).
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Bernoulli, Distribution, constraints
from torch.distributions.utils import lazy_property
from torch.nn.functional import logsigmoid, softplus

LOG_THETA = (-40.0, 20.0)  # bounds of log dispersions; above, it is Poisson long before
LARGEST_RATE = 1e18  # that is drawn from: torch holds Poisson draws in 64 bits
FEW = 0.1  # share of counts above 1 up to which these alone are cheaper than all


class _OfLatentState(torch.autograd.Function):
    r"""Sum over genes of :math:`x \log m - (x + \theta) \log(1 + m / \theta)`.

    The slopes are made with the value, while its pieces are at hand; nothing else is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_mean: Tensor, theta: Tensor) -> Tensor:
        rate, log_odds = x + theta, log_mean - theta.log()
        spread = softplus(log_odds)
        value = (x * log_mean).addcmul_(rate, spread, value=-1).sum(-1)
        if any(ctx.needs_input_grad):
            expected = log_odds.sigmoid_().mul_(rate)
            ctx.save_for_backward(x - expected, expected.div_(theta).sub_(spread))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        of_log_mean, of_theta = ctx.saved_tensors
        return None, grad[..., None] * of_log_mean, _weighted_sum(grad, of_theta)


def _rising_ratio(x: Tensor, theta: Tensor, sloped: bool) -> tuple[Tensor, Tensor]:
    r"""Log rising ratios, each with a constant for its theta, and slopes in theta if asked for.

    Stirling's series after four steps of the recurrence, with an error below 1e-6. With
    :math:`z = x + \theta`, :math:`y = z + 4` and :math:`w = z (z + 3)` the steps amount to
    :math:`P = z (z + 1) (z + 2) (z + 3) = w (w + 2)`, whose slope is :math:`4 (w + 1)(z + 3/2)`.
    The slope of the whole shares most of its work with the value, so both are made in one go.
    Numbers of Python would each cost a conversion: they are kept out of large operations.
    """
    start, twelfth = theta + 4, theta.new_tensor(1 / 12)
    slope = theta  # a placeholder if none is asked for
    z, y = x + theta, x + start
    log_ratio = (x / start).log1p_()
    inverse = y.reciprocal()
    square = inverse * inverse
    w = (z * z).add_(z, alpha=3)
    product = (w * w).add_(w, alpha=2)
    if sloped:
        middle = x + (theta + 1.5)
        slope = torch.addcdiv(log_ratio, x, theta, value=-1)
        slope.addcdiv_(middle.addcmul_(w, middle), product, value=-4)
        tail = torch.add(twelfth, square, alpha=-1 / 120).mul_(square)
        slope -= tail.add_(inverse, alpha=0.5)
    value = y.mul_(log_ratio).sub_(log_ratio, alpha=0.5)
    value.addcmul_(x, torch.log(start / theta) - 1)
    value += torch.add(twelfth, square, alpha=-1 / 360).mul_(inverse)
    value -= product.log_()
    return value, slope


class _LogRisingRatio(torch.autograd.Function):
    """Sums over genes; a row of no counts has the constants of the series, which are taken off."""

    @staticmethod
    def forward(ctx: Any, counts: Tensor, theta: Tensor) -> Tensor:
        x = torch.cat([counts.new_zeros(1, counts.shape[-1]), counts])
        value, slope = _rising_ratio(x, theta, ctx.needs_input_grad[1])
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(slope[1:] - slope[0])
        return (value[1:] - value[0]).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, _weighted_sum(grad, slope)


class _LogRisingRatioOfFew(torch.autograd.Function):
    """The same from the few counts in which it is not zero, (n_few,), and where they are."""

    @staticmethod
    def forward(
        ctx: Any, few: Tensor, cell: Tensor, gene: Tensor, n: int, theta: Tensor
    ) -> Tensor:
        sloped = ctx.needs_input_grad[-1]
        value, slope = _rising_ratio(few, theta[gene], sloped)
        of_none, slope_of_none = _rising_ratio(torch.zeros_like(theta), theta, sloped)
        if sloped:
            ctx.save_for_backward(slope.sub_(slope_of_none[gene]), cell, gene, theta)
        return theta.new_zeros(n).index_add_(0, cell, value.sub_(of_none[gene]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None, Tensor]:
        slope, cell, gene, theta = ctx.saved_tensors
        of_theta = torch.zeros_like(theta).index_add_(0, gene, grad[cell].mul_(slope))
        return None, None, None, None, of_theta


class _OfLogits(torch.autograd.Function):
    r"""As ``_OfLatentState`` with :math:`\log m = \log l + \log\mathrm{softmax}(\mathrm{logits})`.

    One node of the graph, whose pieces stay in the cache, in place of two; the exponential of the
    softmax is the only one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, log_library: Tensor, theta: Tensor) -> Tensor:
        top = logits.amax(-1, keepdim=True)
        share = (logits - top).exp_()
        sum_ = share.sum(-1, keepdim=True)
        odds = (share * (log_library.exp() / sum_)).div_(theta)
        rate, spread = x + theta, odds.log1p()
        log_mean = logits + (log_library - top - sum_.log())
        value = log_mean.mul_(x).addcmul_(rate, spread, value=-1).sum(-1)
        if any(ctx.needs_input_grad):
            expected = rate.mul_(odds).div_(odds.add_(1))
            slope = x - expected
            total = slope.sum(-1, keepdim=True)
            slope.addcmul_(share, total / sum_, value=-1)
            ctx.save_for_backward(slope, expected.div_(theta).sub_(spread))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, Tensor]:
        of_logits, of_theta = ctx.saved_tensors
        return None, grad[..., None] * of_logits, None, _weighted_sum(grad, of_theta)


def _by_blocks(term: Any, *tensors: Tensor, theta: Tensor) -> Tensor:
    """Sums over genes by ``term``, for blocks of a megabyte along the first dimension.

    What is made of a block on the way finds room in the cache. Whole minibatches of thousands of
    genes would ask the system for fresh memory at every operation.
    """
    n_rows = max(2**18 * len(tensors[0]) // max(tensors[0].numel(), 1), 1)
    if len(tensors[0]) <= n_rows:
        log_prob: Tensor = term.apply(*tensors, theta)
        return log_prob
    blocks = zip(*(tensor.split(n_rows) for tensor in tensors), strict=True)
    return torch.cat([term.apply(*block, theta) for block in blocks])


def _weighted_sum(weight: Tensor, values: Tensor) -> Tensor:
    """Sum over all but the last dimension of weight times values, (n_genes,)."""
    return weight.reshape(-1) @ values.reshape(-1, values.shape[-1])


def log_rising_ratio(x: Tensor, theta: Tensor) -> Tensor:
    r"""Sum over genes of :math:`\log\Gamma(x + \theta) - \log\Gamma(\theta) - x \log\theta`.

    Differentiable in ``theta``, (n_genes,), only. In float32 by a series that is several times
    as fast as ``lgamma`` and does not cancel; in float64 exact. Counts of 0 and 1, which are most
    of those of a cell, add nothing and are passed over, but for other devices than the CPU, which
    would have to wait until they are counted.
    """
    if x.dtype == torch.float64:
        return (torch.lgamma(x + theta) - torch.lgamma(theta) - x * theta.log()).sum(-1)
    if x.ndim == 1:
        return log_rising_ratio(x[None], theta)[0]
    if x.device.type == "cpu" and x.ndim == 2:
        more = x * x != x
        if more.count_nonzero() < FEW * x.numel():
            cell, gene = more.nonzero(as_tuple=True)
            few: Tensor = _LogRisingRatioOfFew.apply(x[cell, gene], cell, gene, len(x), theta)
            return few
    return _by_blocks(_LogRisingRatio, x, theta=theta)


def log_factorial(x: Tensor) -> Tensor:
    """Sum over the last dimension of log(x!), for counts x."""
    return torch.lgamma(x + 1).sum(-1)


class Counts(Distribution, ABC):
    """Counts of one cell with expected counts ``exp(log_mean)``, (..., n_genes)."""

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.nonnegative, 1)

    def __init__(self, log_mean: Tensor):
        self.log_mean = log_mean
        super().__init__(log_mean.shape[:-1], log_mean.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected counts, (..., n_genes)."""
        return self.log_mean.exp()

    @abstractmethod
    def log_kernel(self, value: Tensor) -> Tensor:
        """Log-probability of a cell but for its factorials, nats, (...)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of a cell, nats, (...)."""
        return self.log_kernel(value) - log_factorial(value)


class Poisson(Counts):
    """Independent Poisson counts of all genes of a cell."""

    def log_kernel(self, value: Tensor) -> Tensor:
        """Log-probability of a cell but for its factorials, nats, (...)."""
        return (value * self.log_mean - self.mean).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, (*sample_shape, ..., n_genes)."""
        mean = self.mean.clamp(max=LARGEST_RATE)
        return torch.poisson(mean.expand(self._extended_shape(sample_shape)))


class NegativeBinomial(Counts):
    """Independent negative binomial counts of all genes of a cell.

    Variance is ``mean + mean^2 / theta`` with ``theta = exp(log_dispersion)``, (n_genes,).
    """

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor):
        super().__init__(log_mean)
        self.log_dispersion = log_dispersion

    @property
    def variance(self) -> Tensor:
        """Variance of the counts, (..., n_genes)."""
        return self.mean + self.mean**2 / self.log_dispersion.exp()

    def log_kernel(self, value: Tensor) -> Tensor:
        """Log-probability of a cell but for its factorials, nats, (...)."""
        theta = self.log_dispersion.clamp(*LOG_THETA).exp()
        counts, log_mean = torch.broadcast_tensors(value, self.log_mean)
        of_latent = _by_blocks(_OfLatentState, counts, log_mean, theta=theta)
        return of_latent + log_rising_ratio(value, theta)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, (*sample_shape, ..., n_genes)."""
        shape = self._extended_shape(sample_shape)
        log_theta = self.log_dispersion.clamp(*LOG_THETA)
        theta = log_theta.exp().expand(shape)
        rate = torch.distributions.Gamma(theta, 1.0, validate_args=False).sample()
        rate = rate * (self.log_mean - log_theta).exp()
        return torch.poisson(rate.clamp(max=LARGEST_RATE))


class NegativeBinomialShares(NegativeBinomial):
    """Negative binomial counts whose means are shares of a library, the softmax of logits."""

    def __init__(self, logits: Tensor, log_library: Tensor, log_dispersion: Tensor):
        self.logits = logits
        self.log_library = log_library
        self.log_dispersion = log_dispersion
        Distribution.__init__(self, logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @lazy_property
    def log_mean(self) -> Tensor:
        """Logarithm of the expected counts, (..., n_genes)."""
        return torch.log_softmax(self.logits, -1) + self.log_library

    def log_kernel(self, value: Tensor) -> Tensor:
        """Log-probability of a cell but for its factorials, nats, (...)."""
        theta = self.log_dispersion.clamp(*LOG_THETA).exp()
        counts, logits = torch.broadcast_tensors(value, self.logits)
        log_library = self.log_library.expand(*logits.shape[:-1], 1)
        of_latent = _by_blocks(_OfLogits, counts, logits, log_library, theta=theta)
        return of_latent + log_rising_ratio(value, theta)


class ZeroInflatedNegativeBinomial(Counts):
    """Negative binomial counts, of which each is lost with probability sigmoid(dropout_logit)."""

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor, dropout_logit: Tensor):
        super().__init__(log_mean)
        self.log_dispersion = log_dispersion
        self.dropout_logit = dropout_logit

    @property
    def mean(self) -> Tensor:
        """Expected counts after dropout, (..., n_genes)."""
        return self.log_mean.exp() * torch.sigmoid(-self.dropout_logit)

    def log_kernel(self, value: Tensor) -> Tensor:
        """Log-probability of a cell but for its factorials, nats, (...)."""
        theta = self.log_dispersion.exp()
        spread = softplus(self.log_mean - self.log_dispersion)
        kept = logsigmoid(-self.dropout_logit)
        seen = kept + value * self.log_mean - (value + theta) * spread
        zero = torch.logaddexp(logsigmoid(self.dropout_logit), kept - theta * spread)
        of_latent = torch.where(value > 0, seen, zero).sum(-1)
        return of_latent + log_rising_ratio(value, theta)

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
        eps = torch.finfo(u.dtype).eps
        mask: Tensor = _StraightThrough.apply(self.logits, torch.logit(u, eps), self.temperature)
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
