"""Rows of expression, sparse or chosen, from which minibatches are taken as dense tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


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

    def _positions(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Row of each value in these rows, and where the value stands."""
        start = self.start[index]
        counts = self.start[index + 1] - start
        offset = start - (torch.cumsum(counts, 0) - counts)
        row = torch.repeat_interleave(counts)  # (n_nonzero of these rows,)
        return row, torch.arange(len(row), device=row.device) + offset[row]

    def index_select(self, dimension: int, index: Tensor) -> Tensor:
        """Rows as a dense tensor, as a tensor's own ``index_select(0, index)`` gives."""
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


def tensor_of(array: Any) -> Tensor:
    """Tensor that shares memory where it can; a read-only array (a memmap) is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
