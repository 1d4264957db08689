"""Columns of a design frame as a matrix of nuisance covariates."""

import numpy as np
import pandas as pd

from .._input.values import as_design, check_columns, factors, listed
from ._covariate_values import as_numbers, standardised


def check_frame(A, columns):
    """Design as a frame with these columns; ValueError if it is none, or lacks one."""
    frame = None if A is None else as_design(A)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            "Environments need the design frame, a DataFrame with the columns "
            f"{listed(columns, 20)}; A is of type {type(A).__name__}."
        )
    check_columns(frame, columns)
    return frame


def learn_environments(frame, columns):
    """Read what the matrix of environments is made of.

    Returns the sorted categories of the columns that hold categories, mean and standard deviation
    of those that hold floats (1 where all values are equal), and the names of the matrix' columns.
    """
    categories, scales, names = {}, {}, []
    for column in columns:
        values = frame[column]
        if pd.api.types.is_float_dtype(values.dtype):
            numbers = _numbers(values)
            with np.errstate(over="ignore"):
                scales[column] = float(numbers.mean()), float(numbers.std()) or 1.0
            standardised(values, numbers, *scales[column])
            names.append(str(column))
        else:
            categories[column] = sorted(_categories(values)[1])
            names += [f"{column}={category}" for category in categories[column]]
    return categories, scales, np.array(names, dtype=object)


def environment_matrix(frame, columns, categories, scales):
    """Make the matrix of environments, (n_cells, n_environments) float32."""
    blocks = [np.zeros((len(frame), 0), dtype=np.float32)]
    for column in columns:
        values = frame[column]
        if column in categories:
            blocks.append(_one_hot(values, categories[column]))
        else:
            numbers = standardised(values, _numbers(values), *scales[column])
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


def _numbers(values):
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
