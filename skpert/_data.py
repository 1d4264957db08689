"""Cells as tensors: the one container that travels from ``fit`` to the loss."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.utils import check_consistent_length
from torch import Tensor
from torch.distributions import Distribution

from ._ranks import own_rows
from ._rows import (
    DiskRows,
    SparseRows,
    chosen_rows,
    dense_rows,
    random_order,
    rows_of,
    small_counts,
)
from ._tally import Tally, Tallying
from .distributions import Counts, log_saturated

ENCODE_SIZE = 4096  # cells that are encoded at once


class Cells(NamedTuple):
    """Tensors with one row per cell.

    The perturbations of a cell are kept as a list of its parts, not as a row of dosages, so that
    a minibatch costs the same for ten perturbations as for ten thousand. A part with dosage 0 is
    no part: a control cell has dosage 0 throughout.
    """

    x: Any  # (n_cells, n_genes) expression, a Tensor, SparseRows, ChosenRows or DiskRows
    library: Tensor  # (n_cells, 1) total counts
    part: Tensor  # (n_cells, n_parts) which perturbation, an index
    dosage: Tensor  # (n_cells, n_parts) how much of it
    environment: Tensor  # (n_cells, n_environments), of width zero when there is none
    log_saturated: Tensor | None = None  # (n_cells,) of the counts, if it is known
    tally: Tally | None = None  # of the counts of all cells, in these and in their minibatches

    @classmethod
    def from_arrays(cls, X: Any, dosage: Any, environment: Any) -> "Cells":
        """Cells from an array, CSR or rows on disk, CSR dosages and an array of environments."""
        part, amount = _parts(dosage)
        library = np.asarray(X.sum(1, dtype=np.float64), dtype=np.float32).reshape(-1, 1)
        arrays = (library, part, amount, np.asarray(environment, dtype=np.float32))
        tensors: list[Any] = [torch.from_numpy(array) for array in arrays]
        return cls(rows_of(X), *tensors)

    @classmethod
    def of_design(cls, X: Any, encoder: Any, A: Any) -> "Cells":
        """Cells from validated expression and a design that the encoder reads."""
        dosage = encoder.transform(A)
        check_consistent_length(X, dosage)
        return cls.from_arrays(X, dosage, encoder.environments(A))

    @classmethod
    def untreated(cls, X: Any, environment: Any = None) -> "Cells":
        """Cells of validated expression that received nothing, in these environments if any."""
        n_cells = X.shape[0]
        environment = np.empty((n_cells, 0)) if environment is None else environment
        return cls.from_arrays(X, csr_array((n_cells, 1), dtype=np.float32), environment)

    @classmethod
    def of_shape(cls, n_cells: int, n_genes: int, n_environments: int) -> "Cells":
        """Cells that hold nothing, to make a module for where tensors are but their shapes."""
        start = torch.zeros(n_cells + 1, dtype=torch.long)
        x = SparseRows(start, start[:0], torch.zeros(0), (n_cells, n_genes))
        part = torch.zeros((n_cells, 1), dtype=torch.long)
        environment = torch.zeros(n_cells, n_environments)
        return cls(x, environment.new_zeros(n_cells, 1), part, part.float(), environment)

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

    def _resident(self) -> "Cells":
        """The same; on a GPU counts are kept as small integers where half of it holds them."""
        if self.dosage.device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(self.dosage.device)
        return self._replace(x=small_counts(self.x, free / 2))

    def take(self, index: Tensor) -> "Cells":
        """Cells of these rows, with dense expression."""
        return self._each(lambda tensor: tensor.index_select(0, index))

    def subset(self, index: Tensor) -> "Cells":
        """Cells of these rows, whose expression stays where it is."""
        return self._with(index, chosen_rows(self.x, index))

    def _with(self, index: Tensor, x: Any) -> "Cells":
        """Cells of these rows, whose expression is ``x``."""
        others = self._replace(x=None)._each(lambda part: part.index_select(0, index))
        return others._replace(x=x)

    def with_saturated(self, *, tallied: bool = False) -> "Cells":
        """Cells that know the term of a likelihood of counts that no parameter changes.

        If ``tallied``, for training, they have a tally, too.
        """
        n_rows = max(2**18 // max(self.n_genes, 1), 1)
        blocks = torch.arange(self.n_cells, device=self.dosage.device).split(n_rows)
        terms, tallying = [], Tallying(self.n_genes, self.dosage.device)
        for x in dense_rows(self.x, blocks):
            terms.append(log_saturated(x))
            if tallied:
                tallying.add(x)
        tally = tallying.tally() if tallied else None
        return self._replace(log_saturated=torch.cat(terms), tally=tally)

    def _each(self, function: Callable[[Any], Any]) -> "Cells":
        """Cells of which each tensor of rows was changed; a tally, of all, they have no more."""
        rows = self._replace(tally=None)
        fields: list[Any] = [None if field is None else function(field) for field in rows]
        return Cells(*fields)

    def minibatches(self, batch_size: int, *, shuffle: bool = True) -> Iterator["Cells"]:
        """All cells once, in random order (``random_order``) or as they stand.

        A last minibatch of one cell, of which no variance can be taken, joins the one before.
        """
        device = self.dosage.device
        order = torch.arange(self.n_cells, device=device)
        if shuffle:
            order = random_order(self.x, batch_size, device)
        sizes = [batch_size] * (self.n_cells // batch_size)
        rest = self.n_cells % batch_size
        if rest == 1 and sizes:
            sizes[-1] += 1
        elif rest:
            sizes.append(rest)
        indices = torch.split(order, sizes)
        if not shuffle:
            yield from self.batches(indices)
            return
        of_this_process = [own_rows(index) for index in indices]  # all, since some are read ahead
        for index, batch in zip(indices, self.batches(of_this_process), strict=True):
            own_rows(index)  # noise is from now on that of these rows
            yield batch._replace(tally=self.tally)

    def batches(self, indices: Sequence[Tensor]) -> Iterator["Cells"]:
        """Cells of each of the indices in turn, with dense expression."""
        for index, x in zip(indices, dense_rows(self.x, indices), strict=True):
            yield self._with(index, x)

    def log_prob(self, p_x: Distribution) -> Tensor:
        """Log-probability of each cell's expression, nats, (..., n_cells).

        In minibatches of cells with a tally, the part of it that dispersions alone change is the
        mean over all of these: so is that of the mean of minibatches, whose noise it is without.
        """
        if self.log_saturated is None or not isinstance(p_x, Counts):
            log_prob: Tensor = p_x.log_prob(self.x)
            return log_prob
        if self.tally is None or p_x.theta is None:
            return (p_x.log_kernel(self.x) + self.log_saturated).to(self.x.dtype)
        constant = self.log_saturated + self.tally.dispersion_term(p_x.theta)
        return (p_x.latent_term(self.x) + constant).to(self.x.dtype)

    def shift(self, effect: Tensor) -> Tensor:
        """Sum over each cell's parts of dosage times effect, (n_cells, n_latent)."""
        return self.summed(effect[self.part])

    def summed(self, effect: Tensor) -> Tensor:
        """The same of effects of each part of each cell, (..., n_cells, n_parts, n_latent)."""
        if self.dosage.shape[1] == 1:
            return self.dosage * effect[..., 0, :]
        return (self.dosage[:, :, None] * effect).sum(-2)


def split(cells: Cells, fraction: float, device: torch.device) -> tuple[Cells, Cells | None]:
    """Training and validation cells, on the device; every perturbation keeps a training cell."""
    order = torch.randperm(cells.n_cells)
    condition = torch.where(cells.dosage > 0, cells.part, -1)[order]
    first = np.unique(condition.numpy(), return_index=True)[1] // condition.shape[1]
    free = torch.ones(cells.n_cells, dtype=torch.bool)
    free[torch.from_numpy(first)] = False
    n_validation = min(int(fraction * cells.n_cells), int(free.sum()))
    if n_validation == 0 or cells.n_cells - n_validation < 2:
        return cells.to(device)._resident().with_saturated(tallied=True), None
    held_out = order[free][:n_validation]
    kept = torch.ones(cells.n_cells, dtype=torch.bool)
    kept[held_out] = False
    parts = (kept.nonzero()[:, 0], held_out)
    training, validation = (cells.subset(i).to(device) for i in parts)
    if isinstance(validation.x, DiskRows):
        validation = validation._replace(x=validation.x.loaded())
    return training._resident().with_saturated(tallied=True), validation.with_saturated()


def _parts(dosage: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Index and dosage of each perturbation of each cell, padded with dosage 0."""
    counts = np.diff(dosage.indptr)
    shape = (len(counts), max(counts.max(initial=0), 1))
    part, amount = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(len(rows)) - np.repeat(dosage.indptr[:-1], counts)
    part[rows, columns], amount[rows, columns] = dosage.indices, dosage.data
    return part, amount


def blocks(cells: Cells, size: int) -> Callable[[int], Iterator[Cells]]:
    """Minibatches made of blocks, of cells with the same design, in a new order at each call.

    Every cell is in a block; one that is not full is filled with other cells of its design.
    """
    amount = torch.where(cells.dosage > 0, cells.dosage, 0)
    design = torch.cat([torch.where(amount > 0, cells.part, -1).to(amount), amount], 1)
    condition = design.unique(dim=0, return_inverse=True)[1]
    n_each = condition.bincount()  # cells with the same design
    end, n_places = n_each.cumsum(0), -(-n_each // size) * size
    group = torch.arange(len(n_each), device=end.device).repeat_interleave(n_places)
    place = torch.arange(len(group), device=end.device) - (n_places.cumsum(0) - n_places)[group]
    n_each, start = n_each[group], (end - n_each)[group]
    filled = place < n_each

    def minibatches(batch_size: int) -> Iterator[Cells]:
        order = torch.randperm(len(condition), device=condition.device)
        order = order[condition[order].argsort(stable=True)]  # groups in turn, shuffled within
        other = (torch.rand(len(group), dtype=torch.float64).to(end.device) * n_each).long()
        block = order[start + torch.where(filled, place, other)].view(-1, size)
        block = block[torch.randperm(len(block), device=block.device)]
        chosen = block.split(max(batch_size // size, 1))
        yield from cells.batches([rows.flatten() for rows in chosen])

    return minibatches
