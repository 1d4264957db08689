"""Contexts of cells: cell line, donor or patient, as columns of a design frame name them."""

import numpy as np
import pandas as pd

from .values import as_design, as_list, check_columns, factors, listed

JOIN = ", "  # between the values of several columns


def context_labels(A, context):
    """One label per cell that joins what these columns say of it.

    Parameters
    ----------
    A : DataFrame of shape (n_cells, n_columns)
        Design frame; any form if ``context`` is None.
    context : str, list of str or None
        Columns of categories. None: all cells have the label "".

    Returns
    -------
    labels : ndarray of shape (n_cells,) and dtype object
        Such as "D1, B cell".

    Raises
    ------
    ValueError
        If A is no frame, lacks a column, or has missing values in one.
    """
    columns, frame = as_list(context), as_design(A)
    if not columns:
        return np.full(frame.shape[0], "", dtype=object)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            f"contexts are columns of a design frame, {listed(columns, 5)}, and A is of type "
            f"{type(A).__name__}: give a DataFrame such as adata.obs"
        )
    check_columns(frame, columns)
    parts = []
    for column in columns:
        codes, texts = factors(frame[column], f"Context {column!r} must hold text or numbers")
        if (codes < 0).any():
            raise ValueError(
                f"{(codes < 0).sum()} of {len(codes)} values of the context {column!r} are "
                f"missing, the first in row {np.flatnonzero(codes < 0)[0]}: leave these cells out"
            )
        parts.append(np.array(texts, dtype=object)[codes])
    labels = np.empty(len(frame), dtype=object)
    labels[:] = [JOIN.join(row) for row in zip(*parts, strict=True)]
    return labels
