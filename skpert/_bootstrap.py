"""Fitted estimators that are trained again, a short while, on cells drawn with replacement."""

import math

import torch

from ._data import split
from ._runtime import seeded, without_overflow
from ._training import warn_if_worse


def bootstrapped(estimator, X, A, seed, share):
    """Another estimator, trained from the weights of this one on a bootstrap sample of cells.

    It takes a share of the epochs. Axes and edges that the training of this one found are found
    again; the number of latents stays.
    """
    cells, device = estimator._check(X, A), estimator.module_.device
    with seeded(seed, device), without_overflow():
        cells = cells.subset(drawn(conditions(cells)))
        training, validation = split(cells, estimator.validation_fraction, device)
        n_epochs = math.ceil(share * estimator._budget(training).n_epochs)
        module, phases = estimator.module_.restarted(n_epochs)
        history, *elbo = estimator._optimise(module, training, validation, phases=phases)
    warn_if_worse(*elbo)
    return estimator._copy()._keep(module, history, "bootstrap")


def conditions(cells):
    """Number of what each cell received, whatever the dosage, (n_cells,)."""
    part = torch.where(cells.dosage > 0, cells.part, -1).sort(1).values
    return part.unique(dim=0, return_inverse=True)[1]


def drawn(condition):
    """Cells drawn with replacement among those of the same condition, (n_cells,)."""
    order = condition.argsort(stable=True)
    n_cells = condition.bincount()
    first = (n_cells.cumsum(0) - n_cells)[condition]
    chance = torch.rand(len(condition), dtype=torch.float64)
    return order[first + (chance * n_cells[condition]).long()]
