r"""Expression of simulated cells given their latent states: counts at a library size, or normal.

.. math:: x_g \sim \mathrm{NB}(\ell\, \mathrm{softmax}_g(f(z)), \theta_g), \qquad x_g \sim
          \mathrm{Poisson}(\ell\, \mathrm{softmax}_g(f(z))), \qquad x_g \sim
          \mathcal{N}(f_g(z) / s_g, \sigma_g^2)

The negative binomial has variance :math:`\mu + \mu^2 / \theta`.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import gammaln
from scipy.stats import norm
from sklearn.utils import gen_batches

from .._input.expression import read_matrix
from ._mixing import (
    MixingDecoder,
    check_cells,
    check_columns,
    check_counts,
    draw_haar_layer,
    draw_mixing_decoder,
    propagate,
)

N_HIDDEN_NORMAL = 50  # width of the four layers behind normal expression
_BLOCK = 4096  # cells drawn at a time, to save memory


@dataclass(frozen=True, eq=False)
class CountDecoder:
    """p(x | z, l): negative binomial counts, or Poisson counts without a dispersion."""

    proportions: MixingDecoder  # of the genes in a cell's counts; they sum to 1
    library_size: np.ndarray  # l of the cells of the data set, (n_cells,)
    mean_library_size: float
    dispersion: np.ndarray | None  # theta, (n_genes,)

    def mean(self, Z):
        """Return expected counts at the mean library size; nothing is checked."""
        return self.mean_library_size * self.proportions.mean(Z)

    def rate(self, Z, library_size=None):
        """Return expected counts of cells in the latent states Z, (n_cells, n_genes)."""
        proportions = self.proportions.rate(Z)
        if library_size is None:
            library_size = self.mean_library_size
        return proportions * _check_library_size(library_size, len(proportions))

    def log_likelihood(self, X, Z, library_size=None):
        """Log probability of the counts X given the latent states Z, nats per cell, (n_cells,)."""
        X, Z = check_cells(X, Z, self.proportions.weights)
        check_counts(X)
        if library_size is None:
            library_size = self._own_library_size(len(X))
        depth = _check_library_size(library_size, len(X))
        log_rate = np.log(depth) + self.proportions.log_rate(Z)
        return (self._log_kernel(X, log_rate) - gammaln(X + 1)).sum(axis=1)

    def sample(self, Z, rng):
        """Draw the counts of the cells of the data set, one per row of Z."""
        X = np.empty((len(Z), self.proportions.weights[-1].shape[1]), dtype=np.float32)
        for rows in gen_batches(len(Z), _BLOCK):
            rate = self.library_size[rows, None] * self.proportions.mean(Z[rows])
            if self.dispersion is not None:
                rate = rng.gamma(self.dispersion, rate / self.dispersion)
            X[rows] = rng.poisson(rate)
        return X

    def parameters(self):
        """Return what is drawn besides the network."""
        known = {"library_size": self.library_size}
        return known if self.dispersion is None else known | {"dispersion": self.dispersion}

    def _own_library_size(self, n_cells):
        if n_cells != len(self.library_size):
            raise ValueError(
                f"X has {n_cells} cells and the data set {len(self.library_size)}: give their "
                "expected total counts as library_size, such as data.library_size[rows]"
            )
        return self.library_size

    def _log_kernel(self, X, log_rate):
        """Log probabilities without the term that depends on the counts alone."""
        if self.dispersion is None:
            return X * log_rate - np.exp(log_rate)
        theta, log_theta = self.dispersion, np.log(self.dispersion)
        log_sum = np.logaddexp(log_theta, log_rate)
        log_ratio = gammaln(X + theta) - gammaln(theta)
        return log_ratio + theta * (log_theta - log_sum) + X * (log_rate - log_sum)


@dataclass(frozen=True, eq=False)
class NormalDecoder:
    """p(x | z): normal expression around the scaled output of the network."""

    weights: tuple
    output_scale: np.ndarray  # s, (n_genes,)
    noise_scale: np.ndarray  # sigma, (n_genes,)

    def mean(self, Z):
        """Return expected expression; nothing is checked."""
        return propagate(Z, self.weights) / self.output_scale

    def rate(self, Z):
        """Return expected expression of cells in the latent states Z, (n_cells, n_genes)."""
        return self.mean(check_columns(Z, "Z", len(self.weights[0])))

    def log_likelihood(self, X, Z):
        """Log density of the expression X given the latent states Z, nats per cell, (n_cells,)."""
        X, Z = check_cells(X, Z, self.weights)
        return norm.logpdf(X, self.mean(Z), self.noise_scale).sum(axis=1)

    def sample(self, Z, rng):
        """Draw the expression of one cell per row of Z."""
        X = np.empty((len(Z), len(self.noise_scale)), dtype=np.float32)
        for rows in gen_batches(len(Z), _BLOCK):
            X[rows] = rng.normal(self.mean(Z[rows]), self.noise_scale)
        return X

    def parameters(self):
        """Return what is set besides the network."""
        return {"noise_scale": self.noise_scale}


def draw_count_decoder(Z, n_genes, rng, library_size, library_scale, dispersion):
    """Random decoder of counts; ``dispersion`` is a range, or None for Poisson counts."""
    proportions = draw_mixing_decoder(Z, n_genes, 1.0, rng)
    log_factor = library_scale * rng.normal(size=len(Z)) - library_scale**2 / 2  # mean 1
    theta = None
    if dispersion is not None:
        theta = np.exp(rng.uniform(*np.log(dispersion), size=n_genes))
    return CountDecoder(proportions, library_size * np.exp(log_factor), float(library_size), theta)


def draw_normal_decoder(Z, n_genes, rng, noise_fraction):
    """Random decoder of normal expression, scaled on the latent states Z of the data set."""
    widths = [Z.shape[1], *[N_HIDDEN_NORMAL] * 4, n_genes]
    weights = tuple(draw_haar_layer(*shape, rng) for shape in pairwise(widths))
    output = propagate(Z, weights)
    output_scale = _positive(output.std(axis=0))
    noise_variance = noise_fraction / (1 - noise_fraction) * (output / output_scale).var(axis=0)
    return NormalDecoder(weights, output_scale, np.sqrt(_positive(noise_variance)))


def _positive(scale):
    """Replace the zeros of constant genes by ones."""
    return np.where(scale > 0, scale, 1.0)


def _check_library_size(library_size, n_cells):
    """Return a positive column that goes with n_cells rows."""
    depth = np.asarray(library_size, dtype=np.float64)
    if depth.shape not in [(), (n_cells,)]:
        raise ValueError(
            f"library_size must be a number or hold one for each of {n_cells} cells, "
            f"its shape is {depth.shape}"
        )
    depth = read_matrix(depth.reshape(-1, 1), "library_size")
    if (depth <= 0).any():
        raise ValueError(f"library_size must be positive, the smallest is {depth.min()}")
    return depth
