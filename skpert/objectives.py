"""Terms of the objectives that are not a distribution's own method."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Normal
from torch.nn.functional import softplus


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


def beta_log_prob(logit: Tensor, concentration: Tensor) -> Tensor:
    r"""Log-density of Beta(1, concentration) at sigmoid(logit), elementwise.

    .. math:: \log \beta + (\beta - 1) \log(1 - \sigma(t)) = \log \beta - (\beta - 1) \,
              \mathrm{softplus}(t)

    Finite where the probability itself rounds to 1.
    """
    return concentration.log() - (concentration - 1) * softplus(logit)
