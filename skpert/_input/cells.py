"""The check of expression that every public method passes through."""

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils import gen_batches
from sklearn.utils.validation import validate_data

from ..exceptions import warn_of_data
from .expression import LARGEST_SINGLE, by_name, check_same_cells, read_expression, read_matrix
from .stored import StoredRows, is_path, opened_file

LARGEST_LOG = 25.0  # of log-normalised expression; log2(1 + x) of 30 million
MOST_COUNTS = 1e12  # of a gene in a cell
FEW = 50  # so many values may all be whole by chance


def check_cells(
    estimator,
    X,
    *,
    counts: bool | None,
    layer: str | None = None,
    reset: bool = False,
    design=None,
    dtype=np.float32,
    least: int | None = None,
    memory: str = "load",
):
    """Expression, dense, CSR or on disk, checked against what ``estimator`` was fitted on.

    Parameters
    ----------
    estimator : estimator
        Gets ``n_features_in_`` and ``feature_names_in_`` if ``reset``, else is compared.
    X : {array-like, sparse matrix, DataFrame, AnnData, path} of shape (n_cells, n_genes)
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
    memory : {"auto", "load", "stream"}, default="load"
        What becomes of expression on disk, as in the estimators.

    Returns
    -------
    X : {ndarray, csr_matrix, StoredRows} of shape (n_cells, n_genes)
        Expression; CSR is canonical, and what stays on disk was read once.

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
    X = opened_file(X) if is_path(X) else X
    options = {"dtype": dtype, "least": least, "estimator": estimator}
    values, genes, _ = read_expression(X, layer, memory=memory, **options)
    check_same_cells(X, design)
    if genes is not None and not reset and hasattr(estimator, "feature_names_in_"):
        owner = f"that {type(estimator).__name__} was fitted on"
        values = by_name(values, genes, estimator.feature_names_in_, owner)
        genes = estimator.feature_names_in_
    labelled = values if genes is None else pd.DataFrame(columns=genes)
    validate_data(estimator, labelled, reset=reset, skip_check_array=True)
    seen = Seen(counts)
    if isinstance(values, StoredRows):
        _read_through(values, seen, options)
    elif counts is not None:
        seen.add(values)
    if counts:
        _check_counts(seen, type(estimator).__name__)
    elif counts is not None:
        _check_logs(seen, f"{type(estimator).__name__} expects log-normalised expression")
    return values


def _read_through(rows, seen, options):
    """See all blocks of rows on disk, and keep the sums of rows."""
    totals = []
    for start, stop in rows.places():
        options = options | ({"least": 1} if start else {})
        block = read_matrix(
            rows.block(start, stop), "X", accept_sparse=True, largest=LARGEST_SINGLE, **options
        )
        block = block if rows.columns is None else block[:, rows.columns]
        seen.add(block)
        totals.append(_library_size(block))
    rows.totals = np.concatenate(totals)


class Seen:
    """What is known of values, which may come in blocks of rows.

    Parameters
    ----------
    counts : bool or None
        Whether all values that are not whole are counted, or one of them is enough.
    """

    def __init__(self, counts):
        self.counts, self.smallest, self.largest = counts, np.inf, -np.inf
        self.n_stored = self.n_fractional = self.n_nonzero = self.n_empty = self.n_rows = 0
        self.example = self.negative_row = self.empty_row = None

    def add(self, values):
        """See a block."""
        stored = values.data if issparse(values) else values
        if stored.size:
            self.smallest = min(self.smallest, stored.min())
            self.largest = max(self.largest, stored.max())
        if self.negative_row is None and self.smallest < 0:
            self.negative_row = self.n_rows + int((values < 0).nonzero()[0][0])
        if self.counts or not self.n_fractional:
            n_found, example = fractional(stored, first_only=not self.counts)
            self.example = example if self.example is None else self.example
            self.n_fractional += n_found
        if self.counts:
            empty = np.flatnonzero(_library_size(values) == 0)
            if len(empty) and not self.n_empty:
                self.empty_row = self.n_rows + int(empty[0])
            self.n_empty += len(empty)
        elif not self.n_fractional:
            self.n_nonzero += np.count_nonzero(stored)
        self.n_rows += values.shape[0]
        self.n_stored += stored.size


def warn_unless_logs(values, expectation):
    """One warning if values look like counts, or like what no logarithm reaches.

    Values with a negative one among them, such as scaled expression, are neither.
    """
    seen = Seen(counts=False)
    seen.add(values)
    _check_logs(seen, expectation)


def _check_logs(seen, expectation):
    largest = seen.largest
    if not seen.n_stored or largest <= 1 or seen.smallest < 0:
        return
    if seen.n_fractional or seen.n_nonzero < FEW:
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


def _check_counts(seen, name):
    if seen.negative_row is not None:
        raise ValueError(
            f"Negative values in data passed to {name}: the smallest is {seen.smallest:g}, the "
            f"first in row {seen.negative_row}. Give raw counts, or set likelihood='normal'."
        )
    if seen.largest > MOST_COUNTS:
        raise ValueError(
            f"X holds {seen.largest:g} as a count, more than {MOST_COUNTS:g}, which no experiment "
            f"has and {name} cannot compute with: look where it comes from"
        )
    if seen.n_fractional:
        warn_of_data(
            f"X holds values that are not whole, such as {seen.example:g} "
            f"({seen.n_fractional / seen.n_stored:.0%} of those stored): {name} expects raw "
            "counts; for normalised expression set likelihood='normal'"
        )
    if seen.n_empty:
        warn_of_data(
            f"{seen.n_empty} of {seen.n_rows} cells have no counts, the first is row "
            f"{seen.empty_row}: they stay and carry no information"
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
