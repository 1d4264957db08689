"""What a pilot says of effects on latents, of the noise of cells and of depth."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.utils import check_consistent_length

from .._effects import stability_of_axes
from .._input.expression import check_same_cells
from .._input.values import check_finite, check_has_latents, text
from .._prediction import encoded
from ..parameters import REAL_VALUED
from ..sparsity.edges import (
    NULL_SHARES,
    NULL_WEIGHT,
    TAIL,
    check_calls_edges,
    edge_probability,
)
from ..sparsity.effects import LEAST_STABILITY, USUAL_CROSS_TALK

N_STEPS = 20  # of EM, for the shares of core and tail
LEAST_CELLS = 2  # of a perturbation, to have a mean


class Pilot(NamedTuple):
    """Effects of a pilot's perturbations on the latents that were found, in latent units."""

    names: np.ndarray  # (n_perturbations,)
    latents: np.ndarray  # (n_latent,)
    n_cells: np.ndarray  # (n_perturbations,)
    n_controls: int  # 0: effects are relative to the mean of perturbations
    effect: np.ndarray  # (n_perturbations, n_latent)
    variance: np.ndarray  # (n_latent,) among equally treated cells
    stable: np.ndarray  # (n_latent,) whether edges are called on the axis at all

    @property
    def standard_error(self):
        """Of each effect, (n_perturbations, n_latent)."""
        return errors(self.variance, self.n_cells, self.n_controls)

    def drawn(self, probability, width, rng):
        """True effects that the pilot may have seen: an edge by its probability, else cross-talk.

        Cross-talk has the core and the tail of the judge's null. It is drawn from its posterior,
        which shrinks values of the core much, and of the tail, where the largest are, little.
        """
        error = self.standard_error**2
        core = width**2
        null = np.stack([core + error, TAIL**2 * (core + error)])  # variance of what is seen
        log_density = -0.5 * (self.effect**2 / null + np.log(null))
        shares = NULL_SHARES[:2] / NULL_SHARES[:2].sum()
        for _ in range(N_STEPS):
            of_tail = expit(log_density[1] - log_density[0] + np.log(shares[1] / shares[0]))
            no_edge = 1 - probability
            counts = NULL_WEIGHT * NULL_SHARES[:2] + [
                (no_edge * (1 - of_tail)).sum(),
                (no_edge * of_tail).sum(),
            ]
            shares = counts / counts.sum()
        spread = np.where(rng.uniform(size=error.shape) < of_tail, null[1], null[0]) - error
        edge = rng.uniform(size=error.shape) < probability
        kept = np.where(edge, 1.0, spread / (spread + error))
        return kept * self.effect + np.sqrt(kept * error) * rng.normal(size=error.shape)

    def judged(self, effect, error):
        """Probability of edges as models call them, of effects with these errors."""
        probability, size = edge_probability(effect, error), np.abs(effect)
        probability[size < USUAL_CROSS_TALK * size.max(1, keepdims=True)] = 0
        return np.where(self.stable, probability, 0.0)


def errors(variance, n_cells, n_controls):
    """Standard errors of differences to control, (n_perturbations, n_latent)."""
    share = 1 / np.asarray(n_cells, dtype=np.float64) + (1 / n_controls if n_controls else 0)
    return np.sqrt(np.outer(share, variance))


def guides_of(efficacy):
    """Efficacy of each guide, once all are in range."""
    try:
        guides = np.atleast_1d(np.asarray(efficacy, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"efficacy must be numbers in [0, 1], got {efficacy!r}") from error
    if guides.ndim != 1 or not len(guides) or not ((guides >= 0) & (guides <= 1)).all():
        raise ValueError(f"efficacy must be in [0, 1], of one or of each guide; got {efficacy!r}")
    return guides


def check_depth(estimator, depth, *, informative=False):
    """ValueError unless counts of this model can be had at this depth, and judged if asked for."""
    check_finite(depth, "depth", "neither")
    likelihood = estimator.likelihood
    if depth != 1 and likelihood in REAL_VALUED:
        raise ValueError(
            f"depth={depth} has no meaning with likelihood={likelihood!r}, whose values are no "
            "counts: leave it at 1"
        )
    if informative and depth > 1 and likelihood == "zero_inflated_negative_binomial":
        raise ValueError(
            f"depth={depth} is more than that of the pilot, and likelihood={likelihood!r} does "
            'not say how many of the lost counts come back: fit with "negative_binomial", or give '
            "a depth of at most 1"
        )


def read_pilot(estimator, X, A):
    """Effects and noise that these cells have in the latent space of a fitted estimator."""
    check_has_latents(estimator)
    check_calls_edges(estimator)
    check_same_cells(X, A)
    labels = np.array(estimator.design_.labels(A), dtype=object)
    values = estimator._expression(X, A)
    Z = found_latents(estimator, values)
    check_consistent_length(Z, labels)
    return values, labels, pilot_of(estimator, Z, labels)


def found_latents(estimator, values):
    """Latent states of validated expression, without latents that were not found, float64."""
    with estimator._inference():
        Z = encoded(estimator.module_, values, estimator.n_latent_)
    return Z.astype(np.float64)


def pilot_of(estimator, Z, labels):
    """Effects of the perturbations that have cells, and the variance of cells around them."""
    control = text(estimator.control)
    frame = pd.DataFrame(Z).groupby(labels)
    mean, n_cells = frame.mean(), frame.size()
    treated = [name for name in mean.index if name != control and n_cells[name] >= LEAST_CELLS]
    if not treated:
        raise ValueError(
            f"A has no perturbation with {LEAST_CELLS} cells beside the control {control!r}: a "
            "pilot needs one"
        )
    freedom = max(len(Z) - len(mean), 1)
    variance = np.square(Z - mean.loc[labels].to_numpy()).sum(0) / freedom
    n_controls = int(n_cells.get(control, 0))
    reference = mean.loc[control] if n_controls else mean.loc[treated].median()
    names = np.asarray(estimator.get_feature_names_out())[: Z.shape[1]]
    effect = (mean.loc[treated] - reference).to_numpy()
    n_each = n_cells[treated].to_numpy()
    stable = ~(stability_of_axes(estimator)[: Z.shape[1]] < LEAST_STABILITY)  # NaN: not looked at
    treated = np.array(treated, dtype=object)
    return Pilot(treated, names, n_each, n_controls, effect, variance, stable)
