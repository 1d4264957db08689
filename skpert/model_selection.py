"""Splits, scores and model choice that know what a perturbation is."""

from numbers import Integral

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import Bunch, check_random_state

from .preprocessing import perturbation_labels
from .preprocessing._labels import text

__all__ = [
    "LeavePerturbationsOut",
    "PerturbationKFold",
    "interventional_nll",
    "interventional_nll_scorer",
    "udr_score",
]


class _PerturbationSplit(BaseCrossValidator, BaseEstimator):
    """K folds of cells, which a subclass assigns from their labels."""

    def __init__(
        self,
        n_splits=5,
        *,
        control="control",
        sep="+",
        perturbation="perturbation",
        random_state=None,
    ):
        self.n_splits = n_splits
        self.control = control
        self.sep = sep
        self.perturbation = perturbation
        self.random_state = random_state

    def get_n_splits(self, X=None, y=None, groups=None):
        """Number of folds.

        Parameters
        ----------
        X, y, groups : object, default=None
            Not used.

        Returns
        -------
        n_splits : int
            The constructor's.
        """
        return self.n_splits

    def _labels(self, y):
        if not isinstance(self.n_splits, Integral) or self.n_splits < 2:
            raise ValueError(f"n_splits must be an integer of at least 2, got {self.n_splits!r}")
        if y is None:
            raise ValueError("the split needs the design: split(X, A)")
        return perturbation_labels(
            y, control=self.control, sep=self.sep, perturbation=self.perturbation
        )

    def _iter_test_indices(self, X=None, y=None, groups=None):
        fold = self._folds(self._labels(y), check_random_state(self.random_state))
        for k in range(self.n_splits):
            yield np.flatnonzero(fold == k)


class PerturbationKFold(_PerturbationSplit):
    """K shuffled folds with the same share of every perturbation, for any form of design.

    Each condition's cells, controls included, are dealt evenly to the folds. A condition with
    fewer cells than folds is allowed: some folds then lack it in test, and the one fold that
    would test the only cell of a perturbation is not made: such a cell is always trained on.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    control : str, default="control"
        Label of untreated cells.
    sep : str or None, default="+"
        What joins the names of a combination.
    perturbation : str, default="perturbation"
        Column of the labels, where the design is a DataFrame.
    random_state : int, RandomState instance or None, default=None
        Seeds the shuffling.

    Examples
    --------
    >>> from skpert.model_selection import PerturbationKFold
    >>> A = ["control", "JAK2", "control", "JAK2"]
    >>> [sorted(test.tolist()) for _, test in PerturbationKFold(2, random_state=0).split(A, A)]
    [[2, 3], [0, 1]]
    """

    def _folds(self, labels, random):
        if len(labels) < self.n_splits:
            raise ValueError(f"cannot make {self.n_splits} folds of {len(labels)} cells")
        order = random.permutation(len(labels))
        _, inverse, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
        alone = counts[inverse] == 1
        # condition by condition, shuffled within; the single cells last, lest they take a turn
        sequence = np.lexsort((inverse, alone))
        fold = np.empty(len(labels), dtype=int)
        turn = np.arange(len(labels)) % self.n_splits
        fold[order[sequence]] = np.where(alone[sequence], -1, turn)
        return fold


class LeavePerturbationsOut(_PerturbationSplit):
    """K folds over perturbations: those of the test fold have no cell in training.

    Control cells are always trained on. For models that can predict the unseen, and for
    ``interventional_nll_scorer``, which lets a model see the new perturbations first.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2 and at most the number of perturbations; as many leave one
        perturbation out at a time.
    control : str, default="control"
        Label of untreated cells.
    sep : str or None, default="+"
        What joins the names of a combination; each combination counts as a perturbation.
    perturbation : str, default="perturbation"
        Column of the labels, where the design is a DataFrame.
    random_state : int, RandomState instance or None, default=None
        Seeds the order in which perturbations are dealt.

    Examples
    --------
    >>> from skpert.model_selection import LeavePerturbationsOut
    >>> A = ["control", "JAK2", "control", "SMAD4"]
    >>> [test.tolist() for _, test in LeavePerturbationsOut(2, random_state=0).split(A, A)]
    [[3], [1]]
    """

    def _folds(self, labels, random):
        names, inverse = np.unique(labels, return_inverse=True)
        treated = np.flatnonzero(names != text(self.control))
        if len(treated) < self.n_splits:
            raise ValueError(
                f"cannot make {self.n_splits} folds of {len(treated)} perturbations: lower it"
            )
        fold = np.full(len(names), -1)
        fold[random.permutation(treated)] = np.arange(len(treated)) % self.n_splits
        return fold[inverse]


def interventional_nll(
    estimator, X, A, X_train=None, A_train=None, *, n_particles=5000, min_cells=10
):
    """Interventional negative log-likelihood of perturbations never trained on; lower is better.

    The published protocol: fix the masks and train on with the training cells (step 2), learn
    shifts of the new perturbations with encoder and decoder frozen (step 3), then average the
    importance-weighted log-likelihood over the cells of each and over perturbations (step 4).

    Parameters
    ----------
    estimator : estimator
        Fitted without the new perturbations; it stays as it is.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells of new perturbations; control cells among them are left out.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design.
    X_train, A_train : as X and A, default=None
        Training cells. Without them step 2 is skipped, and the result says so.
    n_particles : int, default=5000
        Samples of the latent state per cell; the released code takes 1,000.
    min_cells : int, default=10
        A perturbation needs more cells than this to count.

    Returns
    -------
    result : Bunch
        ``nll``, nats per cell, the mean over perturbations; ``per_perturbation``, a DataFrame
        with ``nll``, ``n_cells`` and whether it is ``counted``; ``refined``, whether step 2 was
        run; ``estimator``, the adapted one.

    Raises
    ------
    ValueError
        If one of ``X_train`` and ``A_train`` is missing, or no perturbation has enough cells.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism
       shift modeling, CLeaR 2023, section 5 and equation 18.
    """
    if (X_train is None) != (A_train is None):
        raise ValueError("give both X_train and A_train, or neither")
    refined = X_train is not None
    if refined:
        estimator = estimator.refine(X_train, A_train)
    estimator = estimator.adapt(X, A)
    labels = perturbation_labels(
        A, control=estimator.control, sep=estimator.sep, perturbation=estimator.perturbation
    )
    scores = pd.Series(estimator.score_cells(X, A, n_particles=n_particles))
    treated = labels != text(estimator.control)
    grouped = scores[treated].groupby(labels[treated])
    table = pd.DataFrame({"nll": -grouped.mean(), "n_cells": grouped.size()})
    table.index.name = "perturbation"
    table["counted"] = table["n_cells"] > min_cells
    if not table["counted"].any():
        raise ValueError(
            f"no perturbation has more than min_cells={min_cells} cells; the largest has "
            f"{table['n_cells'].max()}"
        )
    nll = float(table.loc[table["counted"], "nll"].mean())
    return Bunch(nll=nll, per_perturbation=table, refined=refined, estimator=estimator)


def interventional_nll_scorer(estimator, X, y):
    """Minus the interventional NLL of held-out perturbations, a scorer for ``cross_validate``.

    To be used with ``LeavePerturbationsOut``: the fitted model is adapted to the perturbations
    of the test fold, step 3 of the published protocol, and scored on the same cells.

    Parameters
    ----------
    estimator : estimator
        Fitted on the training fold.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells of the test fold.
    y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design A.

    Returns
    -------
    score : float
        Nats per cell, higher is better; every perturbation counts, however few its cells.
    """
    result = interventional_nll(estimator, X, y, n_particles=estimator.n_particles, min_cells=0)
    return -result.nll


def udr_score(estimators, X, *, threshold=0.01):
    """Unsupervised disentanglement ranking of each fitted estimator, in [0, 1]; higher is better.

    Estimators that found axes which others found too rank high; no ground truth is needed. Give
    several seeds of one setting, and choose the setting whose median is best.

    Parameters
    ----------
    estimators : list of estimators
        At least two, fitted on the same genes.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells on which to compare the latents; about a thousand are enough.
    threshold : float, default=0.01
        A latent counts as informative if its KL to N(0, 1) is above this, mean nats per cell.

    Returns
    -------
    scores : ndarray of shape (n_estimators,)
        Median over the other estimators of the pairwise ranking.

    Raises
    ------
    ValueError
        With fewer than two estimators.

    References
    ----------
    .. [1] Duan et al., Unsupervised model selection for variational disentangled representation
       learning, ICLR 2020.
    """
    if len(estimators) < 2:
        raise ValueError(f"a ranking needs at least two estimators, got {len(estimators)}")
    posteriors = [estimator.posterior(X, None) for estimator in estimators]
    ranks = [_standardised(rankdata(q.z, axis=0)) for q in posteriors]
    informative = [
        ((q.scale**2 + q.z**2 - 1) / 2 - np.log(q.scale)).mean(0) > threshold for q in posteriors
    ]
    pairs = np.full((len(ranks), len(ranks)), np.nan)
    for i in range(len(ranks)):
        for j in range(len(ranks)):
            if i != j:
                similarity = np.abs(ranks[i].T @ ranks[j])
                pairs[i, j] = _pair_ranking(similarity, informative[i], informative[j])
    return np.nanmedian(pairs, axis=1)


def _standardised(Z):
    """Columns centred and of unit norm, those without spread zero."""
    Z = Z - Z.mean(0)
    norm = np.linalg.norm(Z, axis=0)
    return Z / np.where(norm > 0, norm, 1)


def _pair_ranking(similarity, informative, other_informative):
    """How far the informative latents of two models, rows and columns, match one to one."""
    n_informative = informative.sum() + other_informative.sum()
    if n_informative == 0:
        return 0.0

    def matched(axis, counted):
        total = similarity.sum(axis)
        share = similarity.max(axis) ** 2 / np.where(total > 0, total, 1)
        return (share * counted).sum()

    return (matched(0, other_informative) + matched(1, informative)) / n_informative
