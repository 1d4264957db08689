r"""What combinations do beyond the sum of their parts: a common scale, and effects of their own.

.. math:: s_i = c_{|S_i|} \sum_{t \in S_i} a_{it} \, e_t
          + \Bigl(\prod_{t \in S_i} a_{it}\Bigr) \, \delta_{S_i}

is the shift of a cell that received the perturbations :math:`S_i` in dosages :math:`a`. The scale
:math:`c_n` is common to all combinations of :math:`n` perturbations, and 1 for single ones. Every
combination that was measured, as was each of its parts alone, has an interaction :math:`\delta`;
others have the scaled sum.

A model treats interactions as perturbations that come with a combination, the first rows of its
tables: what is said of effects, their masks and their errors then holds for interactions too. Only
they are called by themselves, since what is no interaction is not what is no effect: latents are
slightly curved functions of the true ones, so that large effects do not add up exactly.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._data import Cells
from ..exceptions import warn_of_data
from .edges import edge_probability
from .effects import USUAL_CROSS_TALK, LatentEffects

LEAST_CELLS = 5  # of a combination that has an interaction
LEAST_COMBINATIONS = 5  # of so many parts, from which their scale is found
LEAST_EFFECT = 3.0  # standard errors of a sum that tells of the scale
MEDIAN_SQUARE = 0.4549  # of a standard normal variable
MIX = (-7046029254386353131, -4658895280553007687)  # odd; products of codes with them are spread

Array = NDArray[np.float64]


def measured_combinations(cells: Cells) -> NDArray[np.int64]:
    """Combinations of which each part was measured alone, too, (n_combinations, n_parts).

    Perturbations in ascending order; -1 fills the rows of smaller combinations.
    """
    last = torch.iinfo(torch.int64).max
    part = torch.where(cells.dosage > 0, cells.part, last).sort(1).values
    sets, n_cells = part.unique(dim=0, return_counts=True)
    n_parts = (sets < last).sum(1)
    alone = sets[n_parts == 1, 0]
    known = (torch.isin(sets, alone) | (sets == last)).all(1)
    chosen = (n_parts > 1) & known & (n_cells >= LEAST_CELLS)
    width = int((n_parts * chosen).max()) if len(chosen) else 0
    found = sets[chosen, :width]
    array: NDArray[np.int64] = found.masked_fill(found == last, -1).cpu().numpy()
    return array


def combinations_of(estimator: Any, cells: Cells) -> NDArray[np.int64]:
    """Combinations that are to have interactions, with a warning if there are none.

    A training that goes on from the fit before has the same; ValueError if that had none.
    """
    if estimator.edges != "called":
        raise ValueError(
            "interactions=True needs edges='called', by which interactions are called, too"
        )
    before: NDArray[np.int64] | None = vars(estimator).get("_combinations")
    if estimator.warm_start and before is not None and len(before):
        return before
    found = measured_combinations(cells)
    if estimator.warm_start and before is not None and len(found):
        raise ValueError(
            "warm_start=True goes on from the fit before, whose data had no combinations with "
            f"interactions; these have {len(found)}. Fit anew with warm_start=False"
        )
    if not len(found):
        warn_of_data(
            f"interactions=True finds no combination of at least {LEAST_CELLS} training cells of "
            "which each part was measured alone, too: effects add up"
        )
    return found


def usual_scale(sums: Array, measured: Array, standard_error: Array | float = 0.0) -> float:
    """Scale by which sums of effects become those of most combinations.

    Parameters
    ----------
    sums, measured : ndarray of shape (n_combinations, n_latent)
        Sum of the effects of the parts, and the effect of the combination.
    standard_error : ndarray of shape (n_combinations, n_latent) or float, default=0.0
        Of the sums; those within three standard errors of zero do not count.

    Returns
    -------
    scale : float
        The value of least absolute error, which a minority of interactions hardly moves; 1 if
        nothing tells it.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.sparsity.interactions import usual_scale
    >>> sums = np.array([[2.0, 0.0], [0.0, 4.0], [4.0, 2.0]])
    >>> usual_scale(sums, np.array([[1.6, 0.0], [0.0, 3.2], [3.2, 9.0]]))
    0.8
    """
    told = np.abs(sums) > LEAST_EFFECT * standard_error
    weight, ratio = np.abs(sums[told]), measured[told] / sums[told]
    if not len(weight):
        return 1.0
    order = np.argsort(ratio)
    place = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    return float(ratio[order][min(place, len(order) - 1)])


def interaction_probability(rest: Array, sums: Array, standard_error: Array) -> Array:
    """Probability that each deviation from a sum is an interaction.

    The test is that of :func:`skpert.sparsity.edges.edge_probability`. Deviations in proportion to
    the whole effect of a combination are no interactions: their usual size, estimated as a median,
    counts as noise.

    Parameters
    ----------
    rest : ndarray of shape (n_combinations, n_latent)
        Effect of each combination beyond its sum, in standard deviations of a latent.
    sums : ndarray of shape (n_combinations, n_latent)
        The sums, scaled.
    standard_error : ndarray of shape (n_combinations, n_latent)
        Of ``rest``.

    Returns
    -------
    probability : ndarray of shape (n_combinations, n_latent)
        In [0, 1]; 0 where ``rest`` is below 12 % of the largest effect of the combination.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.sparsity.interactions import interaction_probability
    >>> rest = np.random.default_rng(0).normal(size=(20, 3)) * 0.1
    >>> rest[0, 1] = 4.0
    >>> probability = interaction_probability(rest, np.full((20, 3), 3.0), np.full((20, 3), 0.1))
    >>> np.argwhere(probability > 0.5).tolist()
    [[0, 1]]
    """
    error = error_of_sums(rest, sums, standard_error)
    probability: Array = edge_probability(rest, error)
    largest = np.maximum(np.abs(rest), np.abs(sums)).max(1, keepdims=True)
    probability[np.abs(rest) < USUAL_CROSS_TALK * largest] = 0
    return probability


def error_of_sums(rest: Array, sums: Array, standard_error: Array) -> Array:
    """Standard deviation of deviations from sums that are no interactions.

    Parameters
    ----------
    rest, sums, standard_error : as in :func:`interaction_probability`
        Deviations, sums and sampling errors.

    Returns
    -------
    error : ndarray of shape (n_combinations, n_latent)
        The root of ``standard_error**2 + share * size``, where ``size`` is the squared length of a
        combination's sum, and ``share`` is such that it explains the median of squared deviations.
    """
    size = np.square(sums).sum(1, keepdims=True)
    told = size[:, 0] > 0
    if not told.any():
        return standard_error
    beyond = np.square(rest) / MEDIAN_SQUARE - np.square(standard_error)
    share = max(float(np.median(beyond[told] / size[told])), 0)
    error: Array = np.sqrt(np.square(standard_error) + share * size)
    return error


class Interactions(nn.Module):
    """Rows for interactions before those of perturbations, and the common scales of sums."""

    part: Tensor  # (n_combinations, n_parts) perturbations of each, -1 where there are fewer
    scale: Tensor  # (n_parts + 1,) of sums, by their number of parts

    def __init__(self, combinations: NDArray[np.int64]):
        super().__init__()
        self.register_buffer("part", torch.from_numpy(combinations))
        self.register_buffer("scale", torch.ones(combinations.shape[1] + 1))

    def __len__(self) -> int:
        return len(self.part)

    def forward(self, cells: Cells, acting: Tensor | bool = True) -> Cells:
        """Cells whose combinations have scaled parts, and their interaction as one more part.

        Indices are then those of rows: interactions come first. All or none of them are
        ``acting``, or those of some combinations, bool, (n_combinations,).
        """
        given = cells.dosage > 0
        place = self._place(torch.where(given, cells.part, -1))
        product = torch.where(given, cells.dosage, 1).prod(1)
        own = torch.where(place < 0, 0, product)
        if acting is not True:
            acts = torch.as_tensor(acting, device=own.device).expand(len(self))
            own = own * acts[place.clamp(min=0)]
        scale = self.scale.to(cells.dosage)[given.sum(1).clamp(max=len(self.scale) - 1)]
        part = torch.cat([cells.part + len(self), place.clamp(min=0)[:, None]], 1)
        dosage = torch.cat([scale[:, None] * cells.dosage, own[:, None]], 1)
        return cells._replace(part=part, dosage=dosage)

    def _place(self, part: Tensor) -> Tensor:
        """Which combination each row is, whatever the order of its parts; -1 for none."""
        known, order = _code(self.part.to(part)).sort()
        code = _code(part)
        place = torch.searchsorted(known, code).clamp(max=len(known) - 1)
        return torch.where(known[place] == code, order[place], -1)

    def sums(self, effect: Tensor) -> Tensor:
        """Scaled sum of the effects of each combination's parts, given those of all rows."""
        return self._usual[:, None].to(effect) * self._added(effect)

    @property
    def _usual(self) -> Tensor:
        """Scale of each combination."""
        return self.scale[(self.part >= 0).sum(1)]

    def _added(self, rows: Tensor) -> Tensor:
        """Sum over the parts of each combination of their rows."""
        parts = rows[len(self) :][self.part.clamp(min=0)]
        return (parts * (self.part >= 0)[:, :, None].to(parts)).sum(1)

    def find_scales(self, effects: LatentEffects) -> None:
        """Take the scales from effects that were seen, with the scales there are."""
        n, effect = len(self), effects.difference
        sums, square = self._added(effect), self._added(effects.standard_error.square())
        measured = effect[:n] + self.sums(effect)
        arrays = [t.cpu().numpy() for t in (sums, measured, square.sqrt())]
        n_parts = (self.part >= 0).sum(1).cpu().numpy()
        found = {
            k: usual_scale(*(array[n_parts == k] for array in arrays))
            for k in range(2, len(self.scale))
            if (n_parts == k).sum() >= LEAST_COMBINATIONS
        }
        for k in range(2, len(self.scale)) if found else ():
            self.scale[k] = found[min(found, key=lambda known: (abs(known - k), known))]

    def logit(self, effects: LatentEffects, standard_error: Tensor) -> Tensor:
        """Logit of the probability of each interaction, (n_combinations, n_latent)."""
        n, effect = len(self), effects.difference
        arrays = (effect[:n], self.sums(effect), standard_error[:n])
        values = [t.detach().double().cpu().numpy() for t in arrays]
        return torch.logit(torch.from_numpy(interaction_probability(*values)), 1e-12).to(effect)


def _code(part: Tensor) -> Tensor:
    """A number of 64 bits for the perturbations of each row, those of -1 left out."""
    code = (part + 1) * MIX[0]
    code = (code ^ (code >> 31)) * MIX[1]
    code = (code ^ (code >> 29)) * MIX[0]
    return torch.where(part < 0, 0, code).sum(1)
