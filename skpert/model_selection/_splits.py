"""Splits of a screen that know what a perturbation is."""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_random_state

from .._input.values import text
from ..preprocessing import perturbation_labels

SINGLE = (
    "Every cell has a label of its own: give one label per treatment, or split by "
    "LeavePerturbationsOut"
)


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
        tested = [np.flatnonzero(fold == k) for k in range(self.n_splits)]
        if not all(map(len, tested)):
            n_cells = sum(map(len, tested))
            remedy = f"Lower n_splits to at most {n_cells}" if n_cells > 1 else SINGLE
            raise ValueError(
                f"cannot make {self.n_splits} folds: {n_cells} of {len(fold)} cells can be "
                f"tested, those that are not the only one with their label. {remedy}"
            )
        yield from tested


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
