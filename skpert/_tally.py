r"""How often each gene has each count, which is all that dispersions have to do with.

The part of a likelihood that no latent state changes, :math:`c(x, \theta)` of
``distributions``, is a function of single counts, of which few values occur. Its mean over all
training cells costs a fraction of that over a minibatch, and does not vary between these.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .distributions import correction, exact_correction

SMALL = 64  # counts below this have a place in a table
LARGEST = 2.0**40  # count times number of genes is to be a whole number of 64 bits
MOST_VALUES = 32  # different counts of a gene, on average, above which a minibatch costs less


class Tally(NamedTuple):
    """Each pair of a gene and a count that occurs, once, and each gene with a count of zero."""

    gene: Tensor  # (n_pairs,) index
    value: Tensor  # (n_pairs,) the count
    weight: Tensor  # (n_pairs,) share of cells with it; of a zero, minus that of cells without

    def dispersion_term(self, theta: Tensor) -> Tensor:
        """Mean over cells of what ``distributions.dispersion_term`` is of each, nats, a scalar.

        Differentiable in ``theta``, (n_genes,).
        """
        term: Tensor = _MeanCorrection.apply(*self, theta)
        return term


class _MeanCorrection(torch.autograd.Function):
    """Sum of the corrections of pairs by their weights, which add up to zero in each gene."""

    @staticmethod
    def forward(ctx: Any, gene: Tensor, value: Tensor, weight: Tensor, theta: Tensor) -> Tensor:
        made = exact_correction if theta.dtype == torch.float64 else correction
        value, weight = value.to(theta.dtype), weight.to(theta.dtype)
        term, slope = made(value, theta.index_select(0, gene), True)
        ctx.save_for_backward(torch.zeros_like(theta).index_add_(0, gene, slope.mul_(weight)))
        return term.mul_(weight).sum(dtype=torch.float64)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, None, None, grad.to(slope.dtype) * slope


class Tallying:
    """The making of a tally from blocks of cells."""

    def __init__(self, n_genes: int, device: torch.device):
        self.n_genes, self.n_cells, self.counted = n_genes, 0, True
        self.genes = torch.arange(n_genes, device=device)
        self.small = torch.zeros(SMALL * n_genes, dtype=torch.long, device=device)
        self.keys = self.numbers = self.small[:0]  # of larger counts

    def add(self, x: Tensor) -> None:
        """Count these cells, (n_cells, n_genes), in."""
        whole = x.long()
        self.counted = self.counted and bool(((whole == x) & (x >= 0) & (x < LARGEST)).all())
        if not self.counted:
            return
        self.n_cells += len(x)
        key = whole.mul_(self.n_genes).add_(self.genes).flatten()
        large = key[key >= len(self.small)]
        self.small += torch.bincount(key[key < len(self.small)], minlength=len(self.small))
        if len(large):
            keys, numbers = large.unique(return_counts=True)
            keys, numbers = torch.cat([self.keys, keys]), torch.cat([self.numbers, numbers])
            self.keys, place = keys.unique(return_inverse=True)
            self.numbers = torch.zeros_like(self.keys).scatter_add_(0, place, numbers)
            self.counted = len(self.keys) <= MOST_VALUES * self.n_genes

    def tally(self) -> Tally | None:
        """The result; None of what are no counts, or of too many values to be cheaper."""
        small = self.small.view(SMALL, self.n_genes)
        value, gene = small[1:].nonzero(as_tuple=True)
        key = torch.cat([(value + 1) * self.n_genes + gene, self.keys])
        if not self.counted or len(key) > MOST_VALUES * self.n_genes:
            return None
        number = torch.cat([small[1:][value, gene], self.numbers])
        value, gene = key.div(self.n_genes, rounding_mode="floor"), key % self.n_genes
        none = torch.zeros_like(self.genes)
        weight = torch.cat([number, none.index_add(0, gene, -number)]).double() / self.n_cells
        return Tally(torch.cat([gene, self.genes]), torch.cat([value, none]).float(), weight)
