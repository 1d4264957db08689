"""Expression of cells for metrics that depend on what its values are."""

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.utils import gen_batches

from .._input.cells import warn_if_logs, warn_unless_logs
from .._input.expression import check_same_cells
from ._effect_agreement import log_relative_counts
from ._expression import MAX_ELEMENTS, read_genes

NO_LOG = 100.0  # nothing has so many molecules


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


def group_means(X, codes, n_groups, transform):
    """Mean of transformed expression over the cells of each group, (n_groups, n_genes)."""
    total = np.zeros((n_groups, X.shape[1]))
    for rows in gen_batches(X.shape[0], max(MAX_ELEMENTS // X.shape[1], 1)):
        Y = transform(X[rows])
        members = codes[rows], np.arange(Y.shape[0])
        total += dense(csr_array((np.ones(Y.shape[0]), members), (n_groups, Y.shape[0])) @ Y)
    return total / np.bincount(codes, minlength=n_groups)[:, None]


def dense(values):
    """Array of a sparse matrix or an array."""
    return values.toarray() if issparse(values) else values
