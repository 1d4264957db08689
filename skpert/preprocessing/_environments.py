"""Columns of a design frame as a matrix of nuisance covariates."""

import numpy as np
import pandas as pd

from ._labels import listed, text


def check_frame(A, columns):
    """Raise ValueError unless A is a frame with these columns and no missing value in them."""
    if not isinstance(A, pd.DataFrame):
        raise ValueError(
            "Environments need the design frame, a DataFrame with the columns "
            f"{listed(columns, 20)}; A is of type {type(A).__name__}."
        )
    absent = [column for column in columns if column not in A.columns]
    if absent:
        raise ValueError(
            f"A has no column {listed(absent, 20)}; its columns are {listed(A.columns, 20)}."
        )
    for column in columns:
        bad = np.flatnonzero(A[column].isna() | A[column].isin([np.inf, -np.inf]))
        if len(bad):
            raise ValueError(
                f"Column {column!r} of A has {len(bad)} missing or infinite values, the first in "
                f"row {bad[0]}; leave those cells out or fill them in."
            )


def learn_environments(frame, columns):
    """Read what the matrix of environments is made of.

    Returns the sorted categories of the columns that hold categories, mean and standard deviation
    of those that hold floats (1 where all values are equal), and the names of the matrix' columns.
    """
    categories, scales, names = {}, {}, []
    for column in columns:
        values = frame[column]
        if pd.api.types.is_float_dtype(values.dtype):
            numbers = values.to_numpy(dtype=np.float64)
            scales[column] = float(numbers.mean()), float(numbers.std()) or 1.0
            names.append(str(column))
        else:
            uniques = np.asarray(values.unique(), dtype=object)
            categories[column] = sorted({text(value) for value in uniques})
            names += [f"{column}={category}" for category in categories[column]]
    return categories, scales, np.array(names, dtype=object)


def environment_matrix(frame, columns, categories, scales):
    """Make the matrix of environments, (n_cells, n_environments) float32."""
    blocks = [np.zeros((len(frame), 0), dtype=np.float32)]
    for column in columns:
        if column in categories:
            blocks.append(_one_hot(frame[column], categories[column]))
        else:
            mean, scale = scales[column]
            numbers = frame[column].to_numpy(dtype=np.float64)
            blocks.append(((numbers - mean) / scale).astype(np.float32)[:, None])
    return np.hstack(blocks)


def _one_hot(values, categories):
    """Membership of each category, (n_cells, n_categories) float32."""
    codes, uniques = pd.factorize(values)
    texts = [text(value) for value in np.asarray(uniques, dtype=object)]
    unknown = sorted(set(texts) - set(categories))
    if unknown:
        raise ValueError(
            f"Environment {str(values.name)!r} has unknown categories: {listed(unknown, 10)}. "
            f"Known are {listed(categories, 20)}."
        )
    column = np.array([categories.index(label) for label in texts], dtype=np.intp)
    return np.eye(len(categories), dtype=np.float32)[column[codes]]
