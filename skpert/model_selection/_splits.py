"""Splits of a screen that know what a perturbation, and what a combination, is."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import BaseCrossValidator, BaseShuffleSplit
from sklearn.utils import check_consistent_length, check_random_state

from .._input.contexts import context_labels
from .._input.design import (
    distinct,
    perturbation_labels,
    read_design,
    treatment_names,
    warn_of_names,
)
from .._input.parts import parts_of_names
from .._input.values import as_list, listed, text
from ..exceptions import warn_of_data

MODES = ("out_of_distribution", "data_efficiency")
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
    ) -> None:
        self.n_splits = n_splits
        self.control = control
        self.sep = sep
        self.perturbation = perturbation
        self.random_state = random_state

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
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

    @abstractmethod
    def _folds(self, labels, random):
        """Fold of each cell, (n_cells,); -1 is never tested."""

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

    The cells of each condition, controls included, are spread evenly over the folds. A condition
    may have fewer cells than folds: some folds then lack it in test. The only cell of a
    perturbation is always trained on.

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
        # condition by condition, shuffled within; single cells last, so that they take no turn
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
    control, sep, perturbation : as in :class:`PerturbationKFold`
        How labels are read; each combination counts as a perturbation.
    random_state : int, RandomState instance or None, default=None
        Seeds the order in which perturbations are assigned to folds.

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
                f"cannot make {self.n_splits} folds of {len(treated)} perturbations: lower "
                "n_splits"
            )
        fold = np.full(len(names), -1)
        fold[random.permutation(treated)] = np.arange(len(treated)) % self.n_splits
        return fold[inverse]


class LeavePathwaysOut(BaseCrossValidator, BaseEstimator):
    """One split for each named group of perturbations, such as a pathway, that leaves it out.

    Cells are tested if they received a perturbation of the group, alone or in a combination; all
    others are trained on, controls included. So the sVAE+ paper asks whether what was learned of
    other processes carries over to a process that no training cell had perturbed [1]_. For models
    that can predict the unseen, and for ``interventional_nll_scorer``.

    Parameters
    ----------
    pathways : mapping of str to list of str
        Perturbations of each group, such as the sets of
        :func:`~skpert.preprocessing.read_gmt`. Names that were not measured are passed over;
        groups may overlap.
    control, sep, perturbation : as in :class:`PerturbationKFold`
        How labels are read.

    Notes
    -----
    Splits come in the order of the groups. ``split`` raises a ``ValueError`` if a group has no
    measured perturbation, or leaves no other one to train on.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism shift
       modeling, CLeaR 2023, Figure 3 and Table 9.

    Examples
    --------
    >>> from skpert.model_selection import LeavePathwaysOut
    >>> A = ["control", "JAK2", "STAT1", "SMAD4", "JAK2+SMAD4"]
    >>> splitter = LeavePathwaysOut({"interferon": ["JAK2", "STAT1"], "TGF beta": ["SMAD4"]})
    >>> [test.tolist() for _, test in splitter.split(A, A)]
    [[1, 2, 4], [3, 4]]
    """

    def __init__(
        self, pathways, *, control="control", sep="+", perturbation="perturbation"
    ) -> None:
        self.pathways = pathways
        self.control = control
        self.sep = sep
        self.perturbation = perturbation

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        """Number of groups.

        Parameters
        ----------
        X, y, groups : object, default=None
            Not used.

        Returns
        -------
        n_splits : int
            That of ``pathways``.
        """
        return len(self._members())

    def _members(self):
        """Names of perturbations by group."""
        if not isinstance(self.pathways, Mapping) or not self.pathways:
            raise ValueError(
                "pathways must map names of groups to lists of perturbations, such as "
                f"{{'interferon': ['JAK2', 'STAT1']}}, got {self.pathways!r:.200}"
            )
        for name, members in self.pathways.items():
            if isinstance(members, str) or not isinstance(members, Iterable):
                raise ValueError(f"pathway {name!r} must be a list of names, got {members!r:.80}")
            if not len(list(members)):
                raise ValueError(f"pathway {name!r} is empty: name its perturbations, or drop it")
        return {name: {text(n) for n in members} for name, members in self.pathways.items()}

    def _iter_test_indices(self, X=None, y=None, groups=None):
        members = self._members()
        if y is None:
            raise ValueError("the split needs the design: split(X, A)")
        settings = {"control": self.control, "sep": self.sep, "perturbation": self.perturbation}
        names, inverse = np.unique(perturbation_labels(y, **settings), return_inverse=True)
        parts = parts_of_names(names.tolist(), self.sep)
        treated = names != text(self.control)
        for pathway, group in members.items():
            tested = treated & [not group.isdisjoint(parts[name]) for name in names]
            if not tested.any():
                raise ValueError(
                    f"none of the perturbations of {pathway!r}, {listed(sorted(group), 5)}, was "
                    f"measured. Measured are {listed(names[treated], 10)}"
                )
            if tested.sum() == treated.sum():
                raise ValueError(f"{pathway!r} has all perturbations: none is left to train on")
            yield np.flatnonzero(tested[inverse])


class LeaveContextsOut(BaseCrossValidator, BaseEstimator):
    """One split for each context, such as a cell line or a donor, of which only controls are seen.

    All perturbed cells of the context are tested, and its control cells stay in training, as do
    all cells of the other contexts. Its cells with a treatment that no other context has are in
    neither set: nothing says what that does.

    Parameters
    ----------
    context : str or list of str
        Columns of the design frame that name the context of a cell. Several name it together:
        ``["donor", "cell_type"]`` leaves out one cell type of one donor at a time.
    control, sep, perturbation : as in :class:`PerturbationKFold`
        How labels are read; each combination counts as a treatment of its own.

    See Also
    --------
    skpert.ContextEffects : The baselines that a model has to beat.
    evaluate_perturbations : Scores by context, with ``context=``.

    Notes
    -----
    Splits come in the sorted order of the contexts; those whose treatments no other context has
    make none. ``split`` raises a ``ValueError`` if the design is no frame, if there are fewer
    than two contexts, if one that would be left out has no control cell, or if contexts share no
    treatment.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.model_selection import LeaveContextsOut
    >>> A = pd.DataFrame({"perturbation": ["control", "JAK2", "control", "JAK2", "SMAD4"],
    ...                   "donor": ["D1", "D1", "D2", "D2", "D2"]})
    >>> splits = LeaveContextsOut("donor").split(A, A)
    >>> [(train.tolist(), test.tolist()) for train, test in splits]
    [([0, 2, 3, 4], [1]), ([0, 1, 2], [3])]
    """

    def __init__(
        self, context: str | list[str], *, control="control", sep="+", perturbation="perturbation"
    ) -> None:
        self.context = context
        self.control = control
        self.sep = sep
        self.perturbation = perturbation

    def get_n_splits(self, X=None, y=None, groups=None) -> int:
        """Number of contexts that are left out.

        Parameters
        ----------
        X : object, default=None
            Not used.
        y : DataFrame of shape (n_cells, n_columns)
            Design frame.
        groups : object, default=None
            Not used.

        Returns
        -------
        n_splits : int
            One for each context that shares a treatment with another.
        """
        return len(self._read(y)[-1])

    def split(self, X, y=None, groups=None) -> Iterator:
        """Train and test cells of each split.

        Parameters
        ----------
        X : array-like of shape (n_cells, n_genes)
            Expression; its length alone matters.
        y : DataFrame of shape (n_cells, n_columns)
            Design frame.
        groups : object, default=None
            Not used.

        Yields
        ------
        train, test : ndarray of int
            Sorted rows.
        """
        contexts, treated, tested = self._read(y)
        check_consistent_length(X, y)
        for name, cells in tested.items():
            yield np.flatnonzero(~treated | (contexts != name)), cells

    def _read(self, y):
        """Context of each cell, whether it is perturbed, and test cells of each context."""
        if y is None:
            raise ValueError("the split needs the design: split(X, A)")
        if not as_list(self.context):
            raise ValueError("context must name one or more columns of the design, got none")
        contexts = context_labels(y, self.context)
        settings = {"control": self.control, "sep": self.sep, "perturbation": self.perturbation}
        labels, names = perturbation_labels(y, **settings), np.unique(contexts)
        treated = labels != text(self.control)
        if len(names) < 2:
            raise ValueError(f"all cells are of one context, {listed(names, 1)}: none is left")
        tested = {}
        for name in names:
            inside = contexts == name
            known = np.isin(labels, np.unique(labels[~inside]))
            cells = np.flatnonzero(inside & treated & known)
            if len(cells) and treated[inside].all():
                raise ValueError(
                    f"context {name!r} has no control cell (label {self.control!r}), so nothing "
                    "of it would be seen: leave its cells out"
                )
            if len(cells):
                tested[name] = cells
        if not tested:
            raise ValueError("no treatment is in two contexts: there is nothing to carry over")
        return contexts, treated, tested


class CombinationHoldout(BaseShuffleSplit, BaseEstimator):
    """Random splits that hold out combinations; controls and single perturbations are trained on.

    A combination is a treatment with more than one part. The two modes ask two questions. Out of
    distribution: what do unmeasured combinations do? All cells of some combinations are held out.
    Data efficiency: how many cells of combinations does a model need? Some cells of combinations
    are held out, whichever they belong to, and only some of the others are trained on.

    Train sets grow with ``train_fraction``, each containing the smaller ones, while the test set
    of a ``random_state`` stays the same, so that a learning curve compares like with like. Cells
    in neither set are left out, but no control and no single perturbation.

    Parameters
    ----------
    n_splits : int, default=5
        Number of independent splits, at least 1.
    test_fraction : float, default=0.25
        Share of the combinations (of their cells, for "data_efficiency") to hold out, in (0, 1].
    train_fraction : float, default=1.0
        Share of the combinations (cells) not held out to train on, in [0, 1]. 0 trains on
        controls and single perturbations only.
    mode : {"out_of_distribution", "data_efficiency"}, default="out_of_distribution"
        Whether combinations or their cells are held out.
    control, sep, perturbation : as in :class:`PerturbationKFold`
        How labels are read.
    random_state : int, RandomState instance or None, default=None
        Seeds the shuffling.

    Notes
    -----
    Models to which a combination is an intervention of its own, such as ``SVAEPlus``, cannot
    predict those out of distribution, nor one whose cells are all held out.

    No model can know a perturbation that it never saw. A combination with a part that is not
    measured alone is held out of distribution only if other combinations with that part stay in
    training, where one of them then comes first; a ``DataWarning`` says if this leaves fewer to
    hold out. ``split`` raises a ``ValueError`` if there is nothing to hold out, if the train set
    still lacks a part of a tested combination, or for parameters out of range.

    The published protocol [1]_ counts the trained combinations as a share of all of them:
    ``train_fraction`` is that share over ``1 - test_fraction``. It tests on a fifth of the cells
    of a quarter of the combinations; here all their cells are tested on. Its cells for data
    efficiency are split with ``test_fraction=0.2``.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023, section 5.

    Examples
    --------
    >>> from skpert.model_selection import CombinationHoldout
    >>> A = ["control", "A", "B", "C", "A+B", "B+C", "A+B"]
    >>> splitter = CombinationHoldout(1, test_fraction=0.5, random_state=0)
    >>> [(train.tolist(), test.tolist()) for train, test in splitter.split(A, A)]
    [([0, 1, 2, 3, 5], [4, 6])]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        test_fraction: float = 0.25,
        train_fraction: float = 1.0,
        mode: str = "out_of_distribution",
        control="control",
        sep="+",
        perturbation="perturbation",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.test_fraction = test_fraction
        self.train_fraction = train_fraction
        self.mode = mode
        self.control = control
        self.sep = sep
        self.perturbation = perturbation
        self.random_state = random_state

    def _iter_indices(self, X, y=None, groups=None):
        """Train and test cells of each split."""
        self._check_parameters()
        if y is None:
            raise ValueError("the split needs the design: split(X, A)")
        treatments = _Treatments(y, self.control, self.sep, self.perturbation)
        random = check_random_state(self.random_state)
        for _ in range(self.n_splits):
            if self.mode == "out_of_distribution":
                order = random.permutation(treatments.combinations)
                train, test = treatments.held_out(order, self.test_fraction)
                train, test = treatments.cells_of(self._share(train)), treatments.cells_of(test)
            else:
                cells = random.permutation(treatments.cells_of(treatments.combinations))
                n_test = max(round(self.test_fraction * len(cells)), 1)
                train, test = self._share(cells[:-n_test]), cells[-n_test:]
            train = np.concatenate([treatments.cells_of(treatments.others), train])
            treatments.check_known(train, test)
            yield np.sort(train), np.sort(test)

    def _share(self, rest):
        return rest[: round(self.train_fraction * len(rest))]

    def _check_parameters(self):
        if not isinstance(self.n_splits, Integral) or self.n_splits < 1:
            raise ValueError(f"n_splits must be an integer of at least 1, got {self.n_splits!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {self.mode!r}")
        if not isinstance(self.test_fraction, Real) or not 0 < self.test_fraction <= 1:
            raise ValueError(f"test_fraction must be in (0, 1], got {self.test_fraction!r}")
        if not isinstance(self.train_fraction, Real) or not 0 <= self.train_fraction <= 1:
            raise ValueError(f"train_fraction must be in [0, 1], got {self.train_fraction!r}")


class _Treatments:
    """The treatments of a design, their parts and their cells."""

    def __init__(self, A, control, sep, perturbation):
        design = read_design(A, control=control, sep=sep, perturbation=perturbation)
        warn_of_names(design, sep)
        design = distinct(design)
        self.codes, self.part_names = design.codes, design.names
        self.names = np.array(treatment_names(design, control=control, sep=sep), dtype=object)
        ends = design.dosage.indptr
        self.parts = [set(design.dosage.indices[i:j].tolist()) for i, j in pairwise(ends)]
        combined = np.diff(ends) > 1
        self.others = np.flatnonzero(~combined)
        # by name, so that the form of the design and the order of cells do not matter
        self.combinations = np.flatnonzero(combined)[np.argsort(self.names[combined])]
        if not len(self.combinations):
            raise ValueError(
                f"A has no combination to hold out: none of its {len(self.names)} treatments has "
                f"more than one part (in labels they are joined by sep={sep!r})"
            )
        self.alone = set().union(*(self.parts[t] for t in self.others))

    def cells_of(self, treatments):
        """Cells that had one of the treatments, in their order."""
        return np.flatnonzero(np.isin(self.codes, treatments))

    def held_out(self, order, fraction):
        """Combinations to train on and those to test, the latter from the end of ``order``."""
        n_test, test, rest = max(round(fraction * len(order)), 1), [], []
        n_left = Counter(part for combination in order for part in self.parts[combination])
        for combination in order[::-1]:
            parts = self.parts[combination] - self.alone
            if len(test) < n_test and all(n_left[part] > 1 for part in parts):
                n_left.subtract(parts)
                test.append(combination)
            else:
                rest.append(combination)
        if len(test) < n_test:
            reason = "the rest have parts that are neither measured alone nor left in training"
            if not test:
                raise ValueError(f"no combination can be held out: {reason}")
            warn_of_data(f"{len(test)} combinations are held out instead of {n_test}: {reason}")
        return self._needed_first(rest[::-1], test), test

    def _needed_first(self, rest, test):
        """The same combinations, first those that alone show a part of what is tested."""
        missing = set().union(*(self.parts[t] for t in test)) - self.alone
        first, later = [], []
        for combination in rest:
            (first if self.parts[combination] & missing else later).append(combination)
            missing -= self.parts[combination]
        return first + later

    def check_known(self, train, test):
        """Raise a ValueError if a part of a tested combination is in no training cell."""
        seen, tested = (
            set().union(*(self.parts[t] for t in np.unique(self.codes[cells])))
            for cells in (train, test)
        )
        unseen = sorted(tested - seen)
        if unseen:
            raise ValueError(
                f"tested combinations have parts that no training cell has, "
                f"{listed(self.part_names[unseen], 5)}: raise train_fraction, lower "
                "test_fraction, or leave these combinations out"
            )
