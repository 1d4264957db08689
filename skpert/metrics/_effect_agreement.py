"""Agreement of predicted with measured effects of perturbations on expression."""

from numbers import Integral

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from .._input.expression import LARGEST, read_matrix

SCALE = 1e4  # counts that every cell is scaled to before the logarithm


def ate_pearson(effect_true, effect, *, top=None, average="pooled"):
    """Pearson correlation of predicted with measured effects, in [-1, 1]; higher is better.

    Pooled over perturbations and genes, as published, it asks for the pattern of effects, with
    the strong perturbations counting most; it is blind to a common scale and offset, which
    :func:`ate_r2` is not.

    Parameters
    ----------
    effect_true : {array-like, DataFrame} of shape (n_perturbations, n_genes)
        Measured effects, such as those of :func:`differential_expression`.
    effect : {array-like, DataFrame} of shape (n_perturbations, n_genes)
        Predicted effects, such as :func:`skpert.inspection.average_treatment_effect` gives. If
        both are DataFrames, the rows and columns of ``effect_true`` are looked up in ``effect``
        by name, which may have more; else they are in the same order.
    top : int or None, default=None
        Only the ``top`` genes with the largest ``|effect_true|`` of each perturbation count; 20
        in publications. None: all genes.
    average : {"pooled", "perturbation"}, default="pooled"
        One correlation over all perturbations and genes, or one over genes for each perturbation.

    Returns
    -------
    r : float or Series of shape (n_perturbations,)
        A number if pooled. NaN where either side is constant, so that nothing can correlate.

    Raises
    ------
    ValueError
        If shapes differ, names are missing or not unique, values are missing or infinite, or
        ``top`` is not from 1 to the number of genes.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023, Table 1 and Figure 3.

    Examples
    --------
    >>> from skpert.metrics import ate_pearson
    >>> effect_true = [[1, 2, 3], [0, -4, 1]]
    >>> round(ate_pearson(effect_true, [[2, 4, 6], [0, -8, 2]]), 6)
    1.0
    >>> ate_pearson(effect_true, [[3, 2, 1], [0, -4, 1]], average="perturbation").round(6).tolist()
    [-1.0, 1.0]
    """
    return _agreement(_pearson, "ate_pearson", effect_true, effect, top, average)


def ate_r2(effect_true, effect, *, top=None, average="pooled"):
    """R2, the share of variance of measured effects predicted, at most 1; higher is better.

    Unlike :func:`ate_pearson` it sees the scale of effects: 0 is as good as the mean effect for
    all, and predictions that are too strong score below.

    Parameters
    ----------
    effect_true : {array-like, DataFrame} of shape (n_perturbations, n_genes)
        Measured effects, the truth here.
    effect : {array-like, DataFrame} of shape (n_perturbations, n_genes)
        Predicted effects, matched by name if both are DataFrames.
    top : int or None, default=None
        Only the ``top`` genes with the largest ``|effect_true|`` of each perturbation count.
    average : {"pooled", "perturbation"}, default="pooled"
        One number over all perturbations and genes, or one over genes for each perturbation.

    Returns
    -------
    r2 : float or Series of shape (n_perturbations,)
        A number if pooled. NaN where ``effect_true`` is constant.

    Raises
    ------
    ValueError
        As :func:`ate_pearson`.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023.

    Examples
    --------
    >>> from skpert.metrics import ate_r2
    >>> ate_r2([[1, 2, 3]], [[1, 2, 3]]), ate_r2([[1, 2, 3]], [[2, 2, 2]])
    (1.0, 0.0)
    """
    return _agreement(_r2, "ate_r2", effect_true, effect, top, average)


def log_relative_counts(X):
    """Log2 of one plus counts per ten thousand, and which cells have counts.

    Parameters
    ----------
    X : {ndarray, sparse CSR} of shape (n_cells, n_genes)
        Counts.

    Returns
    -------
    Y : {ndarray, sparse CSR} of shape (n_cells, n_genes)
        Float64; cells without counts are zero.
    counted : ndarray of shape (n_cells,), bool
        Whether the cell has counts.

    Raises
    ------
    ValueError
        If a value is negative.
    """
    X = X.astype(np.float64)
    values = X.data if issparse(X) else X
    if values.size and values.min() < 0:
        raise ValueError(
            f"method='perturbseq' takes logarithms of counts, and the smallest value is "
            f"{values.min():g}: use method='mean' for expression that can be negative"
        )
    total = np.asarray(X.sum(1)).ravel()
    factor = SCALE / np.where(total > 0, total, 1)
    if issparse(X):
        X.data = np.log2(1 + X.data * np.repeat(factor, np.diff(X.indptr)))
        return X, total > 0
    return np.log2(1 + X * factor[:, None]), total > 0


def _agreement(score, name, effect_true, effect, top, average):
    """Score of all values, or of each row, in the order (true, predicted)."""
    if average not in ("pooled", "perturbation"):
        raise ValueError(f"average must be 'pooled' or 'perturbation', got {average!r}")
    true, predicted, rows = _aligned(effect_true, effect)
    n_genes = true.shape[1]
    if top is not None:
        if not isinstance(top, Integral) or not 1 <= top <= n_genes:
            raise ValueError(f"top must be an integer from 1 to n_genes={n_genes}, got {top!r}")
        largest = np.argsort(-np.abs(true), axis=1, kind="stable")[:, :top]
        true = np.take_along_axis(true, largest, 1)
        predicted = np.take_along_axis(predicted, largest, 1)
    if average == "pooled":
        return score(true.ravel(), predicted.ravel())
    scores = [score(t, p) for t, p in zip(true, predicted, strict=True)]
    return pd.Series(scores, index=rows, name=name)


def _aligned(effect_true, effect, names=("effect_true", "effect")):
    """Both as arrays with the same rows and columns, and the names of rows."""
    rows = None
    if isinstance(effect_true, pd.DataFrame):
        rows = effect_true.index
        if isinstance(effect, pd.DataFrame):
            for axis, what in enumerate(("perturbations", "genes")):
                _check_names(effect_true.axes[axis], effect.axes[axis], what, names)
            effect = effect.loc[rows, effect_true.columns]
    true = read_matrix(effect_true, names[0], largest=LARGEST)
    predicted = read_matrix(effect, names[1], largest=LARGEST)
    if true.shape != predicted.shape:
        raise ValueError(
            f"{names[0]} has shape {true.shape} and {names[1]} {predicted.shape}: they need the "
            "same perturbations and genes; DataFrames are matched by name"
        )
    return true, predicted, rows


def _check_names(wanted, given, what, names):
    if not (wanted.is_unique and given.is_unique):
        raise ValueError(f"names of {what} are not unique, so that effects cannot be matched")
    missing = wanted.difference(given, sort=False)
    if len(missing):
        raise ValueError(
            f"{names[1]} lacks {len(missing)} of {len(wanted)} {what} of {names[0]}, the first "
            f"{missing[0]!r}: leave them out, or give arrays in the same order"
        )


def _pearson(true, predicted):
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return np.nan
    true, predicted = true - true.mean(), predicted - predicted.mean()
    r = true @ predicted / (np.linalg.norm(true) * np.linalg.norm(predicted))
    return float(np.clip(r, -1, 1))


def _r2(true, predicted):
    if np.ptp(true) == 0:
        return np.nan
    return float(1 - np.sum((true - predicted) ** 2) / np.sum((true - true.mean()) ** 2))
