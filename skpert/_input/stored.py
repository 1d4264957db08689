"""Expression that stays where it is, on disk, and is read in blocks of rows."""

import logging
import os
from numbers import Integral
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import sparse

from .files import existing, reading

logger = logging.getLogger("skpert")

MOST_NUMBERS = 2**24  # that are read at once
MOST_ROWS = 2**14
FEWEST_ROWS = 256  # of a block, whatever is stored of each
N_BLOCKS = 32  # at least, that are read before any of their cells is used
BYTES = 4  # of a number; a sparse one has a column as well
GROUPS = Path("/sys/fs/cgroup")  # of processes, such as those of a container or a Slurm job
LIMITS = "memory.max", "memory.current"  # of a group, bytes; and as they once were called:
OLD_LIMITS = "memory.limit_in_bytes", "memory.usage_in_bytes"


class UnreadableError(ValueError):
    """Expression cannot be read, and the message says why and what to do."""


def is_path(X):
    """Whether this is the name of a file."""
    return isinstance(X, (str, os.PathLike))


def opened_file(path):
    """What an AnnData in a file holds, as attributes of its names; nothing is read but names."""
    path = existing(path, "X")
    with reading(path):
        group = _group(path)
        of_one = {"obs", "var"} <= set(group) and "mod" not in group
        if not of_one or not hasattr(group["obs"], "keys"):
            raise ValueError(
                f"{path.name} holds no AnnData of one modality with tables obs and var: read it "
                "with datasets.load_screen, and give its X"
            )
        layers, raw = group.get("layers"), group.get("raw")
        return SimpleNamespace(
            X=_element(group.get("X")),
            layers={name: _element(layers[name]) for name in (layers or ())},
            raw=None if _is_null(raw) else _raw(raw),
            var_names=_names(group["var"]),
            obs_names=_names(group["obs"]),
        )


def _raw(group):
    return SimpleNamespace(X=_element(group["X"]), var_names=_names(group["var"]))


def _group(path):
    """Root of a zarr store or an HDF5 file."""
    try:
        if path.is_dir():
            import zarr

            return zarr.open_group(str(path), mode="r")
        import h5py

        return h5py.File(path, "r")
    except ImportError as error:
        raise ImportError(
            f"{path.name} needs anndata, h5py and zarr: pip install 'skpert[data]'"
        ) from error


def _is_null(part):
    return part is None or part.attrs.get("encoding-type") == "null"


def _element(part):
    """Array, or sparse matrix, that stays on disk; None where there is none."""
    if _is_null(part):
        return None
    return part if hasattr(part, "shape") else CompressedRows(part)


def _names(table):
    from anndata.io import read_elem

    return pd.Index([str(name) for name in read_elem(table[table.attrs["_index"]])], dtype=object)


class CompressedRows:
    """Sparse matrix in a group of HDF5 or zarr, in the layout of anndata.

    Its rows are read by place from the arrays of the group, of which only the starts of rows are
    in memory.
    """

    def __init__(self, group):
        self.group, self.shape = group, tuple(int(n) for n in group.attrs["shape"])
        self.format = str(group.attrs["encoding-type"]).partition("_")[0]
        if self.format not in ("csr", "csc"):
            raise ValueError(f"X is stored as {self.format!r}, which is no matrix of numbers")
        check_is_whole(group)
        self.values, self.columns = group["data"], group["indices"]
        self.starts = np.asarray(group["indptr"][:]).astype(np.int64)
        n_lines = self.shape[0 if self.format == "csr" else 1]
        n_stored = min(self.values.shape[0], self.columns.shape[0])
        grows = len(self.starts) == n_lines + 1 and (np.diff(self.starts) >= 0).all()
        if not grows or self.starts[0] != 0 or self.starts[-1] > n_stored:
            raise ValueError(
                "X is a sparse matrix with a malformed structure (starts of its rows do not fit "
                f"to {n_stored} values that are stored): build it anew"
            )

    @property
    def nnz(self):
        """Number of values that are stored."""
        return int(self.starts[-1])

    @property
    def chunks(self):
        """Values in a piece of the file."""
        return self.values.chunks

    def __getitem__(self, rows):
        starts = self.starts[rows.start : rows.stop + 1]
        place = slice(int(starts[0]), int(starts[-1]))
        shape = (len(starts) - 1, self.shape[1])
        return sparse.csr_matrix(
            (self.values[place], self.columns[place], starts - starts[0]), shape=shape
        )

    def to_memory(self):
        """All of it."""
        kind = sparse.csr_matrix if self.format == "csr" else sparse.csc_matrix
        parts = self.values[: self.nnz], self.columns[: self.nnz], self.starts
        return kind(parts, shape=self.shape)


def check_is_whole(stored):
    """Raise ValueError if chunks of a sparse matrix are missing, which zarr reads as zeros.

    Of indices they may be so, where no row can have two.
    """
    if not hasattr(stored["data"], "nchunks_initialized"):
        return
    one_each = stored["data"].shape[0] < stored["indptr"].shape[0]
    for name in ["data"] if one_each else ["data", "indices"]:
        n_missing = stored[name].nchunks - stored[name].nchunks_initialized
        if n_missing:
            raise ValueError(f"{n_missing} chunks of {stored[name].name} are missing")


def on_disk(values):
    """What gives blocks of rows of this, None if it is in memory."""
    try:
        return _source(values)
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # whatever another library raises
        raise ValueError(f"X cannot be read, its file may be closed ({error})") from error


def _source(values):
    if isinstance(values, (np.memmap, CompressedRows)):
        return values
    if hasattr(values, "to_memory") and hasattr(values, "group"):  # anndata's sparse dataset
        return CompressedRows(values.group)
    shape = getattr(values, "shape", None)
    if sparse.issparse(values) or not isinstance(shape, tuple) or len(shape) != 2:
        return None
    array = hasattr(values, "__array__") and not hasattr(values, "chunks")
    table = any(hasattr(values, name) for name in ("iloc", "__dataframe__", "var_names"))
    if array or table or not hasattr(values, "__getitem__"):
        return None
    return values


def in_memory(values):
    """Array or sparse matrix of what may be on disk, or whatever else was given."""
    for read in ("to_memory", "compute"):  # sparse data on disk; an array of dask
        if hasattr(values, read):
            return getattr(values, read)()
    source = None if hasattr(values, "__array__") else on_disk(values)
    if source is None:
        return values
    rows = StoredRows(source, "X")
    blocks = [rows.block(*place) for place in rows.places()]
    if all(map(sparse.issparse, blocks)):
        return sparse.vstack(blocks, format="csr")
    read = [np.ma.asanyarray(b) if np.ma.isMA(b) else _as_array(b) for b in blocks]
    if any(not isinstance(block, np.ndarray) for block in read):
        return values  # of which the check of matrices says what is wrong
    return np.ma.vstack(read) if any(map(np.ma.isMA, read)) else np.vstack(read)


def _as_array(block):
    """Array of what becomes one at once: a list, a tensor, a table."""
    return np.asarray(block) if hasattr(block, "__array__") or isinstance(block, list) else block


class StoredRows:
    """Rows of expression on disk, which look like an array or a CSR matrix, float32.

    Parameters
    ----------
    source : object
        Has a ``shape``, and gives a block of rows as an array or a sparse matrix by ``[a:b]``.
    name : str
        What messages call it.
    columns : ndarray or None, default=None
        Which genes, and in which order; None are all.

    Attributes
    ----------
    shape : tuple of int
        (n_cells, n_genes).
    n_bytes : int
        Memory that all would take.
    n_at_once : int
        Rows that are read at once, so that they take little memory.
    n_block : int
        Rows that lie together when cells are shuffled: as many as a piece of the file has.
    totals : ndarray of shape (n_cells,) or None
        Sum of each row, float64, once it was checked.
    """

    def __init__(self, source, name, columns=None):
        self.source, self.name, self.columns = source, name, columns
        if not all(isinstance(n, Integral) for n in source.shape):
            raise UnreadableError(
                f"{name} has the shape {source.shape}, which is not known: for an array of dask "
                "call compute_chunk_sizes(), or set memory='load'"
            )
        n_cells, n_genes = map(int, source.shape)
        self.shape = n_cells, n_genes if columns is None else len(columns)
        self.totals = None
        if isinstance(source, CompressedRows):
            n_numbers, size = source.nnz, 2 * BYTES
        else:
            n_numbers, size = self._guessed()
        self.n_bytes = n_numbers * size
        of_a_row = max(n_numbers / max(n_cells, 1), 1)
        self.n_at_once = int(np.clip(MOST_NUMBERS // of_a_row, 1, MOST_ROWS))
        most = max(self.n_at_once // N_BLOCKS, 1)
        self.n_block = min(max(FEWEST_ROWS, self._of_a_chunk(of_a_row)), most)

    def _guessed(self):
        """Numbers that are stored, by the first rows, and bytes that each takes."""
        n_cells, n_genes = map(int, self.source.shape)
        first = self.block(0, min(FEWEST_ROWS, n_cells))
        if not sparse.issparse(first) or not n_cells:
            return n_cells * n_genes, BYTES
        return int(first.nnz / first.shape[0] * n_cells), 2 * BYTES

    def _of_a_chunk(self, of_a_row):
        """Rows that a piece of the file has, about; 1 where it has no pieces."""
        chunks = getattr(self.source, "chunks", None)
        if not chunks or not isinstance(chunks[0], (int, tuple)):
            return 1
        first = chunks[0] if isinstance(chunks[0], int) else chunks[0][0]  # of dask: sizes of all
        of_numbers = isinstance(self.source, CompressedRows)
        return int(-(-first // of_a_row)) if of_numbers else int(first)

    def with_columns(self, columns):
        """These genes, in this order."""
        return StoredRows(self.source, self.name, columns)

    def places(self):
        """Start and stop of blocks of rows that are read at once, at least one."""
        n_cells = self.shape[0]
        for start in range(0, max(n_cells, 1), self.n_at_once):
            yield start, min(start + self.n_at_once, n_cells)

    def block(self, start, stop):
        """Rows as they are stored."""
        try:
            values = self.source[start:stop]
            for read in ("compute", "to_memory"):
                if hasattr(values, read):
                    values = getattr(values, read)()
        except MemoryError:
            raise
        except Exception as error:  # whatever another library raises
            raise UnreadableError(
                f"rows {start} to {stop} of {self.name} cannot be read from disk: the file is "
                f"closed, cut off or damaged ({type(error).__name__}: {error})"
            ) from error
        known = isinstance(values, np.ndarray) or sparse.issparse(values)
        shape = stop - start, int(self.source.shape[1])
        if known and values.ndim == 2 and values.shape != shape:
            raise UnreadableError(
                f"rows {start} to {stop} of {self.name} should have the shape {shape}, and what "
                f"was read has {values.shape}"
            )
        return values

    def rows(self, start, stop):
        """Rows, array or canonical CSR matrix, float32, of values that were checked before."""
        values = self.block(start, stop)
        if not sparse.issparse(values):
            values = np.asarray(values, dtype=np.float32)
            return values if self.columns is None else values[:, self.columns]
        values = sparse.csr_matrix(values, dtype=np.float32)
        if not values.has_canonical_format:
            values.sum_duplicates()
        return values if self.columns is None else values[:, self.columns]

    def sum(self, axis=1, dtype=np.float32):
        """Sum of each row."""
        if axis != 1:
            raise ValueError(f"sums of rows are known, those along axis {axis} are not")
        return self.totals.astype(dtype)


def streamed(values, memory, name):
    """``StoredRows`` if these values on disk are to stay there, None if they are to be loaded.

    ``memory`` is as in the estimators.
    """
    source = None if memory == "load" else on_disk(values)
    if source is None:
        return None
    by_column = getattr(source, "format", "csr") != "csr"
    if by_column and memory == "stream":
        raise ValueError(
            f"{name} is stored by columns (CSC), of which no rows can be read: write it as CSR, "
            "or set memory='load'"
        )
    if by_column:
        logger.info("memory='auto': %s is loaded, as it is stored by columns", name)
        return None
    rows = StoredRows(source, name)
    if memory == "stream":
        return rows
    n_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of torchrun, each with its copy
    free = free_memory() / n_processes
    fits = rows.n_bytes <= free / 2
    what = "streamed, as it would take more than" if not fits else "loaded, as it takes at most"
    logger.info(
        "memory='auto': %s of %d cells and %d genes is %s half of the memory that is free "
        "(%.3g of %.3g GB)",
        name,
        *rows.shape,
        what,
        rows.n_bytes / 1e9,
        free / 1e9,
    )
    return None if fits else rows


def _free_of_groups(kinds, path):
    """Bytes that a group of this process, and those that it is in, have left, if they say so.

    ``kinds`` is what it limits, nothing if all. Files that were read are kept in memory until it
    is needed, and do not count.
    """
    if kinds and "memory" not in kinds.split(","):
        return
    root, names = (GROUPS / "memory", OLD_LIMITS) if kinds else (GROUPS, LIMITS)
    own = root / path.lstrip("/")
    for group in (own, *own.parents):
        if group == root.parent:
            return
        try:
            most, used = (int((group / name).read_text()) for name in names)
            lines = (group / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # a group of others, or without a limit
            continue
        kept = [int(line.split()[1]) for line in lines if line.startswith("inactive_file ")]
        yield max(most - used + sum(kept), 0)


def free_memory():
    """Bytes of memory that programs can have; infinite where the system does not say."""
    found = [np.inf]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail")]
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        found += [free for line in groups for free in _free_of_groups(*line.split(":", 2)[1:])]
    except (OSError, ValueError):  # another system
        pass
    if len(found) == 1 and hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2)
    return min(found)
