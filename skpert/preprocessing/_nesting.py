"""Perturbations whose effect is confounded with that of an environment.

Treatments and the levels of an environment are the two kinds of nodes of a graph, joined where a
cell has both. The effect of a treatment can be compared with the control if there is a way from
one to the other, as in any block design [1]_. A perturbation none of whose treatments is joined to
the control is nested in the levels that it has.

References
----------
.. [1] Eccleston and Hedayat. On the Theory of Connected Designs. Annals of Statistics (1974).
"""

import re

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .._input.values import factors, listed, text
from ..exceptions import warn_of_data

BATCH = {*"batch lane plate run channel chip slide gem gemgroup flowcell".split()}
FEWEST = 3  # cells of a perturbation; fewer may have come to one batch by chance
UNIT = {*"sample well replicate rep donor patient individual subject animal mouse".split()}
OF_LABELS = {*"guide sgrna grna gene target perturbation treatment condition".split()}
OF_CELLS = {*"n number size count counts score umi umis fraction percent".split()}


def nested(design, frame, environment, perturbation):
    """Columns in which names of the design are nested, a list of values and of which names are.

    Looked at are the columns of ``environment``, and others that a batch is called by: those of
    samples or donors only if one of these has several treatments, as otherwise each is treated
    as a whole, which is what an experiment with replicates does.
    """
    found = []
    untreated = np.diff(design.dosage.indptr)[design.codes] == 0
    for j in np.flatnonzero(frame.columns != perturbation):
        values, given = frame.iloc[:, j], frame.columns[j] in environment
        words = {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", str(values.name))}
        named = words & (BATCH | UNIT) and not words & (OF_LABELS | OF_CELLS)
        levels = _levels(values, untreated) if given or named else None
        if levels is None or not (given or words & BATCH or _are_shared(levels, design.codes)):
            continue
        flags = _nested_in(design, levels)
        found.extend([(values, flags)] if flags.any() else [])
    return found


def warn_of_nested(found, design):
    """One warning for all names of the design that are nested in a column."""
    parts = []
    for values, flags in found:
        has_some = design.dosage[:, np.flatnonzero(flags)].sum(1) > 0
        levels = {text(level) for level in values[has_some[design.codes]].dropna().unique()}
        names, where = listed(design.names[flags], 5), listed(sorted(levels), 3)
        parts.append(f"{names} only where {str(values.name)!r} is {where}")
    if parts:
        warn_of_data(
            f"Effects in A that cannot be separated from those of a batch: {'; '.join(parts)}, "
            "where no control cell is, nor a perturbation that is elsewhere beside controls too. "
            "What is learned of them is the effect of both; `nested_` of the encoder marks them."
        )


def _levels(values, untreated):
    """Level of each cell, -1 where it is missing; None if the column has no levels to share."""
    if pd.api.types.is_float_dtype(values.dtype) and values[untreated].nunique() != 1:
        return None  # a slope, which is learned from controls
    try:
        codes, texts = factors(values, "Levels")
    except ValueError:
        return None
    return codes if 1 < len(texts) <= max(len(codes) / 2, 2) else None


def _are_shared(levels, treatments):
    """Whether there is a level whose cells had more than one treatment."""
    return len(set(zip(levels, treatments, strict=True))) > len(set(levels))


def _nested_in(design, levels):
    """Whether no treatment with a name is joined to the control, or to most cells without one."""
    n_treatments, known = design.dosage.shape[0], levels >= 0
    edges = design.codes[known], n_treatments + levels[known]
    shape = 2 * (n_treatments + levels.max() + 1,)
    graph = coo_array((np.ones(known.sum()), edges), shape=shape)
    part = connected_components(graph, directed=False)[1][:n_treatments]
    n_cells = np.bincount(design.codes[known], minlength=n_treatments)
    control = (np.diff(design.dosage.indptr) == 0) & (n_cells > 0)
    joined = part[control] if control.any() else [np.bincount(part, n_cells).argmax()]
    member = (design.dosage.T > 0).astype(np.int64)
    seen, apart = member @ n_cells, member @ (n_cells * ~np.isin(part, joined))
    return (apart >= FEWEST) & (apart == seen)
