"""Designs of simulated cells: combinations, dosages, and expected expression under any of them."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy.sparse import csr_array, issparse

from .._input.expression import read_matrix
from .._input.parts import read_parts
from .._input.values import text
from ._mixing import population_mean
from ._noise import CountDecoder, NormalDecoder


@dataclass(frozen=True, eq=False)
class Population:
    """Cells of all basal states, under any design."""

    decoder: CountDecoder | NormalDecoder
    perturbations: np.ndarray
    effect: np.ndarray

    def expected(self, A):
        """Return the expected expression of each design, (n_designs, n_genes)."""
        shift = self.dosage(A) @ self.effect
        distinct, row = np.unique(shift, axis=0, return_inverse=True)
        return population_mean(self.decoder.mean, distinct)[row.ravel()]

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


def dosage_matrix(treated, n_perturbations):
    """Dosages of 1 from the columns of each row that has them."""
    indices = np.array([j for row in treated for j in row], dtype=np.int32)
    indptr = np.cumsum([0, *map(len, treated)], dtype=np.int32)
    ones = np.ones(len(indices), dtype=np.float32)
    return csr_array((ones, indices, indptr), shape=(len(treated), n_perturbations))
