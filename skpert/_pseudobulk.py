"""Means of cells that were treated alike, and what follows from them by least squares."""

from math import inf
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array, issparse
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_consistent_length, gen_batches

from ._input.design import Design, distinct
from ._least_squares import least_squares

N_CELLS = 4096  # that are summed at once
N_TURNS, CLOSE = 100, 1e-6  # in which effects and the scale of their sums are found, and how well
GAMMAS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the kernel of sums, over their mean squared distance
ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # penalties of its ridge regression
N_LANDMARKS = 500  # combinations at most whose kernels span all functions (Nystroem)
SPANNED = 1e-12  # eigenvalue of these kernels, of the largest, below which is rounding


class Pseudobulk(NamedTuple):
    """Cells of one treatment taken together."""

    dosage: csr_array  # (n_treatments, n_names)
    mean: np.ndarray  # (n_treatments, n_genes) float64
    weight: np.ndarray  # (n_treatments,) number of cells, or their total weight
    codes: np.ndarray  # (n_cells,) treatment of each cell

    @property
    def treated(self):
        """Which treatments are not the control."""
        return np.diff(self.dosage.indptr) > 0


def pseudobulk(X, dosage, weight=None):
    """Means of cells with the same dosages."""
    check_consistent_length(X, dosage)
    names = np.empty(dosage.shape[1], dtype=object)
    design = distinct(Design(names, dosage, np.arange(dosage.shape[0]), "array"))
    weight = np.ones(X.shape[0]) if weight is None else weight
    n_treatments = design.dosage.shape[0]
    total = np.zeros((n_treatments, X.shape[1]))
    for cells in gen_batches(X.shape[0], N_CELLS):
        some, codes = np.unique(design.codes[cells], return_inverse=True)
        member = (weight[cells], (codes, np.arange(len(codes))))
        part = csr_array(member, shape=(len(some), len(codes))) @ X[cells]
        total[some] += part.toarray() if issparse(part) else part
    weights = np.bincount(design.codes, weights=weight, minlength=n_treatments)
    mean = total / np.where(weights > 0, weights, 1)[:, None]
    return Pseudobulk(design.dosage, mean, weights, design.codes)


def measured_effects(bulk, centre, scale=1.0):
    """Responses of least squared error over cells, the smallest of them, (n_names, n_genes).

    Sums of several are multiplied by a scale.
    """
    root = np.sqrt(bulk.weight)
    factor = np.where(np.diff(bulk.dosage.indptr) > 1, scale, 1.0)
    dosage = diags_array(root * factor) @ bulk.dosage.astype(np.float64)
    return least_squares(dosage, root[:, None] * (bulk.mean - centre))


def scaled_sum(bulk, scale):
    """Scale of sums, and responses; both by least squares in turns if it is to be learned."""
    several, learned = np.diff(bulk.dosage.indptr) > 1, scale == "learned"
    scale = 1.0 if learned else float(scale)
    responses = measured_effects(bulk, 0, scale)
    if not learned or not several.any():
        return scale, responses
    weight, measured = bulk.weight[several], bulk.mean[several]
    for _ in range(N_TURNS):
        sums = bulk.dosage[several].astype(np.float64) @ responses
        size = weight @ (sums**2).sum(1)
        if size == 0:
            break
        before, scale = scale, float(weight @ (sums * measured).sum(1) / size)
        responses = measured_effects(bulk, 0, scale)
        if abs(scale - before) < CLOSE**2:
            break
    return scale, responses


def smoothed(sums, rest, gamma, alpha):
    """Kernel ridge regression of ``rest`` on ``sums``: gamma, alpha, landmarks, their weights.

    Of those that are to be chosen, the ones with the least leave-one-out error are taken, for
    which there is a closed form. Landmarks are all sums or, of many, some that are drawn.
    """
    n = len(sums)
    if n == 0:
        return 1.0, 1.0, sums, rest
    places = np.sort(np.random.default_rng(0).permutation(n)[:N_LANDMARKS])
    distance = euclidean_distances(sums, sums[places], squared=True)
    m, total = len(places), distance[places].sum()
    unit = total / max(m * (m - 1), 1) or 1.0
    alphas, best = ALPHAS if alpha == "auto" else [alpha], (inf,)
    for g in GAMMAS if gamma == "auto" else [gamma]:
        kernel = np.exp(-g / unit * distance)
        fits = _dual(kernel, rest, alphas) if m == n else _nystroem(kernel, places, rest, alphas)
        for a, weights, error in fits:
            if error < (1 - CLOSE) * best[0]:  # of equal ones the first
                best = error, g / unit, a, sums[places], weights
    return best[1:]


def _dual(kernel, rest, alphas):
    """Weights of all sums under each penalty, and the sum of squared leave-one-out errors."""
    values, vectors = np.linalg.eigh(kernel)
    for a in alphas:
        inverse = (vectors / (np.maximum(values, 0) + a)) @ vectors.T
        weights = inverse @ rest
        yield a, weights, float(((weights / inverse.diagonal()[:, None]) ** 2).sum())


def _nystroem(kernel, places, rest, alphas):
    """The same of landmarks, whose kernels span all functions, (n_sums, n_landmarks)."""
    values, root = np.linalg.eigh(kernel[places])
    kept = values > SPANNED * values[-1]
    root = root[:, kept] / np.sqrt(values[kept])
    features = kernel @ root
    values, axes = np.linalg.eigh(features.T @ features)
    features, root = features @ axes, root @ axes
    product = features.T @ rest
    for a in alphas:
        shrunk = 1 / (np.maximum(values, 0) + a)
        left = rest - features @ (shrunk[:, None] * product)
        leverage = (features**2) @ shrunk
        error = float(((left / (1 - leverage)[:, None]) ** 2).sum())
        yield a, root @ (shrunk[:, None] * product), error


def packed(X):
    """Cells as plain arrays, which can be written to files."""
    return (X.data, X.indices, X.indptr, X.shape[1]) if issparse(X) else X


def unpacked(packed):
    """Cells as they were before they were packed for a file."""
    if not isinstance(packed, tuple):
        return packed
    *arrays, n_genes = packed
    return csr_array(tuple(arrays), shape=(len(arrays[-1]) - 1, n_genes))


def shifted(cells, effect):
    """Dense cells with an effect added, float32."""
    cells = cells.toarray() if issparse(cells) else cells
    return (cells + effect).astype(np.float32)
