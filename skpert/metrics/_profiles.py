"""Profiles of perturbations: matching by name, excluded genes, references, averages."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from .._input.expression import LARGEST, read_matrix
from .._input.parts import parts_of_names


class Profiles(NamedTuple):
    """True and predicted profiles with the same rows and columns."""

    true: np.ndarray  # (n_perturbations, n_genes)
    predicted: np.ndarray  # same shape
    names: pd.Index  # of perturbations
    genes: pd.Index | None  # None where the true profiles are an array


def read_profiles(true, predicted):
    """Profiles matched by name if both are DataFrames, else by position."""
    frame = isinstance(true, pd.DataFrame)
    values_true, values_predicted, names = aligned(true, predicted, ("true", "predicted"))
    names = pd.RangeIndex(len(values_true)) if names is None else names
    return Profiles(values_true, values_predicted, names, true.columns if frame else None)


def aligned(true, predicted, names):
    """Both as arrays with the same rows and columns, and the names of rows, None without any."""
    rows = None
    if isinstance(true, pd.DataFrame):
        rows = true.index
        if isinstance(predicted, pd.DataFrame):
            for axis, what in enumerate(("perturbations", "genes")):
                check_names(true.axes[axis], predicted.axes[axis], what, names)
            predicted = predicted.loc[rows, true.columns]
    true = read_matrix(true, names[0], largest=LARGEST)
    predicted = read_matrix(predicted, names[1], largest=LARGEST)
    if true.shape != predicted.shape:
        raise ValueError(
            f"{names[0]} has shape {true.shape} and {names[1]} {predicted.shape}: they need the "
            "same perturbations and genes; DataFrames are matched by name"
        )
    return true, predicted, rows


def check_names(wanted, given, what, names):
    """Raise ValueError unless names are unique and all that are ``wanted`` are ``given``."""
    if not (wanted.is_unique and given.is_unique):
        raise ValueError(f"names of {what} are not unique, so that effects cannot be matched")
    missing = wanted.difference(given, sort=False)
    if len(missing):
        raise ValueError(
            f"{names[1]} lacks {len(missing)} of {len(wanted)} {what} of {names[0]}, the first "
            f"{missing[0]!r}: leave them out, or give arrays in the same order"
        )


def in_order(values, profiles, name):
    """Values in the order of the profiles, genes last, where both have names."""
    if not isinstance(values, pd.Series | pd.DataFrame) or profiles.genes is None:
        return values
    names = ("the profiles", name)
    check_names(profiles.genes, values.axes[-1], "genes", names)
    if values.ndim == 1:
        return values.loc[profiles.genes]
    check_names(profiles.names, values.index, "perturbations", names)
    return values.loc[profiles.names, profiles.genes]


def read_differences(true, predicted, reference):
    """Profiles minus their reference."""
    profiles = read_profiles(true, predicted)
    reference = read_reference(reference, profiles)
    return profiles._replace(
        true=profiles.true - reference, predicted=profiles.predicted - reference
    )


def read_reference(reference, profiles):
    """Reference as an array that can be subtracted from profiles."""
    wanted = (profiles.true.shape[1],), profiles.true.shape
    if reference is None:
        raise ValueError(
            "reference is None: give the mean of control cells, or that of training "
            f"perturbations, of shape {wanted[0]} or {wanted[1]}"
        )
    reference = np.asarray(in_order(reference, profiles, "reference"), dtype=np.float64)
    if reference.shape not in ((), *wanted):
        raise ValueError(
            f"reference has shape {reference.shape}, but must be a number or have the shape "
            f"{wanted[0]} of a profile or {wanted[1]} of all"
        )
    if not np.isfinite(reference).all():
        raise ValueError("reference has missing or infinite values")
    return reference


def kept_genes(exclude, profiles):
    """Genes that count for each perturbation, (n_perturbations, n_genes) of bool."""
    kept = np.ones(profiles.true.shape, dtype=bool)
    if exclude is None:
        return kept
    if profiles.genes is None:
        raise ValueError("exclude needs names of genes: give true as a DataFrame")
    if isinstance(exclude, str):
        kept[:, _targets(exclude, profiles)] = False
    else:
        for row, name in zip(kept, profiles.names, strict=True):
            genes = exclude.get(name, ())
            row[profiles.genes.isin([genes] if isinstance(genes, str) else list(genes))] = False
    if kept.all():
        raise ValueError(
            f"exclude leaves out nothing: none of its genes is among the columns, such as "
            f"{profiles.genes[0]!r}, for a perturbation such as {profiles.names[0]!r}"
        )
    if not kept.any(1).all():
        raise ValueError(f"exclude leaves no gene for {profiles.names[~kept.any(1)][0]!r}")
    return kept


def _targets(exclude, profiles):
    """Whether each gene has the name of a perturbation, or of a part of one."""
    if exclude != "targets":
        raise ValueError(f"exclude must be None, 'targets' or a mapping, got {exclude!r}")
    names = {str(name) for name in profiles.names}
    parts = set().union(*parts_of_names(names, "+").values())
    return profiles.genes.astype(str).isin(names | parts)


def by_row(score, profiles, exclude, name):
    """Series of ``score(true, predicted)`` over the genes that count, one per perturbation."""
    rows = zip(profiles.true, profiles.predicted, kept_genes(exclude, profiles), strict=True)
    scores = [score(true[kept], predicted[kept]) for true, predicted, kept in rows]
    return pd.Series(scores, index=profiles.names, name=name, dtype=np.float64)


def aggregated(scores, aggregate):
    """Scores as they are, or their mean or median without NaN."""
    if aggregate is None:
        return scores
    if aggregate not in ("mean", "median"):
        raise ValueError(f"aggregate must be None, 'mean' or 'median', got {aggregate!r}")
    scores = scores.dropna() if isinstance(scores, pd.Series) else scores
    value = scores.agg(aggregate)
    return value if isinstance(value, pd.Series) else float(value)


def pearson(true, predicted):
    """Pearson correlation, NaN where either side is constant."""
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return np.nan
    true, predicted = true - true.mean(), predicted - predicted.mean()
    r = true @ predicted / (np.linalg.norm(true) * np.linalg.norm(predicted))
    return float(np.clip(r, -1, 1))
