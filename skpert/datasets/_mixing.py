r"""What simulated screens share: targets, shifts, and the random network behind expression.

.. math:: h_0 = z, \quad h_{k+1} = \mathrm{LeakyReLU}_{0.2}(h_k W_k), \quad f(z) = h_K W_K

The layers widen and the rows of each :math:`W_k` are orthonormal up to a gain, so that no latent
gets lost on the way.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse
from scipy.special import gammaln, log_softmax, ndtri
from scipy.stats import qmc
from sklearn.utils import check_scalar, gen_batches
from sklearn.utils.validation import check_consistent_length

from .._input.expression import read_matrix

LEAK = 0.2  # slope of the rectifiers below zero
N_HIDDEN = 40  # width of the layers behind counts
_N_BASAL_BITS = 11  # 2,048 basal states


@dataclass(frozen=True, eq=False)
class MixingDecoder:
    """p(x | z): a random network to logits, normalised to Poisson rates."""

    weights: tuple
    total: float  # expected counts of each cell; with a log_normalizer, of each gene
    logit_scale: float = 1.0
    log_normalizer: np.ndarray | None = None  # (n_genes,); None: of each cell over its genes

    def logits(self, Z):
        """Return the network's output, (n_cells, n_genes)."""
        return propagate(Z, self.weights) / self.logit_scale

    def log_rate(self, Z):
        """Return log expected counts, (n_cells, n_genes)."""
        logits = self.logits(Z)
        if self.log_normalizer is None:
            return np.log(self.total) + log_softmax(logits, axis=1)
        return np.log(self.total) + logits - self.log_normalizer

    def mean(self, Z):
        """Return expected counts of latent states that need no check, (n_cells, n_genes)."""
        return np.exp(self.log_rate(Z))

    def rate(self, Z):
        """Return expected counts of cells in the latent states Z, (n_cells, n_genes)."""
        return self.mean(check_columns(Z, "Z", len(self.weights[0])))

    def log_likelihood(self, X, Z):
        """Log probability of the counts X given the latent states Z, nats per cell, (n_cells,)."""
        X, Z = check_cells(X, Z, self.weights)
        check_counts(X)
        log_rate = self.log_rate(Z)
        return (X * log_rate - np.exp(log_rate) - gammaln(X + 1)).sum(axis=1)

    def sample(self, Z, rng):
        """Draw the counts of one cell per row of Z, a block at a time to save memory."""
        X = np.empty((len(Z), self.weights[-1].shape[1]), dtype=np.float32)
        for rows in gen_batches(len(Z), 4096):
            X[rows] = rng.poisson(self.mean(Z[rows]))
        return X


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
        else:  # as even as it goes: none is left without targets while there are enough
            n_edges = round(fraction * n_rows * self.n_covered)
            counts = rng.permutation(np.arange(n_edges, n_edges + n_rows) // max(n_rows, 1))
        for row, count in zip(mask, counts, strict=True):
            row[rng.choice(self.n_covered, size=count, replace=self.with_replacement)] = True
        return mask


@dataclass(frozen=True)
class CoinRule:
    """Every latent is a target with the same probability, independently."""

    n_latent: int
    probability: float

    def draw(self, n_rows, rng):
        """Mask of n_rows perturbations, (n_rows, n_latent)."""
        return rng.random_sample((n_rows, self.n_latent)) < self.probability


def propagate(Z, weights):
    """Output of the network: leaky rectifiers after every layer but the last."""
    hidden = Z
    for weight in weights[:-1]:
        hidden = hidden @ weight
        hidden = np.maximum(hidden, LEAK * hidden)
    return hidden @ weights[-1]


def population_mean(mean, effect):
    """Mean of ``mean(z)`` over cells shifted by each row of ``effect``, the same basal states."""
    sobol = qmc.Sobol(effect.shape[1], scramble=False).random_base2(_N_BASAL_BITS)
    basal = ndtri(sobol + 0.5 / len(sobol))  # moved off zero, where the quantile is infinite
    return np.stack([mean(basal + shift).mean(axis=0) for shift in effect])


def draw_mixing_decoder(Z, n_genes, total, rng):
    """Random decoder whose logits have unit standard deviation over the latent states Z."""
    widths = [Z.shape[1], N_HIDDEN, N_HIDDEN, N_HIDDEN, n_genes]
    weights = tuple(draw_layer(*shape, rng) for shape in pairwise(widths))
    decoder = MixingDecoder(weights, total=float(total))
    return replace(decoder, logit_scale=decoder.logits(Z).std())


def draw_layer(n_in, n_out, rng):
    """Weights (n_in, n_out) with orthonormal rows times a gain; needs n_in <= n_out."""
    basis, _ = np.linalg.qr(rng.normal(size=(n_in, n_out)).T)  # (n_out, n_in)
    gain = np.sqrt(2 / (1 + LEAK**2)) * np.sqrt(2 / (n_in + n_out))
    return gain * basis.T


def draw_haar_layer(n_in, n_out, rng):
    """Weights (n_in, n_out) uniform among those with orthonormal rows; needs n_in <= n_out."""
    basis, triangle = np.linalg.qr(rng.normal(size=(n_in, n_out)).T)
    return (basis * np.sign(np.diag(triangle))).T


def draw_embedding(size, scale, shape, rng):
    """Shifts with normal absolute values around ``size`` and random signs, of this shape."""
    strength = rng.normal(size, scale, size=shape)
    return rng.choice([-1.0, 1.0], size=shape) * strength


def perturbation_names(n):
    """Names P0, P1, ... padded so that their sorted order is that of their numbers."""
    width = len(str(n - 1))
    return [f"P{i:0{width}d}" for i in range(n)]


def check_columns(values, name, n_columns):
    """Return an array of floats, or say how many columns it should have."""
    values = read_matrix(values, name, accept_sparse=True)
    if values.shape[1] != n_columns:
        raise ValueError(f"{name} has {values.shape[1]} columns, the data set has {n_columns}")
    return values.toarray() if issparse(values) else values


def check_cells(X, Z, weights):
    """Return expression and latent states of the same cells as arrays that fit the network."""
    X = check_columns(X, "X", weights[-1].shape[1])
    Z = check_columns(Z, "Z", len(weights[0]))
    check_consistent_length(X, Z)
    return X, Z


def check_counts(X):
    """Raise ValueError unless X holds counts."""
    if (X < 0).any() or (X % 1).any():
        raise ValueError("X must hold counts: whole numbers that are not negative")


def check_sizes(n_perturbations, n_cells_per_perturbation, n_control_cells):
    """Raise ValueError unless there can be such a screen."""
    check_scalar(n_perturbations, "n_perturbations", Integral, min_val=1)
    check_scalar(n_cells_per_perturbation, "n_cells_per_perturbation", Integral, min_val=1)
    check_scalar(n_control_cells, "n_control_cells", Integral, min_val=0)


def check_widths(n_latent, n_hidden, n_genes):
    """Raise ValueError unless the network widens from layer to layer."""
    check_scalar(n_latent, "n_latent", Integral, min_val=1)
    check_scalar(n_genes, "n_genes", Integral, min_val=1)
    if not n_latent <= n_hidden <= n_genes:
        raise ValueError(
            f"the mixing network needs n_latent <= {n_hidden} <= n_genes, "
            f"got n_latent={n_latent} and n_genes={n_genes}"
        )


def check_strengths(effect_size, effect_scale, library_size):
    """Raise ValueError unless shifts and depth are finite and of the right sign."""
    check_scalar(effect_size, "effect_size", Real, min_val=0)
    check_scalar(effect_scale, "effect_scale", Real, min_val=0)
    check_scalar(library_size, "library_size", Real, min_val=0, include_boundaries="neither")
    if not np.isfinite([effect_size, effect_scale, library_size]).all():
        raise ValueError("effect_size, effect_scale and library_size must be finite")


def check_number(value, name, low, high, boundaries):
    """Raise ValueError unless the value lies in this range; ``boundaries`` as `check_scalar`."""
    limits = {"min_val": low, "max_val": high, "include_boundaries": boundaries}
    if np.isnan(check_scalar(value, name, Real, **limits)):
        raise ValueError(f"{name} must be a number between {low} and {high}, got nan")


def check_target_range(n_targets):
    """Return the smallest and largest number of targets."""
    limits = [n_targets] * 2 if np.ndim(n_targets) == 0 else list(n_targets)
    whole = len(limits) == 2 and all(isinstance(limit, Integral) for limit in limits)
    if not whole or not 1 <= limits[0] <= limits[1]:
        raise ValueError(f"n_targets must be >= 1, or (lowest, highest), got {n_targets!r}")
    return limits
