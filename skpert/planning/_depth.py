r"""What less or more depth makes of effects on latents, and of the noise of cells.

**Less depth.** The pilot's own counts are thinned and encoded again.

**More depth.** The encoder has not seen such cells, but the likelihood says what they would tell
of a state :math:`z`. The Fisher information that counts of a cell with the expected counts
:math:`\mu_g(z)` have of it is

.. math:: J = \sum_g \frac{\nabla\mu_g\, \nabla\mu_g^\top}{\mu_g + \mu_g^2 / \theta_g},

and with :math:`\mu` proportional to the library, that at another depth follows. With :math:`S`
the covariance of states of equally treated cells, the posterior has the covariance :math:`P =
(S^{-1} + J)^{-1}`: an effect :math:`d` moves posterior means by :math:`(I - P S^{-1}) d`, around
which they have the covariance :math:`S - P`. Both over those at the pilot's depth are what is
returned. So depth helps as far as noise of counts hides effects, not differences among cells.
"""

import numpy as np
from scipy.sparse import issparse

from .._data import Cells
from .._prediction import moments
from ._pilot import found_latents, pilot_of
from ._simulate import Decoder

LEAST_RATIO = 1e-3  # of a latent's effect at less depth
N_CELLS = 500  # over which information is averaged
STEP = 0.05  # of differences, in latent units
TINY = 1e-12


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
    """Ratio of effects at another depth to those of the pilot, and the variance of cells there."""
    if depth == 1:
        return np.ones(len(pilot.latents)), pilot.variance
    if depth > 1:
        return deeper(estimator, values, labels, pilot, depth, rng)
    other = pilot_of(estimator, found_latents(estimator, thinned(values, depth, rng)), labels)
    slope = (pilot.effect * other.effect).sum(0) / np.maximum(np.square(pilot.effect).sum(0), TINY)
    return np.maximum(slope, LEAST_RATIO), other.variance


def deeper(estimator, values, labels, pilot, depth, rng):
    """What :func:`at_depth` returns, by the information of counts; any depth above 0."""
    chosen = np.sort(rng.permutation(len(labels))[:N_CELLS])
    with estimator._inference():
        found = moments(estimator.module_, Cells.untreated(values[chosen]))
    n = len(pilot.latents)
    Z, scale = (found[key][:, :n].astype(np.float64) for key in ("z", "scale"))
    library = np.asarray(values[chosen].sum(1), dtype=np.float64).ravel()
    means = {name: Z[labels[chosen] == name].mean(0) for name in np.unique(labels[chosen])}
    rest = Z - np.array([means[name] for name in labels[chosen]])
    prior = rest.T @ rest / max(len(Z) - len(means), 1) + np.diag(np.square(scale).mean(0))
    prior += TINY * np.trace(prior) * np.eye(n)
    here, there = (
        _posterior(estimator, Z, library * times, prior) for times in (1.0, float(depth))
    )
    kept = [np.diag(np.eye(n) - np.linalg.solve(prior, P).T) for P in (here, there)]
    spread = [np.diag(prior - P) for P in (here, there)]
    ratio = np.maximum(kept[1], TINY) / np.maximum(kept[0], TINY)
    return ratio, pilot.variance * np.maximum(spread[1], TINY) / np.maximum(spread[0], TINY)


def _posterior(estimator, Z, library, prior):
    """Mean covariance of states given counts of cells in these, (n_latent, n_latent)."""
    decode, n = Decoder(estimator, 1.0), Z.shape[1]
    mean, variance = decode.moments(Z, library)
    slopes = []
    for k in range(n):
        moved = STEP * np.eye(n)[k]
        higher, lower = (decode.moments(Z + sign * moved, library)[0] for sign in (1, -1))
        slopes.append((higher - lower) / (2 * STEP))
    slopes = np.stack(slopes, axis=-1) / np.sqrt(np.maximum(variance, TINY))[:, :, None]
    information = np.einsum("cgk,cgl->ckl", slopes, slopes)
    return np.linalg.inv(np.linalg.inv(prior) + information).mean(0)
