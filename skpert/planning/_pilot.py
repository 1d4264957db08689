"""What a pilot says of effects on latents, of the noise of cells and of depth."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils import check_consistent_length

from .._effects import stability_of_axes
from .._input.expression import check_same_cells
from .._input.values import check_has_latents, text
from .._prediction import encoded
from ..sparsity.edges import check_calls_edges, edge_probability
from ..sparsity.effects import LEAST_STABILITY, USUAL_CROSS_TALK

LEAST_CELLS = 2  # of a perturbation, to have a mean
LEAST_RATIO = 1e-3  # of a latent's effect at less depth
TINY = 1e-12


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

        What is no edge is shrunk towards zero by its sampling error.
        """
        error = self.standard_error**2
        edge = rng.uniform(size=error.shape) < probability
        kept = width**2 / (width**2 + error)
        mean = np.where(edge, self.effect, kept * self.effect)
        return mean + np.sqrt(np.where(edge, error, kept * error)) * rng.normal(size=error.shape)

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
    guides = np.atleast_1d(np.asarray(efficacy, dtype=np.float64))
    if guides.ndim != 1 or not len(guides) or not ((guides >= 0) & (guides <= 1)).all():
        raise ValueError(f"efficacy must be in [0, 1], of one or of each guide; got {efficacy!r}")
    return guides


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


def thinned(values, depth, rng):
    """Each count kept with probability ``depth``."""
    counts = values.data if issparse(values) else values
    kept = rng.binomial(np.round(counts).astype(np.int64), depth).astype(np.float32)
    if not issparse(values):
        return kept
    values = values.copy()
    values.data = kept
    values.eliminate_zeros()
    return values


def at_depth(estimator, values, labels, pilot, depth, rng):
    """Ratio of effects at less depth to those of the pilot, and the variance of cells there.

    The pilot's own counts are thinned and encoded again.
    """
    if depth == 1:
        return np.ones(len(pilot.latents)), pilot.variance
    other = pilot_of(estimator, found_latents(estimator, thinned(values, depth, rng)), labels)
    slope = (pilot.effect * other.effect).sum(0) / np.maximum(np.square(pilot.effect).sum(0), TINY)
    return np.maximum(slope, LEAST_RATIO), other.variance
