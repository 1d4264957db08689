"""Values of labels, columns and arguments: their canonical form, and what is refused."""

import re
from collections.abc import Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Number, Real

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils import check_scalar
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

BOOLS = (bool, np.bool_)
VALUES = (str, bytes, *BOOLS, Real, Decimal, np.datetime64, np.timedelta64)
VALUES += (date, time, timedelta, pd.Period, pd.Interval)
MISSING = (type(None), type(pd.NA), type(pd.NaT), np.ma.core.MaskedConstant)
NESTED = (list, tuple, np.ndarray)
WORDS = ("missing", "unassigned", "unknown")  # which are names of categories as well
LIKE_MISSING = re.compile(  # as pandas, numpy, R and people write it
    rf"nan|NaN|NAN|NaT|N/?A|n/a|<NA>|#N/A|[Nn]one|null|NULL|-|(?i:{'|'.join(WORDS)})"
)


def text(label):
    """Label as canonical text: without outer blanks; 1, 1.0 and "1" are all "1"."""
    if isinstance(label, bytes):
        label = _decoded(label)
    if isinstance(label, str):
        return str.__str__(label).strip()  # the value of an Enum, and not its name
    if isinstance(label, (Decimal, Fraction)):
        label = float(label)
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        label = int(label)
    if isinstance(label, Integral) and not isinstance(label, BOOLS):
        label = int(label)
    return str(label).strip()


def _decoded(label):
    try:
        return label.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{label[:20]!r} is not text in UTF-8: decode it first, as by .decode('latin-1')."
        ) from error


def as_list(names):
    """List of names, of which a single one may be given as it is; none for None."""
    if isinstance(names, (str, bytes, Number)):
        return [names]
    return list([] if names is None else names)


def listed(names, limit):
    """Names in quotes, at most ``limit`` of them."""
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return f"{shown} ... and {len(names) - limit} more" if len(names) > limit else shown


def factors(values, rule):
    """Code of each value, -1 for a missing or blank one, and the distinct texts of the codes.

    ValueError, which begins with the ``rule``, for values that are neither text nor numbers, or
    equal as one but not as the other.
    """
    values = _series(values)
    kinds = _kinds(values)
    odd = sorted(kind.__name__ for kind in kinds if not issubclass(kind, (*VALUES, *MISSING)))
    if odd:
        remark = " Complex data not supported." if any("complex" in kind for kind in odd) else ""
        raise ValueError(f"{rule}; got {listed(odd, 3)}.{remark}")
    if np.ma.core.MaskedConstant in kinds:
        values = pd.Series([None if value is np.ma.masked else value for value in values])
    if not kinds.isdisjoint(BOOLS) and any(map(_is_number, _kinds(values.dropna()))):
        raise ValueError(
            f"{rule}, not booleans beside numbers, where True equals 1 and False 0: make them all "
            "text, or all numbers."
        )
    codes, uniques = pd.factorize(values)
    texts = [text(value) or None for value in pd.Series(uniques).astype(object)]
    merged, texts = pd.factorize(np.array(texts, dtype=object))
    return np.append(merged, -1)[codes], texts.tolist()


def _series(values):
    """1-D values as a Series, dates as dates."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "biufMmO":
        values = values.astype(object)  # text, bytes, complex and records
    if isinstance(values, pd.MultiIndex):
        values = values.to_flat_index()  # of tuples
    values = pd.Series(values)
    return values.astype(object) if isinstance(values.dtype, pd.ArrowDtype) else values


def _is_number(kind):
    return issubclass(kind, Number) and kind not in BOOLS


def _kinds(values):
    """Types of the distinct values, or of all where they are objects."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = pd.Series(values.cat.categories)
    if values.dtype == object:
        return set(map(type, values.to_numpy().tolist()))
    return {np.dtype(values.dtype).type} if isinstance(values.dtype, np.dtype) else set()


def as_design(A):
    """Design as a DataFrame, a sparse matrix or an array of 1 or 2 dimensions, or a Series."""
    if A is None:
        raise ValueError(
            "This estimator requires y to be passed, but the target y is None: it is the design "
            "A, for example one label per cell or adata.obs."
        )
    if hasattr(A, "to_pandas") and hasattr(A, "columns"):  # tables of polars and pyarrow
        A = _converted(A, A.to_pandas)
    if isinstance(A, pd.DataFrame):
        return _flat(A)
    if isinstance(A, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)) or issparse(A):
        return A
    if hasattr(A, "obs") and hasattr(A, "obs_names"):
        raise ValueError(
            f"A is of type {type(A).__name__}, which holds the design in a column of its obs: "
            "give the frame, as in fit(adata, adata.obs)."
        )
    return _of_array(A)


def _of_array(A):
    """Array whose dtype distinguishes 2-D numbers from other values."""
    if np.ma.isMaskedArray(A):
        return filled(A)
    if hasattr(A, "__array__"):
        return _objects(_converted(A, lambda: np.asarray(A)))
    A = [A] if isinstance(A, (str, bytes)) else A
    if not isinstance(A, Sequence):
        raise ValueError(
            "A must be 1-D labels, 2-D dosages or a DataFrame such as adata.obs, with a row per "
            f"cell; it is of type {type(A).__name__}. A single label needs brackets: [label]."
        )
    return _of_sequence(A)


def _converted(A, convert):
    try:
        return convert()
    except Exception as error:  # whatever another library raises
        raise ValueError(
            f"A is of type {type(A).__name__}, which could not be read ({error}): give an array "
            "or a pandas DataFrame."
        ) from error


def _flat(A):
    if A.columns.nlevels > 1:
        raise ValueError(
            f"The columns of A have {A.columns.nlevels} levels; give them names of one level, "
            f"such as {'_'.join(map(str, A.columns[0]))!r}."
        )
    return A


def filled(A):
    """Masked array with what is masked made missing."""
    if A.ndim == 2 and A.dtype.kind in "biuf":
        return A.astype(np.float64).filled(np.nan)
    values = A.data.astype(object)
    values[np.ma.getmaskarray(A)] = None
    return _objects(values)


def _of_sequence(A):
    kinds = set(map(type, A))
    if kinds and all(issubclass(kind, NESTED) for kind in kinds):
        return _objects(_converted(A, lambda: np.asarray(A, dtype=object)))
    # as objects, one each: numpy would make text of [1.0, "A", None], and iterate over objects
    return np.fromiter(A, dtype=object, count=len(A))


def _objects(values):
    """Array whose dtype distinguishes 2-D numbers from other values."""
    values = np.asarray(values)
    if values.ndim == 0:
        raise ValueError(
            f"A is a single value, {values!r}: give one row per cell, a single label as [label]."
        )
    if values.ndim == 2 and values.dtype.kind == "O" and values.size:
        return _converted(values, lambda: np.array(values.tolist()).reshape(values.shape))
    return values


def is_positive_integer(value):
    """Whether a value counts something, which no boolean does."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def check_integer(value, name, least):
    """Raise ValueError unless a value is an integer of at least ``least``, which no boolean is."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_number(value, name, low, high, boundaries):
    """Raise ValueError unless the value lies in this range; ``boundaries`` as `check_scalar`."""
    limits = {"min_val": low, "max_val": high, "include_boundaries": boundaries}
    if np.isnan(check_scalar(value, name, Real, **limits)):
        raise ValueError(f"{name} must be a number between {low} and {high}, got nan")


def check_finite(value, name, boundaries="left"):
    """Raise ValueError unless a value is finite and not negative; "neither": and not zero."""
    check_scalar(value, name, Real, min_val=0, include_boundaries=boundaries)
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def check_range(value, must, kind, fits):
    """Return (lowest, highest) of a range, or of one number; ``must`` begins the message."""
    limits = [value] * 2 if np.ndim(value) == 0 else list(value)
    of_kind = len(limits) == 2 and all(isinstance(limit, kind) for limit in limits)
    if not of_kind or not fits(*limits):
        raise ValueError(f"{must}, got {value!r}")
    return limits


def check_has_latents(estimator):
    """Raise NotFittedError unless the estimator is fitted, ValueError unless it has latents."""
    check_is_fitted(estimator)
    if not (hasattr(estimator, "transform") and hasattr(estimator, "control")):
        raise ValueError(
            f"{type(estimator).__name__} has no latents: give a fitted model such as SVAEPlus, of "
            "a search or a pipeline the model within"
        )


def check_columns(frame, columns):
    """Raise ValueError unless the frame has each of the columns, and has it once."""
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise ValueError(
            f"A has no column {listed(absent, 20)}; its columns are {listed(frame.columns, 20)}."
        )
    for column in columns:
        n_columns = (frame.columns == column).sum()
        if n_columns > 1:
            raise ValueError(
                f"A has {n_columns} columns with the name {str(column)!r}: keep one of them."
            )
        if columns.count(column) > 1:
            raise ValueError(f"Column {str(column)!r} of A is named more than once: name it once.")


def check_weights(sample_weight, X):
    """Weights of the cells of X, float64, the largest of them 1; ValueError if they are none."""
    if np.ma.isMaskedArray(sample_weight):
        sample_weight = sample_weight.astype(np.float64).filled(np.nan)
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    negative = np.flatnonzero(weights < 0)
    if len(negative):
        raise ValueError(
            f"sample_weight must not be negative; {len(negative)} are, the first is "
            f"{weights[negative[0]]:g} in row {negative[0]}."
        )
    if not weights.any():
        raise ValueError("sample_weight is zero for all cells, so that none of them counts.")
    return weights / weights.max()
