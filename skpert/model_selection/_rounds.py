"""One split of a screen: what is measured in it, and what estimators predict for it."""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import clone

from ..exceptions import DataWarning
from ..preprocessing import LogNormalize
from ._screen import unwrapped
from ._truth import METRICS, Prediction, Truth, kernel_bandwidths, label_means, screen_weights

MEASURED, CONTROLS, HALVES, FLOOR_CELLS, SAMPLES, FIT = range(6)  # what a draw is for


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
        return {name: cells[codes == code] for code, name in enumerate(names)}

    def random(self, purpose, item=0):
        """Generator of one kind of draws, the same for all estimators."""
        return np.random.default_rng([self.plan.seed, self.index, purpose, item])

    def given(self, cells, lognorm):
        """Expression of cells as an estimator takes it."""
        return self.screen.like_given((self.values if lognorm else self.screen.values)[cells])

    def some(self, cells, random):
        """Expression of cells, of at most as many as may be compared."""
        return self.values[_drawn(cells, self.plan.max_cells, random)]

    def n_compared(self, name):
        """How many cells of a perturbation are predicted."""
        return self.plan.n_samples or min(len(self.tested[name]), self.plan.max_cells)

    def truth(self):
        """What predictions are compared with."""
        cells = {
            name: self.some(rows, self.random(MEASURED, i))
            for i, (name, rows) in enumerate(self.tested.items())
        }
        trained = self._means(self.trained)
        tested = np.concatenate(list(self.tested.values()))
        weights, bandwidths = None, None
        if "weighted_mse" in self.plan.metrics:
            rows = np.concatenate([self.train, tested])
            labels = self.screen.labels[rows]
            weights = screen_weights(self.values[rows], labels, control=self.screen.control)
        if "maximum_mean_discrepancy" in self.plan.metrics:
            controls = self.some(self.controls, self.random(CONTROLS))
            bandwidths = kernel_bandwidths([*cells.values(), controls])
        return Truth(
            means=self._means(self.tested),
            cells=cells,
            control=self._reference(),
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
            warnings.warn(
                f"no training cell has the control label {self.screen.control!r}: responses are "
                "then relative to the mean of all training cells",
                DataWarning,
                stacklevel=2,
            )
            cells = self.train
        return label_means(self.values[cells], np.zeros(len(cells))).to_numpy()[0]

    def floor(self, truth):
        """The mean of training perturbations, and cells of all of them alike, for every one."""
        groups, cells = list(self.trained.values()), {}
        for i, name in enumerate(self.tested if self.plan.of_cells else ()):
            random = self.random(FLOOR_CELLS, i)
            chosen = random.integers(len(groups), size=self.n_compared(name))
            cells[name] = self.values[[random.choice(groups[group]) for group in chosen]]
        means = np.tile(truth.perturbed, (len(self.tested), 1))
        return Prediction(pd.DataFrame(means, index=truth.means.index), cells)

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

    def predicted(self, name, estimator):
        """Prediction of an estimator fitted on the training cells, and what it cannot predict."""
        model, lognorm = unwrapped(name, estimator, self.screen)
        model = _seeded(model, self.random(FIT).integers(2**31))
        model.fit(self.given(self.train, lognorm), self.screen.design(self.train))
        controls = self.given(self.controls, lognorm) if len(self.controls) else None
        predict = self._of_lognorm if lognorm else self._of_counts
        means, cells, unknown = {}, {}, {}
        for i, label in enumerate(self.tested):
            seed = int(self.random(SAMPLES, i).integers(2**31))
            try:
                means[label], cells[label] = predict(model, label, controls, seed)
            except ValueError as error:
                if label in self.trained:
                    raise
                unknown[label] = str(error)
        means = pd.DataFrame(means.values(), index=list(means), dtype=np.float64)
        return Prediction(means, cells if self.plan.of_cells else {}), unknown

    def _of_lognorm(self, model, label, controls, seed):
        query = self.screen.query(self.tested[label][0])
        mean = np.asarray(model.predict_intervention(query))[0]
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


def _drawn(cells, n_most, random):
    """Cells in their order, or a random sample of them without replacement."""
    if len(cells) <= n_most:
        return cells
    return np.sort(random.choice(cells, n_most, replace=False))


def _seeded(estimator, seed):
    """Clone that reads expression as it is given, with a seed if it has none."""
    model = clone(estimator)
    parameters = model.get_params(deep=False)
    if "random_state" in parameters and parameters["random_state"] is None:
        model.set_params(random_state=int(seed))
    if parameters.get("layer") is not None:
        model.set_params(layer=None)
    return model
