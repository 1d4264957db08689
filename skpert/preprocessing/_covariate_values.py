"""Reading covariates: which columns a design has, and what their values are."""

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from .._input.values import factors, listed, text


def as_list(names):
    """List of names, of which a single one may be given as text."""
    return [names] if isinstance(names, str) else list([] if names is None else names)


def check_groups(groups):
    """Raise ValueError if a covariate is named more than once."""
    names = [name for group in groups.values() for name in group]
    for name in names:
        if names.count(name) > 1:
            where = [group for group, members in groups.items() for n in members if n == name]
            raise ValueError(
                f"Covariate {name!r} is named more than once, in {listed(where, 3)}: name it in "
                "one of them."
            )


def check_distinct(columns):
    """Raise ValueError if two columns of the encoding have the same name."""
    twice = [name for name in columns if (columns == name).sum() > 1]
    if twice:
        raise ValueError(
            f"Two columns of the encoding would be called {twice[0]!r}: rename a covariate or its "
            "categories."
        )


def check_unnamed(A, names):
    """Raise ValueError if A has no names of columns but needs them."""
    if names:
        raise ValueError(
            f"Covariates {listed(names, 20)} are columns of a design frame, a DataFrame such as "
            f"adata.obs; A is of type {type(A).__name__}."
        )


def unnamed_frame(A):
    """Frame of 1-D labels, or of the columns of a 2-D array, as floats."""
    values = A.toarray() if issparse(A) else A
    if values.ndim == 1:
        return pd.DataFrame({"label": pd.Series(values).astype(object).to_numpy()})
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "biuf":
        raise ValueError(
            "A must be a DataFrame such as adata.obs, 1-D labels or a 2-D array of numbers, one "
            f"row per cell; it is of type {type(A).__name__}, read as {values.ndim} dimensions of "
            f"dtype {values.dtype} and size {values.size}."
        )
    names = [str(j) for j in range(values.shape[1])]
    return pd.DataFrame(values.astype(np.float64), columns=names)


def select(A, names):
    """Those of the columns that the frame has, in the order of the names, which are text."""
    present = [str(column) for column in A.columns]
    names = [name for name in names if name in present]
    for name in names:
        if present.count(name) > 1:
            raise ValueError(f"A has {present.count(name)} columns with the name {name!r}.")
    return A.iloc[:, [present.index(name) for name in names]].set_axis(names, axis=1)


def category_codes(values, categories, unseen):
    """Index of each value's category, -1 where it is missing or not seen in training."""
    codes, texts = factors(values, f"Covariate {values.name!r} must hold text or numbers")
    unknown = sorted(set(texts) - set(categories))
    if unknown and unseen == "error":
        raise ValueError(
            f"Covariate {values.name!r} has categories that training did not have: "
            f"{listed(unknown, 10)}. Known are {listed(categories, 20)}."
        )
    known = {category: j for j, category in enumerate(categories)}
    return np.array([*(known.get(label, -1) for label in texts), -1])[codes]


def as_numbers(values, *, finite=True):
    """Values as float64, NaN where they are missing; infinite ones are an error if ``finite``."""
    if not pd.api.types.is_numeric_dtype(values.dtype):
        values = values.astype(object)  # dates would become numbers
    try:
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Covariate {values.name!r} had numbers in training, and now has the dtype "
            f"{values.dtype}: {error}"
        ) from error
    infinite = np.flatnonzero(np.isinf(numbers) & finite)
    if len(infinite):
        raise ValueError(
            f"Covariate {values.name!r} has {len(infinite)} infinite values, the first in row "
            f"{infinite[0]}; NaN hides a value that is not known."
        )
    return numbers


def standardised(values, numbers, mean, scale):
    """Numbers less their mean, in units of the scale; ValueError if float32 cannot hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = (numbers - mean) / scale
    large = np.flatnonzero(np.abs(numbers) > np.finfo(np.float32).max)
    if len(large) or not np.isfinite([mean, scale]).all():
        raise ValueError(
            f"Covariate {values.name!r} has numbers that are too large, or too far from those of "
            f"training (mean {mean:g}, standard deviation {scale:g}), to compute with."
        )
    return numbers


def learn_categories(values):
    """Sorted categories, of which there must be two."""
    _, categories = factors(values, f"Covariate {values.name!r} must hold text or numbers")
    categories.sort()
    _check_variety(values.name, categories, len(categories) == 1)
    return categories


def learn_scale(values):
    """Mean and standard deviation, which must not be 0, of those that are not missing."""
    numbers = as_numbers(values)
    numbers = numbers[~np.isnan(numbers)]
    with np.errstate(over="ignore", invalid="ignore"):
        constant = len(numbers) > 0 and (numbers.min() == numbers.max() or numbers.std() == 0)
        _check_variety(values.name, numbers, constant)
        scale = float(numbers.mean()), float(numbers.std())
    standardised(values, numbers, *scale)
    return scale


def _check_variety(name, values, constant):
    if len(values) == 0:
        raise ValueError(
            f"Covariate {name!r} is missing in all cells; leave it out, or fill it in."
        )
    if constant:
        raise ValueError(
            f"Covariate {name!r} is {text(values[0])!r} in all cells that have it: nothing can be "
            "learned of it; leave it out."
        )
