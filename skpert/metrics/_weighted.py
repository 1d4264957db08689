"""Errors that weigh each gene by how clearly the perturbation moves it."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.metrics import r2_score

from .._input.values import listed, text
from ..exceptions import warn_of_data
from ._profiles import aggregated, in_order, read_differences, read_profiles
from .cells import as_logarithms, dense, group_blocks, read_cells, read_conditions


def response_weights(
    X,
    A,
    *,
    space: str,
    control="control",
    sep: str | None = "+",
    perturbation: str | None = "perturbation",
    layer: str | None = None,
) -> pd.DataFrame:
    """Weight of each gene for each perturbation, a row summing to one.

    The absolute Welch t statistic of the perturbation's cells against all others, controls and
    other perturbations alike, is scaled to [0, 1] over genes and squared [1]_. Genes that all
    perturbations move weigh little.

    Parameters
    ----------
    X, A : as in :func:`differential_expression`
        Measured expression and its design.
    space : {"counts", "lognorm"}
        What X holds. Counts are made log2 of one plus counts per ten thousand; normalised
        logarithms are taken as they are.
    control, sep, perturbation, layer : str or None
        As in :func:`differential_expression`. Untreated cells get no row.

    Returns
    -------
    weights : DataFrame of shape (n_conditions, n_genes)
        Rows by label, sorted; genes by name where X has names.

    Raises
    ------
    ValueError
        If the space is unknown, lengths differ, counts are negative, or no perturbation has two
        cells.

    Warns
    -----
    DataWarning
        If perturbations of one cell, whose variance is unknown, are left out.

    References
    ----------
    .. [1] Mejia et al., Diversity by design: addressing mode collapse improves scRNA-seq
       perturbation modeling on well-calibrated metrics, arXiv:2506.22641, 2025.

    Examples
    --------
    >>> from skpert.metrics import response_weights
    >>> X = [[0, 1, 3], [1, 2, 3], [4, 1, 2], [5, 2, 3]]
    >>> A = ["control", "control", "JAK2", "JAK2"]
    >>> response_weights(X, A, space="lognorm").round(3)
                     0    1     2
    perturbation
    JAK2          0.97  0.0  0.03
    """
    X, genes = read_cells(X, space, layer, design=A)
    codes, names = read_conditions(X, A, control=control, sep=sep, perturbation=perturbation)
    total, squares = _moments(X, codes, len(names), space)
    n_cells = np.bincount(codes)[:, None]
    treated = names != text(control)
    single = treated & (n_cells[:, 0] == 1)
    if single.any():
        warn_of_data(
            f"Perturbations with one cell only ({single.sum()}), left out because a variance "
            f"needs two: {listed(names[single], 5)}"
        )
    rows = treated & ~single
    if not rows.any() or len(names) < 2 or len(codes) - n_cells[rows].max() < 2:
        raise ValueError("weights need a perturbation of two cells or more, and two other cells")
    t = np.abs(_welch(total[rows], squares[rows], n_cells[rows], total, squares, len(codes)))
    index = pd.Index(names[rows], name="perturbation")
    return pd.DataFrame(_squared_ranges(t), index=index, columns=genes)


def weighted_mse(true, predicted, weights, *, aggregate=None) -> Any:
    """Weighted mean squared error of profiles over genes, at least 0; lower is better.

    With :func:`response_weights` the genes that distinguish a perturbation from the others count
    most, so that a prediction of the mean response, which has a low :func:`response_mse`, scores
    badly (Mejia et al., arXiv:2506.22641).

    Parameters
    ----------
    true, predicted : as in :func:`response_mse`
        Measured and predicted profiles.
    weights : {array-like, DataFrame} of shape (n_perturbations, n_genes), or array-like of \
            shape (n_genes,)
        Not negative; scaled to sum to one for each perturbation. A weight of zero leaves a gene
        out. Matched by name if ``true`` is a DataFrame too.
    aggregate : as in :func:`response_mse`
        The average.

    Returns
    -------
    mse : Series of shape (n_perturbations,) or float
        In squared units of the profiles.

    Raises
    ------
    ValueError
        As :func:`response_mse`, and if weights are negative, missing or all zero.

    Examples
    --------
    >>> from skpert.metrics import weighted_mse
    >>> weighted_mse([[1, 2]], [[1, 4]], [3, 1]).tolist()
    [1.0]
    """
    profiles = read_profiles(true, predicted)
    errors = (profiles.true - profiles.predicted) ** 2
    scores = (read_weights(weights, profiles) * errors).sum(1)
    return aggregated(pd.Series(scores, index=profiles.names, name="weighted_mse"), aggregate)


def weighted_r2(true, predicted, weights, *, reference, aggregate=None) -> Any:
    """Weighted R2 of responses over genes, at most 1; higher is better.

    0 is as good as the weighted mean of the response, the same for all genes. From the same source
    as :func:`weighted_mse`.

    Parameters
    ----------
    true, predicted, weights : as in :func:`weighted_mse`
        Measured and predicted profiles, and the weights of genes.
    reference : array-like of shape (n_genes,) or (n_perturbations, n_genes), or float
        What is subtracted from both, as in :func:`delta_pearson`: the mean of all perturbations,
        or of controls.
    aggregate : as in :func:`response_mse`
        The average.

    Returns
    -------
    r2 : Series of shape (n_perturbations,) or float
        NaN where the measured response is constant over the genes with weight.

    Raises
    ------
    ValueError
        As :func:`weighted_mse`, and if the reference fits no profile.

    Examples
    --------
    >>> from skpert.metrics import weighted_r2
    >>> weighted_r2([[1, 2, 5]], [[1, 2, 9]], [1, 1, 0], reference=0).tolist()
    [1.0]
    """
    profiles = read_differences(true, predicted, reference)
    rows = zip(profiles.true, profiles.predicted, read_weights(weights, profiles), strict=True)
    scores = [
        r2_score(true, predicted, sample_weight=w) if np.ptp(true[w > 0]) else np.nan
        for true, predicted, w in rows
    ]
    return aggregated(pd.Series(scores, index=profiles.names, name="weighted_r2"), aggregate)


def read_weights(weights, profiles):
    """Weights that sum to one for each perturbation, (n_perturbations, n_genes)."""
    if isinstance(weights, pd.DataFrame):
        weights = in_order(weights, profiles, "weights")
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape not in (profiles.true.shape[1:], profiles.true.shape):
        raise ValueError(
            f"weights have shape {weights.shape}, but must have that of the profiles, "
            f"{profiles.true.shape}, or of one of them"
        )
    weights = np.broadcast_to(weights, profiles.true.shape)
    total = weights.sum(1, keepdims=True)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (total > 0).all()):
        raise ValueError("weights must be finite and not negative, and not all zero in a row")
    return weights / total


def _moments(X, codes, n_groups, space):
    """Sums of values and of squares over the cells of each group, (n_groups, n_genes) each."""
    total, squares = np.zeros((2, n_groups, X.shape[1]))
    for cells, found, groups in group_blocks(X, codes):
        Y = as_logarithms(cells, space)
        total[found] += dense(groups @ Y)
        squares[found] += dense(groups @ (Y.power(2) if issparse(Y) else Y**2))
    return total, squares


def _welch(total, squares, n, all_totals, all_squares, n_cells):
    """Welch's t of each group against all other cells; 0 where nothing differs."""
    total_rest, squares_rest = all_totals.sum(0) - total, all_squares.sum(0) - squares
    mean, mean_rest = total / n, total_rest / (n_cells - n)
    difference = mean - mean_rest
    difference[np.abs(difference) <= 1e-12 * (np.abs(mean) + np.abs(mean_rest))] = 0  # rounding
    error = _squared_error(total, squares, n)
    error += _squared_error(total_rest, squares_rest, n_cells - n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = difference / np.sqrt(error)
    return np.nan_to_num(t, nan=0)  # a difference without any variance: the largest float


def _squared_error(total, squares, n):
    """Squared standard error of a mean, from sums."""
    return np.maximum(squares - total**2 / n, 0) / (n * (n - 1))


def _squared_ranges(t):
    """Absolute t scaled to [0, 1] over genes, squared, and scaled to sum to one."""
    lowest, highest = t.min(1, keepdims=True), t.max(1, keepdims=True)
    spread = np.where(highest > lowest, highest - lowest, 1)
    weights = np.where(highest > lowest, (t - lowest) / spread, 1) ** 2
    return weights / weights.sum(1, keepdims=True)
