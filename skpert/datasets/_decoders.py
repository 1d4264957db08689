r"""Expression of simulated cells given their latent states: a random network, and noise.

.. math:: h_0 = z, \quad h_{k+1} = \mathrm{LeakyReLU}_{0.2}(h_k W_k), \quad f(z) = h_K W_K

The layers widen and the rows of each :math:`W_k` are orthonormal up to a gain, so that no latent
is lost on the way. Three kinds of noise follow:

.. math:: x_g \sim \mathrm{NB}(\ell\, \mathrm{softmax}_g(f(z)), \theta_g), \qquad x_g \sim
          \mathrm{Poisson}(\ell\, \mathrm{softmax}_g(f(z))), \qquad x_g \sim
          \mathcal{N}(f_g(z) / s_g, \sigma_g^2)

The negative binomial has variance :math:`\mu + \mu^2 / \theta`.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse
from scipy.special import gammaln, log_softmax, logsumexp
from scipy.stats import norm
from sklearn.utils import check_scalar, gen_batches
from sklearn.utils.validation import check_consistent_length

from .._input.expression import read_matrix
from .._input.values import check_finite, check_number, check_range

LEAK = 0.2  # slope of the rectifiers below zero
N_HIDDEN = 40  # width of the layers behind counts
N_HIDDEN_NORMAL = 50  # width of the four layers behind normal expression
_LIKELIHOODS = ("negative_binomial", "poisson", "normal")
_MAX_LIBRARY_SCALE = 3.0  # cells then differ by factors of thousands
_GENE_TOTAL = 1e6  # expected counts of a gene over all cells, normalize="cells"
_BLOCK = 4096  # cells drawn at a time, to save memory


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
        return self.mean(_with_columns(Z, "Z", len(self.weights[0])))

    def log_likelihood(self, X, Z):
        """Log probability of the counts X given the latent states Z, nats per cell, (n_cells,)."""
        X, Z = _counts_and_states(X, Z, self.weights)
        log_rate = self.log_rate(Z)
        return (X * log_rate - np.exp(log_rate) - gammaln(X + 1)).sum(axis=1)

    def sample(self, Z, rng):
        """Draw the counts of one cell per row of Z."""
        return _sampled(lambda rows: rng.poisson(self.mean(Z[rows])), Z, self.weights)


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
        X, Z = _counts_and_states(X, Z, self.proportions.weights)
        if library_size is None:
            library_size = self._own_library_size(len(X))
        depth = _check_library_size(library_size, len(X))
        log_rate = np.log(depth) + self.proportions.log_rate(Z)
        return (self._log_kernel(X, log_rate) - gammaln(X + 1)).sum(axis=1)

    def sample(self, Z, rng):
        """Draw the counts of the cells of the data set, one per row of Z."""

        def counts(rows):
            rate = self.library_size[rows, None] * self.proportions.mean(Z[rows])
            if self.dispersion is not None:
                rate = rng.gamma(self.dispersion, rate / self.dispersion)
            return rng.poisson(rate)

        return _sampled(counts, Z, self.proportions.weights)

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
        return self.mean(_with_columns(Z, "Z", len(self.weights[0])))

    def log_likelihood(self, X, Z):
        """Log density of the expression X given the latent states Z, nats per cell, (n_cells,)."""
        X, Z = _expression_and_states(X, Z, self.weights)
        return norm.logpdf(X, self.mean(Z), self.noise_scale).sum(axis=1)

    def sample(self, Z, rng):
        """Draw the expression of one cell per row of Z."""
        return _sampled(
            lambda rows: rng.normal(self.mean(Z[rows]), self.noise_scale), Z, self.weights
        )

    def parameters(self):
        """Return what is set besides the network, and the loadings that a single layer is."""
        known = {"noise_scale": self.noise_scale}
        return known | {"loadings": self.weights[0]} if len(self.weights) == 1 else known


def propagate(Z, weights):
    """Output of the network: leaky rectifiers after every layer but the last."""
    hidden = Z
    for weight in weights[:-1]:
        hidden = hidden @ weight
        hidden = np.maximum(hidden, LEAK * hidden)
    return hidden @ weights[-1]


def draw_layer(n_in, n_out, rng):
    """Weights (n_in, n_out) with orthonormal rows times a gain; needs n_in <= n_out."""
    basis, _ = np.linalg.qr(rng.normal(size=(n_in, n_out)).T)  # (n_out, n_in)
    gain = np.sqrt(2 / (1 + LEAK**2)) * np.sqrt(2 / (n_in + n_out))
    return gain * basis.T


def draw_haar_layer(n_in, n_out, rng):
    """Weights (n_in, n_out) uniform among those with orthonormal rows; needs n_in <= n_out."""
    basis, triangle = np.linalg.qr(rng.normal(size=(n_in, n_out)).T)
    return (basis * np.sign(np.diag(triangle))).T


def draw_poisson_decoder(Z, n_genes, rng, library_size, normalize="genes"):
    """Random decoder whose logits have unit standard deviation over the latent states Z."""
    widths = [Z.shape[1], N_HIDDEN, N_HIDDEN, N_HIDDEN, n_genes]
    weights = tuple(draw_layer(*shape, rng) for shape in pairwise(widths))
    decoder = MixingDecoder(weights, total=float(library_size))
    decoder = replace(decoder, logit_scale=decoder.logits(Z).std())
    if normalize == "genes":
        return decoder
    log_normalizer = logsumexp(decoder.logits(Z), axis=0)
    return replace(decoder, total=_GENE_TOTAL, log_normalizer=log_normalizer)


def draw_count_decoder(Z, n_genes, rng, library_size, library_scale, dispersion):
    """Random decoder of counts; ``dispersion`` is a range, or None for Poisson counts."""
    proportions = draw_poisson_decoder(Z, n_genes, rng, 1.0)
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


def draw_linear_decoder(Z, n_genes, rng, noise_fraction):
    """Random linear decoder that gives genes unit variance over the latent states Z."""
    loadings = draw_haar_layer(Z.shape[1], n_genes, rng)
    loadings = loadings / _positive((Z @ loadings).std(axis=0))
    noise_scale = np.full(n_genes, np.sqrt(noise_fraction / (1 - noise_fraction)))
    return NormalDecoder((loadings,), np.ones(n_genes), noise_scale)


def check_poisson(n_latent, n_genes, library_size, normalize):
    """Raise ValueError unless `draw_poisson_decoder` can draw this."""
    _check_widths(n_latent, N_HIDDEN, n_genes)
    check_finite(library_size, "library_size", "neither")
    if normalize not in ("genes", "cells"):
        raise ValueError(f"normalize must be 'genes' or 'cells', got {normalize!r}")


def decoder_drawer(likelihood, n_latent, n_genes, noise, *, linear=False):
    """Return what draws a decoder of this kind, or say what is wrong with it.

    ``noise`` is ``(library_size, library_scale, dispersion, noise_fraction)``.
    """
    library_size, library_scale, dispersion, noise_fraction = noise
    if likelihood not in _LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {_LIKELIHOODS}, got {likelihood!r}")
    if linear and likelihood != "normal":
        raise ValueError(f"linear=True needs likelihood='normal', got {likelihood!r}")
    check_finite(library_size, "library_size", "neither")
    check_number(library_scale, "library_scale", 0, _MAX_LIBRARY_SCALE, "both")
    check_number(noise_fraction, "noise_fraction", 0, 1, "neither")
    must = "dispersion must be > 0, or (lowest, highest)"
    thetas = check_range(dispersion, must, Real, lambda low, high: 0 < low <= high < np.inf)
    if likelihood != "normal":
        _check_widths(n_latent, N_HIDDEN, n_genes)
        thetas = thetas if likelihood == "negative_binomial" else None
        return partial(
            draw_count_decoder,
            library_size=library_size,
            library_scale=library_scale,
            dispersion=thetas,
        )
    _check_widths(n_latent, n_latent if linear else N_HIDDEN_NORMAL, n_genes)
    draw = draw_linear_decoder if linear else draw_normal_decoder
    return partial(draw, noise_fraction=noise_fraction)


def _check_widths(n_latent, n_hidden, n_genes):
    """Raise ValueError unless the network widens from layer to layer."""
    check_scalar(n_latent, "n_latent", Integral, min_val=1)
    check_scalar(n_genes, "n_genes", Integral, min_val=1)
    if not n_latent <= n_hidden <= n_genes:
        raise ValueError(
            f"the mixing network needs n_latent <= {n_hidden} <= n_genes, "
            f"got n_latent={n_latent} and n_genes={n_genes}"
        )


def _sampled(draw, Z, weights):
    """Expression of one cell per row of Z, (n_cells, n_genes), drawn a block at a time."""
    X = np.empty((len(Z), weights[-1].shape[1]), dtype=np.float32)
    for rows in gen_batches(len(Z), _BLOCK):
        X[rows] = draw(rows)
    return X


def _positive(scale):
    """Replace the zeros of constant genes by ones."""
    return np.where(scale > 0, scale, 1.0)


def _with_columns(values, name, n_columns):
    """Return an array of floats, or say how many columns it should have."""
    values = read_matrix(values, name, accept_sparse=True)
    if values.shape[1] != n_columns:
        raise ValueError(f"{name} has {values.shape[1]} columns, the data set has {n_columns}")
    return values.toarray() if issparse(values) else values


def _expression_and_states(X, Z, weights):
    """Return expression and latent states of the same cells as arrays that fit the network."""
    X = _with_columns(X, "X", weights[-1].shape[1])
    Z = _with_columns(Z, "Z", len(weights[0]))
    check_consistent_length(X, Z)
    return X, Z


def _counts_and_states(X, Z, weights):
    """Counts and latent states of the same cells; ValueError if they are none."""
    X, Z = _expression_and_states(X, Z, weights)
    if (X < 0).any() or (X % 1).any():
        raise ValueError("X must hold counts: whole numbers that are not negative")
    return X, Z


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
