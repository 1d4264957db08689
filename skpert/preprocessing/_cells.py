"""The check of expression that every public method passes through."""

import warnings

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import validate_data

from ..exceptions import DataWarning


def check_cells(estimator, X, *, counts, layer=None, reset=False):
    """Expression as float32, dense or CSR, checked against what ``estimator`` was fitted on.

    Parameters
    ----------
    estimator : estimator
        Gets ``n_features_in_`` and ``feature_names_in_`` if ``reset``, else is compared.
    X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
        Expression; sparse matrices of any format become CSR. Anything with ``X``, ``layers``
        and ``var_names`` is read as AnnData is.
    counts : bool
        Whether the values must be counts: not negative, and whole (else one warning).
    layer : str or None, default=None
        Layer of an AnnData that holds the expression; None is its ``X``.
    reset : bool, default=False
        True in ``fit``.

    Returns
    -------
    X : {ndarray, csr_matrix} of shape (n_cells, n_genes)
        Expression, float32.

    Raises
    ------
    ValueError
        For negative counts, NaN, infinity, other genes than in ``fit``, or no such layer.
    """
    labelled, values = X, X
    if hasattr(X, "var_names") and hasattr(X, "layers"):
        labelled = pd.DataFrame(columns=np.asarray(X.var_names, dtype=object))
        values = _expression(X, layer)
    elif layer is not None:
        raise ValueError(
            f"layer={layer!r} chooses a layer of an AnnData, but X is a {type(X).__name__}: give "
            "the AnnData, or set layer=None"
        )
    values = check_array(
        values,
        accept_sparse="csr",
        dtype=np.float32,
        ensure_min_samples=1 + reset,
        estimator=estimator,
        input_name="X",
    )
    if counts:
        _check_counts(values, type(estimator).__name__)
    validate_data(estimator, labelled, reset=reset, skip_check_array=True)
    return values


def _expression(adata, layer):
    if layer is None:
        return adata.X
    if layer not in adata.layers:
        raise ValueError(f"no layer {layer!r} in X; its layers are {sorted(adata.layers)}")
    return adata.layers[layer]


def _check_counts(X, name):
    values = X.data if sparse.issparse(X) else X
    if values.size and values.min() < 0:
        row = int((X < 0).nonzero()[0][0])
        raise ValueError(
            f"Negative values in data passed to {name}: the smallest is {values.min():g}, the "
            f"first in row {row}. Give raw counts, or set likelihood='normal'."
        )
    n_fractional, example = _fractional(values)
    if n_fractional:
        warnings.warn(
            f"X holds values that are not whole, such as {example:g} "
            f"({n_fractional / values.size:.0%} of those stored): {name} expects raw counts; for "
            "normalised expression set likelihood='normal'",
            DataWarning,
            stacklevel=4,
        )
    empty = np.flatnonzero(np.asarray(X.sum(1)).ravel() == 0)
    if len(empty):
        warnings.warn(
            f"{len(empty)} of {X.shape[0]} cells have no counts, the first is row {empty[0]}: "
            "they stay and carry no information",
            DataWarning,
            stacklevel=4,
        )


def _fractional(values):
    """How many values are not whole, and the first of them; a block at a time, to save memory."""
    n_found, first = 0, None
    for rows in gen_batches(len(values), max(2**18 // max(values[:1].size, 1), 1)):
        block = values[rows]
        found = block[block != np.floor(block)]
        if len(found) and first is None:
            first = found[0]
        n_found += len(found)
    return n_found, first
