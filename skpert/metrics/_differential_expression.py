"""Differential expression of every gene under every perturbation."""

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from scipy.stats import false_discovery_control, norm
from sklearn.utils import Bunch

from .._input.cells import warn_if_logs
from .._input.expression import check_same_cells
from .._input.values import text
from ..exceptions import warn_of_data
from .cells import (
    as_logarithms,
    dense,
    group_blocks,
    group_means,
    log_relative_counts,
    normalised,
    read_cells,
    read_conditions,
    read_genes,
)


def differential_expression(
    X,
    A,
    *,
    control="control",
    method: str = "perturbseq",
    sep: str | None = "+",
    perturbation: str | None = "perturbation",
    layer: str | None = None,
) -> pd.DataFrame:
    """Measured effect of each perturbation on each gene: mean of its cells minus that of controls.

    As in section 5 of SAMS-VAE (Bereket and Karaletsos, NeurIPS 2023).

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
    sep, perturbation, layer : str or None
        What joins the names of a combination; the column of labels, where the design is a
        DataFrame; the layer of an AnnData that holds the expression, None for its ``X``.

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
    codes, conditions = read_conditions(X, A, control=control, sep=sep, perturbation=perturbation)
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


def de_table(
    X,
    A,
    *,
    space: str,
    control="control",
    sep: str | None = "+",
    perturbation: str | None = "perturbation",
    layer: str | None = None,
    min_control_mean: float = 0.05,
    pseudocount: float = 0.01,
) -> Bunch:
    """Log2 fold changes against controls, and their significance by Wilcoxon's rank-sum test.

    For predicted cells, stack them upon the measured controls: a prediction with controls of its
    own could move every fold change. Compare at equal numbers of cells, which p-values depend on.

    Parameters
    ----------
    X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
        Expression of measured or predicted cells and of measured controls. A cell without counts
        has no expression of any gene.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Design, in the forms that :func:`skpert.preprocessing.perturbation_labels` takes.
    space : {"counts", "lognorm"}
        What X holds: counts, which are scaled to ten thousand in each cell, or natural logarithms
        of one plus normalised counts. In fold changes, logarithms below zero, as predictions can
        be, count as 0.
    control, sep, perturbation, layer : str or None
        As in :func:`differential_expression`.
    min_control_mean : float, default=0.05
        Genes whose mean over controls is not above this are left out, in counts per ten thousand;
        0.05 is 5 per million. Log-normalised values have the unit that they were normalised to.
    pseudocount : float, default=0.01
        Added to both means of a fold change, in the same unit.

    Returns
    -------
    table : Bunch
        DataFrames of shape (n_conditions, n_tested_genes): ``log2_fold_change``, the log2 ratio of
        mean normalised expression to that of controls; ``p_value``, two-sided, by the normal
        approximation with ties and continuity corrected; ``fdr``, p-values adjusted over the genes
        of a perturbation by Benjamini and Hochberg.

    Raises
    ------
    ValueError
        If the space is unknown, lengths differ, counts are negative, logarithms are above 100,
        there are no control cells or no others, or no gene is expressed enough.

    Examples
    --------
    >>> from skpert.metrics import de_table
    >>> X = [[4, 6], [5, 5], [6, 4], [9, 1], [8, 2], [8, 2]]
    >>> A = ["control"] * 3 + ["JAK2"] * 3
    >>> table = de_table(X, A, space="counts")
    >>> table.log2_fold_change.round(2)
                     0     1
    perturbation
    JAK2          0.74 -1.58
    >>> table.fdr.round(3).loc["JAK2"].tolist()
    [0.077, 0.077]
    """
    X, genes = read_cells(X, space, layer, design=A)
    codes, names = read_conditions(X, A, control=control, sep=sep, perturbation=perturbation)
    untreated = np.flatnonzero(names == text(control))
    if not len(untreated) or len(names) == 1:
        raise ValueError(
            f"fold changes need control cells, with the label {control!r}, and other cells: the "
            f"labels are {', '.join(names[:5])}"
        )
    means = group_means(X, codes, len(names), lambda cells: normalised(cells, space))
    tested = np.flatnonzero(means[untreated[0]] > min_control_mean)
    if not len(tested):
        raise ValueError(f"no gene has a mean over controls above {min_control_mean}")
    p_value = _rank_sum_tests(as_logarithms(X, space), codes, untreated[0], tested)
    change = np.log2(means[:, tested] + pseudocount)
    change -= change[untreated]
    rows = np.arange(len(names)) != untreated[0]
    index, columns = pd.Index(names[rows], name="perturbation"), genes[tested]
    found = {
        "log2_fold_change": change[rows],
        "p_value": p_value[rows],
        "fdr": false_discovery_control(p_value[rows], axis=1),
    }
    return Bunch(**{key: pd.DataFrame(part, index, columns) for key, part in found.items()})


def _group_sums(X, codes, n_groups, method):
    """Sum of transformed expression over the cells of each group, and their number."""
    total, n_cells = np.zeros((n_groups, X.shape[1])), np.zeros(n_groups)
    for cells, found, groups in group_blocks(X, codes):
        Y, counted = cells.astype(np.float64), np.ones(cells.shape[0])
        if method == "perturbseq":
            Y, counted = log_relative_counts(cells)
        total[found] += dense(groups @ Y)
        n_cells[found] += groups @ counted
    return total, n_cells


def _warn_of_empty_cells(n_empty, n_cells, lost):
    if n_empty:
        message = f"{n_empty} of {n_cells} cells have no counts and are left out"
        if len(lost):
            message += f"; {len(lost)} conditions have no other cells, such as {lost[0]!r}"
        warn_of_data(message)


def _rank_sum_tests(Y, codes, control, genes):
    """Two-sided p-values of all groups against the control, (n_groups, n_genes)."""
    Y = Y.tocsc() if issparse(Y) else np.asfortranarray(Y)
    n = np.bincount(codes)
    in_control = codes == control
    p_value = np.empty((len(n), len(genes)))
    for j, gene in enumerate(genes):
        values = _column(Y, gene)
        u, ties = _rank_sums(values, codes, n, in_control)
        p_value[:, j] = _p_value(u, ties, n, n[control])
    return p_value


def _column(Y, gene):
    if not issparse(Y):
        return Y[:, gene]
    values, stored = np.zeros(Y.shape[0]), slice(Y.indptr[gene], Y.indptr[gene + 1])
    values[Y.indices[stored]] = Y.data[stored]
    return values


def _rank_sums(values, codes, n, in_control):
    """Mann and Whitney's U of each group against controls, and its sum of t^3 - t over ties.

    The position of a cell among sorted controls gives its share of U, for all groups at once.
    """
    controls = np.sort(values[in_control])
    below, up_to = (np.searchsorted(controls, values, side) for side in ("left", "right"))
    u = np.bincount(codes, (below + up_to) / 2, len(n))
    equal = (up_to - below).astype(np.float64)  # controls with the value of the cell
    levels = np.unique(values, return_inverse=True)[1]
    _, value, counts = np.unique(levels * len(n) + codes, return_inverse=True, return_counts=True)
    own = counts[value].astype(np.float64)  # cells of its group with the value of the cell
    ties = np.sum(equal[in_control] ** 2 - 1)
    # A value of c controls and k cells adds (c + k)^3 - c^3 - k, which k cells share equally.
    return u, ties + np.bincount(codes, 3 * equal**2 + 3 * equal * own + own**2 - 1, len(n))


def _p_value(u, ties, n, n_controls):
    """Two-sided p-value of U by the normal approximation; 1 where all values are equal."""
    n_both, n_pairs = n + n_controls, n * n_controls
    variance = n_pairs / 12 * (n_both + 1 - ties / (n_both * (n_both - 1)))
    scale = np.sqrt(np.maximum(variance, 0))
    excess = np.abs(u - n_pairs / 2) - 0.5
    z = np.divide(excess, scale, out=np.full(len(n), -np.inf), where=scale > 0)
    return np.minimum(2 * norm.sf(z), 1)
