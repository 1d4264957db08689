"""Reading a design A, what was done to each cell, in any of the accepted forms."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, issparse

from ..exceptions import warn_of_data
from .expression import with_valid_structure
from .parts import dosage_matrix, read_parts, warn_of_whole
from .values import LIKE_MISSING, as_design, check_columns, factors, listed, text

FOLDS = (  # what leaves perturbations out of training when cells are sorted by label
    "If this is a fold of a cross-validation, as of KFold without shuffling, which leaves out "
    "whole perturbations where cells are sorted: PerturbationKFold trains on every perturbation "
    "in every fold; LeavePerturbationsOut is for models and scorers that can do with unseen ones."
)
LABELS = "Labels in A must be text or numbers (a combination is one text, such as 'A+B')"
FLOAT32 = np.finfo(np.float32)


class Design(NamedTuple):
    """Treatments, and the one that each cell had.

    A treatment is a row of dosages over single perturbations; the control is the row of zeros.
    """

    names: np.ndarray  # (n_names,) text: columns of `dosage`
    dosage: csr_array  # (n_treatments, n_names) float32, sorted, without stored zeros
    codes: np.ndarray  # (n_cells,) row of `dosage`
    form: str  # "labels", "frame" (dosages with names) or "array" (dosages by position)
    whole: Sequence = ()  # labels that contain the separator and were not split at it
    doubtful: Sequence = ()  # labels that were, though none of their parts is a label of its own


def perturbation_labels(
    A, *, control="control", sep: str = "+", perturbation: str = "perturbation"
) -> np.ndarray:
    """One canonical label per cell, for any form of the design A.

    Two cells have the same label when the same was done to them: parts of a combination are
    sorted, repeated parts and the control are left out of it. A dosage other than 1 is part of
    the label, as in ``"A*0.5+B"``.

    Parameters
    ----------
    A : {array-like, sparse matrix, DataFrame} or str
        Design, in the forms that :class:`PerturbationEncoder` takes.
    control, sep, perturbation : str, default="control", "+" and "perturbation"
        As in :class:`PerturbationEncoder`.

    Returns
    -------
    labels : ndarray of shape (n_cells,) and dtype object
        Text; an untreated cell has the label ``control``.

    Raises
    ------
    ValueError
        If A is none of the forms, or has missing labels, or negative or missing dosages.

    Warns
    -----
    DataWarning
        If labels that contain ``sep`` are treated as names, see :class:`PerturbationEncoder`,
        or if labels look like missing values.

    Examples
    --------
    >>> from skpert.preprocessing import perturbation_labels
    >>> perturbation_labels(["B+A", "A + B", "A+control", "control"]).tolist()
    ['A+B', 'A+B', 'A', 'control']
    >>> perturbation_labels([[0.5, 1], [0, 0]]).tolist()
    ['0*0.5+1', 'control']
    """
    design = read_design(A, control=control, sep=sep, perturbation=perturbation)
    warn_of_names(design, sep)
    return treatment_labels(design, control=control, sep=sep)


def read_design(A, *, control, sep, perturbation, known=()):
    """Read any form of A; ValueError says what is wrong with it.

    Labels, and parts of labels, that are among the ``known`` names are these names.
    """
    if sep == "":
        raise ValueError("sep='' cannot separate perturbations; use sep=None for no combinations.")
    control, A = text(control), as_design(A)
    if isinstance(A, pd.DataFrame) and perturbation in A.columns:
        check_columns(A, [perturbation])
        return _read_labels(A[perturbation], control, sep, known)
    if isinstance(A, pd.DataFrame):
        return _read_frame(A, control, perturbation)
    if A.ndim == 1 and not issparse(A):
        return _read_labels(A, control, sep, known)
    return _read_array(A, control)


def warn_of_names(design, sep):
    """Warn of names in a design that may mean something else."""
    warn_of_whole(design.whole, sep)
    n_cells = np.bincount(design.dosage[design.codes].indices, minlength=len(design.names))
    warn_of_missing(design.names, n_cells)


def distinct(design):
    """Merge equal treatments of a design."""
    dosage = design.dosage
    n_parts = np.diff(dosage.indptr)
    doses, _ = pd.factorize(dosage.data)
    group = np.zeros(dosage.shape[0], dtype=np.int64)
    for k in range(n_parts.max(initial=0)):  # one more part of every treatment that has it
        rows = np.flatnonzero(n_parts > k)
        at = dosage.indptr[rows] + k
        for key in (dosage.indices, doses):
            pair = group[rows] * (int(key.max()) + 1) + key[at]
            group[rows] = group.max() + 1 + pd.factorize(pair)[0]
    codes, _ = pd.factorize(group)
    first = np.flatnonzero(~pd.Series(codes).duplicated())
    return design._replace(dosage=dosage[first], codes=codes[design.codes])


def treatment_names(design, *, control, sep):
    """Canonical label of each row of ``design.dosage``, as a list of text."""
    names, doses = design.names[design.dosage.indices], design.dosage.data
    join = "+" if sep is None else sep
    labels = []
    for i, j in pairwise(design.dosage.indptr):
        parts = sorted(zip(names[i:j], doses[i:j], strict=True))
        labels.append(join.join(_dosed(name, dose) for name, dose in parts) or text(control))
    return labels


def as_interventions(design, *, control, sep):
    """Make every combination of a design a name and a column of its own."""
    graded = design.dosage.data != 1
    if graded.any():
        raise ValueError(
            "Dosages must be 0 or 1 here, because a combination is an intervention of its own; A "
            f"has {design.dosage.data[graded][0]}."
        )
    design = distinct(design)
    labels = treatment_names(design, control=control, sep=sep)
    ends = design.dosage.indptr
    parts = [tuple(design.dosage.indices[i:j]) for i, j in pairwise(ends)]
    treated = {part: label for part, label in zip(parts, labels, strict=True) if part}
    if design.form == "labels":
        names = sorted(treated.values())
    else:
        combinations = [treated[part] for part in sorted(treated) if len(part) > 1]
        names = list(dict.fromkeys([*design.names, *combinations]))
    column = {name: j for j, name in enumerate(names)}
    columns = [[column[treated[part]]] if part else [] for part in parts]
    dosage = dosage_matrix(columns, len(names))
    return design._replace(names=np.array(names, dtype=object), dosage=dosage)


def treatment_labels(design, *, control, sep):
    """Canonical label of each cell, object array of text."""
    design = distinct(design)
    names = treatment_names(design, control=control, sep=sep)
    return np.array(names, dtype=object)[design.codes]


def check_received(encoder, remedy):
    """Raise ValueError if the fitted encoder knows perturbations that no cell received."""
    unseen = encoder.perturbations_[encoder.n_cells_ == 0]
    if len(unseen):
        raise ValueError(
            f"A has columns of perturbations that no cell received: {listed(unseen, 10)}. {remedy}"
        )


def warn_of_missing(names, n_cells):
    """One warning when labels look like missing values that were made text."""
    alike = [i for i, name in enumerate(names) if LIKE_MISSING.fullmatch(name)]
    if alike:
        shown = ", ".join(f"{names[i]!r} ({n_cells[i]} cells)" for i in alike[:5])
        warn_of_data(
            f"A has labels that look like missing values, {shown}; they are treated as "
            "perturbations. If they are missing, leave those cells out, or give them the label "
            "of the control if they are untreated."
        )


def warn_of_single_cells(names, n_cells):
    """One warning for all perturbations that have a single cell."""
    single = [name for name, n in zip(names, n_cells, strict=True) if n == 1]
    if single:
        warn_of_data(
            f"Perturbations with one cell only ({len(single)}): {listed(single, 5)}; their "
            "effects cannot be distinguished from the noise of that cell."
        )


def warn_of_controls(names, control, n_control_cells):
    """One warning when there is no control, or when another name looks like one."""
    word = (
        "(ctrl|ctl|control|nt|ntc|nontargeting|safetargeting|scrambled?|neg(ative)?(ctrl|control)"
        r"|unperturbed|untreated|vehicle|dmso)\d*"
    )
    plain = [re.sub(r"[\W_]", "", name.lower()) for name in names]
    alike = [n for n, p in zip(names, plain, strict=True) if re.fullmatch(f"({word})+", p)]
    parts = []
    if alike:
        parts.append(
            f"A has labels that look like a control, {listed(alike, 5)}, but `control` names "
            f"{control!r}; they are treated as perturbations."
        )
    if n_control_cells == 0:
        parts.append(
            f"A has no control cell (label {control!r}), so nothing measured says how untreated "
            "cells look. Effects are then relative to the mean of all training cells in SCCVAE "
            "and the baselines, and in the other models to a zero point of the latent space that "
            "only their priors fix, about what most perturbations have in common. What is "
            "predicted for the control is that reference, no estimate of untreated cells."
        )
    if parts:
        warn_of_data(" ".join(parts))


def warn_of_inseparable(names, dosage, doubt=""):
    """One warning when perturbations occur in the same cells only, in the same proportion.

    ``doubt`` is the warning about the labels that these perturbations were read from.
    """
    columns = dosage.tocsc()
    columns.sort_indices()
    groups = {}
    for name, start, end in zip(names, columns.indptr[:-1], columns.indptr[1:], strict=True):
        if end > start:
            share = columns.data[start:end] / columns.data[start]
            key = columns.indices[start:end].tobytes(), share.tobytes()
            groups.setdefault(key, []).append(name)
    together = ["+".join(group) for group in groups.values() if len(group) > 1]
    if together:
        doubt = (
            f"A has perturbations that only co-occur: {listed(together, 5)}. Their "
            f"individual effects are not identifiable; their sum is split equally. {doubt}"
        )
    if doubt:
        warn_of_data(doubt.strip())


def _dosed(name, dose):
    return name if dose == 1 else f"{name}*{np.format_float_positional(dose, trim='-')}"


def _read_labels(labels, control, sep, known):
    codes, texts = factors(labels, LABELS)
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(codes)} labels in A are missing, the first in row "
            f"{missing[0]}; leave those cells out, or give them the control label {control!r}."
        )
    read = read_parts(texts, control, sep, known)
    parts = [read.of[label] for label in texts]
    names = sorted(set().union(*parts))
    column = {name: j for j, name in enumerate(names)}
    dosage = dosage_matrix([[column[name] for name in row] for row in parts], len(names))
    names = np.array(names, dtype=object)
    return Design(names, dosage, codes, "labels", read.whole, read.doubtful)


def _read_frame(A, control, perturbation):
    columns = listed(list(A.columns), 20)
    if A.shape[1] == 0:
        raise ValueError(
            f"The DataFrame A has no columns: it needs {perturbation!r}, with the labels, or one "
            "for each perturbation, with dosages."
        )
    if not all(map(_is_real, A.dtypes)):
        raise ValueError(
            f"The DataFrame A has no column {perturbation!r} to read labels from and is not a "
            f"matrix of dosages, because not all of its columns are numeric. Its columns are "
            f"{columns}; name the one with the labels by the parameter `perturbation`."
        )
    names = np.array([text(column) for column in A.columns], dtype=object)
    if len(set(names)) < len(names):
        raise ValueError(f"Columns of the dosages A have the same name twice: {columns}.")
    keep = names != control  # as pandas.get_dummies makes it: no perturbation, no dosage
    values = A.loc[:, keep].to_numpy(dtype=np.float64, na_value=np.nan)
    return _dosages(values, names[keep], "frame")


def _is_real(dtype):
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)


def _read_array(values, control):
    if values.ndim != 2:
        raise ValueError(
            f"A must be 1-D labels or 2-D dosages, one row per cell; it has {values.ndim} "
            "dimensions."
        )
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"A is 2-D and its dtype {values.dtype} is not that of dosages. Give labels as a 1-D "
            "array, or a DataFrame with a column of labels; a combination is one text, such as "
            "'A+B'."
        )
    names = np.array([str(j) for j in range(values.shape[1])], dtype=object)
    if control in names:
        raise ValueError(
            f"Column {control} of the dosages A has the name of the control; give a DataFrame "
            "with names of perturbations as its columns, or change `control`."
        )
    return _dosages(values, names, "array")


def _dosages(values, names, form):
    if issparse(values):
        values = with_valid_structure(values, "A", np.float64)
    dosage = csr_array(values, dtype=np.float64, copy=True)
    dosage.sum_duplicates()
    dosage.eliminate_zeros()
    size = np.abs(dosage.data)
    bad = np.flatnonzero(~((dosage.data > 0) & (size >= FLOAT32.tiny) & (size <= FLOAT32.max)))
    if len(bad):
        row = np.searchsorted(dosage.indptr, bad[0], side="right") - 1
        raise ValueError(
            f"Dosages must be finite and not negative, 0 meaning untreated; A has "
            f"{dosage.data[bad[0]]} in row {row}, column {names[dosage.indices[bad[0]]]!r} "
            f"({len(bad)} such values)."
        )
    return Design(names, dosage.astype(np.float32), np.arange(dosage.shape[0]), form)
