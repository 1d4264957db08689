"""Error of predicted cells in units of the response, with sampling noise taken out."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_consistent_length

from .._input.design import read_design, treatment_labels, warn_of_names
from .._input.values import text
from ._profiles import kept_genes, read_profiles
from .cells import blocks, dense, read_cells

DEPTH = 5e4  # counts that the sum over cells is scaled to before the logarithm


def expression_error(
    true_cells,
    true_labels,
    predicted_cells,
    predicted_labels,
    control_cells,
    *,
    space: str,
    control="control",
    sep: str | None = "+",
    exclude=None,
    aggregate: str | None = None,
) -> Any:
    r"""Squared error of predicted cells relative to the squared response; lower is better.

    .. math:: \frac{\sum_p \lVert \hat b_p - b_p \rVert^2 - C_p - \min(\hat C_p, C_p)}
                   {\sum_p \lVert b_p - b_0 \rVert^2 - C_p - C_0}

    :math:`b = \log(1 + 5 \cdot 10^4 \, s / \sum_g s_g)` is the profile of counts :math:`s` summed
    over cells, measured (:math:`b_p`), predicted (:math:`\hat b_p`) and of controls (:math:`b_0`),
    and :math:`C` its sampling variance over genes, by a jackknife that leaves out one cell at a
    time (Virtual Cell Challenge 2026, specification of metrics). 0 is a replicate of the measured
    cells, 1 is a prediction of no response, and more is worse than that; less than 0 happens by
    chance.

    Parameters
    ----------
    true_cells, true_labels : as in :func:`differential_expression`
        Counts of measured cells of shape (n_cells, n_genes), and what was done to each,
        (n_cells,).
    predicted_cells, predicted_labels : as the measured
        Counts of predicted cells, which need not be integers, and what each is a prediction of;
        labels beyond ``true_labels`` do not count. The noise of a prediction by a single cell,
        such as a mean, is taken to be 0.
    control_cells : as ``true_cells``, of shape (n_control, n_genes)
        Counts of measured control cells; predicted controls play no part.
    space : {"counts"}
        What all cells hold. Log-normalised values cannot be summed and are an error.
    control, sep : str or None
        As in :func:`differential_expression`; measured and predicted controls are left out.
    exclude : mapping, "targets" or None, default=None
        Genes that do not count, as in :func:`response_mse`; ``true_cells`` must have names.
    aggregate : {"pooled"} or None, default=None
        "pooled": the ratio above, one number. None: its parts for each perturbation.

    Returns
    -------
    parts : DataFrame of shape (n_perturbations, 2) or float
        Columns "numerator" and "denominator", means over genes; their ratio for one perturbation
        is noisy where the response is weak. The number is NaN where the denominators do not sum
        to more than zero, so that no response stands out from the noise.

    Raises
    ------
    ValueError
        If the space is not counts, values are negative, perturbations or genes are missing from
        the prediction, or a perturbation has no counts.

    Notes
    -----
    The reference implementation also bounds the noise granted to all predictions together by how
    much they differ from each other, which stops predicted cells that are arranged to seem noisy.
    That is left out here.

    Examples
    --------
    >>> from skpert.metrics import expression_error
    >>> cells, controls = [[5, 1], [4, 2], [6, 1]], [[2, 4], [3, 5], [2, 5]]
    >>> labels = ["JAK2"] * 3
    >>> error = expression_error(
    ...     cells, labels, [[5, 1.5]], ["JAK2"], controls, space="counts", aggregate="pooled"
    ... )
    >>> round(error, 3)
    -0.044
    """
    if aggregate not in (None, "pooled"):
        raise ValueError(f"aggregate must be None or 'pooled', got {aggregate!r}")
    names = {"control": control, "sep": sep}
    design = read_design(true_labels, perturbation="perturbation", **names)
    warn_of_names(design, sep)
    true, noise = _pseudobulks(true_cells, true_labels, design, space, names)
    design = read_design(
        predicted_labels, perturbation="perturbation", known=design.names, **names
    )
    predicted, claimed = _pseudobulks(predicted_cells, predicted_labels, design, space, names)
    if isinstance(predicted.columns, pd.RangeIndex) and predicted.shape[1] == true.shape[1]:
        predicted.columns = claimed.columns = true.columns
    profiles = read_profiles(true, predicted)
    baseline, noise_control = _of_controls(control_cells, space, true.columns)
    kept = kept_genes(exclude, profiles)
    claimed = claimed.loc[true.index, true.columns]
    noise, claimed, noise_control = (
        (values * kept).sum(1) for values in (noise.to_numpy(), claimed.to_numpy(), noise_control)
    )
    error = (kept * (profiles.predicted - profiles.true) ** 2).sum(1)
    response = (kept * (profiles.true - baseline) ** 2).sum(1)
    parts = {
        "numerator": (error - noise - np.minimum(claimed, noise)) / kept.sum(1),
        "denominator": (response - noise - noise_control) / kept.sum(1),
    }
    parts = pd.DataFrame(parts, index=profiles.names)
    if aggregate is None:
        return parts
    numerator, denominator = parts.sum()
    return float(numerator / denominator) if denominator > 0 else np.nan


def _pseudobulks(X, labels, design, space, names):
    """Profile and sampling variance of each perturbation, DataFrames with names."""
    X, genes = _read_counts(X, space, labels)
    labels, control = treatment_labels(design, **names), names["control"]
    check_consistent_length(X, labels)
    groups = pd.Series(np.arange(len(labels))).groupby(labels)
    names = [name for name in groups.groups if name != text(control)]
    if not names:
        raise ValueError(f"there is no perturbation: all cells have the label {control!r}")
    found = np.array([_jackknife(X[groups.indices[name]], name) for name in names])
    index = pd.Index(names, name="perturbation")
    return tuple(pd.DataFrame(found[:, part], index, genes) for part in range(2))


def _of_controls(X, space, genes):
    """Profile and sampling variance of controls, (n_genes,) each."""
    X, names = _read_counts(X, space)
    if len(names) != len(genes):
        raise ValueError(f"control_cells have {len(names)} genes, but true_cells {len(genes)}")
    if not isinstance(names, pd.RangeIndex) and not names.equals(genes):
        raise ValueError("control_cells must have the genes of true_cells in the same order")
    return _jackknife(X, "the control")


def _read_counts(X, space, design=None):
    if space == "lognorm":
        raise ValueError(
            "expression_error sums counts over cells, which log-normalised values do not allow: "
            "give counts, and space='counts'"
        )
    return read_cells(X, space, design=design, measured=False)


def _jackknife(X, name):
    """Profile of summed counts, and its sampling variance for each gene, (n_genes,) each."""
    X = X.astype(np.float64)
    n_cells, total = X.shape[0], np.asarray(X.sum(0)).ravel()
    depth = total.sum()
    if depth == 0:
        raise ValueError(f"the cells of {name!r} have no counts, so that there is no profile")
    profile = np.log1p(DEPTH * total / depth)
    first, second = np.zeros((2, len(total)))
    for rows in blocks(X):
        cells = dense(X[rows])
        rest = depth - cells.sum(1, keepdims=True)
        rest[rest <= 1e-9 * depth] = np.inf  # one cell holds all counts: nothing is left
        # Less the profile, so that squares do not cancel.
        change = np.log1p(DEPTH * np.maximum(total - cells, 0) / rest) - profile
        first += change.sum(0)
        second += (change**2).sum(0)
    variance = np.maximum(second - first**2 / n_cells, 0) * (n_cells - 1) / n_cells
    return profile, variance
