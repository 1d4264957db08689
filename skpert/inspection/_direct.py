"""Effects of perturbations on single genes, beside those on latents."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, norm
from sklearn.utils import Bunch, _safe_indexing
from sklearn.utils.validation import check_consistent_length

from .._input.cells import check_cells
from .._input.expression import check_same_cells, of_each_cell
from .._input.values import (
    as_list,
    check_finite,
    check_has_latents,
    check_number,
    listed,
    text,
)
from ..parameters import REAL_VALUED
from ._pseudobulk import left_over, slopes, sums

LEAST_NULLS = 5  # perturbations that do nothing, to say how far such differ


class Conditions(NamedTuple):
    """Groups of cells that are compared with a reference."""

    names: np.ndarray  # (n_conditions,) text
    codes: np.ndarray  # (n_cells,) which one
    control: np.ndarray  # (n_conditions,) whether it is the control, and not tested
    null: np.ndarray  # (n_conditions,) whether it is known to do nothing


def direct_effects(
    estimator,
    X,
    A,
    *,
    targets=None,
    nulls: str | list[str] | None = None,
    batch=None,
    min_expected: float = 5.0,
    fdr: float = 0.05,
    level: float = 0.95,
) -> pd.DataFrame:
    """Genes that a perturbation changes beyond what its effect on latents explains.

    Latents carry programmes. An effect on a single gene, first of all on the gene that is knocked
    down itself, is none, and often has no latent. For every perturbation and gene this compares
    the mean expression of its cells with what composition and latent states make of it, as all
    other genes of these cells show them: a gene that is lowered alone does not explain itself,
    even where a latent follows it, and a dominant gene does not drag others along.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``posterior`` and ``predict_intervention``.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells of training, or others.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design, of known perturbations. A combination is a condition of its own.
    targets : mapping or Series of str, default=None
        Gene that each perturbation is meant to act on, by its name, as guide -> gene; several as
        a list. Genes that are not measured do not count. None: perturbations that are called
        like a gene act on that; so do parts of a combination. Effects on these genes are a
        question of their own, for which one need not search all genes.
    nulls : str or list of str, default=None
        Perturbations known to do nothing, such as non-targeting guides. They and the control are
        the reference, and how far they differ is the null. None: the control is the reference,
        and the null is what most perturbations do.
    batch : str or array-like of shape (n_cells,), default=None
        Batch or replicate of each cell, or its column in A: cells are compared with those of
        the reference in the same one.
    min_expected : float, default=5.0
        Counts that the cells of a perturbation should have of a gene if it had no effect; pairs
        with fewer are not tested, but for genes of ``targets`` that reach it. Without meaning
        for real values.
    fdr : float, default=0.05
        False discovery rate at which effects are called, in [0, 1].
    level : float, default=0.95
        Coverage of the intervals, strictly between 0 and 1.

    Returns
    -------
    effects : DataFrame of shape (n_perturbations * n_genes, 10)
        A row per pair of ``perturbation`` and ``gene``, sorted by perturbation, then by ``p``.
        ``log2_fold_change`` between perturbed cells and what is expected of them (for real
        values the difference in their unit), ``standard_error``, ``lower`` and ``upper``, ends
        of its interval; two-sided ``p``, NaN where it was not tested; ``q``, the smallest
        ``fdr`` at which the effect is called; ``called``; ``target``, whether the gene is one of
        ``targets``.

    Raises
    ------
    ValueError
        If X and A do not fit together or the estimator, nothing is perturbed, a name in ``nulls``
        has no cells, or a number is out of range.

    Notes
    -----
    Model and null are described in the module ``skpert.inspection._pseudobulk``. Effects on
    targets are called by Benjamini and Hochberg over perturbations. Other genes are called in two
    steps [1]_: which perturbations have any, and which of the genes of these; of the
    perturbations with something called, about ``fdr`` have nothing.

    Expected expression of other genes follows what the model predicts for the perturbation, as far
    as its cells show it. That of targets does not: a model may have learned their change as part
    of a latent.

    An effect is direct in the sense of the model. A programme that only one perturbation moves,
    or that the model has no latent for, cannot be distinguished from effects on its genes. The
    null is that of this screen: without ``nulls`` an effect that most perturbations have in
    common belongs to it, and with few perturbations it is not well known. Where a perturbed
    population has few founders, a difference can be that of a clone.

    References
    ----------
    .. [1] Benjamini and Bogomolov, Selective inference on multiple families of hypotheses, Journal
       of the Royal Statistical Society B 76, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import direct_effects
    >>> screen = make_sparse_shift(12, n_cells_per_perturbation=100, n_control_cells=200,
    ...                            n_latent=3, n_genes=50, n_targets=1, effect_size=2.0,
    ...                            library_size=5000, random_state=0)
    >>> lowered = screen.A == "P03"  # gene 7 to a fifth
    >>> screen.X[lowered, 7] = np.random.default_rng(0).binomial(screen.X[lowered, 7].astype(int),
    ...                                                          0.2)
    >>> model = SVAEPlus(n_latent=3, max_epochs=30, random_state=0).fit(screen.X, screen.A)
    >>> table = direct_effects(model, screen.X, screen.A)
    >>> table.sort_values("p")[["perturbation", "gene", "called"]].head(1)
       perturbation  gene  called
    150          P03     7    True
    """
    check_number(fdr, "fdr", 0, 1, "both")
    check_number(level, "level", 0, 1, "neither")
    found = measured(estimator, X, A, targets, nulls, batch, min_expected)
    left, treated = found.left, found.treated
    p = np.where(found.tested, left.p, np.nan)[treated]
    q = _q_values(p, found.is_target[treated])
    unit = np.log(2) if found.counts else 1.0
    effect, error = left.effect[treated] / unit, left.standard_error[treated] / unit
    half = norm.isf((1 - level) / 2) * error
    n_rows, n_genes = p.shape
    table = pd.DataFrame(
        {
            "perturbation": np.repeat(found.names[treated], n_genes),
            "gene": np.tile(np.asarray(gene_names(estimator, X)), n_rows),
            "log2_fold_change": effect.ravel(),
            "standard_error": error.ravel(),
            "lower": (effect - half).ravel(),
            "upper": (effect + half).ravel(),
            "p": p.ravel(),
            "q": q.ravel(),
            "called": (q <= fdr).ravel(),
            "target": found.is_target[treated].ravel(),
        }
    )
    order = np.argsort(np.where(np.isnan(p), 2, p), axis=1, kind="stable")
    order += n_genes * np.arange(n_rows)[:, None]
    return table.iloc[order.ravel()].reset_index(drop=True)


def measured(estimator, X, A, targets=None, nulls=None, batch=None, min_expected=5.0):
    """What is left of each gene under each condition of A, and what is needed to judge it."""
    check_has_latents(estimator)
    check_same_cells(X, A)
    labels = estimator.design_.labels(A)
    codes, names = pd.factorize(labels, sort=True)
    names = np.asarray(names, dtype=object)
    control, null = names == text(estimator.control), _null_conditions(names, nulls)
    conditions = Conditions(names, codes, control, null)
    genes = gene_names(estimator, X)
    is_target = target_genes(names, genes, targets, estimator.design_)
    return of_conditions(estimator, X, A, conditions, is_target, batch, min_expected)


def of_conditions(estimator, X, A, conditions, is_target, batch, min_expected):
    """As ``measured``, for conditions that are given; each lies within one of A."""
    check_finite(min_expected, "min_expected")
    names, codes, control, null = conditions
    treated = ~control
    if not treated.any():
        raise ValueError("A has control cells only: there is no effect to measure")
    counts = estimator.likelihood not in REAL_VALUED
    values = check_cells(estimator, X, counts=counts, layer=estimator.layer, design=A)
    check_consistent_length(values, codes)
    strata, base = _strata(A, batch), control | null
    reference = base[codes] if base.any() else np.ones(len(codes), dtype=bool)
    data = sums(values, codes, len(names), strata, reference, counts)
    tested = np.broadcast_to(treated[:, None], is_target.shape).copy()
    if counts:
        enough = data.expected >= min_expected
        tested &= enough | (is_target & (data.observed >= min_expected))
    elif len(names) == len(codes):  # of one cell each, which do not say how far cells differ
        tested[:] = False
    Z = np.asarray(estimator.posterior(X, A).z, dtype=np.float64)
    J = slopes(values, Z, codes, len(names), counts)
    predicted = _predicted(estimator, A, codes, control, counts)
    predicted[is_target] = 0  # what a model learned of the target is no programme
    left = left_over(data, J, predicted, null if null.sum() >= LEAST_NULLS else treated, tested)
    found = {"treated": treated, "is_target": is_target, "tested": tested, "counts": counts}
    found["observed"] = data.observed
    return Bunch(names=names, codes=codes, reference=reference, left=left, **found)


def target_genes(names, genes, targets, design):
    """Which genes each condition is meant to act on, (n_conditions, n_genes) bool."""
    if targets is None:
        sep = getattr(design, "sep", None)
        lists = [[name, *(name.split(sep) if sep else ())] for name in names]
    else:
        if not isinstance(targets, (Mapping, pd.Series)):
            raise ValueError(
                f"targets must map perturbations to genes, as a dict or a Series, got "
                f"{type(targets).__name__}"
            )
        by_name = {text(name): genes_of for name, genes_of in targets.items()}
        lists = [as_list(by_name.get(name)) for name in names]
    column = {text(gene): j for j, gene in enumerate(genes)}
    if targets is None and isinstance(genes, pd.RangeIndex):
        column = {}  # numbers are no names
    is_target = np.zeros((len(names), len(genes)), dtype=bool)
    for i, own in enumerate(lists):
        is_target[i, [column[text(gene)] for gene in own if text(gene) in column]] = True
    return is_target


def gene_names(estimator, X):
    """Names that the estimator has, or else X, or numbers."""
    if hasattr(estimator, "feature_names_in_"):
        return pd.Index(estimator.feature_names_in_)
    names = getattr(X, "var_names", getattr(X, "columns", None))
    return pd.RangeIndex(estimator.n_features_in_) if names is None else pd.Index(names)


def _null_conditions(names, nulls):
    """Which conditions are known to do nothing."""
    nulls = [text(name) for name in as_list(nulls)]
    absent = [name for name in nulls if name not in set(names)]
    if absent:
        raise ValueError(
            f"nulls names {listed(absent, 5)}, which have no cells in A: its labels are "
            f"{listed(list(names), 5)}"
        )
    return np.isin(names, nulls)


def _strata(A, batch):
    """Number of the batch of each cell."""
    n_cells = A.shape[0] if hasattr(A, "shape") else len(A)
    if batch is None:
        return np.zeros(n_cells, dtype=np.int64)
    codes = pd.factorize(of_each_cell(batch, A, n_cells, "batch"))[0]
    if (codes < 0).any():
        raise ValueError(f"{(codes < 0).sum()} of {n_cells} cells have no batch: leave them out")
    return codes


def _predicted(estimator, A, codes, control, counts):
    """Change of expression that the model predicts for each condition, (n_conditions, n_genes)."""
    first = np.unique(codes, return_index=True)[1]
    column = getattr(estimator, "perturbation", None)
    designs = A[column] if column in getattr(A, "columns", ()) else A
    expected = estimator.predict_intervention(_safe_indexing(designs, first)).astype(np.float64)
    if counts:
        expected = np.log(np.maximum(expected, 1e-12))
    return expected - (expected[control] if control.any() else expected.mean(0))


def _q_values(p, is_target):
    """Least false discovery rate at which each entry is called, NaN where p is."""
    q = np.full(p.shape, np.nan)
    own = is_target & ~np.isnan(p)
    if own.any():
        q[own] = false_discovery_control(p[own])
    others = np.where(is_target, np.nan, p)
    within = np.full(p.shape, np.nan)
    for row, values in zip(within, others, strict=True):
        known = ~np.isnan(values)
        row[known] = false_discovery_control(values[known]) if known.any() else 0
    searched = ~np.isnan(within)
    first = np.sort(np.where(searched, within, 1.0).min(1))
    n_found = np.searchsorted(first, first, side="right")
    later = np.minimum.accumulate((len(first) * first / n_found)[::-1])[::-1]
    own_step = within[searched]
    at = np.searchsorted(first, own_step, side="right")
    now = len(first) * own_step / np.maximum(at, 1)
    q[searched] = np.minimum(np.minimum(now, np.append(later, np.inf)[at]), 1)
    return q
