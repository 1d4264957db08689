"""Rows of expression, sparse, chosen or on disk, of which minibatches are dense tensors."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

SMALL_GAP = 32  # rows between two that are wanted, which cost less than another call
MUCH_KEPT = 0.5  # share of rows that are wanted, from which the others may stay beside them
HELD_BYTES = 2**29  # of held-out cells that are read once and kept


@dataclass(frozen=True)
class SparseRows:
    """Sparse matrix from which rows are taken as a dense tensor, on any device."""

    start: Tensor  # (n_rows + 1,) where each row starts
    column: Tensor  # (n_nonzero,)
    value: Tensor  # (n_nonzero,)
    shape: tuple[int, int]

    @classmethod
    def from_csr(cls, X: Any) -> "SparseRows":
        """Share the memory of a scipy CSR matrix."""
        start = torch.from_numpy(X.indptr.astype(np.int64))
        return cls(start, tensor_of(X.indices), tensor_of(X.data), X.shape)

    def to(self, device: torch.device) -> "SparseRows":
        """Rows on another device."""
        start, column = self.start.to(device), self.column.to(device)
        return SparseRows(start, column, self.value.to(device), self.shape)

    @cached_property
    def _matrix(self) -> Any:
        """The same arrays as a scipy matrix, which on the CPU takes rows several times as fast."""
        arrays = self.value.numpy(), self.column.numpy(), self.start.numpy()
        return sparse.csr_matrix(arrays, shape=self.shape)

    def _positions(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Row of each value in these rows, and where the value stands."""
        start = self.start[index]
        counts = self.start[index + 1] - start
        offset = start - (torch.cumsum(counts, 0) - counts)
        row = torch.repeat_interleave(counts)  # (n_nonzero of these rows,)
        return row, torch.arange(len(row), device=row.device) + offset[row]

    def index_select(self, dimension: int, index: Tensor) -> Tensor:
        """Rows as a dense tensor, as a tensor's own ``index_select(0, index)`` gives."""
        if self.value.device.type == "cpu":
            return torch.from_numpy(self._matrix[index.numpy()].toarray())
        row, position = self._positions(index)
        dense = self.value.new_zeros(len(index), self.shape[1])
        dense[row, self.column[position]] = self.value[position]
        return dense

    def subset(self, index: Tensor) -> "SparseRows":
        """These rows, sparse."""
        row, position = self._positions(index)
        counts = torch.bincount(row, minlength=len(index))
        start = torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])
        shape = (len(index), self.shape[1])
        return SparseRows(start, self.column[position], self.value[position], shape)


@dataclass(frozen=True)
class ChosenRows:
    """Some rows of a tensor or of ``SparseRows``, without a copy on the device they are on."""

    x: Any
    index: Tensor  # (n_rows,)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self.index), self.x.shape[1]

    def to(self, device: torch.device) -> Any:
        """Rows on another device, of which only they are copied."""
        if self.index.device == device:
            return self
        sparse = isinstance(self.x, SparseRows)
        rows = self.x.subset(self.index) if sparse else self.x.index_select(0, self.index)
        return rows.to(device)

    def index_select(self, dimension: int, index: Tensor) -> Tensor:
        """Rows as a dense tensor, as a tensor's own ``index_select(0, index)`` gives."""
        dense: Tensor = self.x.index_select(0, self.index[index])
        return dense


@dataclass(frozen=True)
class SmallCounts:
    """Counts as 16-bit integers, half of the memory, of which rows are taken as floats."""

    value: Tensor  # (n_rows, n_columns) int16

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        n_rows, n_columns = self.value.shape
        return n_rows, n_columns

    def to(self, device: torch.device) -> "SmallCounts":
        """Rows on another device."""
        return SmallCounts(self.value.to(device))

    def index_select(self, dimension: int, index: Tensor) -> Tensor:
        """Rows as a dense tensor, as a tensor's own ``index_select(0, index)`` gives."""
        return self.value.index_select(0, index).float()


def small_counts(x: Any, most_bytes: float) -> Any:
    """The same rows as ``SmallCounts``, if they are counts below 2^15 that fit into the memory.

    Dense rows of one shape for each minibatch are taken without waiting for the device.
    """
    n_rows, n_columns = x.shape
    if isinstance(x, DiskRows) or 2 * n_rows * n_columns > most_bytes:
        return x
    value = None
    n_at_once = max(2**24 // max(n_columns, 1), 1)
    for start in range(0, n_rows, n_at_once):
        device = x.index.device if isinstance(x, ChosenRows) else _device_of(x)
        rows = torch.arange(start, min(start + n_at_once, n_rows), device=device)
        block = x.index_select(0, rows)
        small = block.to(torch.int16)
        if not bool((small == block).all()):
            return x
        if value is None:
            value = small.new_empty(n_rows, n_columns)
        value[start : start + len(small)] = small
    return x if value is None else SmallCounts(value)


def _device_of(x: Any) -> torch.device:
    device: torch.device = x.start.device if isinstance(x, SparseRows) else x.device
    return device


@dataclass(frozen=True)
class DiskRows:
    """Rows on disk, which are read when they are taken.

    ``source`` is a matrix with ``shape``, ``rows(start, stop)``, an array or CSR matrix of
    float32, and the numbers ``n_at_once``, ``n_block`` and ``n_bytes`` of
    ``skpert._input.stored.StoredRows``.
    """

    source: Any
    index: Tensor | None = None  # (n_rows,) of the source, on the CPU; None are all
    device: torch.device = torch.device("cpu")  # of what is taken

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        n_rows, n_columns = self.source.shape
        return n_rows if self.index is None else len(self.index), n_columns

    def to(self, device: torch.device) -> "DiskRows":
        """The same rows, to be taken to another device."""
        return replace(self, device=device)

    def subset(self, index: Tensor) -> "DiskRows":
        """These rows, on disk."""
        index = index.cpu()
        return replace(self, index=index if self.index is None else self.index[index])

    def index_select(self, dimension: int, index: Tensor) -> Tensor:
        """Rows as a dense tensor, as a tensor's own ``index_select(0, index)`` gives."""
        rows = self.read(index.cpu()).to(self.device)
        dense: Tensor = rows.index_select(0, torch.arange(len(index), device=self.device))
        return dense

    def loaded(self) -> Any:
        """These rows in memory, if they do not take much of it."""
        n_rows = self.shape[0]
        if n_rows * self.source.n_bytes > HELD_BYTES * self.source.shape[0]:
            return self
        return self.read(torch.arange(n_rows)).to(self.device)

    def read(self, index: Tensor) -> "ChosenRows":
        """These rows in memory, on the CPU."""
        wanted = index if self.index is None else self.index[index]
        distinct, place = np.unique(wanted.numpy(), return_inverse=True)
        blocks, position = [], np.empty(len(distinct), dtype=np.int64)
        n_read = 0
        for run, at in _runs(distinct, self.source.n_at_once):
            block = self.source.rows(int(run[0]), int(run[-1]) + 1)
            offset = run - run[0]
            if len(run) < MUCH_KEPT * block.shape[0]:
                block, offset = block[offset], np.arange(len(run))
            blocks.append(block)
            position[at] = n_read + offset
            n_read += block.shape[0]
        rows = rows_of(_stacked(blocks, self.shape[1]))
        return ChosenRows(rows, torch.from_numpy(position[place]))

    def minibatches(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        """Rows of each of the indices in turn, dense; the next are read while these are used."""
        groups = list(_groups(indices, self.source.n_at_once))
        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(self.read, torch.cat(group)) for group in groups[:1]]
            for number, group in enumerate(groups, 1):
                rows = ahead.pop().result().to(self.device)
                if number < len(groups):
                    ahead.append(reader.submit(self.read, torch.cat(groups[number])))
                place = torch.arange(sum(map(len, group)), device=self.device)
                for part in place.split([len(index) for index in group]):
                    yield rows.index_select(0, part)


def _runs(rows: NDArray[np.int64], most: int) -> Iterator[tuple[NDArray[np.int64], slice]]:
    """Sorted rows that are read together, at most so many with what lies between; their place."""
    start = 0
    for stop in [*(np.flatnonzero(np.diff(rows) > SMALL_GAP) + 1), len(rows)]:
        while start < stop:
            end = start + int(np.searchsorted(rows[start:stop], rows[start] + most))
            yield rows[start:end], slice(start, end)
            start = end


def _groups(indices: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Successive indices that are read together."""
    group: list[Tensor] = []
    n_rows = 0
    for index in indices:
        if group and n_rows + len(index) > most:
            yield group
            group, n_rows = [], 0
        group.append(index)
        n_rows += len(index)
    if group:
        yield group


def _stacked(blocks: list[Any], n_columns: int) -> Any:
    """Blocks of rows as one array or matrix."""
    if not blocks:
        return np.empty((0, n_columns), dtype=np.float32)
    if len(blocks) == 1:
        return blocks[0]
    if sparse.issparse(blocks[0]):
        return sparse.vstack(blocks, format="csr")
    return np.concatenate(blocks)


def blockwise_order(n_rows: int, n_block: int, n_window: int) -> Tensor:
    """Random order in which rows that lie together come within a window, shuffled with others.

    Blocks of ``n_block`` successive rows are in random order, and rows are shuffled among each
    ``n_window`` of these.
    """
    start = torch.randperm(-(-n_rows // n_block)) * n_block
    order = (start[:, None] + torch.arange(n_block)).flatten()
    windows = order[order < n_rows].split(max(n_window, 1))
    return torch.cat([window[torch.randperm(len(window))] for window in windows])


def random_order(x: Any, batch_size: int, device: torch.device) -> Tensor:
    """Random order of rows, in which those on disk can be read in blocks."""
    if not isinstance(x, DiskRows):
        return torch.randperm(x.shape[0], device=device)
    n_window = max(x.source.n_at_once // batch_size, 1) * batch_size
    return blockwise_order(x.shape[0], x.source.n_block, n_window).to(device)


def dense_rows(x: Any, indices: Sequence[Tensor]) -> Iterator[Tensor]:
    """Rows of each of the indices in turn, dense."""
    if isinstance(x, DiskRows):
        yield from x.minibatches([index.cpu() for index in indices])
        return
    for index in indices:
        yield x.index_select(0, index)


def chosen_rows(x: Any, index: Tensor) -> Any:
    """These rows, which stay where they are."""
    if isinstance(x, DiskRows):
        return x.subset(index)
    return ChosenRows(x.x, x.index[index]) if isinstance(x, ChosenRows) else ChosenRows(x, index)


def rows_of(X: Any) -> Any:
    """Tensor or rows that share the memory of an array or CSR matrix, or are on disk."""
    if isinstance(X, np.ndarray):
        return tensor_of(X)
    return SparseRows.from_csr(X) if sparse.issparse(X) else DiskRows(X)


def tensor_of(array: Any) -> Tensor:
    """Tensor that shares memory where it can; a read-only array (a memmap) is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
