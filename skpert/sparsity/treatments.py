r"""Cells whose perturbations are not known: which they may have had, by their expression.

A cell has no perturbation or one of those that were trained on, which are all equally probable,
and perhaps a second one, so that the prior of its state is a mixture,

.. math:: p(z) = \sum_t \pi_t \, \mathcal{N}(z; s_t, I),

of normal distributions around the shifts :math:`s_t`. An encoder gives the posterior under one of
these. Without its prior that is what expression says of the state, and with the mixture it is
the posterior of cells of which nothing else is known.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal

from .._data import Cells

SECOND = 0.1  # share of cells that have a second perturbation
N_READINGS = 3  # times that states are read given shifts, and shifts found from them
LEAST_PRECISION = 1e-3  # of what expression says of a state, relative to the prior


def state_of_unknown(read: Callable[[Tensor], Normal], effects: Tensor, n_known: Tensor) -> Tensor:
    """Posterior mean of states of cells that may have any perturbation, (n_cells, n_latent).

    ``read`` gives the posterior of each cell's state under the prior N(shift, I), for one shift
    of all cells or one each, and ``effects`` are as in :func:`expected_shift`, the first
    ``n_known`` of them.
    """
    effects = effects if n_known.is_meta else effects[: int(n_known)]
    shift = effects.new_zeros(1, effects.shape[1])
    for _ in range(N_READINGS):
        shift = expected_shift(read(shift), shift, effects)
    mean: Tensor = read(shift).mean
    return mean


def expected_shift(q: Normal, known: Tensor, effects: Tensor) -> Tensor:
    """Posterior mean of the shift of cells, (n_cells, n_latent).

    Parameters
    ----------
    q : Normal
        Posterior of the state of each cell under the prior N(known, I), (n_cells, n_latent).
    known : Tensor of shape (n_cells, n_latent) or (1, n_latent)
        Mean of that prior.
    effects : Tensor of shape (n_perturbations, n_latent)
        Shift by each perturbation that a cell may have.
    """
    shifts = torch.cat([effects.new_zeros(1, effects.shape[1]), effects])
    n_shifts = len(shifts)
    precision = (1 / q.variance - 1).clamp(min=LEAST_PRECISION)
    rest = (q.mean / q.variance - known) / precision  # the state that expression tells
    weight = precision / (1 + precision)  # one over the variance of that around a shift
    first = rest.new_full((n_shifts,), -math.log(n_shifts))
    second = rest.new_full((n_shifts,), math.log(SECOND / n_shifts))
    second[0] = math.log1p(-SECOND)

    def fit(rest: Tensor, log_prior: Tensor) -> Tensor:
        """Log probability of each shift but for a constant: squares less what all have."""
        return (weight * rest) @ shifts.T - weight @ shifts.square().T / 2 + log_prior

    one = shifts[fit(rest, first).argmax(-1)]  # as the mean of two that a cell has is neither
    for _ in range(2):
        other = torch.softmax(fit(rest - one, second), -1) @ shifts
        one = torch.softmax(fit(rest - other, first), -1) @ shifts
    return one + other


def n_treated_cells(cells: Cells, n_perturbations: int) -> Tensor:
    """Number of cells that received each perturbation, (n_perturbations,) float32."""
    received = (cells.dosage > 0).float().flatten()
    n_cells = torch.zeros(n_perturbations, device=received.device)
    return n_cells.index_add_(0, cells.part.flatten(), received)
