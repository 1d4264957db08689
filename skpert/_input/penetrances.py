"""Reading names of single perturbations, and grids of their penetrances."""

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from .parts import read_parts
from .values import listed, text

N_GRID = 41  # penetrances that are tried, if none are given


def check_names(estimator, perturbations):
    """Distinct names of single perturbations, as the fitted estimator writes them."""
    if not hasattr(estimator, "with_penetrance"):
        raise TypeError(f"{type(estimator).__name__} has no penetrances: give a fitted SCCVAE")
    check_is_fitted(estimator)
    names = [perturbations] if isinstance(perturbations, str) else list(perturbations)
    if not names:
        raise ValueError("perturbations is empty: name at least one")
    labels = estimator.design_.labels(np.array(names, dtype=object))
    parts = read_parts(
        labels, text(estimator.control), estimator.sep, estimator.design_.columns_
    ).of
    others = [name for name in labels if len(parts[name]) != 1]
    if others:
        raise ValueError(
            f"penetrance belongs to single perturbations, got {listed(others, 5)}: name the parts "
            "of a combination, and leave out the control, whose penetrance is 0"
        )
    repeated = pd.Index(labels)[pd.Index(labels).duplicated()].unique()
    if len(repeated):
        raise ValueError(f"perturbations has names twice: {listed(repeated, 5)}")
    return labels


def read_penetrances(penetrance):
    """Finite numbers by distinct names, a Series of float64."""
    if not isinstance(penetrance, dict | pd.Series):
        raise ValueError(
            f"penetrance must map names to numbers, such as {{'JAK2': 2.0}}, got {penetrance!r}"
        )
    penetrance = pd.to_numeric(pd.Series(penetrance, dtype=object), errors="coerce")
    penetrance = penetrance.astype(np.float64)
    finite = np.isfinite(penetrance).all()
    if penetrance.empty or not finite or penetrance.index.has_duplicates:
        raise ValueError(
            "penetrance must map names, each once, to finite numbers, got "
            f"{listed(list(penetrance.items()), 10)}"
        )
    return penetrance


def check_grid(estimator, grid):
    """Penetrances to try; None spans those learned, and 0."""
    if grid is None:
        known = estimator.penetrance_
        low, high = min(0.0, float(known.min())), max(0.0, float(known.max()))
        return np.union1d(np.linspace(low, high, N_GRID), [0.0])
    values = np.asarray(grid, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"grid must be one or more finite numbers in a list, got {grid!r}")
    return values
