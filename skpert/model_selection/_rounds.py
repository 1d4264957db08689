"""One split of a screen: what is measured in it, and what estimators predict for it."""

from copy import copy
from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import issparse, vstack
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length

from .._input.contexts import context_labels
from .._input.design import read_design, treatment_labels, warn_of_names
from .._input.values import as_list, text
from ..exceptions import warn_of_data
from ..metrics.cells import read_cells
from ..metrics.distances import kernel_bandwidths
from ..preprocessing import LogNormalize
from ._splits import LeaveContextsOut, LeavePerturbationsOut
from ._truth import METRICS, Prediction, Truth, label_means, screen_weights

MOST_CONTROLS = 2000  # training controls from which cells are predicted
METHODS = ("fit", "predict_intervention", "sample_intervention")
MEASURED, CONTROLS, HALVES, FLOOR_CELLS, SAMPLES, FIT, SOURCE = range(7)  # what a draw is for


class Screen:
    """Expression, canonical labels, contexts and design of all cells."""

    def __init__(self, X, A, *, space, control, sep, perturbation, layer, context=None):
        values, self._genes = read_cells(X, space, layer, design=A)
        self.values = values if values.dtype.kind == "f" else values.astype(np.float32)
        self._container = type(X)
        self.space = space
        self.names = {"control": control, "sep": sep, "perturbation": perturbation}
        self._design = read_design(A, **self.names)
        warn_of_names(self._design, sep)
        self.labels = treatment_labels(self._design, control=control, sep=sep)
        check_consistent_length(self.values, self.labels)
        self.control = text(control)
        self.context, self.contexts = as_list(context), context_labels(A, context)
        self._A = A if isinstance(A, pd.DataFrame) else np.asarray(A, dtype=object)

    def __sizeof__(self):
        """Bytes with those of the expression, by which Dask decides what to send only once."""
        values = self.values
        return object.__sizeof__(self) + (
            values.data.nbytes if issparse(values) else values.nbytes
        )

    def like_given(self, values):
        """Expression of some cells, with names of genes where the screen has them."""
        if hasattr(self._container, "var_names"):
            return self._container(values, var=pd.DataFrame(index=self._genes))
        if not issubclass(self._container, pd.DataFrame):
            return values
        if issparse(values):
            return pd.DataFrame.sparse.from_spmatrix(values, columns=self._genes)
        return pd.DataFrame(values, columns=self._genes)

    def design(self, cells):
        """Design of training cells, in the form given, without what none of them received."""
        if self._design.form != "labels":
            return self._dosages(cells)
        return self._A.iloc[cells] if isinstance(self._A, pd.DataFrame) else self._A[cells]

    def query(self, cell):
        """The treatment of a cell, and its context, as a design of one row."""
        if self._design.form != "labels":
            return self._dosages([cell])
        if isinstance(self._A, pd.DataFrame):
            return self._A[[self.names["perturbation"], *self.context]].iloc[[cell]]
        return self._A[[cell]]

    def canonical(self):
        """Canonical labels, or a frame of these and what names the contexts."""
        if not self.context:
            return self.labels
        columns = {name: self._A[name].to_numpy() for name in self.context}
        return pd.DataFrame({self.names["perturbation"]: self.labels, **columns})

    def _dosages(self, cells):
        dosage = self._design.dosage[self._design.codes[cells]]
        used = np.unique(dosage.indices)
        return pd.DataFrame(dosage[:, used].toarray(), columns=self._design.names[used])


class Plan(NamedTuple):
    """What is computed for every split."""

    metrics: list
    n_samples: int | None
    max_cells: int
    seed: int

    @property
    def of_cells(self):
        """Whether a metric compares populations of cells."""
        return any(METRICS[name].of_cells for name in self.metrics)


class Split:
    """Training and test cells, whose expression ``values`` is log-normalised."""

    context = None  # of a part

    def __init__(self, screen, index, train, test, plan):
        self.screen, self.index, self.train, self.plan = screen, index, train, plan
        self.values, self.normalize = screen.values, None
        if screen.space == "counts":
            self.normalize = LogNormalize(target_sum=None).fit(screen.values[train])
            self.values = self.normalize.transform(screen.values)
        self.trained = self._by_label(train)
        self.controls = self.trained.pop(screen.control, train[:0])
        self.tested = self._by_label(test)
        self.tested.pop(screen.control, None)

    def _by_label(self, cells):
        codes, names = pd.factorize(self.screen.labels[cells], sort=True)
        ends = np.cumsum(np.bincount(codes, minlength=len(names)))
        parts = np.split(cells[np.argsort(codes, kind="stable")], ends[:-1])
        return dict(zip(names, parts, strict=False))  # no cells are one part of no name

    def parts(self):
        """Return this split, or one for each context of its test cells, with its controls."""
        if not self.screen.context:
            return [self]
        contexts = self.screen.contexts
        tested = np.concatenate(list(self.tested.values()))
        return [self._within(name) for name in np.unique(contexts[tested])]

    def _within(self, context):
        part, contexts = copy(self), self.screen.contexts
        part.context = context
        inside = {label: rows[contexts[rows] == context] for label, rows in self.tested.items()}
        part.tested = {label: rows for label, rows in inside.items() if len(rows)}
        part.train = self.train[contexts[self.train] == context]
        part.controls = self.controls[contexts[self.controls] == context]
        part.elsewhere = self._effects_elsewhere(context)
        return part

    def _effects_elsewhere(self, context):
        """Mean effect of each training perturbation over the other contexts that have it."""
        contexts, effects = self.screen.contexts, []
        for other in np.unique(contexts[self.controls]):
            groups = {label: rows[contexts[rows] == other] for label, rows in self.trained.items()}
            groups = {label: rows for label, rows in groups.items() if len(rows)}
            if other != context and groups:
                controls = self.controls[contexts[self.controls] == other]
                reference = label_means(self.values[controls], np.zeros(len(controls)))
                effects.append(self._means(groups) - reference.to_numpy())
        if not effects:
            raise ValueError(
                f"split {self.index} trains on no context but {context!r} that has controls and "
                "perturbed cells: give a LeaveContextsOut as cv"
            )
        return pd.concat(effects).groupby(level=0).mean()

    def random(self, purpose, item=0):
        """Generator of one kind of draws, the same for all estimators."""
        return np.random.default_rng([self.plan.seed, self.index, purpose, item])

    def given(self, cells, lognorm):
        """Expression of cells as an estimator takes it."""
        return self.screen.like_given((self.values if lognorm else self.screen.values)[cells])

    def some(self, cells, random):
        """Expression of cells, a random sample of them if there are more than ``max_cells``."""
        n_most = self.plan.max_cells
        if len(cells) > n_most:
            cells = np.sort(random.choice(cells, n_most, replace=False))
        return self.values[cells]

    def n_compared(self, name):
        """How many cells of a perturbation are predicted."""
        return self.plan.n_samples or min(len(self.tested[name]), self.plan.max_cells)

    def truth(self):
        """What predictions are compared with."""
        cells = {
            name: self.some(rows, self.random(MEASURED, i))
            for i, (name, rows) in enumerate(self.tested.items())
        }
        control = self._reference()
        trained = self._means(self.trained) if self.context is None else control + self.elsewhere
        tested = np.concatenate(list(self.tested.values()))
        weights, bandwidths = None, None
        if "weighted_mse" in self.plan.metrics:
            rows = np.concatenate([self.train, tested])
            labels = self.screen.labels[rows]
            weights = screen_weights(self.values[rows], labels, control=self.screen.control)
        if "maximum_mean_discrepancy" in self.plan.metrics:
            controls = self.some(self.controls, self.random(CONTROLS))
            populations = [*cells.values(), controls]
            stack = vstack if issparse(controls) else np.concatenate
            bandwidths = kernel_bandwidths(stack(populations))
        return Truth(
            means=self._means(self.tested),
            cells=cells,
            control=control,
            perturbed=trained.to_numpy().mean(0),
            others=trained.drop(list(self.tested), errors="ignore"),
            weights=weights,
            bandwidths=bandwidths,
        )

    def _means(self, groups):
        cells = np.concatenate(list(groups.values()))
        return label_means(self.values[cells], self.screen.labels[cells])

    def _reference(self):
        """Mean of training controls, or of all training cells without any."""
        cells = self.controls
        if not len(cells):
            of = "" if self.context is None else f" of context {self.context!r}"
            warn_of_data(
                f"no training cell{of} has the control label {self.screen.control!r}: responses "
                f"are then relative to the mean of all training cells{of}"
            )
            cells = self.train
        return label_means(self.values[cells], np.zeros(len(cells))).to_numpy()[0]

    def floor(self, truth):
        """The mean of training perturbations, and cells of all of them, for every perturbation.

        In a context it is what each perturbation does in the others, on its control cells.
        """
        if self.context is not None:
            return self._carried_over(truth)
        groups, cells = list(self.trained.values()), {}
        for i, name in enumerate(self.tested if self.plan.of_cells else ()):
            random = self.random(FLOOR_CELLS, i)
            chosen = random.integers(len(groups), size=self.n_compared(name))
            cells[name] = self.values[[random.choice(groups[group]) for group in chosen]]
        means = np.tile(truth.perturbed, (len(self.tested), 1))
        return Prediction(pd.DataFrame(means, index=truth.means.index), cells)

    def _carried_over(self, truth):
        effects = self.elsewhere.reindex(list(self.tested))
        effects = effects.fillna(self.elsewhere.mean())  # of those that no other context has
        cells = {}
        for i, (name, effect) in enumerate(zip(effects.index, effects.to_numpy(), strict=True)):
            if self.plan.of_cells and len(self.controls):
                chosen = self.random(FLOOR_CELLS, i).choice(self.controls, self.n_compared(name))
                drawn = self.values[chosen]
                cells[name] = (drawn.toarray() if issparse(drawn) else drawn) + effect
        return Prediction(effects + truth.control, cells)

    def ceiling(self, truth):
        """Half of each perturbation's cells as the prediction of the other, and the latter."""
        predicted, measured = {}, {}
        for i, (name, rows) in enumerate(self.tested.items()):
            if len(rows) > 1:
                order = self.random(HALVES, i).permutation(rows)
                predicted[name], measured[name] = np.array_split(order, 2)
        if not predicted:
            return truth, Prediction(truth.means.iloc[:0], {})
        limit = self.plan.max_cells  # halves are in random order
        populations = (
            {name: self.values[rows[:limit]] for name, rows in half.items()}
            for half in (predicted, measured)
        )
        cells, others = populations if self.plan.of_cells else ({}, {})
        means = truth.means.copy()
        means.loc[list(measured)] = self._means(measured).loc[list(measured)]
        replicate = Prediction(self._means(predicted), cells)
        return truth._replace(means=means, cells=others), replicate

    def fitted(self, name, estimator):
        """The estimator fitted on the training cells, and whether it reads log-normalised ones."""
        model, lognorm = unwrapped(name, estimator, self.screen)
        model = _seeded(model, self.random(FIT).integers(2**31))
        model.fit(self.given(self.train, lognorm), self.screen.design(self.train))
        return model, lognorm

    def predicted(self, model, lognorm):
        """Prediction of a fitted estimator, and what it cannot predict."""
        controls = self.controls
        if len(controls) > MOST_CONTROLS:  # each of many perturbations reads them
            order = self.random(SOURCE).permutation(controls)
            controls = np.sort(order[:MOST_CONTROLS])
        controls = self.given(controls, lognorm) if len(controls) else None
        predict = self._of_lognorm if lognorm else self._of_counts
        means, cells, unknown, intervals = {}, {}, {}, {}
        for i, label in enumerate(self.tested):
            seed = int(self.random(SAMPLES, i).integers(2**31))
            try:
                means[label], cells[label] = predict(model, label, controls, seed)
                if self.context is None and hasattr(model, "predict_interval"):
                    intervals[label] = self._interval(model, label)
            except ValueError as error:
                if label in self.trained:
                    raise
                unknown[label] = str(error)
        means = pd.DataFrame(means.values(), index=list(means), dtype=np.float64)
        return Prediction(means, cells if self.plan.of_cells else {}, intervals), unknown

    def _interval(self, model, label):
        """Bounds and reliability of what is not trained on."""
        query = self.screen.query(self.tested[label][0])
        (lower,), (upper,) = model.predict_interval(query)
        reliability = model.reliability(query)[0] if hasattr(model, "reliability") else np.nan
        return lower, upper, reliability

    def _of_lognorm(self, model, label, controls, seed):
        query = self.screen.query(self.tested[label][0])
        cells = None if self.context is None else controls
        mean = np.asarray(model.predict_intervention(query, cells)).mean(0)
        if not self.plan.of_cells:
            return mean, None
        n_cells = self.n_compared(label)
        return mean, model.sample_intervention(query, n_cells, X=controls, random_state=seed)[0]

    def _of_counts(self, model, label, controls, seed):
        query, n_cells = self.screen.query(self.tested[label][0]), self.n_compared(label)
        n_drawn = self.plan.n_samples or self.plan.max_cells  # for a mean with little noise
        drawn = model.sample_intervention(query, n_drawn, X=controls, random_state=seed)[0]
        values = self.normalize.transform(drawn)
        return label_means(values, np.zeros(n_drawn)).to_numpy()[0], values[:n_cells]


def unwrapped(name, estimator, screen):
    """What is to be fitted, and whether to log-normalised expression; ValueError if to neither."""
    model, lognorm = estimator, screen.space == "lognorm"
    if isinstance(estimator, Pipeline):
        *before, model = (step for _, step in estimator.steps)
        before = [step for step in before if step not in (None, "passthrough")]
        if before and (lognorm or [type(step) for step in before] != [LogNormalize]):
            allowed = "nothing" if lognorm else "one LogNormalize"
            raise ValueError(
                f"with space={screen.space!r} a pipeline may have {allowed} before the last step, "
                f"so that all predict the same genes in the same units, but {name!r} has {before}"
            )
        lognorm = lognorm or bool(before)
    missing = [method for method in METHODS if not hasattr(model, method)]
    if missing or isinstance(model, type):
        what = "is a class: give an instance" if isinstance(model, type) else f"has no {missing}"
        raise TypeError(f"{name!r} cannot be evaluated, {model!r} {what}")
    _check_names(name, model, screen.names)
    return model, lognorm


def _check_names(name, model, wanted):
    parameters = model.get_params(deep=False)
    for key, value in wanted.items():
        if parameters.get(key, value) != value:
            raise ValueError(
                f"{name!r} has {key}={parameters[key]!r}, but the screen is read with "
                f"{key}={value!r}: give both the same"
            )


def _seeded(estimator, seed):
    """Clone that reads expression as it is given, with a seed if it has none."""
    model = clone(estimator)
    parameters = model.get_params(deep=False)
    if "random_state" in parameters and parameters["random_state"] is None:
        model.set_params(random_state=int(seed))
    if parameters.get("layer") is not None:
        model.set_params(layer=None)
    return model


def split_cells(cv, screen, random_state):
    """Train and test cells of each split, checked."""
    if isinstance(cv, str):
        raise ValueError(f"cv must be a number, a splitter or pairs of train and test, got {cv!r}")
    cv = _splitter(cv, screen, random_state)
    pairs = cv.split(screen.values, screen.canonical()) if hasattr(cv, "split") else cv
    splits = [tuple(_indices(cells, screen) for cells in pair) for pair in pairs]
    if not splits:
        raise ValueError("cv makes no split")
    for index, (train, test) in enumerate(splits):
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"split {index} trains on and tests {len(both)} cells, such as row {both[0]}"
            )
        for cells, what in ((train, "trains on"), (test, "tests")):
            if not (screen.labels[cells] != screen.control).any():
                raise ValueError(f"split {index} {what} no cell of a perturbation")
    return splits


def _splitter(cv, screen, random_state):
    """The default splitter in place of a number or None."""
    if cv is not None and not isinstance(cv, Integral):
        return cv
    names = screen.names | {"sep": None}  # labels were read before
    if cv is None and screen.context:
        return LeaveContextsOut(screen.context, **names)
    return LeavePerturbationsOut(5 if cv is None else cv, **names, random_state=random_state)


def _indices(cells, screen):
    """Sorted numbers of cells, also of a mask."""
    cells = np.asarray(cells)
    if cells.dtype == bool:
        cells = np.flatnonzero(cells)
    n_cells = len(screen.labels)
    if cells.ndim != 1 or (len(cells) and not 0 <= cells.min() <= cells.max() < n_cells):
        raise ValueError(f"cv must give rows from 0 to {n_cells - 1}, or masks of all cells")
    return np.unique(cells.astype(np.intp))
