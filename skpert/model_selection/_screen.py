"""A screen that is split: its cells, its design, and what of them an estimator is given."""

from numbers import Integral

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length

from .._input.design import read_design, treatment_labels, warn_of_names
from .._input.values import text
from ..metrics._cells import read_cells
from ..preprocessing import LogNormalize
from ._splits import LeavePerturbationsOut

METHODS = ("fit", "predict_intervention", "sample_intervention")


class Screen:
    """Expression, canonical labels and design of all cells."""

    def __init__(self, X, A, *, space, control, sep, perturbation, layer):
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
        self._A = A if isinstance(A, pd.DataFrame) else np.asarray(A, dtype=object)

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
        """The treatment of a cell as a design of one row, in no environment."""
        if self._design.form != "labels":
            return self._dosages([cell])
        if isinstance(self._A, pd.DataFrame):
            return self._A[[self.names["perturbation"]]].iloc[[cell]]
        return self._A[[cell]]

    def _dosages(self, cells):
        dosage = self._design.dosage[self._design.codes[cells]]
        used = np.unique(dosage.indices)
        return pd.DataFrame(dosage[:, used].toarray(), columns=self._design.names[used])


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
        what = "is a class: make one of it" if isinstance(model, type) else f"has no {missing}"
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


def split_cells(cv, screen, random_state):
    """Train and test cells of each split, checked."""
    if cv is None or isinstance(cv, Integral):
        n_splits = 5 if cv is None else cv
        names = screen.names | {"sep": None}  # labels were read before
        cv = LeavePerturbationsOut(n_splits, **names, random_state=random_state)
    if isinstance(cv, str):
        raise ValueError(f"cv must be a number, a splitter or pairs of train and test, got {cv!r}")
    pairs = cv.split(screen.values, screen.labels) if hasattr(cv, "split") else cv
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


def _indices(cells, screen):
    """Sorted numbers of cells, also of a mask."""
    cells = np.asarray(cells)
    if cells.dtype == bool:
        cells = np.flatnonzero(cells)
    n_cells = len(screen.labels)
    if cells.ndim != 1 or (len(cells) and not 0 <= cells.min() <= cells.max() < n_cells):
        raise ValueError(f"cv must give rows from 0 to {n_cells - 1}, or masks of all cells")
    return np.unique(cells.astype(np.intp))
