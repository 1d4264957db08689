r"""Embeddings of perturbations, with a normal prior and a normal posterior each.

.. math:: e_{ti} \sim \mathcal{N}(0, s^2)
"""

import math
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import leaky_relu

from .._ranks import drawn
from ..nn import Table
from ..objectives import Costs

SCALE_START = 0.1  # standard deviation of an embedding's posterior


class SharedDraw(NamedTuple):
    """Samples of what all cells share."""

    effect: Tensor  # (n_particles, n_perturbations, n_latent) mask times embedding
    log_ratio: Tensor  # (n_particles, n_perturbations) of prior and posterior


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
        loc, log_scale = self.loc.of(part), self.log_scale.of(part)
        if self.network is not None:
            of_loc, of_scale = self.network(part, mask).chunk(2, -1)
            loc, log_scale = loc + of_loc, log_scale + of_scale
        return Normal(loc, log_scale.exp() + 1e-4, validate_args=False)

    def draw(self, part: Tensor | None, mask: Tensor, analytic: bool) -> tuple[Tensor, Costs]:
        """Embeddings of the shape of the masks, and their costs."""
        q = self.posterior(part, mask)
        noise = drawn(torch.randn, mask.shape, None if part is None else -3, mask.device)
        embedding = q.mean + q.stddev * noise
        log_p_scale = self.prior_scale.log() + math.log(2 * math.pi) / 2
        log_q = -q.stddev.log() - math.log(2 * math.pi) / 2
        if analytic:
            square = q.mean.square() + q.stddev.square()
            log_q = log_q - 0.5
        else:
            square = embedding.square()
            log_q = log_q - noise.square() / 2
        log_p = -square / (2 * self.prior_scale.square()) - log_p_scale
        return embedding, {"embedding": (log_p.sum(-1), log_q.sum(-1))}

    def start(self, loc: Tensor) -> None:
        """Go on from these locations."""
        self.loc = Table(loc)

    def place(self, loc: Tensor) -> None:
        """Set the locations of the rows that were appended last."""
        self.loc.rows = nn.Parameter(loc.to(self.loc.rows))

    @torch.no_grad()
    def project(self, projection: Tensor) -> None:
        """Go over to the latents ``z @ projection``; a network, which reads masks, starts anew."""
        variance = self.log_scale().exp().square() @ projection.square()
        self.loc, self.log_scale = Table(self.loc() @ projection), Table(variance.log() / 2)
        if self.network is not None:
            self.network = self.network.renewed(projection.shape[1]).to(projection.device)

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
        self.widths = widths
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
        h = leaky_relu(self.of_mask(mask) + self.of_perturbation.of(part))
        for layer in self.hidden:
            block = leaky_relu(layer(h))
            h = h + block if block.shape == h.shape else block
        moments: Tensor = self.moments(h)
        return moments

    def renewed(self, n_latent: int) -> "EmbeddingNetwork":
        """An untrained one for so many latents."""
        network = EmbeddingNetwork(len(self.of_perturbation()), n_latent, self.widths)
        return network.requires_grad_(self.of_mask.weight.requires_grad)

    def extend(self, n_new: int) -> None:
        """Append rows for new perturbations, to be learned."""
        rows = self.of_perturbation()
        self.of_perturbation.extend(rows.new_zeros(n_new, rows.shape[1]))


def check_widths(widths: bool | tuple[int, ...], usual: tuple[int, ...]) -> tuple[int, ...]:
    """Widths of hidden layers as asked for, True being the usual ones and False none."""
    chosen = () if widths is False else usual if widths is True else widths
    good = all(isinstance(width, Integral) and width > 0 for width in chosen)
    if not good or not (chosen or widths is False):
        raise ValueError(
            f"correlated_embedding={widths!r} must be True, False or the widths of hidden layers"
        )
    return chosen
