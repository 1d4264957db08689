"""Terms of the objectives that are not a distribution's own method."""

import math
from functools import partial
from math import inf
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Normal
from torch.nn.functional import softplus

from ._ranks import drawn

Costs = dict[str, tuple[Tensor, Tensor]]  # by variable: log p and log q, (..., n_rows)

WEIGHTED = ("z_basal", "embedding", "mask", "mask_probability")  # variables with a prior
N_BANDWIDTHS = 10  # of the kernel of the MMD, each twice the one before
WIDEST = 16000.0  # the last of them, squared distance of log-normalised expression


def iwelbo(log_weights: Tensor) -> Tensor:
    r"""Importance-weighted ELBO of each cell, (n_cells,), in nats.

    .. math:: \log \frac1K \sum_k w_k, \qquad w_k = \frac{p(x, z_k)}{q(z_k \mid x)}

    ``log_weights`` is (n_particles, n_cells). A lower bound of log p(x) in expectation that rises
    with the number of particles and is the ELBO for one [1]_.

    References
    ----------
    .. [1] Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, ICLR 2016, eq. 8.
    """
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


class _KLFromUnitNormal(torch.autograd.Function):
    """One node of the graph where the formula, written out, makes eight."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, scale: Tensor, prior_mean: Tensor) -> Tensor:
        difference = mean - prior_mean
        ctx.save_for_backward(difference, scale)
        ctx.shape = prior_mean.shape
        squares = difference.square().addcmul_(scale, scale).sub_(1)
        return torch.sub(squares.div_(2), scale.log())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        difference, scale = ctx.saved_tensors
        of_mean = grad * difference
        of_scale = grad * (scale - scale.reciprocal())
        return of_mean, of_scale, of_mean.neg().sum_to_size(ctx.shape)


def kl_from_unit_normal(q: Normal, mean: Tensor) -> Tensor:
    r""":math:`\mathrm{KL}(q \| \mathcal{N}(\mathrm{mean}, 1))`, elementwise, in nats."""
    kl: Tensor = _KLFromUnitNormal.apply(q.mean, q.stddev, mean)
    return kl


def log_unit_normal(z: Tensor) -> Tensor:
    """Log-density of N(0, 1), elementwise, in nats."""
    return -(z.square() + math.log(2 * math.pi)) / 2


def reparametrised(q: Normal, sample_shape: tuple[int, ...] = ()) -> Tensor:
    """Samples of cells that q's parameters have a gradient of, (*sample_shape, n_cells, ...)."""
    draw = partial(torch.randn, dtype=q.mean.dtype)
    noise = drawn(draw, (*sample_shape, *q.mean.shape), -2, q.mean.device)
    return q.mean + noise * q.stddev


def sampled(q: Normal, n_samples: int) -> tuple[Tensor, Tensor]:
    """Samples of q, (n_samples, *shape), and their log-density, summed over the last dimension.

    The density is taken at the noise that makes a sample, as the sample itself is rounded.
    """
    mean, scale = q.mean, q.stddev
    noise = torch.randn((n_samples, *mean.shape), dtype=mean.dtype, device=mean.device)
    return mean + scale * noise, (log_unit_normal(noise) - scale.log()).sum(-1)


def sampled_ratio(q: Normal, prior_mean: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
    """Samples of q, (n_samples, n_cells, n_latent), and log p - log q at each, for N(mean, I)."""
    noise = torch.randn((n_samples, *q.mean.shape[-2:]), device=q.mean.device)
    z = q.mean + q.stddev * noise
    log_ratio = (noise.square() - (z - prior_mean).square()) / 2 + q.stddev.log()
    return z, log_ratio.sum(-1)


def beta_log_prob(logit: Tensor, concentration: Tensor) -> Tensor:
    r"""Log-density of Beta(1, concentration) at sigmoid(logit), elementwise.

    .. math:: \log \beta + (\beta - 1) \log(1 - \sigma(t)) = \log \beta - (\beta - 1) \,
              \mathrm{softplus}(t)

    Finite where the probability itself rounds to 1.
    """
    return concentration.log() - (concentration - 1) * softplus(logit)


def total_correlation(
    z: Tensor, q: Normal, n_first: int, n_cells: Tensor, same: Tensor | None = None
) -> Tensor:
    r"""Total correlation of two blocks of latents at each cell of a minibatch, (n_cells,), nats.

    .. math:: \log \hat q(z) - \log \hat q(z_I) - \log \hat q(z_S), \qquad
              \log \hat q(z_b) = \log \frac{1}{B n} \sum_j q(z_b \mid x_j)

    Minibatch-weighted sampling [1]_: ``q`` holds the posteriors of the B cells and ``z`` a sample
    of each, (B, n_latent), of which the first block has ``n_first`` columns. ``n_cells`` is the
    number n of training cells, of the cell's domain where ``same``, (B, B), says which cells share
    one; B then counts these. n shifts the value by a constant. Memory grows with the square of
    the minibatch, and not with the number of latents.

    References
    ----------
    .. [1] Chen, Li, Grosse and Duvenaud, Isolating sources of disentanglement in variational
       autoencoders, NeurIPS 2018, equation S8.
    """
    first, second = (
        _PairwiseLogProb.apply(z[:, part], q.mean[:, part], q.stddev[:, part])
        for part in (slice(n_first), slice(n_first, None))
    )
    size = torch.tensor(float(len(z))) if same is None else same.sum(1)
    dependence: Tensor = _Dependence.apply(first, second, same)
    return dependence + (n_cells * size).log()


class _Dependence(torch.autograd.Function):
    """Log sums of each row over both blocks together, less those of each block.

    One node of the graph, where each of a dozen would have a matrix of all pairs.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, same: Tensor | None) -> Tensor:
        if same is not None:
            first, second = (block.masked_fill(~same, -torch.inf) for block in (first, second))
        joint, shares = _log_sums(first + second)
        of_first, shares_of_first = _log_sums(first)
        of_second, shares_of_second = _log_sums(second)
        ctx.save_for_backward(shares - shares_of_first, shares - shares_of_second)
        return joint - of_first - of_second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        of_first, of_second = ctx.saved_tensors
        return grad[:, None] * of_first, grad[:, None] * of_second, None


def _log_sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the sum of exponentials of each row, and the share of each in it.

    Shares below 1e-26 become that: still smaller ones may be denormal numbers, which are slow.
    """
    top = values.amax(1, keepdim=True)
    shares = (values - top).clamp_(min=-60).exp_()
    total = shares.sum(1, keepdim=True)
    return (top + total.log())[:, 0], shares.div_(total)


class _PairwiseLogProb(torch.autograd.Function):
    """Log-density of each sample, a row, under each posterior, a column, (n_cells, n_cells).

    Squares are expanded to a matrix product, in float64: the terms of a narrow posterior are
    larger than their sum by orders of magnitude. Differences would take longer.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(z, mean, scale)
        centre = mean.mean(0)
        samples, means = (values.double() - centre for values in (z, mean))
        precision = scale.double().reciprocal().square()
        linear = means * precision
        own = means * linear / 2 + scale.log() + math.log(2 * math.pi) / 2
        rows, columns = [samples, samples.square()], [linear, precision / -2]
        products = torch.cat(rows, 1) @ torch.cat(columns, 1).t()
        return products.sub_(own.sum(1)).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, mean, scale = ctx.saved_tensors
        centre = mean.mean(0)
        z, mean, precision = z - centre, mean - centre, scale.reciprocal().square()
        total, linear = grad.sum(0)[:, None], grad.t() @ z
        of_z = grad @ (mean * precision) - z * (grad @ precision)
        first = linear - mean * total  # sums of differences and of their squares
        second = grad.t() @ z.square() - mean * (first + linear)
        return of_z, first * precision, (second * precision - total) / scale


def block_mmd(first: Tensor, second: Tensor) -> Tensor:
    r"""Squared MMD of two equally large sets of cells in each block, (n_blocks,).

    The released kernel, :math:`\sum_{i=0}^{9} \exp(-d^2 / (31.25 \cdot 2^i))`, with the diagonals.
    """
    cells = torch.cat([first, second], 1)  # (n_blocks, 2 * size, n_genes)
    squares = cells.square().sum(-1)
    d2 = squares[:, :, None] + squares[:, None] - 2 * cells @ cells.mT
    widest = (d2.clamp(min=0) / -WIDEST).exp()
    kernel = widest
    for _ in range(N_BANDWIDTHS - 1):
        widest = widest.square()  # half the bandwidth
        kernel = kernel + widest
    n = first.shape[1]
    sign = torch.cat([cells.new_full((n,), 1 / n), cells.new_full((n,), -1 / n)])
    mmd: Tensor = kernel @ sign @ sign
    return mmd


class Reweighting(NamedTuple):
    """Factors of log q and log p in the objective, and what is added to 1 / (number of cells)."""

    q: float = 1.0
    p: float = 1.0
    added_q: float = 0.0
    added_p: float = 0.0

    def cost(self, log_p: Tensor, log_q: Tensor, share: Tensor) -> Tensor:
        """Nats of each perturbation of each cell, which bears this share of them."""
        received = share > 0
        of_q = self.q * share + self.added_q * received
        return of_q * log_q - (self.p * share + self.added_p * received) * log_p


def reweightings(reweight: Any) -> dict[str, Reweighting]:
    """A Reweighting by variable, from what the parameter of that name says."""
    if reweight is None:
        return {}
    kinds = {
        "prior_scale": lambda w: Reweighting(p=w),
        "kl_scale": lambda w: Reweighting(p=w, q=w),
        "prior_added": lambda w: Reweighting(added_p=w),
        "kl_added": lambda w: Reweighting(added_p=w, added_q=w),
    }
    if len(reweight) != 1 or not set(reweight) <= set(kinds):
        raise ValueError(f"reweight must have one of the keys {sorted(kinds)}, got {reweight!r}")
    [(kind, weights)] = reweight.items()
    if not isinstance(weights, dict) or not set(weights) <= set(WEIGHTED):
        raise ValueError(
            f"reweight[{kind!r}] must map some of the variables {list(WEIGHTED)} to their "
            f"weights, got {weights!r}"
        )
    if not all(isinstance(w, Real) and 0 <= float(w) < inf for w in weights.values()):
        raise ValueError(f"weights in reweight must be numbers of at least 0, got {weights!r}")
    return {name: kinds[kind](float(weight)) for name, weight in weights.items()}


def log_unit_normal_around(z: Tensor, mean: Tensor) -> Tensor:
    """Log-density of N(mean, I) for each of several means.

    States are (n_particles, n_cells, n_latent), means (n_draws, n_cells, n_latent), densities
    (n_draws, n_particles, n_cells): as products of matrices, around the average of the means.
    """
    centre = mean.mean(0)
    z, mean = (z - centre).transpose(0, 1), (mean - centre).transpose(0, 1)
    square = z.square().sum(-1)[:, None] + mean.square().sum(-1)[..., None]
    distance = torch.baddbmm(square, mean, z.mT, alpha=-2)  # (n_cells, n_draws, n_particles)
    return -(distance.permute(1, 2, 0) + z.shape[-1] * math.log(2 * math.pi)) / 2
