"""The check of expression that every public method passes through."""

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils import gen_batches
from sklearn.utils.validation import validate_data

from ..exceptions import warn_of_data
from .expression import by_name, check_same_cells, read_expression

LARGEST_LOG = 25.0  # of log-normalised expression; log2(1 + x) of 30 million
MOST_COUNTS = 1e12  # of a gene in a cell
FEW = 50  # so many values may all be whole by chance


def check_cells(
    estimator, X, *, counts, layer=None, reset=False, design=None, dtype=np.float32, least=None
):
    """Expression, dense or CSR, checked against what ``estimator`` was fitted on.

    Parameters
    ----------
    estimator : estimator
        Gets ``n_features_in_`` and ``feature_names_in_`` if ``reset``, else is compared.
    X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
        Expression; anything with ``X``, ``layers`` and ``var_names`` is read as AnnData is. Where
        both X and the training data have names of genes, columns are taken by name: their order
        does not matter, and genes that were not trained on are left out.
    counts : bool or None
        Whether the values must be counts: not negative, and whole (else one warning). If not,
        one warning is given where they look like counts. None warns of neither.
    layer : str or None, default=None
        Layer of an AnnData that holds the expression; None is its ``X``, "raw" its ``raw``.
    reset : bool, default=False
        True in ``fit``.
    design : object, default=None
        Design A of the same cells, whose names of cells must be those of X, if both have any.
    dtype : dtype or tuple of dtypes, default=float32
        As in :func:`sklearn.utils.check_array`.
    least : int or None, default=None
        Least number of cells; None is 2 in ``fit`` and 1 elsewhere.

    Returns
    -------
    X : {ndarray, csr_matrix} of shape (n_cells, n_genes)
        Expression; CSR is canonical.

    Raises
    ------
    ValueError
        For negative counts, NaN, infinity, a malformed sparse structure, duplicate names of
        genes, genes of ``fit`` that are missing, names of cells that are not those of the
        design, or no such layer.
    TypeError
        If X is not a container of expression.
    """
    least = 1 + reset if least is None else least
    if isinstance(X, pd.DataFrame) and not reset and hasattr(estimator, "feature_names_in_"):
        trained = X.columns.map(str).isin(estimator.feature_names_in_)
        X = X.loc[:, trained] if trained.any() else X  # others may hold anything
    values, genes, _ = read_expression(X, layer, dtype=dtype, least=least, estimator=estimator)
    check_same_cells(X, design)
    if genes is not None and not reset and hasattr(estimator, "feature_names_in_"):
        owner = f"that {type(estimator).__name__} was fitted on"
        values = by_name(values, genes, estimator.feature_names_in_, owner)
        genes = estimator.feature_names_in_
    labelled = values if genes is None else pd.DataFrame(columns=genes)
    validate_data(estimator, labelled, reset=reset, skip_check_array=True)
    if counts:
        _check_counts(values, type(estimator).__name__)
    elif counts is not None:
        warn_unless_logs(values, f"{type(estimator).__name__} expects log-normalised expression")
    return values


def warn_unless_logs(values, expectation):
    """One warning if values look like counts, or like what no logarithm reaches.

    Values with a negative one among them, such as scaled expression, are neither.
    """
    values = values.data if issparse(values) else values
    if not values.size or values.max() <= 1 or values.min() < 0:
        return
    largest = values.max()
    if fractional(values, first_only=True)[0] or np.count_nonzero(values) < FEW:
        if largest <= LARGEST_LOG:
            return
        seen = f"expression before the logarithm: the largest value is {largest:g}"
    else:
        seen = f"raw counts: all values are whole, the largest is {largest:g}"
    warn_of_data(f"X looks like {seen}, but {expectation}: log-normalise it, as LogNormalize does")


def warn_if_logs(values, expectation):
    """One warning if values look like logarithms where counts are expected."""
    values = values.data if issparse(values) else values
    if not values.size or values.min() < 0 or values.max() > LARGEST_LOG:
        return
    n_fractional, example = fractional(values, first_only=True)
    if n_fractional:
        warn_of_data(
            f"X looks like log-normalised expression: it has values that are not whole, such as "
            f"{example:g}, and none above {values.max():g}, but {expectation}"
        )


def _check_counts(values, name):
    stored = values.data if issparse(values) else values
    if stored.size and stored.min() < 0:
        row = int((values < 0).nonzero()[0][0])
        raise ValueError(
            f"Negative values in data passed to {name}: the smallest is {stored.min():g}, the "
            f"first in row {row}. Give raw counts, or set likelihood='normal'."
        )
    if stored.max(initial=0) > MOST_COUNTS:
        raise ValueError(
            f"X holds {stored.max():g} as a count, more than {MOST_COUNTS:g}, which no experiment "
            f"has and {name} cannot compute with: look where it comes from"
        )
    n_fractional, example = fractional(stored)
    if n_fractional:
        warn_of_data(
            f"X holds values that are not whole, such as {example:g} "
            f"({n_fractional / stored.size:.0%} of those stored): {name} expects raw counts; for "
            "normalised expression set likelihood='normal'"
        )
    empty = np.flatnonzero(_library_size(values) == 0)
    if len(empty):
        warn_of_data(
            f"{len(empty)} of {values.shape[0]} cells have no counts, the first is row "
            f"{empty[0]}: they stay and carry no information"
        )


def fractional(values, *, first_only=False):
    """How many values are not whole, and the first of them; a block at a time, to save memory."""
    n_found, first = 0, None
    for rows in gen_batches(max(len(values), 1), max(2**18 // max(values[:1].size, 1), 1)):
        block = values[rows]
        found = block[block != np.floor(block)]
        if len(found) and first is None:
            first = found[0]
        n_found += len(found)
        if first_only and n_found:
            break
    return n_found, first


def median_library_size(X):
    """Median total of the cells that have counts; 1 where none has."""
    library_size = _library_size(X)
    counted = library_size[library_size > 0]
    return float(np.median(counted)) if len(counted) else 1.0


def log_normalised(X, target_sum):
    """``log1p(target_sum * x / x.sum())`` of validated counts, dense or CSR."""
    library_size = _library_size(X)
    factor = target_sum / np.where(library_size > 0, library_size, 1)
    factor = factor.astype(X.dtype)
    if not issparse(X):
        return np.log1p(X * factor[:, None])
    X_log = X.copy()
    X_log.data = np.log1p(X.data * np.repeat(factor, np.diff(X.indptr)))
    return X_log


def _library_size(X):
    """Total of each cell, (n_cells,) float64."""
    return np.asarray(X.sum(axis=1, dtype=np.float64)).ravel()
