"""What simulators share: checks of arguments, targets and shifts, designs, and what to expect."""

from dataclasses import dataclass
from itertools import combinations
from math import comb
from numbers import Integral

import numpy as np
from scipy.sparse import csr_array, issparse
from scipy.special import ndtri
from scipy.stats import qmc
from sklearn.utils import check_scalar

from .._input.expression import read_matrix
from .._input.parts import dosage_matrix, read_parts
from .._input.values import check_finite, check_range, text

_N_BASAL_BITS = 11  # 2,048 basal states


@dataclass(frozen=True)
class TargetRule:
    """How the latents that a perturbation moves are chosen."""

    n_latent: int
    n_covered: int
    low: int
    high: int
    with_replacement: bool = False

    def draw(self, n_rows, rng, fraction=None):
        """Mask of n_rows perturbations, (n_rows, n_latent), this fraction of it active."""
        mask = np.zeros((n_rows, self.n_latent), dtype=bool)
        if fraction is None:
            counts = rng.randint(self.low, self.high + 1, size=n_rows)
        else:  # as even as possible: none is left without targets while there are enough
            n_edges = round(fraction * n_rows * self.n_covered)
            counts = rng.permutation(np.arange(n_edges, n_edges + n_rows) // max(n_rows, 1))
        for row, count in zip(mask, counts, strict=True):
            row[rng.choice(self.n_covered, size=count, replace=self.with_replacement)] = True
        return mask


@dataclass(frozen=True, eq=False)
class Population:
    """Cells of all basal states, under any design."""

    mean: object  # expected expression of latent states
    perturbations: np.ndarray
    effect: np.ndarray
    own: object = None  # what dosages shift beyond the sum of effects

    def expected(self, A):
        """Return the expected expression of each design, (n_designs, n_genes)."""
        dosage = self.dosage(A)
        shift = dosage @ self.effect
        if self.own is not None:
            shift = shift + self.own(dosage)
        distinct, row = np.unique(shift, axis=0, return_inverse=True)
        return population_mean(self.mean, distinct)[row.ravel()]

    def dosage(self, A):
        """Dosages of designs, given as labels or as dosages, (n_designs, n_perturbations)."""
        if isinstance(A, str):
            return self._labelled([A])
        if not issparse(A) and np.ndim(A) == 1 and len(A):
            return self._labelled(A)
        return self._given(A)

    def _given(self, A):
        columns, n_columns = getattr(A, "columns", self.perturbations), len(self.perturbations)
        A = read_matrix(A, "A", accept_sparse=True)
        if A.shape[1] != n_columns:
            raise ValueError(f"A has {A.shape[1]} columns, the data set {n_columns} perturbations")
        if list(columns) != list(self.perturbations):
            raise ValueError(
                f"columns of the dosages A must be the perturbations, {self.perturbations[0]!r} "
                f"to {self.perturbations[-1]!r} in their order, got {list(columns)[:10]}"
            )
        if A.min() < 0:
            raise ValueError(f"dosages in A must not be negative, the smallest is {A.min()}")
        return csr_array(A)

    def _labelled(self, labels):
        column = {name: j for j, name in enumerate(self.perturbations)}
        labels = [text(label) for label in labels]
        parts = read_parts(set(labels), "control", "+", known=column).of
        unknown = sorted(set().union(*parts.values()) - set(column))
        if unknown:
            raise ValueError(
                f"A has unknown perturbations {unknown[:10]}; known are 'control' and "
                f"{self.perturbations[0]!r} to {self.perturbations[-1]!r} (dosages must be 2-D)"
            )
        treated = [sorted(column[part] for part in parts[label]) for label in labels]
        return dosage_matrix(treated, len(column))


def population_mean(mean, effect):
    """Mean of ``mean(z)`` over cells shifted by each row of ``effect``, the same basal states."""
    sobol = qmc.Sobol(effect.shape[1], scramble=False).random_base2(_N_BASAL_BITS)
    basal = ndtri(sobol + 0.5 / len(sobol))  # moved off zero, where the quantile is infinite
    return np.stack([mean(basal + shift).mean(axis=0) for shift in effect])


def draw_expression(decoder, mean, states, effect, rng):
    """Expression of cells in these states, and what is known of it, as entries of a data set."""
    expected = population_mean(mean, np.vstack([effect, np.zeros_like(effect[:1])]))
    return {
        "X": decoder.sample(states, rng),
        "expected_expression": expected[:-1],
        "control_expression": expected[-1],
        "rate": decoder.rate,
        "log_likelihood": decoder.log_likelihood,
    }


def numbered(letter, n):
    """Names such as P00 to P11, padded so that their sorted order is that of their numbers."""
    return [f"{letter}{i:0{len(str(n - 1))}d}" for i in range(n)]


def draw_embedding(size, scale, shape, rng):
    """Shifts with normal absolute values around ``size`` and random signs, of this shape."""
    strength = rng.normal(size, scale, size=shape)
    return rng.choice([-1.0, 1.0], size=shape) * strength


def draw_rows(n_cells, shuffle, rng):
    """Treatment of each cell, from the number of cells that each treatment has."""
    row = np.repeat(np.arange(len(n_cells)), n_cells)
    return rng.permutation(row) if shuffle else row


def draw_combinations(n_perturbations, n_parts, n_combinations, rng):
    """Sorted list of distinct combinations, each a sorted tuple of rows."""
    n_all = comb(n_perturbations, n_parts)
    if n_all <= 2 * n_combinations:
        every = list(combinations(range(n_perturbations), n_parts))
        return [every[i] for i in sorted(rng.permutation(n_all)[:n_combinations])]
    drawn = set()
    while len(drawn) < n_combinations:  # at most every second one is a repetition
        parts = rng.choice(n_perturbations, n_parts, replace=False)
        drawn.add(tuple(sorted(parts.tolist())))
    return sorted(drawn)


def check_sizes(n_perturbations, n_cells_per_perturbation, n_control_cells):
    """Raise ValueError unless there can be such a screen."""
    check_scalar(n_perturbations, "n_perturbations", Integral, min_val=1)
    check_scalar(n_cells_per_perturbation, "n_cells_per_perturbation", Integral, min_val=1)
    check_scalar(n_control_cells, "n_control_cells", Integral, min_val=0)


def check_strengths(effect_size, effect_scale):
    """Raise ValueError unless shifts are finite and not negative."""
    check_finite(effect_size, "effect_size")
    check_finite(effect_scale, "effect_scale")


def check_target_range(n_targets):
    """Return the smallest and largest number of targets."""
    must = "n_targets must be >= 1, or (lowest, highest)"
    return check_range(n_targets, must, Integral, lambda low, high: 1 <= low <= high)
