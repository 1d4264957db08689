"""Perturbations whose effect is confounded with that of another column of the design frame.

A column may be what cells were treated in (a batch, a donor), what follows from the treatment (a
guide, the pathway of its target), or what the treatment does (a phase of the cell cycle). Only the
first confounds, and the name of the column says which it is, or else how it goes with the labels.
"""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, eye_array

from .._input.design import Design
from .._input.values import factors, listed, text
from ..exceptions import warn_of_data
from ._nesting import chance, imbalance, inflation, level_counts, nested_in

BATCH = {*"batch lane plate run channel chip slide gem gemgroup flowcell line dataset".split()}
BATCH |= {*"experiment study site date day pool cohort species strain tissue orig".split()}
UNIT = {*"sample replicate rep donor patient individual subject animal mouse".split()}
FACTOR = {*"treatment condition stimulation stimulus".split()}  # perhaps a second one
OF_LABELS = FACTOR | {*"guide guides sgrna grna gene genes target targets perturbation".split()}
OF_LABELS |= {*"pert crispr construct barcode clone compound drug smiles inchi moa".split()}
OF_LABELS |= {*"mechanism pathway module program programme complex family class clinical".split()}
OF_LABELS |= {*"dose dosage concentration control symbol ensembl nt role kind category".split()}
OF_LABELS |= {*"well wells position row col".split()}  # of a plate, where one label is
OF_CELLS = {*"n number size count counts score umi umis fraction percent pct mito".split()}
OUTCOME = {*"phase cycle leiden louvain cluster clusters type celltype annotation state".split()}
OUTCOME |= {*"doublet predicted prediction qc pass filter".split()}
UNEVEN = 0.5  # total variation distance of the levels of two groups of cells
INFLATED = 5.0  # variance of an effect, beside that of as many cells in one environment
RARE = 1e-4  # chance of a warning in a screen whose cells are put into levels at random
MOST_INTEGERS = 20  # different ones that are levels and not numbers
LARGEST = 5_000_000  # names, or treatments, times levels that are counted
COLUMNS = ["perturbation", "column", "levels", "share", "share_of_reference", "separable"]


class Finding(NamedTuple):
    """Names that are confounded with a column."""

    column: str
    given: bool  # whether it is an environment
    separable: bool  # whether an environment could separate, or separates, the two
    table: pd.DataFrame  # a row for each name, with COLUMNS


class Column(NamedTuple):
    """A column of the frame whose values are levels."""

    name: str
    kind: str  # "given", "batch", "unit", "outcome" or "other"
    codes: np.ndarray  # (n_cells,), -1 where the level is missing
    texts: np.ndarray  # of the levels


def confounded(design, frame, environment, perturbation, environments):
    """Findings of all columns: those that are environments, and others that are levels.

    Those of samples or donors count only if one of these has several treatments, as otherwise each
    is treated as a whole, which is what an experiment with replicates does. ``environments`` is
    the matrix of the environments.
    """
    columns = _columns(design, frame, environment, perturbation)
    given = [column for column in columns if column.kind == "given"]
    others = [column for column in columns if column.kind != "given"]
    rare = RARE / max(len(design.names) * len(columns), 1)
    factor = inflation(design, environments) if environment else np.ones(len(design.names))
    found, known = [], np.zeros(len(design.names), dtype=bool)
    for column in given:
        flags = nested_in(design, column.codes)
        known |= flags
        found += _finding(design, column, flags, separable=False)
    together = (factor == np.inf) & ~known
    if together.any():
        names = ", ".join(map(str, environment))
        codes, texts = _joint(given, len(frame))
        joint = Column(names, "given", codes, texts)
        found += _finding(design, joint, together, separable=False)
        known |= together
    one = np.zeros(len(frame), dtype=np.int64)
    for column in given:
        flags = _uneven(design, column, rare, one) & (factor >= INFLATED) & ~known
        found += _finding(design, column, flags, separable=True)
    strata, _ = _joint(given, len(frame))
    for column in others:
        uneven = _uneven(design, column, rare, strata)
        nested = nested_in(design, column.codes) & ~known
        if column.kind in ("outcome", "other"):
            nested &= uneven
        found += _finding(design, column, nested, separable=False)
        found += _finding(design, column, uneven & ~nested & ~known, separable=True)
    return found


def table_of(found):
    """All rows of the findings."""
    parts = [finding.table for finding in found]
    return pd.concat(parts, ignore_index=True) if parts else no_confounding()


def confounding_of(estimator):
    """Table of a fitted estimator, empty if its design is not one of perturbations."""
    design = getattr(estimator, "design_", None)
    return design.confounded_ if hasattr(design, "confounded_") else no_confounding()


def no_confounding():
    """Table without a row."""
    kinds = [object, object, object, float, float, bool]
    return pd.DataFrame({c: np.array([], dtype=k) for c, k in zip(COLUMNS, kinds, strict=True)})


def warn_of_confounded(found):
    """One warning for all that was found."""
    told = {
        (True, False): (
            "that cannot be separated from those of an environment",
            ", where no control cell is, nor a perturbation that is elsewhere beside controls "
            "too. What is learned of them is the effect of both.",
        ),
        (False, False): (
            "that look confounded with another column",
            ", where no control cell is, nor a perturbation that is elsewhere beside controls "
            "too. If the column affects expression, they cannot be separated from it, and what "
            "is learned of them is the effect of both.",
        ),
        (True, True): (
            "that an environment leaves few cells to compare by",
            ". What is learned of them may be the effect of both.",
        ),
        (False, True): (
            "that look confounded with another column",
            ". If the column affects expression, what is learned of them holds the difference of "
            "its levels: name it in `environment`, or keep only levels that hold both.",
        ),
    }
    parts = []
    for (given, separable), (what, so) in told.items():
        group = [f for f in found if (f.given, f.separable) == (given, separable)]
        if group:
            parts.append(f"Effects in A {what}: {'; '.join(_phrases(group))}{so}")
    if parts:
        warn_of_data(" ".join([*parts, "`confounded_` of the encoder (`design_`) lists them."]))


def warn_of_nested_covariates(invariant, others):
    """One warning for categories of invariant covariates that come only with others of their own.

    Both are frames of columns with categories. As there is no control, those are nested that no
    level joins to most cells. Categories of several levels that no other has are replicated, as
    a disease is in donors, and not told.
    """
    pairs = [(invariant[name], others[other]) for name in invariant for other in others]
    parts = [part for pair in pairs if (part := _nested_categories(*pair))]
    if parts:
        warn_of_data(
            f"Invariant covariates that cannot be separated from others: {'; '.join(parts)}, and "
            "no other category leads from these to most cells. The invariant latents may hold "
            "what belongs to the other column."
        )


def _nested_categories(values, other):
    """Phrase of the categories that are nested in levels of another column, None without any."""
    (codes, texts), (levels, _) = factors(values, "Covariate"), factors(other, "Covariate")
    known = (codes >= 0) & (levels >= 0)
    if not known.any():
        return None
    names, dosage = np.array(texts, dtype=object), eye_array(len(texts), format="csr")
    codes, levels, other = codes[known], levels[known], other[known]
    flags = nested_in(Design(names, csr_array(dosage), codes, "labels"), levels)
    seen = pd.crosstab(codes, levels).reindex(range(len(names)), fill_value=0).to_numpy() > 0
    flags &= (seen.sum(1) == 1) | (seen & (seen.sum(0) > 1)).any(1)
    where = other[np.isin(codes, np.flatnonzero(flags))].unique()
    where = listed(sorted(map(text, where)), 3)
    only = f"{listed(names[flags], 5)} of {values.name!r} only where {other.name!r} is {where}"
    return only if flags.any() else None


def _phrases(group):
    """Which names are where, one phrase for all columns that have the same names."""
    alike = {}
    for finding in group:
        alike.setdefault(tuple(finding.table["perturbation"]), []).append(finding)
    for names, findings in list(alike.items())[:3]:
        first = findings[0]
        rows = first.table
        levels = list(dict.fromkeys(rows["levels"]))
        mostly = (rows["share"] < 1).any()
        shown = f"{listed(names, 5)} {'mostly' if mostly else 'only'} where "
        shown += repr(first.column) + (f" is {listed(levels, 3)}" if any(levels) else " differs")
        if first.separable:
            low, high = rows["share"].mean(), rows["share_of_reference"].mean()
            shown += f" ({low:.0%} of their cells, {high:.0%} of those they are compared with)"
        others = [finding.column for finding in findings[1:]]
        yield shown + (f", and likewise by {listed(others, 3)}" if others else "")
    if len(alike) > 3:
        yield f"and others by {len(alike) - 3} more columns"


def _finding(design, column, flags, *, separable):
    """List of the finding for the names with a flag, empty if there are none."""
    if not flags.any():
        return []
    count, reference = level_counts(design, column.codes, len(column.texts))
    count, reference = count[flags], reference[flags]
    chosen = count > 0
    if separable:
        excess = imbalance(count, reference, np.zeros(count.shape[1], dtype=int))
        chosen &= excess > 0
    shares = [
        (values * chosen).sum(1) / np.maximum(values.sum(1), 1) for values in (count, reference)
    ]
    levels = [", ".join(sorted(column.texts[row])) for row in chosen]
    values = [design.names[flags], [column.name] * len(levels), levels, *shares]
    table = pd.DataFrame(dict(zip(COLUMNS, values, strict=False))).astype(
        dict.fromkeys(COLUMNS[:3], object)
    )
    table["separable"] = separable
    return [Finding(column.name, column.kind == "given", separable, table)]


def _uneven(design, column, rare, strata):
    """Whether a name's levels differ clearly from those of the control, and not by chance.

    Clearly, that is within ``strata``, a code of each cell, so that what follows from environments
    that are known does not count.
    """
    n_levels, n_names = len(column.texts), len(design.names)
    known = column.codes >= 0
    places = np.full(len(known), -1)
    places[known], pairs = pd.factorize(strata[known] * n_levels + column.codes[known])
    if len(pairs) * n_names > LARGEST:
        return np.zeros(n_names, dtype=bool)
    excess = imbalance(
        *level_counts(design, places, len(pairs)), pd.factorize(pairs // n_levels)[0]
    )
    of_level = csr_array((np.ones(len(pairs)), (np.arange(len(pairs)), pairs % n_levels)))
    excess = excess @ of_level  # over strata
    uneven = np.maximum(excess, 0).sum(1) >= UNEVEN
    count, reference = level_counts(design, column.codes, n_levels)
    if column.kind == "outcome":  # of which an effect is a change of shares
        uneven &= (count > 0).sum(1) == 1
    count, reference = count[uneven], reference[uneven]
    chosen = imbalance(count, reference, np.zeros(n_levels, dtype=int)) > 0
    uneven[uneven] = chance(count, reference, chosen) < rare
    return uneven


def _joint(columns, n_cells):
    """Code of each combination of levels, and its text."""
    codes, texts = np.zeros(n_cells, dtype=np.int64), np.array([""], dtype=object)
    for column in columns:
        pairs = codes * len(column.texts) + column.codes
        used, codes = np.unique(pairs, return_inverse=True)
        first, second = np.divmod(used, len(column.texts))
        joined = [
            f"{a}/{b}" if a else b for a, b in zip(texts[first], column.texts[second], strict=True)
        ]
        texts = np.array(joined, dtype=object)
    return codes, texts


def _columns(design, frame, environment, perturbation):
    """Columns to look at, those that are batches by name first."""
    untreated = np.diff(design.dosage.indptr)[design.codes] == 0
    found, n_rows = [], design.dosage.shape
    for j in np.flatnonzero(frame.columns != perturbation):
        values, name = frame.iloc[:, j], str(frame.columns[j])
        kind = "given" if frame.columns[j] in environment else _kind(values, name)
        levels = None if kind is None else _levels(values, untreated, kind)
        if levels is None or len(levels[1]) * max(n_rows) > LARGEST:
            continue
        column = Column(name, kind, levels[0], np.array(levels[1], dtype=object))
        if kind in ("given", "batch") or _may_confound(column, design, values):
            found.append(column)
    return sorted(found, key=lambda column: column.kind != "batch")


def _kind(values, name):
    """What a column is by its name and dtype; None if no level of it is a batch."""
    words = {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}
    if words & OF_CELLS or (words & OF_LABELS and not words & FACTOR):
        return None
    if words & BATCH:
        return "batch"
    if words & UNIT:
        return "unit"
    if pd.api.types.is_float_dtype(values.dtype):
        return None
    if pd.api.types.is_integer_dtype(values.dtype) and values.nunique() > MOST_INTEGERS:
        return None
    return "outcome" if words & OUTCOME or pd.api.types.is_bool_dtype(values.dtype) else "other"


def _levels(values, untreated, kind):
    """Code of each cell's level, -1 where it is missing, and texts; None if none is shared."""
    if pd.api.types.is_float_dtype(values.dtype):
        if kind == "given" and values[untreated].nunique() != 1:
            return None  # a slope, which is learned from controls
        if kind != "given" and values.nunique() > MOST_INTEGERS:
            return None
    try:
        codes, texts = factors(values, "Levels")
    except ValueError:
        return None
    most = len(codes) if kind == "given" else max(len(codes) / 2, 2)
    return (codes, texts) if 1 < len(texts) <= most else None


def _may_confound(column, design, values):
    """Whether a column that is no batch by name is neither a unit of its own nor of the labels."""
    known = column.codes >= 0
    pairs = pd.unique(design.codes[known] * len(column.texts) + column.codes[known])
    treatment, level = np.divmod(pairs, len(column.texts))
    n_levels = np.bincount(treatment)  # of each treatment
    n_treatments = np.bincount(level, minlength=len(column.texts))  # of each level
    if n_treatments.max() == 1:
        return False
    if column.kind == "unit":
        return True
    n_own = (n_treatments == 1).sum()
    if len(column.texts) > 3 and n_own > len(column.texts) / 2:
        return False  # guides, say, most of which are those of one label
    if n_levels.max() > 1:
        return True
    # a property of the labels, such as the pathway of a target, which the control has not
    control = np.flatnonzero(np.diff(design.dosage.indptr) == 0)
    with_control = level[np.isin(treatment, control)]
    shared = n_treatments[with_control].max(initial=0) > 1
    return shared and not pd.api.types.is_bool_dtype(values.dtype)
