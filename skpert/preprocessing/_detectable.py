"""Perturbations whose cells can be distinguished from control cells."""

from numbers import Integral, Real

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length, check_random_state, check_scalar

from .._input.cells import check_cells
from .._input.design import perturbation_labels
from .._input.values import text


def detectable_perturbations(
    X,
    A,
    *,
    min_cells: int = 200,
    min_accuracy: float = 0.6,
    control="control",
    sep: str = "+",
    perturbation: str = "perturbation",
    layer: str | None = None,
    n_splits: int = 5,
    random_state: int | np.random.RandomState | None = None,
) -> pd.DataFrame:
    """How well each perturbation's cells can be classified against controls, and which to keep.

    For every perturbation with enough cells a logistic regression is trained to separate its
    cells from as many control cells. The share of held-out cells that it classifies correctly is
    0.5 where the perturbation has no visible effect. What does not reach ``min_accuracy`` had no
    effect, or guides that failed, and can be left out before a model is fitted.

    Parameters
    ----------
    X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
        Log-normalised expression, see :class:`LogNormalize`; it is not transformed.
    A : {array-like, sparse matrix, DataFrame}
        Design, in the forms that :class:`PerturbationEncoder` takes. Each combination counts as
        a perturbation.
    min_cells : int, default=200
        Number of cells that a perturbation needs, at least 1.
    min_accuracy : float, default=0.6
        Accuracy that it needs, in [0, 1].
    control, sep, perturbation : str, default="control", "+" and "perturbation"
        As in :class:`PerturbationEncoder`.
    layer : str or None, default=None
        Layer of an AnnData that holds the expression; None is its ``X``.
    n_splits : int, default=5
        Number of folds of the cross-validation, at least 2.
    random_state : int, RandomState instance or None, default=None
        Seeds which cells are drawn and how they are assigned to the folds.

    Returns
    -------
    table : DataFrame of shape (n_perturbations, 4)
        Index: names of the perturbations, sorted.

        n_cells : int
            Number of its cells in the screen.
        accuracy : float
            Share of held-out cells that are classified correctly, in [0, 1]; chance is 0.5. NaN
            where there are fewer cells than ``min_cells`` or ``n_splits``.
        standard_error : float
            Binomial standard error of the accuracy. Folds share training cells, for which the
            true spread was up to a third larger on simulated cells without any effect.
        kept : bool
            Whether both limits are reached.

    Raises
    ------
    ValueError
        If there is no perturbation or there are fewer control cells than folds, if X and A
        differ in length, or a parameter is out of its range.

    Notes
    -----
    Limits and folds are those of [1]_. The paper leaves open how classes of such different size
    (10,691 control cells, and 282 cells of the median perturbation) were compared, and how the
    regression was scaled and penalised. Here the larger class is drawn down to the smaller one,
    so that chance is 0.5; genes are standardised on the training folds, and the penalty is
    scikit-learn's default, ``C=1``. All perturbations meet the same shuffled control cells, and
    the result of one does not depend on which others are there.

    A target that is among the genes of X counts as well: its own knock-down can be what shows.

    References
    ----------
    .. [1] Liu, Zhang and Uhler, "Learning genetic perturbation effects with variational causal
       inference", bioRxiv 2025.06.05.657988.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.preprocessing import detectable_perturbations
    >>> X = np.random.default_rng(0).normal(size=(90, 5))
    >>> A = np.repeat(["control", "JAK2", "SMAD4"], 30)
    >>> X[A == "JAK2", 0] += 4
    >>> table = detectable_perturbations(X, A, min_cells=20, random_state=0)
    >>> table.index[table.kept].tolist()
    ['JAK2']
    >>> kept = np.isin(A, ["control", *table.index[table.kept]])  # the cells to go on with
    """
    check_scalar(min_cells, "min_cells", Integral, min_val=1)
    if not isinstance(min_accuracy, Real) or not 0 <= min_accuracy <= 1:
        raise ValueError(f"min_accuracy must be a number from 0 to 1, got {min_accuracy!r}")
    check_scalar(n_splits, "n_splits", Integral, min_val=2)
    X = check_cells(LogisticRegression(), X, counts=False, layer=layer, reset=True, design=A)
    labels = perturbation_labels(A, control=control, sep=sep, perturbation=perturbation)
    check_consistent_length(X, labels)
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    untreated = np.flatnonzero(labels == text(control))
    names, n_cells = np.unique(labels[labels != text(control)], return_counts=True)
    _check_both(len(names), len(untreated), n_splits, control)
    untreated = np.random.RandomState(seed).permutation(untreated)
    correct = [
        _correct(X, np.flatnonzero(labels == name), untreated, n_splits, seed)
        if n >= max(min_cells, n_splits)
        else np.array([np.nan])
        for name, n in zip(names, n_cells, strict=True)
    ]
    accuracy = np.array([right.mean() for right in correct])
    n_classified = np.array([len(right) for right in correct])
    return pd.DataFrame(
        {
            "n_cells": n_cells,
            "accuracy": accuracy,
            "standard_error": np.sqrt(accuracy * (1 - accuracy) / n_classified),
            "kept": accuracy >= min_accuracy,  # NaN is not
        },
        index=pd.Index(names, name="perturbation"),
    )


def _correct(X, treated, untreated, n_splits, seed):
    """Whether each cell of the two balanced classes was classified correctly when held out."""
    n = min(len(treated), len(untreated))
    treated = np.random.RandomState(seed).permutation(treated)
    cells = np.concatenate([treated[:n], untreated[:n]])
    is_treated = np.arange(2 * n) < n
    x = X[cells].toarray() if issparse(X) else X[cells]
    guess = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        x.astype(np.float64),  # in which L-BFGS converges as it should
        is_treated,
        cv=StratifiedKFold(n_splits, shuffle=True, random_state=seed),
    )
    return guess == is_treated


def _check_both(n_perturbations, n_controls, n_splits, control):
    if not n_perturbations:
        raise ValueError(f"A has no perturbation: every cell has the label {control!r}")
    if n_controls < n_splits:
        raise ValueError(
            f"A has {n_controls} control cells (label {control!r}), and n_splits={n_splits} folds "
            "need as many at least: name the untreated by `control`, or lower n_splits"
        )
