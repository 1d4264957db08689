r"""Log evidence of cells by importance sampling, and how far off it is.

.. math:: \log p(x \mid a) \ge \mathbb{E} \log \frac1K \sum_k \frac{p(x, z_k \mid a)}{r(z_k)},
          \qquad r = \frac{K_q}{K} \, q(z \mid x, a)
                     + \frac{K - K_q}{K} \, \mathcal{N}(z; \mu, \Sigma)

A few particles come from the guide q and the others from a normal distribution that is fitted to
the posterior of each cell beforehand, from gradients alone: no particle takes part in choosing
where it comes from, so that the weights are unbiased and the bound holds. As all are weighed
against the mixture, no weight is above ten times what it would be under the guide, however poor
the fit. For a single particle this is the ELBO of the guide, of which an average over many states
is the better estimate.

The guide and the fit are computed in float64, since in a poor fit the smallest difference between
two processors would grow with every round; particles are weighed in float32.

The noise is one randomised Sobol set for all cells and models. A cell's score is then a function
of the cell and the model, whatever else is scored, and the noise that two models share cancels
when they are compared.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal
from torch.quasirandom import SobolEngine

from ._data import Cells
from ._runtime import seeded
from .exceptions import SamplingWarning, warn_of_data
from .module import PerturbationModule

LogJoint = Callable[[Tensor], Tensor]  # of states, (n_particles, n_cells), or for each draw

MAX_ELEMENTS = 2**22  # numbers in the largest tensor that scoring makes at once
MAX_DRAWS = 256  # of what all cells share; each particle is weighed under every draw
MAX_REFINED = 100  # latents up to which the guide is refined: the cost grows with their number
SHARE_OF_GUIDE = 0.1  # of the particles
N_ELBO = 64  # states over which the ELBO, the score of a single particle, is averaged
N_ROUNDS = 2  # of fitting the normal distribution
NODE = math.sqrt(3)  # where gradients are taken: the outer node of three by Gauss and Hermite
STEPS = 0.0, 0.25, 0.5, 1.0  # of the way to the fitted mean that are tried
HASTE = 4.0  # nats by which the whole way may be worse and is still preferred to none
FEW_PARTICLES = 5  # below which, in effect, a score is too low by more than a tenth of a nat
SMALL_SHARE = 0.1  # of those asked for: a handful of them may have been asked for on purpose
LEAST_PRECISION = 0.4  # relative, that a round may find: the variance grows 2.5 times at most
WIDENING = 2 / 3  # of the variance, over the square root of the number of latents


class Evidence(NamedTuple):
    """What is known of the evidence of each cell, (n_cells,), float64, nats."""

    log_evidence: Tensor
    standard_error: Tensor  # NaN for a single particle


class Fitted(NamedTuple):
    """A normal distribution for each cell, the image of N(0, I) under mean + root e."""

    mean: Tensor  # (n_cells, n_latent)
    root: Tensor  # (n_cells, n_latent, n_latent)
    inverse: Tensor  # of root
    log_determinant: Tensor  # of root, (n_cells,)

    @classmethod
    def to_guide(cls, q: Normal) -> "Fitted":
        """Start from the guide."""
        root, inverse = q.stddev.diag_embed(), q.stddev.reciprocal().diag_embed()
        return cls(q.mean, root, inverse, q.stddev.log().sum(-1))

    def at(self, noise: Tensor) -> Tensor:
        """States of this noise, the same for all cells, (n_particles, n_cells, n_latent)."""
        return self.mean + torch.einsum("cij,kj->kci", self.root, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, (n_particles, n_cells)."""
        noise = torch.einsum("cij,kcj->kci", self.inverse, z - self.mean)
        constant = self.log_determinant + z.shape[-1] * math.log(2 * math.pi) / 2
        return -noise.square().sum(-1) / 2 - constant

    def stretched(self, precision: Tensor) -> "Fitted":
        """Distribution with this precision in units of the root, (n_cells, n_latent, n_latent).

        The symmetric root of the precision changes smoothly with it, as single axes would not:
        rounding errors hence stay what they are.
        """
        values, axes = torch.linalg.eigh(precision.double())
        values = values.clamp(min=LEAST_PRECISION)
        root, inverse = (
            ((axes * values[:, None].pow(power)) @ axes.mT).to(self.root) for power in (-0.5, 0.5)
        )
        shrinkage = (values.log().sum(-1) / 2).to(self.log_determinant)
        return self._replace(
            root=self.root @ root,
            inverse=inverse @ self.inverse,
            log_determinant=self.log_determinant - shrinkage,
        )

    def widened(self) -> "Fitted":
        """Distribution of tails that reach beyond those of the posterior it is fitted to."""
        n_latent = self.mean.shape[1]
        factor = math.sqrt(1 + WIDENING / math.sqrt(n_latent))
        return self._replace(
            root=self.root * factor,
            inverse=self.inverse / factor,
            log_determinant=self.log_determinant + n_latent * math.log(factor),
        )


def evidence(
    module: PerturbationModule, cells: Cells, n_particles: int, device: torch.device
) -> Evidence:
    """Importance-weighted ELBO of each cell, and its standard error."""
    n_sampled = N_ELBO if n_particles == 1 else n_particles
    shared = module.draw(min(n_sampled, MAX_DRAWS))
    exact: Any = copy.deepcopy(module)
    exact = exact.double()
    first = next(cells.minibatches(2, shuffle=False)).to(device)
    n_states = 2 * min(module.guide(first).mean.shape[1], MAX_REFINED)  # of a cell at once
    n_columns = cells.n_genes if shared is None else max(cells.n_genes, MAX_DRAWS)
    n_cells = max(MAX_ELEMENTS // (n_states * n_columns), 2)
    weigh = weighed if n_particles > 1 else averaged
    parts = []
    for batch in cells.minibatches(n_cells, shuffle=False):
        batch = batch.to(device).with_saturated()
        doubled = batch.double()
        log_joint = _log_joint(exact, doubled, shared)
        proposal = Proposal.of(log_joint, exact.guide(doubled), n_sampled, n_particles > 1)
        parts.append(weigh(_log_joint(module, batch, shared), proposal.particles(n_states)))
    return Evidence(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def mean_iwelbo(cells: Cells, n_particles: int, seed: int, module: PerturbationModule) -> float:
    """Mean evidence of cells, nats, with the same noise for every module."""
    device = module.device
    with seeded(seed, device), torch.no_grad():
        return float(evidence(module, cells, n_particles, device).log_evidence.mean())


def _log_joint(module: PerturbationModule, cells: Cells, shared: Any) -> LogJoint:
    """Log p(x, z | a) of these cells, computed in their type, as a function of states."""
    dtype = cells.library.dtype
    if shared is not None:
        shared = type(shared)(*(values.to(dtype) for values in shared))
    return lambda z: module.log_joint(cells, z.to(dtype), shared).double()


class Proposal(NamedTuple):
    """Where particles come from: the guide and, if it is refined, a better fit."""

    guide: Normal
    fitted: Fitted | None
    of_guide: Tensor  # (n_guide, n_latent) noise
    of_fitted: Tensor

    @classmethod
    def of(cls, log_joint: LogJoint, q: Normal, n_particles: int, refined: bool) -> "Proposal":
        """Proposal of so many particles for the posterior of each cell."""
        n_latent = q.mean.shape[1]
        refined = refined and n_latent <= MAX_REFINED
        n_guide = math.ceil(SHARE_OF_GUIDE * n_particles) if refined else n_particles
        sizes = n_guide, n_particles - n_guide
        noise = (normal_noise(n, n_latent, seed).to(q.mean) for seed, n in enumerate(sizes))
        return cls(q, fitted(log_joint, q) if refined else None, *noise)

    def particles(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """States, ``size`` at a time, (size, n_cells, n_latent), and their log-densities."""
        for noise in self.of_guide.split(size):
            z = self.guide.mean + self.guide.stddev * noise[:, None]
            yield z, self.log_prob(z)
        if self.fitted is not None:
            for noise in self.of_fitted.split(size):
                z = self.fitted.at(noise)
                yield z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of the mixture, (n_particles, n_cells)."""
        log_prob: Tensor = self.guide.log_prob(z).sum(-1)
        if self.fitted is None:
            return log_prob
        share = len(self.of_guide) / (len(self.of_guide) + len(self.of_fitted))
        of_fitted = self.fitted.log_prob(z) + math.log1p(-share)
        return torch.logaddexp(log_prob + math.log(share), of_fitted)


def normal_noise(n_particles: int, n_latent: int, seed: int) -> Tensor:
    """Randomised quasi-Monte-Carlo points of N(0, I), (n_particles, n_latent), float64."""
    engine = SobolEngine(n_latent, scramble=True, seed=seed)
    points = engine.draw(max(n_particles, 1), dtype=torch.float64)[:n_particles]
    noise: Tensor = torch.special.ndtri(points.clamp(2**-31, 1 - 2**-31))
    return noise


def fitted(log_joint: LogJoint, q: Normal, n_rounds: int = N_ROUNDS) -> Fitted:
    """Normal distribution near the posterior of each cell, made from the guide.

    It is the one of least KL from the posterior, if averages under it are taken over a few nodes:
    there, the mean slope is zero and the mean curvature its precision. A round is a step of
    Newton's towards that, shortened as the posterior density along it says.
    """
    n = q.mean.shape[1]
    fit = Fitted.to_guide(q)
    eye = NODE * torch.eye(n).to(q.mean)
    for _ in range(n_rounds):
        slope = _slope(log_joint, fit.at(torch.cat([eye, -eye])))
        slope = torch.einsum("kci,cij->ckj", slope, fit.root)  # in units of the root
        precision = (slope[:, n:] - slope[:, :n]) / (2 * NODE)
        mean_slope, precision = _finite(slope.mean(1), (precision + precision.mT) / 2)
        narrowed = fit.stretched(precision)
        step = narrowed.root @ (narrowed.root.mT @ fit.inverse.mT @ mean_slope[..., None])
        fit = narrowed._replace(mean=_moved(log_joint, fit.mean, step[..., 0]))
    return fit.widened()


def _slope(log_joint: LogJoint, z: Tensor) -> Tensor:
    """Gradient of the log-density of each state, averaged over draws of what cells share."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        total = torch.logsumexp(_by_draw(log_joint(z)), 0).sum()
        (slope,) = torch.autograd.grad(total, z)
    return slope


def _finite(slope: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and precision of each cell; where one is not finite, those that change nothing."""
    good = (slope.isfinite().all(-1) & precision.isfinite().all(-1).all(-1))[:, None]
    eye = torch.eye(slope.shape[1]).to(precision)
    return torch.where(good, slope, 0), torch.where(good[..., None], precision, eye)


def _moved(log_joint: LogJoint, mean: Tensor, step: Tensor) -> Tensor:
    """Average of the places along a step by their densities: about the best, without a jump."""
    steps = torch.tensor(STEPS).to(mean)[:, None, None]
    places = mean + steps * step
    log_density = torch.logsumexp(_by_draw(log_joint(places)), 0) + HASTE * steps[:, 0]
    share = torch.softmax(log_density.nan_to_num(nan=-torch.inf), 0)
    return (share[..., None] * places).sum(0)


def weighed(log_joint: LogJoint, particles: Iterator[tuple[Tensor, Tensor]]) -> Evidence:
    """Evidence of the cells of a minibatch, from weights that are summed as they come."""
    sums, n_particles = [], 0
    for z, log_r in particles:
        log_weights = _by_draw(log_joint(z)) - log_r  # (n_draws, n_particles, n_cells)
        top = log_weights.amax((0, 1))
        weights = (log_weights - top).exp_()
        by_particle, by_draw = (weights.sum(i).double().log() + top for i in (0, 1))
        sums.append((_log_sums(by_particle), by_draw))
        n_particles += len(z)
    by_particle, by_draw = (torch.logsumexp(torch.stack(s), 0) for s in zip(*sums, strict=True))
    error = _relative_variance(by_particle, n_particles)
    if len(by_draw) > 1:
        error = error + _relative_variance(_log_sums(by_draw), len(by_draw))
    return Evidence(by_particle[0] - math.log(n_particles * len(by_draw)), error.sqrt())


def averaged(log_joint: LogJoint, particles: Iterator[tuple[Tensor, Tensor]]) -> Evidence:
    """ELBO of the cells of a minibatch, which does not know how far it is from the evidence."""
    log_weights = [(_by_draw(log_joint(z)) - log_r).mean(0) for z, log_r in particles]
    elbo = torch.cat(log_weights).mean(0)
    return Evidence(elbo, torch.full_like(elbo, torch.nan))


def _by_draw(log_joint: Tensor) -> Tensor:
    """The same with a first dimension for draws of what cells share, even of nothing."""
    return log_joint if log_joint.ndim == 3 else log_joint[None]


def _log_sums(log_weights: Tensor) -> Tensor:
    """Logarithms of the sums over the first dimension of weights and of their squares."""
    return torch.stack([torch.logsumexp(log_weights, 0), torch.logsumexp(2 * log_weights, 0)])


def _relative_variance(log_sums: Tensor, n: int) -> Tensor:
    """Squared standard error of the logarithm of the mean of n weights, by the delta method.

    With the effective sample size, the squared sum over the sum of squares, it is
    ``(n / size - 1) / (n - 1)``.
    """
    total, square = log_sums
    return ((n * torch.exp(square - 2 * total) - 1) / (n - 1)).clamp(min=0)


def warn_of_few_particles(std: NDArray[np.float64], n_particles: int) -> None:
    """Warn by the effective sample size of a typical cell; for one particle it is unknown."""
    typical = np.median(std)
    effective = n_particles / (1 + (n_particles - 1) * typical**2)
    if effective < min(FEW_PARTICLES, SMALL_SHARE * n_particles):
        warn_of_data(
            f"of n_particles={n_particles}, {effective:.1f} decide the score of a typical cell "
            f"(effective sample size): its standard error is {typical:.2f} nats, and it is too "
            f"low by {typical**2 / 2:.2f} nats or more. Raise n_particles until score_cells(X, A, "
            "return_std=True) shows errors below what you want to distinguish",
            SamplingWarning,
        )
