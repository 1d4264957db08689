"""Whether cells of different environments mix in latent space, and in which units that is seen."""

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ._data import Cells
from ._least_squares import without_covariates
from .metrics import integration_scores

N_NEIGHBORS = 15  # of a cell, in which its own environment is counted
N_PERMUTATIONS = 50  # of environments among cells of the same label
SIGNIFICANT = 5.0  # standard deviations of these
SHARE = 0.5  # of what all latents show of environments
N_JUDGED = 2000  # training cells in which environments should mix
UNMIXED = (
    "cells of different environments do not mix in the invariant latents: these show environments "
    "about as much as all latents do. Set n_init=5 to choose the best of several trainings by how "
    "well cells mix, or raise n_spurious"
)


class Labelled(NamedTuple):
    """Latents that were read from expression alone, and what is known of the cells."""

    z: np.ndarray[Any, Any]  # (n_cells, n_latent)
    label: np.ndarray[Any, Any]  # (n_cells,) of biology, an index
    environment: np.ndarray[Any, Any]  # (n_cells,) an index

    @classmethod
    def of(cls, z: Tensor, biology: Tensor, environment: Tensor) -> "Labelled | None":
        """Cells of known environments; None where these are no categories, or fewer than two."""
        known = environment.any(1)
        z, biology, environment = z[known], biology[known], environment[known]
        if len(z) <= N_NEIGHBORS or not bool((environment == environment.round()).all()):
            return None
        biology = torch.cat([torch.ones_like(environment[:, :1]), biology], 1)  # of none, one
        groups = [
            values.unique(dim=0, return_inverse=True)[1] for values in (biology, environment)
        ]
        label, of = (group.cpu().numpy() for group in groups)
        if len(np.unique(of)) < 2:
            return None
        return cls(z.cpu().double().numpy(), label, of)

    def total(self, n_invariant: int) -> float | None:
        """Biology kept and environments lost in the first latents; None if that is undefined."""
        z = self.z[:, :n_invariant]
        if not np.ptp(z, axis=0).any():
            return -np.inf
        try:
            scores = integration_scores(z, self.label, self.environment, random_state=0)
        except ValueError:  # one label, or no label in two environments
            return None
        return float(scores["total"])

    def unmixed(self, n_invariant: int) -> bool:
        """Whether environments are seen in the first latents much as in all of them."""
        found, deviations = excess(self.z[:, :n_invariant], self.label, self.environment)
        if deviations < SIGNIFICANT:
            return False
        return found > SHARE * excess(self.z, self.label, self.environment)[0]


def excess(
    z: np.ndarray[Any, Any], label: np.ndarray[Any, Any], environment: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """Share of neighbours of a cell's own environment beyond what its label makes likely.

    Returns
    -------
    excess : float
        0 if environments mix within labels, 1 if they are apart.
    deviations : float
        The same in standard deviations of permutations within labels.
    """
    neighbours = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(z).kneighbors()[1]
    random, order = np.random.default_rng(0), np.argsort(label, kind="stable")

    def own(of: np.ndarray[Any, Any]) -> float:
        return float((of[neighbours] == of[:, None]).mean())

    chance = np.empty(N_PERMUTATIONS)
    for i in range(N_PERMUTATIONS):
        shuffled = np.empty_like(environment)
        shuffled[order] = environment[np.lexsort((random.random(len(label)), label))]
        chance[i] = own(shuffled)
    found, mean = own(environment) - chance.mean(), chance.mean()
    return found / max(1 - mean, 1e-12), found / max(chance.std(), 1e-12)


def spaced(cells: Cells, n_most: int) -> Cells:
    """About so many of the cells, or all."""
    step = max(cells.n_cells // n_most, 1)
    return cells.take(torch.arange(0, cells.n_cells, step, device=cells.dosage.device))


def whitening(
    mean: Tensor, variance: Tensor, part: Tensor, value: Tensor, covariate: Tensor
) -> Tensor:
    """Map of a block to combinations of unit spread among cells of known covariates, if any.

    These are ``part``, columns of a ``covariate`` each, with a ``value`` other than zero.
    """
    known = (value != 0).any(1)
    known = known if known.any() else ~known
    mean, variance, part, value = (rows[known] for rows in (mean, variance, part, value))
    design = (array.numpy() for array in (part, value.to(mean), covariate))
    rest, rank = without_covariates(mean.numpy(), *design)
    residual = torch.from_numpy(rest)
    spread = residual.T @ residual / max(len(mean) - rank, 1) + variance.mean(0).diag()
    values, axes = torch.linalg.eigh(spread)
    whitened: Tensor = (axes / values.sqrt()) @ axes.T
    return whitened
