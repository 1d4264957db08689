"""Mean latent states of perturbations, from which axes are found and edges are called."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from .._data import ENCODE_SIZE, Cells
from .._least_squares import with_intercept
from ..module import Phase
from .dimension import Alike, alike, independent_axes
from .edges import edge_probability
from .rotation import axis_stability, sparse_rotation

DENSE_SHARE, DECODER_SHARE = 0.3, 0.12  # of the epochs
N_WARMING = 400_000  # cells that are seen, again and again, until the KL weighs 1
SPARSE_RATE = 0.5  # learning rate of the phase with sparsity, relative
MOST_TREATMENTS = 10  # cells of each, on average, at least
N_NARROWING = 2**16  # cells at most from whose states the latents that there are are found
N_ROUNDS = 4  # of the search for axes and their centre
LARGEST_CROSS_TALK = 0.2  # of an effect into other latents before sparsity straightens the axes
LEAST_SPREAD = 0.4  # variance among equally treated cells, in the median of axes that are moved
USUAL_CROSS_TALK = 0.12  # after that
LEAST_STABILITY = 0.95  # of an axis without a fifth of the perturbations; below it says nothing
N_EM, SHARE_START = 50, 0.7  # steps, and share of responders to begin with
TINY_SHARE, JITTER = 1e-6, 1e-6
LEAST_GAIN = 3.0  # nats by which a perturbation's cells are a mixture, beyond what its share costs
LEAST_VARIANCE = 0.01  # of basal states that are taken into account
LARGEST_REST = 0.8  # root mean square of what edges leave over, in standard deviations of a latent


def dense_then_sparse(
    n_epochs: int,
    narrow: Callable[[Cells], None],
    find_axes: Callable[[Cells], None],
    call_edges: Callable[[Cells], None],
) -> list[Phase]:
    """Phases of a training from many latents without sparsity to few latents with it.

    The KL comes in over all of the first, so that no latent falls out of use before it is found;
    with many cells sooner, as else nearly all stay in use and true ones are left out for them.
    What ``narrow`` leaves of the latents is straight, but the decoder was made for what it was.
    The decoder learns that alone, as otherwise the encoder bends it back.
    """
    n_dense = math.ceil(DENSE_SHARE * n_epochs)
    n_decoder = round(DECODER_SHARE * n_epochs)
    return [
        Phase(n_dense, narrow, "dense", 1.0, 1.0, N_WARMING),
        Phase(n_decoder, find_axes, "decoder"),
        Phase(n_epochs - n_dense - n_decoder, call_edges, "sparse", SPARSE_RATE),
    ]


def found_again(module: Any, n_epochs: int, n_first: int = 0) -> list[Phase]:
    """Phases of a training from trained weights, in which axes and edges are found again.

    The first rows of masks are those of interactions.
    """
    module.masks.restart(n_first)
    n_dense = math.ceil(DENSE_SHARE * n_epochs)
    return [
        Phase(n_dense, module.find_axes, "dense"),
        Phase(n_epochs - n_dense, module.call_edges, "sparse", SPARSE_RATE),
    ]


def dense_then_narrow(n_epochs: int, narrow: Callable[[Cells], None]) -> list[Phase]:
    """Phases of a training with many latents, and of one with those that the data have."""
    n_dense = math.ceil(DENSE_SHARE * n_epochs)
    dense = Phase(n_dense, narrow, "dense", warmup=1.0)
    return [dense, Phase(n_epochs - n_dense, None, "narrow")]


@torch.no_grad()
def narrowed(states: Callable[[Cells], Tensor], cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Map of states to the latents that the cells have, its inverse, and the centre of both.

    They are (n_latent, n_kept), (n_kept, n_latent) and (n_latent,).
    """
    step = -(-cells.n_cells // N_NARROWING)
    some = cells.subset(torch.arange(0, cells.n_cells, step, device=cells.dosage.device))
    Z = torch.cat([states(b).double() for b in some.minibatches(ENCODE_SIZE, shuffle=False)])
    array = Z.cpu().numpy()
    axes = independent_axes(array, _alike(some, array))
    projection, lift, centre = (
        torch.from_numpy(array).to(Z.device, torch.float32)
        for array in (axes.projection, axes.lift, axes.centre)
    )
    return projection, lift, centre


def _alike(cells: Cells, Z: NDArray[Any]) -> Alike:
    """How states differ from those of equally treated cells.

    Of many dosages, cells of the same perturbations count as treated equally. Where hardly two
    cells have the same, as with many perturbations in a cell, effects add up instead.
    """
    part = torch.where(cells.dosage > 0, cells.part, -1).sort(1).values
    kinds = [part]
    if not ((cells.dosage == 0) | (cells.dosage == 1)).all():
        kinds.insert(0, torch.cat([cells.part.to(cells.dosage), cells.dosage], 1))
    for kind in kinds:
        group = kind.unique(dim=0, return_inverse=True)[1]
        if kind.shape[1] == 1 or int(group.max()) < cells.n_cells // MOST_TREATMENTS:
            equals: Alike = alike(Z, group.cpu().numpy())
            return equals
    design = _design(cells, int(part.max()) + 1)
    effect, _ = with_intercept(design, design.T @ Z)
    deviation: NDArray[Any] = Z - design @ effect
    return Alike(deviation, (design[:, :-1] > 0).tocsc())


def _design(cells: Cells, n_perturbations: int) -> csr_array:
    """Dosages, and a last column of ones, (n_cells, n_perturbations + 1), float64."""
    n_cells, width = cells.part.shape
    part, dosage = (t.cpu().numpy() for t in (cells.part, cells.dosage.double()))
    one = np.ones((n_cells, 1))
    columns = np.hstack([part, np.full((n_cells, 1), n_perturbations)])
    start = np.arange(0, n_cells * (width + 1) + 1, width + 1)
    values = np.hstack([dosage, one]).ravel()
    design = csr_array((values, columns.ravel(), start), shape=(n_cells, n_perturbations + 1))
    design.sum_duplicates()
    design.eliminate_zeros()
    return design


class LatentEffects(NamedTuple):
    """How the latent state differs between perturbations and control, in float64."""

    mean: Tensor  # (n_perturbations, n_latent) of the posterior means of its cells
    reference: Tensor  # (n_latent,) that of control cells, or without any the median of the means
    covariance: Tensor  # (n_latent, n_latent) among cells of one perturbation
    share: Tensor  # (n_perturbations, 1) of the covariance in that of a difference
    controlled: Tensor  # whether there are control cells
    responding: Tensor | None = None  # (n_perturbations,) share of cells, where some may escape

    @property
    def difference(self) -> Tensor:
        """Mean less reference, (n_perturbations, n_latent)."""
        return self.mean - self.reference

    @property
    def standard_error(self) -> Tensor:
        """Of the difference, (n_perturbations, n_latent)."""
        return (self.share * self.covariance.diagonal().clamp(min=0)).sqrt()

    @property
    def error_of_basal(self) -> Tensor:
        """The same where the guide infers basal states, (n_perturbations, n_latent).

        Effects then explain what these, drawn to zero by their prior, do not: where basal states
        have the variance v in place of 1, the noise of an effect is that of states over v.
        """
        return self.standard_error / self.covariance.diagonal().clamp(LEAST_VARIANCE, 1)

    def after(self, n_rows: int) -> "LatentEffects":
        """Effects without those of the first rows."""
        return self._replace(mean=self.mean[n_rows:], share=self.share[n_rows:])

    def beside(self, others: "LatentEffects", n_rows: int) -> "LatentEffects":
        """Other effects, with the differences and shares of the first rows of these."""
        mean = torch.cat([others.reference + self.difference[:n_rows], others.mean[n_rows:]])
        share = torch.cat([self.share[:n_rows], others.share[n_rows:]])
        return others._replace(mean=mean, share=share)

    def axes(self, n_most: int | None = None) -> tuple[Tensor, Tensor]:
        """Rotation that makes differences sparse, (n_latent, n_latent), and its centre.

        If there are more axes than ``n_most``, those that are moved most are kept.

        A median depends on the axes along which it is taken, and is best on the sparse ones. So
        without control cells axes and centre are found alternately.
        """
        spread = self.share[:, 0].sqrt().cpu().numpy()
        centre, R = self.reference, torch.eye(len(self.reference)).to(self.mean)
        for _ in range(1 if self.controlled else N_ROUNDS):
            difference = (self.mean - centre).cpu().numpy()
            R = torch.from_numpy(sparse_rotation(difference, standard_error=spread)).to(R)
            centre = centre if self.controlled else R @ (self.mean @ R).median(0).values
        if n_most is not None and n_most < len(R):
            moved = ((self.mean - centre) @ R).square().sum(0)
            R = R[:, moved.argsort(descending=True)[:n_most].sort().values]
        return R, centre

    def stability(self, moved: Tensor) -> Tensor:
        """How far each axis is found without some perturbations, in [0, 1], (n_latent,).

        It is 0 for an axis along which equally treated cells hardly differ beside others that are
        moved: its states are those that perturbations say, and not the cells.
        """
        found = axis_stability(
            self.difference.cpu().numpy(),
            moved.cpu().numpy(),
            standard_error=self.share[:, 0].sqrt().cpu().numpy(),
        )
        spread = self.covariance.diagonal()
        usual = spread[moved.any(0)].median() if moved.any() else 0
        return torch.from_numpy(found).to(spread).masked_fill(spread < LEAST_SPREAD * usual, 0)

    def rotated(self, R: Tensor, centre: Tensor) -> "LatentEffects":
        """Effects in a latent space that is rotated by R around this centre."""
        return self._replace(
            mean=(self.mean - centre) @ R,
            reference=torch.zeros_like(centre @ R),
            covariance=R.T @ self.covariance @ R,
        )


def edge_logit(
    difference: Tensor, standard_error: Tensor, *, largest_cross_talk: float = USUAL_CROSS_TALK
) -> Tensor:
    """Logit of the probability that a perturbation moves a latent, (n_perturbations, n_latent).

    What is below the share ``largest_cross_talk`` of a perturbation's largest effect is no edge.
    """
    effect, error = (t.detach().double().cpu().numpy() for t in (difference, standard_error))
    probability = edge_probability(effect, error)
    size = np.abs(effect)
    probability[size < largest_cross_talk * size.max(1, keepdims=True)] = 0
    return torch.logit(torch.from_numpy(probability), 1e-12).to(difference)


def edges_to_start(effects: "LatentEffects", standard_error: Tensor) -> Tensor:
    """Edges, bool, with which the phase with sparsity begins: none that may be cross-talk."""
    logit = edge_logit(effects.difference, standard_error, largest_cross_talk=LARGEST_CROSS_TALK)
    return (logit > 0) | not_sparse(effects.difference, logit)


def not_sparse(difference: Tensor, logit: Tensor) -> Tensor:
    """Latents on which edges leave over much of what perturbations do, bool, (n_latent,).

    If that is as large as the spread of equally treated cells, shifts are not sparse on the axes
    that are moved: whatever is called, predictions need all of them.
    """
    size = difference.abs()
    in_use = size.amax(0) > LARGEST_REST
    rest = size[:, in_use][logit[:, in_use] <= 0]
    return in_use & (len(rest) > 0 and bool(rest.square().mean().sqrt() > LARGEST_REST))


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
        total = total if total.ndim else z.new_zeros(n_perturbations + 1, z.shape[1])
        total.index_add_(0, row, z)
        square = square.to(z) + z.T @ z
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
def of_responders(
    effects: LatentEffects, states: Callable[[Cells], Tensor], cells: Cells
) -> LatentEffects:
    """The same effects, of the cells that responded, and the share of these.

    By EM: a treated cell has the mean of its perturbation or that of control cells, and all have
    one covariance. Where a mixture explains the cells of a perturbation no better than one mean,
    all of them responded.
    """
    n = len(effects.mean)
    Z = torch.cat([states(b).double() for b in cells.minibatches(ENCODE_SIZE, shuffle=False)])
    row = torch.where(cells.dosage[:, 0] > 0, cells.part[:, 0], n).to(Z.device)
    treated, part, rest = row < n, row[row < n], Z - effects.reference
    n_cells = torch.bincount(part, minlength=n).to(Z)

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros((n, *values.shape[1:])).index_add_(0, part, values)

    moved, unmoved = rest[treated], rest[~treated]
    covariance = unmoved.T @ unmoved / max(len(unmoved), 1)
    covariance = covariance if len(unmoved) > len(covariance) else effects.covariance
    shift, share = effects.difference, torch.full((n,), SHARE_START).to(Z)
    for _ in range(N_EM):
        factor = torch.linalg.cholesky(covariance + JITTER * torch.eye(len(covariance)).to(Z))
        log_1, log_0 = (_log_normal(z, factor) for z in (moved - shift[part], moved))
        log_1, log_0 = log_1 + share[part].log(), log_0 + (-share[part]).log1p()
        responded = torch.sigmoid(log_1 - log_0)
        total = summed(responded).clamp(min=TINY_SHARE)
        shift = summed(responded[:, None] * moved) / total[:, None]
        share = (total + 1) / (n_cells + 2)
        left = moved - shift[part]
        square = unmoved.T @ unmoved + (responded[:, None] * left).T @ left
        square = square + ((1 - responded)[:, None] * moved).T @ moved
        covariance = square / len(Z)
    alone = _log_normal(moved - effects.difference[part], factor)
    gain = summed(torch.logaddexp(log_1, log_0) - alone)
    escaped = gain > LEAST_GAIN + n_cells.clamp(min=1).log()
    share = torch.where(escaped, share, 1)
    mean = torch.where(escaped[:, None], effects.reference + shift, effects.mean)
    of_control = effects.share[:, 0] - 1 / n_cells.clamp(min=1)
    known = torch.where(escaped, 1 / total, 1 / n_cells.clamp(min=1)) + of_control
    return effects._replace(
        mean=mean, covariance=covariance, share=known[:, None], responding=share
    )


def _log_normal(z: Tensor, factor: Tensor) -> Tensor:
    """Log density of deviations up to a constant, given the Cholesky factor of the covariance."""
    scaled = torch.linalg.solve_triangular(factor, z.T, upper=False)
    density: Tensor = -scaled.square().sum(0) / 2 - factor.diagonal().log().sum()
    return density


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
    design, place, product, square = _design(cells, n), 0, 0, torch.zeros(())
    for batch in cells.minibatches(ENCODE_SIZE, shuffle=False):
        z = states(batch).double()
        product = product + design[place : place + len(z)].T @ z.cpu().numpy()
        square, place = square.to(z) + z.T @ z, place + len(z)
    controlled = bool((cells.dosage == 0).all(1).any())
    found, variance = with_intercept(design, product, intercept=controlled)
    explained = found.T @ product
    # square - fitted is the square of what is left over, of a solution that is not exact, too
    fitted = torch.from_numpy(explained + explained.T - found.T @ (design.T @ (design @ found)))
    within = square - fitted.to(square)
    n_seen = int((design[:, :-1].sum(0) > 0).sum()) + controlled
    freedom = max(cells.n_cells - n_seen, 1)
    effect, share = (torch.from_numpy(array).to(square) for array in (found, variance[:, None]))
    reference = effect[n]  # and no median, on which sums of effects would not agree
    return LatentEffects(
        effect[:n] + reference, reference, within / freedom, share, torch.tensor(True)
    )
