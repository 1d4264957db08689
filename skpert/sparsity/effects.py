"""Mean latent states of perturbations, from which axes are found and edges are called."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._data import ENCODE_SIZE, Cells
from ..module import Phase
from .edges import edge_probability
from .rotation import sparse_rotation

DENSE_SHARE = 3  # a third of the epochs trains without sparsity
N_ROUNDS = 4  # of the search for axes and their centre
LARGEST_CROSS_TALK = 0.2  # of an effect into other latents before sparsity straightens the axes
SINGULAR = 1e-10  # of the largest eigenvalue of a design; what is below is not identifiable
LARGEST_REST = 0.8  # root mean square of what edges leave over, in standard deviations of a latent


def dense_then_sparse(
    n_epochs: int, find_axes: Callable[[Cells], None], call_edges: Callable[[Cells], None]
) -> list[Phase]:
    """Phases of a training without sparsity, for a third of the epochs, and of one with it."""
    n_dense = -(-n_epochs // DENSE_SHARE)
    return [
        Phase(n_dense, find_axes, "dense"),
        Phase(n_epochs - n_dense, call_edges, "sparse"),
    ]


class LatentEffects(NamedTuple):
    """How the latent state differs between perturbations and control, in float64."""

    mean: Tensor  # (n_perturbations, n_latent) of the posterior means of its cells
    reference: Tensor  # (n_latent,) that of control cells, or without any the median of the means
    covariance: Tensor  # (n_latent, n_latent) among cells of one perturbation
    share: Tensor  # (n_perturbations, 1) of the covariance in that of a difference
    controlled: Tensor  # whether there are control cells

    @property
    def difference(self) -> Tensor:
        """Mean less reference, (n_perturbations, n_latent)."""
        return self.mean - self.reference

    @property
    def standard_error(self) -> Tensor:
        """Of the difference, (n_perturbations, n_latent)."""
        return (self.share * self.covariance.diagonal().clamp(min=0)).sqrt()

    def axes(self) -> tuple[Tensor, Tensor]:
        """Rotation that makes differences sparse, (n_latent, n_latent), and its centre.

        A median depends on the axes along which it is taken, and is best on the sparse ones. So
        without control cells axes and centre are found alternately.
        """
        spread = self.share[:, 0].sqrt().cpu().numpy()
        centre, R = self.reference, torch.eye(len(self.reference)).to(self.mean)
        for _ in range(1 if self.controlled else N_ROUNDS):
            difference = (self.mean - centre).cpu().numpy()
            R = torch.from_numpy(sparse_rotation(difference, standard_error=spread)).to(R)
            centre = centre if self.controlled else R @ (self.mean @ R).median(0).values
        return R, centre

    def rotated(self, R: Tensor, centre: Tensor) -> "LatentEffects":
        """Effects in a latent space that is rotated by R around this centre."""
        return self._replace(
            mean=(self.mean - centre) @ R,
            reference=torch.zeros_like(centre),
            covariance=R.T @ self.covariance @ R,
        )


def edge_logit(
    difference: Tensor, standard_error: Tensor, *, largest_cross_talk: float = 0.0
) -> Tensor:
    """Logit of the probability that a perturbation moves a latent, (n_perturbations, n_latent).

    What is below the share ``largest_cross_talk`` of a perturbation's largest effect is no edge.
    If the edges leave over differences as large as the spread of equally treated cells, shifts
    are not sparse on these axes, and every perturbation targets every latent in use.
    """
    effect, error = (t.detach().double().cpu().numpy() for t in (difference, standard_error))
    probability = edge_probability(effect, error)
    size = np.abs(effect)
    probability[size < largest_cross_talk * size.max(1, keepdims=True)] = 0
    in_use = size.max(0) > LARGEST_REST
    rest = effect[:, in_use][probability[:, in_use] < 0.5]
    if len(rest) and np.sqrt(np.mean(rest**2)) > LARGEST_REST:
        probability[:, in_use] = 1
    return torch.logit(torch.from_numpy(probability), 1e-12).to(difference)


@torch.no_grad()
def latent_effects(
    states: Callable[[Cells], Tensor], cells: Cells, n_perturbations: int
) -> LatentEffects:
    """Effects of perturbations on latent states, where a cell has one perturbation or none.

    ``states`` gives the latent states of a minibatch, (n_cells, n_latent).
    """
    total, square = torch.zeros(()), torch.zeros(())  # last row and column: number of cells
    for batch in cells.minibatches(ENCODE_SIZE, shuffle=False):
        z = states(batch).double()
        z = torch.cat([z, torch.ones_like(z[:, :1])], 1)
        row = torch.where(batch.dosage[:, 0] > 0, batch.part[:, 0], n_perturbations)
        group = z.new_zeros(n_perturbations + 1, z.shape[1]).index_add_(0, row, z)
        total, square = total.to(z) + group, square.to(z) + z.T @ z
    n_cells = total[:, -1:]
    mean = total[:, :-1] / n_cells.clamp(min=1)
    within = square[:-1, :-1] - mean.T @ (n_cells * mean)
    freedom = (n_cells.sum() - (n_cells > 0).sum()).clamp(min=1)
    share = 1 / n_cells.clamp(min=1)
    median = mean.masked_fill(n_cells == 0, torch.nan)[:-1].nanmedian(0).values.nan_to_num()
    controlled = n_cells[-1] > 0
    reference = torch.where(controlled, mean[-1], median)
    share = share[:-1] + torch.where(controlled, share[-1], 0)
    return LatentEffects(mean[:-1], reference, within / freedom, share, controlled)


@torch.no_grad()
def additive_effects(
    states: Callable[[Cells], Tensor], cells: Cells, n_perturbations: int
) -> LatentEffects:
    """Effects of perturbations of which a cell may have several, in any dosage.

    States are taken apart by least squares as sums of dosages times effects. Without control
    cells the untreated state is zero.
    """
    if cells.dosage.shape[1] == 1 and ((cells.dosage == 0) | (cells.dosage == 1)).all():
        return latent_effects(states, cells, n_perturbations)
    n = n_perturbations
    gram, product, square = (torch.zeros(()) for _ in range(3))
    for batch in cells.minibatches(ENCODE_SIZE, shuffle=False):
        z = states(batch).double()
        rows = torch.arange(len(z), device=z.device)[:, None].expand_as(batch.part)
        design = z.new_zeros(len(z), n + 1)
        design.index_put_((rows, batch.part), batch.dosage.double(), accumulate=True)
        design[:, n] = 1
        gram, product = gram.to(z) + design.T @ design, product.to(z) + design.T @ z
        square = square.to(z) + z.T @ z
    if not (cells.dosage == 0).all(1).any():
        gram[n], gram[:, n], product[n] = 0, 0, 0
    seen = (gram.diagonal() > 0).sum()
    # Co-occurring perturbations get the minimum-norm solution.
    inverse = torch.linalg.pinv(gram, rtol=SINGULAR, hermitian=True)
    effect = inverse @ product
    within = square - effect.T @ product
    freedom = (cells.n_cells - seen).clamp(min=1)
    share = inverse.diagonal()[:n, None]
    reference = effect[n]  # and no median, on which sums of effects would not agree
    return LatentEffects(
        effect[:n] + reference, reference, within / freedom, share, torch.tensor(True)
    )
