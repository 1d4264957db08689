"""Which labels are combinations, and which are names that contain the separator."""

import re
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from ..exceptions import warn_of_data
from .values import listed

CONNECTING = "_-.,:;/\\|&*=~^#@"  # signs between two words: no name begins or ends with one
NUMBER = re.compile(r"\d+(\.\d+)?")
BRACKETS = {")": "(", "]": "[", "}": "{"}


class Parts(NamedTuple):
    """What each label means, and what was ambiguous."""

    of: dict  # sorted names of the single perturbations in each label; none for the control
    whole: list  # labels that hold the separator and are names
    doubtful: list  # combinations of which no part is a label of its own


def read_parts(labels, control, sep, known=()):
    """Split labels into names of single perturbations, but not names that contain ``sep``.

    A label that is among the ``known`` names is that name. Any other is split at ``sep`` if all
    parts are known or labels of their own; else if those that are not look like names. Parts may
    contain ``sep`` themselves if they are known, or labels of their own that are not split.
    """
    if sep is None:
        return Parts({label: _names([label], control) for label in labels}, [], [])
    known = {control, *known}
    found = Parts({label: _names([label], control) for label in labels if label in known}, [], [])
    cuts = {label: label.split(sep) for label in labels if label not in known}
    alone = known | {_only(cut, control) for cut in cuts.values()}
    # a name that contains sep can be a part of longer labels only, which come after it
    for label in sorted(cuts, key=lambda label: (len(cuts[label]), label)):
        names = _segments(cuts[label], sep, alone)
        if names is None:
            names = _cut(label, sep)
            if any(part not in alone and not _looks_like_a_name(part, names) for part in names):
                names = [label]
                alone.add(label)
                found.whole.append(label)
            elif alone.isdisjoint(names):
                found.doubtful.append(label)
        found.of[label] = _names(names, control)
    return found


def parts_of_names(names, sep):
    """Single perturbations in names that were read before, by name; all that can be is split."""
    ends = () if sep is None else [n for n in names if "" in map(str.strip, n.split(sep))]
    return read_parts(names, None, sep, known=ends).of


def dosage_matrix(columns, n_names):
    """Dosages of 1 from the columns that each row has them in, CSR of float32."""
    indices = np.array([j for row in columns for j in row], dtype=np.int32)
    indptr = np.cumsum([0, *map(len, columns)], dtype=np.int32)
    ones = np.ones(len(indices), dtype=np.float32)
    return csr_array((ones, indices, indptr), shape=(len(columns), n_names))


def warn_of_whole(whole, sep):
    """One warning for all labels that contain the separator and are treated as names."""
    if whole:
        warn_of_data(
            f"Labels in A contain sep={sep!r} and are not split there ({len(whole)}): "
            f"{listed(sorted(whole), 5)}. Some of their parts are not labels of "
            "their own and do not look like names, so these are treated as single perturbations. "
            "If all labels are, set sep=None; if these are combinations, join their parts with "
            "another separator and pass it as `sep`."
        )


def doubt(doubtful, sep):
    """Warning about labels that are split though no part occurs alone, or empty text."""
    if not doubtful:
        return ""
    return (
        f"Labels in A are treated as combinations because they contain sep={sep!r}, though none "
        f"of their parts is a label of its own ({len(doubtful)}): {listed(sorted(doubtful), 5)}. "
        "If they are names of single perturbations, use sep=None."
    )


def _cut(label, sep):
    parts = [part.strip() for part in label.split(sep)]
    if "" in parts:
        raise ValueError(
            f"Label {label!r} in A has an empty part before or after {sep!r}, which separates "
            "the parts of a combination. If the sign belongs to the name, use sep=None."
        )
    return parts


def _names(parts, control):
    return tuple(sorted(set(parts) - {control}))


def _only(cut, control):
    """Return the name that a label means if it is one; "A", "A+A" and "A+control" are A."""
    names = _names(map(str.strip, cut), control)
    return names[0] if len(names) == 1 and names[0] else control


def _segments(cut, sep, names):
    """Parts of a label that are all names, the longest names first; None if there are none."""
    parts = [part.strip() for part in cut]
    if names.issuperset(parts):
        return parts
    ends = {len(cut): []}  # segments from here to the end of the label
    for start in reversed(range(len(cut))):
        for stop in reversed(range(start + 1, len(cut) + 1)):
            name = sep.join(cut[start:stop]).strip()
            if stop in ends and name in names:
                ends[start] = [name, *ends[stop]]
                break
    return ends.get(0)


def _looks_like_a_name(part, parts):
    """Whether a part of a label may be a name of its own."""
    if part[0] in CONNECTING or part[-1] in CONNECTING or not _balanced(part):
        return False
    if any(map(str.isalpha, part)):
        return True
    return all(map(NUMBER.fullmatch, parts))  # perturbations are numbered


def _balanced(part):
    """Whether all brackets that are opened are closed."""
    opened = []
    for sign in part:
        if sign in BRACKETS.values():
            opened.append(sign)
        elif sign in BRACKETS and (not opened or opened.pop() != BRACKETS[sign]):
            return False
    return not opened
