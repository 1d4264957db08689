"""Cells as tensors: the one container that travels from ``fit`` to the loss."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from .distributions import Counts, log_saturated

ENCODE_SIZE = 4096  # cells that are encoded at once


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
        return cls(start, _tensor(X.indices), _tensor(X.data), X.shape)

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


def _tensor(array: Any) -> Tensor:
    """Tensor that shares memory where it can; a read-only array (a memmap) is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


class Cells(NamedTuple):
    """Tensors with one row per cell.

    The perturbations of a cell are kept as a list of its parts, not as a row of dosages, so that
    a minibatch costs the same for ten perturbations as for ten thousand. A part with dosage 0 is
    no part: a control cell has dosage 0 throughout.
    """

    x: Any  # (n_cells, n_genes) expression, a Tensor, SparseRows or ChosenRows
    library: Tensor  # (n_cells, 1) total counts
    part: Tensor  # (n_cells, n_parts) which perturbation, an index
    dosage: Tensor  # (n_cells, n_parts) how much of it
    environment: Tensor  # (n_cells, n_environments), of width zero when there is none
    log_saturated: Tensor | None = None  # (n_cells,) of the counts, if it is known

    @classmethod
    def from_arrays(cls, X: Any, dosage: Any, environment: Any) -> "Cells":
        """Cells from an array or CSR ``X``, CSR dosages and an array of environments."""
        part, amount = _parts(dosage)
        library = np.asarray(X.sum(1, dtype=np.float64), dtype=np.float32).reshape(-1, 1)
        arrays = (library, part, amount, np.asarray(environment, dtype=np.float32))
        return cls(cls.rows(X), *(torch.from_numpy(array) for array in arrays))

    @classmethod
    def of_shape(cls, n_cells: int, n_genes: int, n_environments: int) -> "Cells":
        """Cells that hold nothing, to make a module for where tensors are but their shapes."""
        start = torch.zeros(n_cells + 1, dtype=torch.long)
        x = SparseRows(start, start[:0], torch.zeros(0), (n_cells, n_genes))
        part = torch.zeros((n_cells, 1), dtype=torch.long)
        environment = torch.zeros(n_cells, n_environments)
        return cls(x, environment.new_zeros(n_cells, 1), part, part.float(), environment)

    @staticmethod
    def rows(X: Any) -> Any:
        """Tensor or SparseRows that shares the memory of an array or CSR matrix."""
        return _tensor(X) if isinstance(X, np.ndarray) else SparseRows.from_csr(X)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.dosage)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.x.shape[1])

    def to(self, device: torch.device) -> "Cells":
        """Cells on another device; on the same one nothing is copied."""
        return self._each(lambda tensor: tensor.to(device))

    def double(self) -> "Cells":
        """Cells with dense expression in float64, and all else that is not an index."""
        return self._each(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def take(self, index: Tensor) -> "Cells":
        """Cells of these rows, with dense expression."""
        return self._each(lambda tensor: tensor.index_select(0, index))

    def subset(self, index: Tensor) -> "Cells":
        """Cells of these rows, whose expression stays where it is."""
        chosen = isinstance(self.x, ChosenRows)
        x = ChosenRows(self.x.x, self.x.index[index]) if chosen else ChosenRows(self.x, index)
        others = self._replace(x=self.library).take(index)
        return others._replace(x=x)

    def with_saturated(self) -> "Cells":
        """Cells that know the term of a likelihood of counts that no parameter changes."""
        n_rows = max(2**18 // max(self.n_genes, 1), 1)
        blocks = torch.arange(self.n_cells, device=self.dosage.device).split(n_rows)
        terms = [log_saturated(self.x.index_select(0, index)) for index in blocks]
        return self._replace(log_saturated=torch.cat(terms))

    def _each(self, function: Callable[[Any], Any]) -> "Cells":
        fields: list[Any] = [None if field is None else function(field) for field in self]
        return Cells(*fields)

    def minibatches(self, batch_size: int, *, shuffle: bool = True) -> Iterator["Cells"]:
        """All cells once, in random order or as they stand.

        A last minibatch of one cell, of which no variance can be taken, joins the one before.
        """
        order = torch.randperm if shuffle else torch.arange
        sizes = [batch_size] * (self.n_cells // batch_size)
        rest = self.n_cells % batch_size
        if rest == 1 and sizes:
            sizes[-1] += 1
        elif rest:
            sizes.append(rest)
        for index in torch.split(order(self.n_cells, device=self.dosage.device), sizes):
            yield self.take(index)

    def log_prob(self, p_x: Distribution) -> Tensor:
        """Log-probability of each cell's expression, nats, (..., n_cells)."""
        if self.log_saturated is None or not isinstance(p_x, Counts):
            log_prob: Tensor = p_x.log_prob(self.x)
            return log_prob
        return (p_x.log_kernel(self.x) + self.log_saturated).to(self.x.dtype)

    def shift(self, effect: Tensor) -> Tensor:
        """Sum over each cell's parts of dosage times effect, (n_cells, n_latent)."""
        return (self.dosage[:, :, None] * effect[self.part]).sum(-2)


def split(cells: Cells, fraction: float, device: torch.device) -> tuple[Cells, Cells | None]:
    """Training and validation cells, on the device; every perturbation keeps a training cell."""
    order = torch.randperm(cells.n_cells)
    condition = torch.where(cells.dosage > 0, cells.part, -1)[order]
    first = np.unique(condition.numpy(), return_index=True)[1] // condition.shape[1]
    free = torch.ones(cells.n_cells, dtype=torch.bool)
    free[torch.from_numpy(first)] = False
    n_validation = min(int(fraction * cells.n_cells), int(free.sum()))
    if n_validation == 0 or cells.n_cells - n_validation < 2:
        return cells.to(device).with_saturated(), None
    held_out = order[free][:n_validation]
    kept = torch.ones(cells.n_cells, dtype=torch.bool)
    kept[held_out] = False
    parts = (kept.nonzero()[:, 0], held_out)
    training, validation = (cells.subset(i).to(device).with_saturated() for i in parts)
    return training, validation


def _parts(dosage: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Index and dosage of each perturbation of each cell, padded with dosage 0."""
    counts = np.diff(dosage.indptr)
    shape = (len(counts), max(counts.max(initial=0), 1))
    part, amount = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(len(rows)) - np.repeat(dosage.indptr[:-1], counts)
    part[rows, columns], amount[rows, columns] = dosage.indices, dosage.data
    return part, amount
