"""Measured effects of perturbations on expression."""

import warnings

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, issparse
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_consistent_length

from .._input.cells import warn_if_logs
from .._input.expression import check_same_cells, read_expression
from .._input.values import text
from ..exceptions import DataWarning
from ..preprocessing import perturbation_labels
from ._effect_agreement import log_relative_counts

MAX_ELEMENTS = 2**22  # entries of X that are transformed at once


def differential_expression(
    X,
    A,
    *,
    control="control",
    method="perturbseq",
    sep="+",
    perturbation="perturbation",
    layer=None,
):
    """Measured effect of each perturbation on each gene: mean of its cells minus that of controls.

    Parameters
    ----------
    X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
        Expression: raw counts for "perturbseq". Sparse stays sparse.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Design, in the forms that :func:`skpert.preprocessing.perturbation_labels` takes. A
        combination is a condition of its own.
    control : str, default="control"
        Label of untreated cells.
    method : {"perturbseq", "mean"}, default="perturbseq"
        What is averaged over cells: ``log2(1 + 1e4 * x / x.sum())``, so that effects are log2
        fold changes where expression is high, or ``x`` as it is.
    sep : str or None, default="+"
        What joins the names of a combination.
    perturbation : str, default="perturbation"
        Column of the labels, where the design is a DataFrame.
    layer : str or None, default=None
        Layer of an AnnData that holds the expression; None is its ``X``.

    Returns
    -------
    effect : DataFrame of shape (n_conditions, n_genes)
        Rows by label, sorted, without the control; genes by name where X has names.

    Raises
    ------
    ValueError
        If there are no control cells or no others, if the lengths of X and A differ, or if X has
        NaN, infinite or, for "perturbseq", negative values.

    Warns
    -----
    DataWarning
        If "perturbseq" leaves out cells without counts, whose share of a gene is undefined, and
        with them conditions that have no other cells.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023, section 5.

    Examples
    --------
    >>> from skpert.metrics import differential_expression
    >>> X = [[1, 3, 6], [0, 5, 5], [4, 4, 2], [2, 2, 0]]
    >>> A = ["control", "control", "JAK2", "JAK2"]
    >>> differential_expression(X, A).round(2)
                     0     1     2
    perturbation
    JAK2          7.14  0.21 -6.94
    """
    if method not in ("perturbseq", "mean"):
        raise ValueError(f"method must be 'perturbseq' or 'mean', got {method!r}")
    check_same_cells(X, A)
    X, genes = read_genes(X, layer)
    if method == "perturbseq":
        warn_if_logs(X, "method='perturbseq' takes raw counts; method='mean' takes logs")
    labels = perturbation_labels(A, control=control, sep=sep, perturbation=perturbation)
    check_consistent_length(X, labels)
    codes, conditions = pd.factorize(labels, sort=True)
    total, n_cells = _group_sums(X, codes, len(conditions), method)
    conditions = pd.Index(conditions, name="perturbation")
    _warn_of_empty_cells(len(codes) - int(n_cells.sum()), len(codes), conditions[n_cells == 0])
    means = pd.DataFrame(
        total[n_cells > 0] / n_cells[n_cells > 0, None],
        index=conditions[n_cells > 0],
        columns=genes,
    )
    control = text(control)
    if control not in means.index:
        raise ValueError(
            f"no cell with counts has the control label {control!r}: name the label of untreated "
            "cells by `control`"
        )
    if len(means) == 1:
        raise ValueError("there is no effect to measure: no cell with counts is perturbed")
    return means.drop(control) - means.loc[control]


def read_genes(X, layer=None, name="X"):
    """Validated expression, dense or CSR, and the names of genes or their numbers."""
    values, genes, _ = read_expression(X, layer, name=name)
    return values, pd.RangeIndex(values.shape[1]) if genes is None else genes


def _group_sums(X, codes, n_groups, method):
    """Sum of transformed expression over the cells of each group, and their number."""
    total, n_cells = np.zeros((n_groups, X.shape[1])), np.zeros(n_groups)
    for rows in gen_batches(X.shape[0], max(MAX_ELEMENTS // X.shape[1], 1)):
        if method == "mean":
            Y, counted = X[rows].astype(np.float64), np.ones(len(codes[rows]), dtype=bool)
        else:
            Y, counted = log_relative_counts(X[rows])
        members = codes[rows], np.arange(len(counted))
        groups = csr_array((counted.astype(np.float64), members), (n_groups, len(counted)))
        sums = groups @ Y
        total += sums.toarray() if issparse(sums) else sums
        n_cells += groups.sum(1)
    return total, n_cells


def _warn_of_empty_cells(n_empty, n_cells, lost):
    if not n_empty:
        return
    message = f"{n_empty} of {n_cells} cells have no counts and are left out"
    if len(lost):
        message += f"; {len(lost)} conditions have no other cells, such as {lost[0]!r}"
    warnings.warn(message, DataWarning, stacklevel=3)
