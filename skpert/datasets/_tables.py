"""Screens in text: a table, or a matrix with its names and the labels of its cells beside it.

Tables are read as R, pandas and spreadsheets write them.
"""

import csv
import re
import warnings
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.io import mmread

from .._input.files import parse_text, reading
from .._input.values import listed
from ..exceptions import FileUnavailableError, warn_of_data
from ._containers import Screen

_TABLES = (".csv", ".tsv", ".txt", ".tab")
_NAMES = ("features.tsv", "genes.tsv", "barcodes.tsv")  # tables beside a matrix, but not of cells
_MISSING = ["", "NA", "NaN", "nan", "N/A", "n/a", "NULL", "None", "#N/A"]  # in columns of numbers
_FIRST_COLUMN = re.compile(
    r"cell|barcode|index|name|\bids?\b|_id$|well|sample|gene", re.IGNORECASE
)


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


def is_table(path):
    """Whether the name is that of a table."""
    return path.name.lower().removesuffix(".gz").endswith(_TABLES)


def read_delimited(path, perturbation, transpose):
    """Screen in a table with cells in rows, or with genes in rows, and whether it is the latter.

    Where labels are decides: in a column, in a row, or in a table beside the file, whose cells
    are the columns or the rows.
    """
    frame, labels = read_table(path, text=perturbation, find_row=transpose)
    if transpose is not True and perturbation in frame:
        require_column(frame, perturbation, path)
        genes = frame.drop(columns=perturbation)
        var = pd.DataFrame(index=genes.columns)
        return Screen(_numbers(genes, path), frame[[perturbation]], var), False
    if labels is None:
        if not _tables_with(path, perturbation):
            raise ValueError(
                f"{path.name} has no column {perturbation!r} beside the names of its cells, nor "
                f"such a row, nor a table beside it that has; it has: "
                f"{listed(list(frame.columns), 20) or 'none'}"
            )
        obs = _table_beside(path, perturbation)
        transposed = _in_columns(obs, frame, path) if transpose is None else bool(transpose)
        obs = _aligned(obs, frame.columns if transposed else frame.index, path)
    else:
        transposed, obs = True, labels.to_frame(perturbation)
    X, genes = _numbers(frame, path), frame.index if transposed else frame.columns
    return Screen(X.T if transposed else X, obs, pd.DataFrame(index=genes)), transposed


def _in_columns(obs, frame, path):
    """Whether the columns of a frame are the cells of a table, and not its rows."""
    n_columns, n_rows = frame.columns.isin(obs.index).sum(), frame.index.isin(obs.index).sum()
    if n_columns == n_rows:
        raise ValueError(
            f"{path.name} has {n_columns} columns and {n_rows} rows that are cells of the table "
            "of labels: set transpose=True if genes are in rows, or False, and check the names"
        )
    return bool(n_columns > n_rows)


def _numbers(frame, path):
    """Values of a frame as float32; ValueError says where there is text."""
    text = [i for i, kind in enumerate(frame.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    if text and len(frame):
        column = frame.iloc[:, text[0]]
        row = column.index[pd.to_numeric(column, errors="coerce").isna() & column.notna()][0]
        raise ValueError(
            f"in {path.name} every value beside names and labels must be a number; text stands at "
            f"row {row!r}, column {column.name!r}. Columns with text: "
            f"{listed([frame.columns[i] for i in text], 20)}"
        )
    return frame.to_numpy(dtype=np.float32)


def read_mtx(path, perturbation, transpose):
    """Screen of an .mtx file, or of a folder with one, and whether genes were in rows."""
    path = _matrix_in(path) if path.is_dir() else path
    features = _plain_table(_beside(path, "features.tsv", "genes.tsv"))
    barcodes = _plain_table(_beside(path, "barcodes.tsv"))[0]
    with reading(path):
        X = mmread(path)
    shape = len(features), len(barcodes)
    if X.shape not in (shape, shape[::-1]):
        raise ValueError(
            f"{path.name} has shape {X.shape}, which does not fit {shape[0]} features and "
            f"{shape[1]} barcodes"
        )
    if transpose is None:
        transpose = X.shape == shape  # as 10x stores it, square or not
    var = features[[min(1, features.shape[1] - 1)]].set_axis(["name"], axis=1)
    if features.shape[1] > 2:  # identifier, symbol, type
        var["feature_types"] = features[2]
    obs = table_of_cells(path, pd.Index(barcodes, name=None), perturbation)
    return Screen(X.T if transpose else X, obs, var.set_index("name")), bool(transpose)


def _plain_table(path):
    """Table without a header, of text."""
    return parse_text(
        path,
        lambda text: pd.read_csv(
            text, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        ),
    )


def _matrix_in(folder):
    """Return the one matrix of a folder."""
    found = sorted([*folder.glob("*.mtx"), *folder.glob("*.mtx.gz")])
    if len(found) != 1:
        names = listed([file.name for file in found], 20)
        raise ValueError(
            f"{folder} must be a zarr store or hold one .mtx or .mtx.gz file; found: "
            f"{names or 'none'}"
        )
    return found[0]


def _prefix(path):
    """Return what the names of the files beside a file begin with."""
    name = path.name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix).removesuffix("matrix")


def _beside(matrix, *names):
    """Return the file of one of these names, with or without prefix, plain or gzipped."""
    for start in (_prefix(matrix), ""):
        for name in names:
            for end in ("", ".gz"):
                path = matrix.with_name(start + name + end)
                if path.exists():
                    return path
    raise FileUnavailableError(f"{matrix} needs {' or '.join(names)} beside it, plain or gzipped")


def table_of_cells(path, names, perturbation):
    """Table of labels beside a file, in the order of the cells."""
    return _aligned(_table_beside(path, perturbation), names, path)


def _aligned(table, names, path):
    """Rows of a table of these names; missing where it has none."""
    if not table.index.isin(names).any():
        raise ValueError(
            f"the first column of the table beside {path.name} must hold each barcode once, as in "
            f"{path.name} (the first of those is {names[0]!r}); it has "
            f"{listed(list(table.index), 3)}"
        )
    return table.reindex(pd.Index(names, name=table.index.name))


def _table_beside(path, perturbation):
    """Table of cells that has the labels: the only one beside the file."""
    found = _tables_with(path, perturbation)
    if len(found) != 1:
        seen = "; ".join(f"{k.name} has {listed(v, 20)}" for k, v in _tables(path).items())
        raise ValueError(
            f"one table beside {path.name} must have the column {perturbation!r}, but "
            f"{len(found)} have: {seen or 'there are no tables'}"
        )
    table = read_table(found[0], text=perturbation).frame
    require_column(table, perturbation, found[0])
    if table.index.has_duplicates:
        repeated = table.index[table.index.duplicated()][0]
        raise ValueError(
            f"the first column of {found[0].name} must hold each barcode once; {str(repeated)!r} "
            "is there more than once"
        )
    return table


def _tables_with(path, column):
    return [file for file, columns in _tables(path).items() if column in columns]


def _tables(path):
    """Columns of each table beside a file; of those with its prefix, if there are any."""
    files = [f for f in sorted(path.parent.iterdir()) if is_table(f) and f != path and f.is_file()]
    files = [file for file in files if not file.name.removesuffix(".gz").endswith(_NAMES)]
    files = [file for file in files if file.name.startswith(_prefix(path))] or files
    return {file: _columns(file) for file in files}


def _columns(path):
    """Columns of a file besides its names; none if it is not a table."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parse_text(path, _layout).header[1:]
    except ValueError:
        return []


def require_column(table, perturbation, path):
    """Raise ValueError unless a table has the column, and has it once."""
    n_found = (table.columns == perturbation).sum()
    if n_found > 1:
        raise ValueError(f"{path.name} has {n_found} columns {perturbation!r}: keep one")
    if not n_found:
        raise ValueError(
            f"{path.name} has no column {perturbation!r} beside the names of its cells; it has: "
            f"{listed(list(table.columns), 20) or 'none'}"
        )


def read_table(path, *, text=None, find_row=False):
    """Table of a file, plain or gzipped, separated by tabs, semicolons, commas or spaces.

    The column, or the row, of the name ``text`` is read as text, whatever it looks like.
    ``find_row`` says whether it may be a row, which is then taken out of the table; None: if it
    is no column. Columns keep the names that they have in the file, even duplicates.
    In text only empty fields are missing values: "NA" and "None" are valid labels.
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
    """Header and separator, from the first two lines that are not comments."""
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
    if name and not _FIRST_COLUMN.search(name) and numbers.notna().all():
        if not (numbers % 1 == 0).all() or numbers.duplicated().any():
            named = pd.concat([numbers, rest], axis=1)
            return named.set_axis(named.index.astype(str))
        warn_of_data(
            f"{path.name}: the first column, {name!r}, holds whole numbers that are all "
            "different, and is read as names; if it is a gene, put a column of names before it"
        )
    return rest.set_axis(pd.Index(first.fillna(""), name=name or None))
