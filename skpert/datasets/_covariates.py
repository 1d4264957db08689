"""Covariates of simulated cells, the latent states they give, and what to expect of any others."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ._mixing import MixingDecoder, population_mean

_FACTORS = ("batch", "cell_type", "condition")  # columns of codes, in this order
_LETTERS = ("B", "T", "C")


@dataclass(frozen=True, eq=False)
class LatentPrior:
    """p(z | cell type, condition, batch)."""

    invariant_mean: np.ndarray  # (n_cell_types, n_conditions, n_invariant)
    invariant_scale: np.ndarray  # symmetric root of the covariance, (n_invariant, n_invariant)
    batch_mean: np.ndarray  # (n_batches,)
    batch_variance: np.ndarray  # (n_batches,)
    n_spurious: int

    def states(self, codes, noise):
        """Latent states of cells from standard normal noise, (n_cells, n_latent)."""
        batch, cell_type, condition = codes.T
        n_invariant = len(self.invariant_scale)
        invariant = noise[:, :n_invariant] @ self.invariant_scale
        spurious = np.sqrt(self.batch_variance)[batch, None] * noise[:, n_invariant:]
        return np.hstack(
            [
                self.invariant_mean[cell_type, condition] + invariant,
                self.batch_mean[batch, None] + spurious,
            ]
        )


@dataclass(frozen=True, eq=False)
class CoveredCells:
    """Cells of all latent states, with any covariates."""

    prior: LatentPrior
    decoder: MixingDecoder
    names: dict  # of the levels of each factor

    def expected(self, obs):
        """Return the expected counts of cells with the covariates of each row of ``obs``."""
        distinct, row = np.unique(self._codes(obs), axis=0, return_inverse=True)
        return np.stack([self._mean(code) for code in distinct])[row.ravel()]

    def _mean(self, code):
        """Expected counts of cells with these levels, (n_genes,)."""

        def mean(noise):
            return self.decoder.mean(self.prior.states(np.tile(code, (len(noise), 1)), noise))

        n_latent = len(self.prior.invariant_scale) + self.prior.n_spurious
        return population_mean(mean, np.zeros((1, n_latent)))[0]

    def _codes(self, obs):
        """Positions of the levels of each row, (n_rows, 3)."""
        if not isinstance(obs, pd.DataFrame) or not len(obs):
            raise ValueError(
                f"obs must be a DataFrame with the columns {', '.join(_FACTORS)} and at least one "
                f"row, got {type(obs).__name__}"
            )
        missing = [name for name in _FACTORS if name not in obs]
        if missing:
            raise ValueError(f"obs has no column {missing}, but {list(obs.columns)[:10]}")
        return np.column_stack([self._positions(obs[name], name) for name in _FACTORS])

    def _positions(self, values, name):
        codes = pd.Index(self.names[name]).get_indexer(values.astype(object))
        if (codes < 0).any():
            unknown = sorted(set(values[codes < 0].astype(str)))[:10]
            raise ValueError(f"obs has {unknown} as {name}; known are {self.names[name].tolist()}")
        return codes


def draw_codes(n_cells, shape, unbalanced, shuffle, rng):
    """Levels of all cells, (n_cells, 3), from the number of them in a balanced combination."""
    numbers = _numbers_of_cells(n_cells, shape, unbalanced)
    codes = np.repeat(np.indices(shape).reshape(3, -1).T, numbers.ravel(), axis=0)
    return rng.permutation(codes) if shuffle else codes


def _numbers_of_cells(n_cells, shape, unbalanced):
    """Number of cells of each combination, of this shape; the total of a batch does not change."""
    n_batches, _, n_conditions = shape
    others = round((1 - unbalanced) * n_cells)
    numbers = np.full(shape, others)
    own = np.arange(n_batches) % n_conditions
    numbers[np.arange(n_batches), :, own] = n_conditions * n_cells - (n_conditions - 1) * others
    return numbers


def level_names(shape):
    """Names such as B0, B1, of the levels of each factor, padded so that they sort."""
    return {
        factor: np.array([f"{letter}{i:0{len(str(n - 1))}d}" for i in range(n)], dtype=object)
        for factor, letter, n in zip(_FACTORS, _LETTERS, shape, strict=True)
    }


def level_table(codes, names):
    """Covariates of the cells as categories, cell types first."""
    columns = {
        name: pd.Categorical.from_codes(codes[:, _FACTORS.index(name)], names[name])
        for name in ("cell_type", "condition", "batch")
    }
    return pd.DataFrame(columns, index=[f"cell{i}" for i in range(len(codes))])
