r"""How many latents data have, found among more of them than that.

A model with more latents than there are factors of variation uses the others for functions of
them: where :math:`z_1` bends a manifold, a latent that holds :math:`z_1^2` saves the decoder work.
What tells them apart is the model itself. Among cells of one perturbation latents are
:math:`\mathcal N(\mu, I)`, so that none can be predicted from the others, and a function of the
others can. So, in the order of the variance among equally treated cells, each principal axis of
the states is predicted from those kept before it, by ridge regression on the axes and on a
Gaussian kernel (Nystroem features). It is kept if what is left over comes near its variance among
equally treated cells; nearer where perturbations move it, as all that they do would have to be
predicted as well.

The axes that are kept are bent, and what was left out knows how: a latent that was folded over
two axes is a straight line in neither. States are straight where all perturbations have the same
covariance, as the model has it. With :math:`S_p(B)` the covariance of perturbation :math:`p` of
the axes that are kept, plus a linear combination :math:`B` of those that are not, it is

.. math:: \min_B \; \tfrac12 \log\det \bar S(B) - \tfrac12 \sum_p w_p \log\det S_p(B)
          + \lambda \lVert B \rVert^2,

the cells' share of :math:`w_p`; in nats, how far the perturbations are from having one covariance.
No information is lost: what is added is a function of what is there.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import coo_array
from sklearn.kernel_approximation import Nystroem

N_START, N_SPARE = 32, 8  # latents to begin with, and at least more than there shall be
N_PREDICTED = 6000  # cells at most on which axes are predicted from each other
N_KERNELS = 300  # features of the kernel
BANDWIDTH = 2.0  # of the kernel, in root mean squares of the states
MOST_EXTREME = 1e6  # state, in standard deviations, that is no matter of overflow
RIDGES = np.logspace(-5, 1, 7)
PREDICTED = 0.35  # share of what is known of an axis; above, it is a function of the others
PREDICTED_MOVED = 0.55  # of an axis that perturbations move, in shares of what is known of both
MOVED = 1.5  # variance of such an axis, in that among equally treated cells
LEAST_VARIANCE = 0.1  # of an axis in use, where the model has 1; what is below is hardly known
LEAST_KNOWN = 1e-3  # variance of an axis that straightens others, of the largest
LEAST_LENGTH = 1e-6  # of an axis of which directions can be told
N_GROUPS = 500  # of equally treated cells at most, whose covariances are made equal
STRAIGHTNESS_PENALTY = 0.1  # lambda
SHRINKAGE = 10.0  # cells per latent that the common covariance counts in that of a perturbation


def width_to_start(n_latent, n_genes, *, reduced):
    """How many latents a training begins with.

    Those that are reduced to the ones that data have begin with more, of which some are free to
    take what would otherwise be folded.
    """
    if n_latent == "auto":
        return min(N_START, n_genes)
    return max(min(N_START, n_genes), n_latent + N_SPARE) if reduced else n_latent


class Axes(NamedTuple):
    """A linear map of states to the latents that data have."""

    centre: np.ndarray  # (n_latent,)
    projection: np.ndarray  # (n_latent, n_kept), of centred states
    lift: np.ndarray  # (n_kept, n_latent), back to the states by least squares


class Alike(NamedTuple):
    """How states differ from those of other cells that were treated equally."""

    deviation: np.ndarray  # (n_cells, n_latent)
    member: coo_array  # (n_cells, n_groups) of groups in which the model has one covariance


def alike(Z, group):
    """Deviations of states from the mean of their group, of an index from 0, (n_cells,)."""
    member = coo_array((np.ones(len(Z)), (np.arange(len(Z)), group))).tocsc()
    counts = np.maximum(member.sum(0), 1)
    return Alike(Z - (member.T @ Z / counts[:, None])[group], member)


def independent_axes(Z, equals, *, random_state=0):
    """Axes of states that are no functions of each other, of equal spread and straightened.

    Parameters
    ----------
    Z : ndarray of shape (n_cells, n_latent)
        Latent states.
    equals : Alike
        How they differ from those of cells that were treated equally.
    random_state : int, RandomState instance or None, default=0
        Chooses the cells on which axes are predicted.

    Returns
    -------
    axes : Axes
        At least one axis. Along each the variance among equally treated cells is 1, or below 1
        if it was below 0.1.
    """
    Z = np.asarray(Z, dtype=np.float64)
    centre, deviation = Z.mean(0), equals.deviation
    within = deviation.T @ deviation / len(Z)
    variance, vectors = np.linalg.eigh(within)
    states = (Z - centre) @ vectors[:, ::-1]
    variance = np.maximum(variance[::-1], np.finfo(float).tiny)
    order = np.random.default_rng(random_state).permutation(len(Z))[:N_PREDICTED]
    scaled = np.clip(states[order] / np.sqrt(variance), -MOST_EXTREME, MOST_EXTREME)
    kept = _unpredicted(scaled, variance)
    known = np.flatnonzero(variance > LEAST_KNOWN * variance[0])
    equals = equals._replace(deviation=deviation @ vectors[:, ::-1][:, known])
    straight = _straightened(equals, np.searchsorted(known, kept))
    projection = vectors[:, ::-1][:, known] @ straight
    spread, rotation = np.linalg.eigh(projection.T @ within @ projection)
    projection = projection @ rotation[:, ::-1] / np.sqrt(np.maximum(spread[::-1], LEAST_VARIANCE))
    lift = np.linalg.lstsq((Z - centre) @ projection, Z - centre)[0]
    return Axes(centre, projection, lift)


def _unpredicted(states, variance):
    """Which axes are no functions of those kept before, in falling order of variance.

    A state is known with noise, which nothing predicts: of the variance among equally treated
    cells as much as that falls short of 1. What predicts an axis is known little better than it.
    """
    kept, next_one = [0], 1
    in_use = (variance > LEAST_VARIANCE) & (variance > LEAST_KNOWN * variance[0])
    known = np.minimum(variance, 1)
    most = np.where(states.var(0) > MOVED, PREDICTED_MOVED * known, PREDICTED) * known
    while in_use[next_one:].any():
        predicted = _predicted(states[:, kept], states[:, next_one:])
        new = np.flatnonzero((predicted < most[next_one:]) & in_use[next_one:])
        if not len(new):
            break
        kept.append(next_one + int(new[0]))
        next_one = kept[-1] + 1
    return kept


def _predicted(known, wanted):
    """Share of each axis, relative to its spread among equally treated cells, (n_wanted,).

    By ridge regression, whose penalty is chosen for each axis by leave-one-out errors.
    """
    gamma = 1 / (2 * BANDWIDTH**2 * known.shape[1])
    n_kernels = min(N_KERNELS, len(known))
    kernel = Nystroem(gamma=gamma, n_components=n_kernels, random_state=0)
    features = np.hstack([known, kernel.fit_transform(known)])
    features, wanted = features - features.mean(0), wanted - wanted.mean(0)
    values, vectors = np.linalg.eigh(features.T @ features)
    features = features @ vectors
    projected = features.T @ wanted
    errors = []
    for ridge in RIDGES:
        shrunk = 1 / (np.maximum(values, 0) + ridge)
        leverage = 1 / len(known) + (features**2) @ shrunk
        rest = wanted - features @ (projected * shrunk[:, None])
        errors.append(((rest / (1 - leverage)[:, None]) ** 2).mean(0))
    return 1 - np.min(errors, axis=0)


def _straightened(equals, kept):
    """The kept axes, plus a combination of the others that makes them straight."""
    n_latent = equals.deviation.shape[1]
    rest, axes = np.setdiff1d(np.arange(n_latent), kept), np.eye(n_latent)[:, kept]
    covariances, counts = _covariances(equals)
    share = counts / counts.sum()
    trust = (counts / (counts + SHRINKAGE * len(kept)))[:, None, None]
    spread = np.sqrt((covariances * share[:, None, None]).sum(0).diagonal())
    if len(rest) == 0 or len(covariances) < 2 or spread[kept].min() < LEAST_LENGTH:
        return axes
    unit = spread[kept] / spread[rest][:, None]  # in which coefficients are numbers

    def loss(coefficients):
        """Objective and gradient."""
        B = coefficients.reshape(unit.shape)
        P = axes.copy()
        P[rest] = B * unit
        CP = covariances @ P
        S = np.einsum("kl,pkm->plm", P, CP)
        common = np.einsum("p,plm->lm", share, S)
        shrunk = trust * S + (1 - trust) * common
        inverse = np.linalg.inv(shrunk) * share[:, None, None]
        of_common = np.linalg.inv(common) - ((1 - trust) * inverse).sum(0)
        slope = np.einsum("p,pkl->kl", share, CP) @ of_common
        slope -= np.einsum("pkl,plm->km", CP, trust * inverse)
        value = np.linalg.slogdet(common)[1] - share @ np.linalg.slogdet(shrunk)[1]
        penalty = STRAIGHTNESS_PENALTY * (B**2).sum()
        gradient = slope[rest] * unit + 2 * STRAIGHTNESS_PENALTY * B
        return value / 2 + penalty, gradient.ravel()

    found = minimize(loss, np.zeros(unit.size), jac=True, method="L-BFGS-B")
    axes[rest] = found.x.reshape(unit.shape) * unit
    return axes


def _covariances(equals):
    """Of groups of two cells or more, (n_groups, n_latent, n_latent), and their sizes.

    Of many groups the largest count, whose covariances are known best.
    """
    Z, member = equals.deviation, equals.member.tocsc()
    parts = np.split(member.indices, member.indptr[1:-1])
    parts = [part for part in parts if len(part) > 1]
    if len(parts) > N_GROUPS:
        parts = sorted(parts, key=len, reverse=True)[:N_GROUPS]
    covariances = [Z[part].T @ Z[part] / len(part) for part in parts]
    return np.array(covariances), np.array([len(part) for part in parts])
