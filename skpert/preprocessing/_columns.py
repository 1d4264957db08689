"""Reading columns of a design frame: covariates, which may be missing, and environments."""

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from .._input.values import LIKE_MISSING, WORDS, as_design, check_columns, factors, listed, text
from ..exceptions import warn_of_data


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
            "learned from it; leave it out."
        )


def _frame_with(A, columns):
    """Design as a frame with these columns; ValueError if it is none, or lacks one."""
    frame = None if A is None else as_design(A)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            "Environments need the design frame, a DataFrame with the columns "
            f"{listed(columns, 20)}; A is of type {type(A).__name__}."
        )
    check_columns(frame, columns)
    return frame


def learn_environments(A, columns, *beside):
    """Read what the matrix of environments is made of; the frame needs those ``beside`` as well.

    Returns the sorted categories of the columns that hold categories, mean and standard deviation
    of those that hold floats (1 where all values are equal), and the names of the matrix' columns.
    """
    categories, scales, names = {}, {}, []
    frame = _frame_with(A, [*beside, *columns]) if columns else None
    for column in columns:
        values = frame[column]
        if pd.api.types.is_float_dtype(values.dtype):
            numbers = _complete_numbers(values)
            with np.errstate(over="ignore"):
                scales[column] = float(numbers.mean()), float(numbers.std()) or 1.0
            standardised(values, numbers, *scales[column])
            names.append(str(column))
        else:
            categories[column] = sorted(_categories(values)[1])
            names += [f"{column}={category}" for category in categories[column]]
    return categories, scales, np.array(names, dtype=object)


def environment_matrix(A, columns, categories, scales):
    """Make the matrix of environments, (n_cells, n_environments) float32."""
    frame, blocks = _frame_with(A, columns), []
    for column in columns:
        values = frame[column]
        if column in categories:
            blocks.append(_one_hot(values, categories[column]))
        else:
            numbers = standardised(values, _complete_numbers(values), *scales[column])
            blocks.append(numbers.astype(np.float32)[:, None])
    return np.hstack(blocks)


def _one_hot(values, categories):
    """Membership of each category, (n_cells, n_categories) float32."""
    codes, texts = _categories(values)
    unknown = sorted(set(texts) - set(categories))
    if unknown:
        raise ValueError(
            f"Environment {str(values.name)!r} has unknown categories: {listed(unknown, 10)}. "
            f"Known are {listed(categories, 20)}."
        )
    column = np.array([categories.index(label) for label in texts], dtype=np.intp)
    return np.eye(len(categories), dtype=np.float32)[column[codes]]


def _categories(values):
    """Code of each value and the texts of the codes; none may be missing."""
    codes, texts = factors(values, f"Column {values.name!r} of A must hold text or numbers")
    _check_complete(values, codes < 0)
    return codes, texts


def _complete_numbers(values):
    """Values as float64; none may be missing."""
    numbers = as_numbers(values, finite=False)
    _check_complete(values, ~np.isfinite(numbers))
    return numbers


def _check_complete(values, missing):
    bad = np.flatnonzero(missing)
    if len(bad):
        raise ValueError(
            f"Column {values.name!r} of A has {len(bad)} missing or infinite values, the first in "
            f"row {bad[0]}; leave those cells out or fill them in."
        )


def warn_of_missing_categories(categories):
    """One warning when categories of columns look like missing values that were made text."""
    alike = [
        f"{column}={name}"
        for column, names in categories.items()
        for name in names
        if LIKE_MISSING.fullmatch(name) and name.lower() not in WORDS
    ]
    if alike:
        warn_of_data(
            f"A has categories that look like missing values, {listed(alike, 5)}; they are "
            "treated as categories. What is missing should be None or NaN."
        )
