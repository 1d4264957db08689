"""Expression of cells: reading it, taking logarithms, and sums over groups of cells."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, issparse
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_consistent_length

from .._input.cells import warn_if_logs, warn_unless_logs
from .._input.design import perturbation_labels
from .._input.expression import check_same_cells, read_expression

MAX_ELEMENTS = 2**22  # entries of X that are transformed at once
NO_LOG = 100.0  # a larger value is no logarithm of expression
SCALE = 1e4  # counts that every cell is scaled to before the logarithm


def read_genes(X, layer=None):
    """Validated expression, dense or CSR, and the names of genes or their numbers."""
    values, genes, _ = read_expression(X, layer)
    return values, pd.RangeIndex(values.shape[1]) if genes is None else genes


def read_cells(X, space, layer=None, *, design=None, measured=True):
    """Validated expression, dense or CSR, and the names of genes or their numbers.

    With a ``design`` the names of its cells must be those of X. One warning is given where
    ``measured`` expression looks like that of the other space.
    """
    if space not in ("counts", "lognorm"):
        raise ValueError(
            f"space must be 'counts' or 'lognorm' (log1p of normalised counts), got {space!r}"
        )
    check_same_cells(X, design)
    X, genes = read_genes(X, layer)
    values = X.data if issparse(X) else X
    if space == "counts" and values.size and values.min() < 0:
        raise ValueError(f"counts cannot be negative, and the smallest value is {values.min():g}")
    if measured:
        warn = warn_if_logs if space == "counts" else warn_unless_logs
        warn(X, f"space={space!r} was given")
    return X, genes


def read_conditions(X, A, *, control, sep, perturbation):
    """Number of the condition of each cell, and the sorted labels of all conditions."""
    labels = perturbation_labels(A, control=control, sep=sep, perturbation=perturbation)
    check_consistent_length(X, labels)
    return pd.factorize(labels, sort=True)


def log_relative_counts(X):
    """Log2 of one plus counts per ten thousand, float64, and which cells have counts.

    Cells without counts are zero. ValueError if a value of ``X``, dense or CSR, is negative.
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


def as_logarithms(X, space):
    """Logarithmic expression in float64; counts as log2 of one plus counts per 10^4."""
    if space == "lognorm":
        return X.astype(np.float64)
    return log_relative_counts(X)[0]


def normalised(X, space):
    """Expression before the logarithm, in float64; counts as counts per 10^4.

    What is below zero, as predicted logarithms can be, is no expression.
    """
    Y = as_logarithms(X, space)
    values = Y.data if issparse(Y) else Y
    if values.max(initial=0) > NO_LOG:
        raise ValueError(
            f"X holds {values.max():g}, which is no logarithm of expression: space='lognorm' "
            "takes log1p of normalised counts; for counts, give space='counts'"
        )
    values[...] = np.expm1(np.maximum(values, 0) * (np.log(2) if space == "counts" else 1))
    return Y


def blocks(X):
    """Slices of cells that are transformed at once."""
    return gen_batches(X.shape[0], max(MAX_ELEMENTS // X.shape[1], 1))


def group_blocks(X, codes):
    """Blocks of cells, each with the groups that have some, and their indicators.

    Indicators have a row for each of these groups, (n_found, n_block).
    """
    for rows in blocks(X):
        found, groups = np.unique(codes[rows], return_inverse=True)
        members = groups, np.arange(len(groups))
        indicators = csr_array((np.ones(len(groups)), members), (len(found), len(groups)))
        yield X[rows], found, indicators


def group_means(X, codes, n_groups, transform):
    """Mean of transformed expression over the cells of each group, (n_groups, n_genes)."""
    total = np.zeros((n_groups, X.shape[1]))
    for cells, found, groups in group_blocks(X, codes):
        total[found] += dense(groups @ transform(cells))
    return total / np.bincount(codes, minlength=n_groups)[:, None]


def dense(values):
    """Array of a sparse matrix or an array."""
    return values.toarray() if issparse(values) else values
