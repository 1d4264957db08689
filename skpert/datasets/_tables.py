"""Tables of delimited text, as R, pandas and spreadsheets write them."""

import csv
import re
from collections import deque
from typing import NamedTuple

import numpy as np
import pandas as pd

from .._input.files import parse_text
from ..exceptions import warn_of_data

_MISSING = ["", "NA", "NaN", "nan", "N/A", "n/a", "NULL", "None", "#N/A"]  # where numbers stand
_NAMES = re.compile(r"cell|barcode|index|name|\bids?\b|_id$|well|sample|gene", re.IGNORECASE)


class Layout(NamedTuple):
    """How a table is written."""

    header: list[str]
    sep: str
    decimal: str
    n_skip: int  # lines before the data


class Table(NamedTuple):
    """A table whose index is its first column, if that holds names."""

    frame: pd.DataFrame
    labels: pd.Series | None  # row of text, where one was looked for


def column_names(path):
    """Names of the columns of a table, the first included."""
    return parse_text(path, _layout).header


def read_table(path, *, text=None, find_row=False):
    """Table of a file, separated by tabs, semicolons, commas or spaces.

    Missing values are empty fields only where text stands: "NA" and "None" are fair labels.

    Parameters
    ----------
    path : Path
        Plain or gzipped.
    text : str or None, default=None
        Name of what is read as text, whatever it looks like: a column, or a row.
    find_row : bool or None, default=False
        Whether ``text`` may be a row, which is then taken out of the table; None: if it is no
        column.

    Returns
    -------
    table : Table
        The frame has the names that stand in the file, also where one occurs twice.
    """

    def parse(stream):
        layout = _layout(stream)
        sought = text not in layout.header if find_row is None else find_row
        row = _find_row(stream, layout, text) if sought else None
        frame = _frame(stream, layout, text, None if row is None else row[0])
        if len(frame) and pd.isna(frame.iat[-1, -1]):
            _check_last_line(stream, layout)
        return layout, row, frame

    layout, row, frame = parse_text(path, parse)
    frame = _with_index(frame, layout, text, path)
    kept = [bool(name) or frame.iloc[:, i].notna().any() for i, name in enumerate(frame.columns)]
    frame = frame.loc[:, kept]  # spreadsheets end lines in empty fields
    if row is None:
        return Table(frame, None)
    labels = pd.Series(row[1][1 : len(kept) + 1], dtype=object)
    labels = labels.reindex(range(len(kept)))[kept].replace("", np.nan)
    return Table(frame, labels.set_axis(frame.columns))


def _layout(stream):
    """Header and separator, by the first two lines that are no comments."""
    lines, n_read = [], 0
    while len(lines) < 2 and (line := stream.readline()):
        n_read += 1
        if line.strip() and not _is_comment(line):
            lines.append((n_read, line.rstrip("\n")))
    if not lines:
        raise ValueError("it has no lines")
    n_skip, first = lines[0]
    second = lines[1][1] if len(lines) > 1 else None
    sep = _separator(first, second)
    header, fields = _fields(first.removeprefix("#"), sep), _fields(second or first, sep)
    if len(fields) == len(header) + 1:
        header = [*header, ""] if not fields[-1] else ["", *header]  # R has no name for names
    elif len(fields) > len(header):
        raise ValueError(f"the first line has {len(header)} fields, the second {len(fields)}")
    decimal = "," if sep != "," and re.search(r"\d,\d", second or "") else "."
    return Layout(header, sep, decimal, n_skip)


def _is_comment(line):
    return re.match(r"#(\s|#|!|$)|sep=.$", line) is not None


def _separator(first, second):
    """Separator that cuts the two lines into as many fields, and the most."""
    best, most = ",", 1
    for sep in "\t;, ":
        n_fields = len(_fields(first, sep))
        fits = second is None or len(_fields(second, sep)) - n_fields in (0, 1)
        if fits and n_fields > most:
            best, most = sep, n_fields
    return best


def _fields(line, sep):
    try:
        return next(csv.reader([line], delimiter=sep, skipinitialspace=sep != "\t"))
    except csv.Error:  # a field of 128 kB: cut by another separator than the right one
        return [line]


def _find_row(stream, layout, name):
    """Line number, from 0, and fields of the row of this name; None if there is none."""
    stream.seek(0)
    starts = tuple(f"{quote}{name}{quote}{layout.sep}" for quote in ("", '"'))
    for number, line in enumerate(stream):
        if number >= layout.n_skip and line.startswith(starts):
            return number, _fields(line.rstrip("\n"), layout.sep)
    return None


def _frame(stream, layout, text, skipped):
    stream.seek(0)
    positions = range(len(layout.header))
    as_text = {i for i in positions if i == 0 or layout.header[i] == text}
    frame = pd.read_csv(
        stream,
        sep=layout.sep,
        decimal=layout.decimal,
        header=None,
        names=positions,
        index_col=False,
        skiprows=[*range(layout.n_skip), *([] if skipped is None else [skipped])],
        skipinitialspace=layout.sep != "\t",
        dtype=dict.fromkeys(as_text, str),
        keep_default_na=False,
        na_values={i: [""] if i in as_text else _MISSING for i in positions},
    )
    return frame.set_axis(layout.header, axis=1)


def _check_last_line(stream, layout):
    stream.seek(0)
    (line,) = deque((line for line in stream if line.strip()), maxlen=1)
    n_fields = len(_fields(line.rstrip("\n"), layout.sep))
    if n_fields < len(layout.header):
        raise ValueError(
            f"it is cut off: its last line has {n_fields} fields, the first {len(layout.header)}"
        )


def _with_index(frame, layout, text, path):
    """Frame with its first column as index, unless that holds numbers of something else."""
    first, name = frame.iloc[:, 0], layout.header[0]
    rest = frame.iloc[:, 1:]
    if name == text:
        return frame.set_axis(frame.index.astype(str))
    numbers = pd.to_numeric(first, errors="coerce")
    if name and not _NAMES.search(name) and numbers.notna().all():
        if not (numbers % 1 == 0).all() or numbers.duplicated().any():
            named = pd.concat([numbers, rest], axis=1)
            return named.set_axis(named.index.astype(str))
        warn_of_data(
            f"{path.name}: the first column, {name!r}, holds whole numbers that are all "
            "different, and is read as names; if it is a gene, put a column of names before it"
        )
    return rest.set_axis(pd.Index(first.fillna(""), name=name or None))
