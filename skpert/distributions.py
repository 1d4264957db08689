r"""Distributions that torch lacks: expression of one cell, and straight-through masks.

A distribution of expression has the whole cell as its event: ``log_prob`` sums over genes. With
mean :math:`m` and inverse dispersion :math:`\theta`,

.. math:: \log NB(x; m, \theta) = x \log m - (x + \theta) \log(1 + m / \theta)
          + r(x, \theta) - \log x!, \qquad
          r(x, \theta) = \log\Gamma(x + \theta) - \log\Gamma(\theta) - x \log\theta

The first two terms depend on the latent state, the last two only on the cell, so that particles
share them; written so, nothing cancels when :math:`\theta` is large (the Poisson limit).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Bernoulli, Distribution, constraints
from torch.nn.functional import logsigmoid, softplus


class _LogRisingRatio(torch.autograd.Function):
    """Stirling's series after three steps of the recurrence, with an error below 1e-6.

    The slope shares most of its work with the value, so both are made in one go.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor) -> Tensor:
        start = theta + 3
        z, y = x + theta, x + start
        log_ratio, log_start = torch.log1p(x / start), torch.log(start / theta)
        product = z * (z + 3) + 2  # (z + 1)(z + 2)
        first = theta * (theta * start + 2)  # theta (theta + 1)(theta + 2)
        inverse = 1 / y
        square = inverse * inverse
        if ctx.needs_input_grad[1]:
            slope = log_ratio - x / theta
            slope += _digamma_tail(inverse, square)
            slope -= (product + z * (2 * z + 3)) / (z * product)
            slope -= (
                _digamma_tail(1 / start, 1 / start**2)
                - (3 * theta * start - 3 * theta + 2) / first
            )
            ctx.save_for_backward(slope)
            ctx.shape = theta.shape
        value = (y - 0.5) * log_ratio
        value += x * (log_start - 1)
        value += _stirling_tail(inverse, square) - _stirling_tail(1 / start, 1 / start**2)
        return value.sub_(torch.log(z * product / first))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, (grad * slope).sum_to_size(ctx.shape)


def _stirling_tail(inverse: Tensor, square: Tensor) -> Tensor:
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


def _digamma_tail(inverse: Tensor, square: Tensor) -> Tensor:
    return -0.5 * inverse - square * (1 / 12 - square * (1 / 120 - square / 252))


def log_rising_ratio(x: Tensor, theta: Tensor) -> Tensor:
    r""":math:`\log\Gamma(x + \theta) - \log\Gamma(\theta) - x \log\theta`, elementwise.

    Differentiable in ``theta`` only. In float32 by a series that is several times as fast as
    ``lgamma`` and does not cancel; in float64 exact.
    """
    if x.dtype == torch.float64:
        return torch.lgamma(x + theta) - torch.lgamma(theta) - x * theta.log()
    result: Tensor = _LogRisingRatio.apply(x, theta)
    return result


def log_factorial(x: Tensor) -> Tensor:
    """Sum over the last dimension of log(x!), for counts x."""
    return torch.lgamma(x + 1).sum(-1)


class _Counts(Distribution):
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


class Poisson(_Counts):
    """Independent Poisson counts of all genes of a cell."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of a cell, nats, (...)."""
        return (value * self.log_mean - self.mean).sum(-1) - log_factorial(value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, (*sample_shape, ..., n_genes)."""
        return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))


class NegativeBinomial(_Counts):
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

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of a cell, nats, (...)."""
        theta = self.log_dispersion.exp()
        of_latent = value * self.log_mean - (value + theta) * softplus(
            self.log_mean - self.log_dispersion
        )
        of_cell = log_rising_ratio(value, theta).sum(-1) - log_factorial(value)
        return of_latent.sum(-1) + of_cell

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, (*sample_shape, ..., n_genes)."""
        shape = self._extended_shape(sample_shape)
        theta = self.log_dispersion.exp().expand(shape)
        rate = torch.distributions.Gamma(theta, 1.0, validate_args=False).sample()
        return torch.poisson(rate * (self.log_mean - self.log_dispersion).exp())


class ZeroInflatedNegativeBinomial(_Counts):
    """Negative binomial counts, of which each is lost with probability sigmoid(dropout_logit)."""

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor, dropout_logit: Tensor):
        super().__init__(log_mean)
        self.log_dispersion = log_dispersion
        self.dropout_logit = dropout_logit

    @property
    def mean(self) -> Tensor:
        """Expected counts after dropout, (..., n_genes)."""
        return self.log_mean.exp() * torch.sigmoid(-self.dropout_logit)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of a cell, nats, (...)."""
        theta = self.log_dispersion.exp()
        spread = softplus(self.log_mean - self.log_dispersion)
        kept = logsigmoid(-self.dropout_logit)
        seen = kept + value * self.log_mean - (value + theta) * spread
        zero = torch.logaddexp(logsigmoid(self.dropout_logit), kept - theta * spread)
        of_cell = log_rising_ratio(value, theta).sum(-1) - log_factorial(value)
        return torch.where(value > 0, seen, zero).sum(-1) + of_cell

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
        soft = torch.sigmoid((self.logits + torch.logit(u, eps=eps)) / self.temperature)
        return (soft > 0.5).to(soft) + (soft - soft.detach())  # the difference is exactly zero
