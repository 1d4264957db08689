r"""Simulated cells of several batches, in which biology and batch move latents of their own.

.. math:: z_I \sim \mathcal{N}(\mu_{tc}, T T^\top), \qquad z_S \sim \mathcal{N}(m_b 1, v_b I),
          \qquad x_g \mid z \sim \mathrm{Poisson}(\ell \, \mathrm{softmax}_g(f(z_I, z_S)))

:math:`t`, :math:`c` and :math:`b` are the cell type, the condition and the batch of a cell;
:math:`f` is the random network of :func:`make_sparse_shift`. The invariant latents :math:`z_I` do
not depend on the batch, the spurious ones :math:`z_S` on nothing else.
"""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.utils import Bunch, check_random_state, check_scalar

from .._input.values import check_number
from ._decoders import MixingDecoder, check_poisson, draw_poisson_decoder
from ._simulation import numbered, population_mean

_FACTORS = {"batch": "B", "cell_type": "T", "condition": "C"}  # columns of codes, in this order


def make_invariant(
    n_cells_per_combination: int = 500,
    *,
    cell_type_shift=(5.0, 2.0),
    condition_shift=(0.0, 1.0),
    batch_mean=(0.0, 1.0, 2.0),
    batch_variance=None,
    shift_scale: float = 0.5,
    correlated: bool = False,
    unbalanced: float = 0.0,
    n_invariant: int = 9,
    n_spurious: int = 1,
    n_genes: int = 100,
    normalize: str = "genes",
    library_size: float = 1e5,
    shuffle: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Cells of several types, conditions and batches: the inVAE paper's simulations.

    A cell of type ``t``, condition ``c`` and batch ``b`` has invariant latents around
    ``cell_type_shift[t] + condition_shift[c]`` and spurious ones around ``batch_mean[b]``. Counts
    follow from both as in :func:`make_sparse_shift`. Each of the three arguments gives as many
    levels as it has numbers. The defaults, with ``normalize="cells"``, are the ``sparse_shift`` of
    the authors' released code; see the notes for the other two simulations.

    Parameters
    ----------
    n_cells_per_combination : int, default=500
        Number of cells of each combination of cell type, condition and batch.
    cell_type_shift, condition_shift : float or sequence of float, default=(5.0, 2.0), (0.0, 1.0)
        What each cell type, and each condition such as healthy and diseased, adds to the mean of
        the invariant latents.
    batch_mean : float or sequence of float, default=(0.0, 1.0, 2.0)
        Mean of the spurious latents in each batch, which is the environment.
    batch_variance : float, sequence of float or None, default=None
        Variance of the spurious latents: the same in all batches, or one for each. None means 2,
        3, 4 and so on, as published.
    shift_scale : float, default=0.5
        Standard deviation of the means of invariant latents around the shifts, drawn for each
        latent in each combination of cell type and condition. At 0 all invariant latents of a
        cell have the same mean.
    correlated : bool, default=False
        Whether the invariant latents of a cell type and condition correlate, with covariance
        ``T @ T`` for the matrix T that has ones on its diagonal and beside it: variances 3 (2 at
        both ends), covariances 2 of neighbours and 1 of their neighbours. Otherwise it is the
        identity. T is singular, and a linear combination of the invariant latents the same in
        all cells, for 2, 5, 8, 11 and so on of them, of which the paper's scripts have 8.
    unbalanced : float in [0, 1], default=0.0
        Share of the cells of each batch that all have one condition, the first in the first
        batch, the second in the second, and so on round; the others are spread evenly. At 1 the
        batch determines the condition, and conditions beyond the number of batches have no cells.
        Not published.
    n_invariant, n_spurious : int, default=9 and 1
        Numbers of invariant and spurious latents, together at most 40; with 0 spurious ones
        batches do not differ.
    n_genes : int, default=100
        Number of genes, at least 40.
    normalize : {"genes", "cells"}, default="genes"
        As in :func:`make_sparse_shift`; the paper's figures are of "cells".
    library_size : float, default=1e5
        Expected total counts of every cell; used by ``normalize="genes"`` only.
    shuffle : bool, default=True
        Shuffle the cells; otherwise they come by batch, then cell type, then condition.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is drawn; an int gives the same data each time.

    Returns
    -------
    data : Bunch
        X : ndarray of shape (n_cells, n_genes), float32
            Counts.
        obs : DataFrame of shape (n_cells, 3)
            Covariates of the cells, as categories: "cell_type" ("T0", "T1"...), "condition"
            ("C0"...) and "batch" ("B0"...). Index: names of the cells.
        Z : ndarray of shape (n_cells, n_invariant + n_spurious)
            True latent states, the invariant ones first.
        n_invariant, n_spurious : int
            Numbers of latents.
        invariant, spurious : list of str
            Columns of ``obs`` that move the invariant latents, and the spurious ones.
        invariant_mean : ndarray of shape (n_cell_types, n_conditions, n_invariant)
            Means of the invariant latents.
        invariant_covariance : ndarray of shape (n_invariant, n_invariant)
            Their covariance given cell type and condition.
        batch_mean, batch_variance : ndarray of shape (n_batches,)
            Mean and variance of each spurious latent.
        expected : callable
            ``expected(obs)``: expected counts of cells with any covariates, (n_rows, n_genes),
            from a DataFrame with the three columns. Combinations without cells can be asked for,
            such as a condition in a batch that has none of it. It is the mean over 2,048 latent
            states, the same for all rows (a fixed Sobol sequence).
        rate, log_likelihood : callable
            ``rate(Z)`` and ``log_likelihood(X, Z)`` as of :func:`make_sparse_shift`.
        DESCR : str
            One sentence on what was simulated.

    Raises
    ------
    ValueError
        If an argument is out of its range, if ``batch_variance`` has another length than
        ``batch_mean``, or if cells are to be unbalanced with one batch or condition only.

    See Also
    --------
    make_sparse_shift : A screen of perturbations, in one batch.

    Notes
    -----
    The other two published simulations differ in numbers only, and have one batch, in which
    ``batch_mean`` is an offset that no model can see; give it more numbers for more. The one of
    the released functions is ::

        make_invariant(100, cell_type_shift=(-20, 20), condition_shift=(0, 5, 5.2), batch_mean=0,
                       batch_variance=1, shift_scale=0, correlated=True, n_invariant=3,
                       n_spurious=2, normalize="cells")

    and that of the scripts the same with ``condition_shift=(0, 5, 5)``, so that two conditions do
    not differ, ``batch_mean=1`` and ``n_invariant=8``.

    References
    ----------
    Aliee, Kapl, Hediyeh-Zadeh & Theis (2023). Conditionally invariant representation learning for
    disentangling cellular heterogeneity. arXiv:2307.00558. The authors' released code is the
    source of all numbers.

    Examples
    --------
    >>> from skpert.datasets import make_invariant
    >>> data = make_invariant(20, unbalanced=0.5, random_state=0)
    >>> data.X.shape, data.Z.shape
    ((240, 100), (240, 10))
    >>> data.obs.groupby(["batch", "condition"], observed=True).size().unstack()
    condition  C0  C1
    batch
    B0         60  20
    B1         20  60
    B2         60  20
    """
    check_scalar(n_cells_per_combination, "n_cells_per_combination", Integral, min_val=1)
    check_scalar(n_invariant, "n_invariant", Integral, min_val=1)
    check_scalar(n_spurious, "n_spurious", Integral, min_val=0)
    check_poisson(n_invariant + n_spurious, n_genes, library_size, normalize)
    check_number(shift_scale, "shift_scale", 0, np.inf, "left")
    cell_type_shift = _check_numbers(cell_type_shift, "cell_type_shift")
    condition_shift = _check_numbers(condition_shift, "condition_shift")
    batch = _check_batches(batch_mean, batch_variance)
    shape = len(batch["batch_mean"]), len(cell_type_shift), len(condition_shift)
    _check_unbalanced(unbalanced, shape)
    rng = check_random_state(random_state)

    shift = cell_type_shift[:, None] + condition_shift  # (n_cell_types, n_conditions)
    mean = rng.normal(shift[..., None], shift_scale, size=(*shape[1:], n_invariant))
    prior = LatentPrior(mean, _root(n_invariant, correlated), **batch, n_spurious=n_spurious)
    codes = _draw_codes(n_cells_per_combination, shape, unbalanced, shuffle, rng)
    Z = prior.states(codes, rng.normal(size=(len(codes), n_invariant + n_spurious)))
    decoder = draw_poisson_decoder(Z, n_genes, rng, library_size, normalize)
    return Bunch(
        X=decoder.sample(Z, rng),
        Z=Z,
        DESCR=f"Invariant and spurious latents: {n_invariant} and {n_spurious}, {shape[1]} cell "
        f"types, {shape[2]} conditions, {shape[0]} batches, {unbalanced=}, {normalize=}.",
        **_truth(prior, decoder, codes, shape),
    )


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


def _truth(prior, decoder, codes, shape):
    """Return the covariates of the cells and what is known of them, as entries of the data set."""
    names = {
        factor: np.array(numbered(letter, n), dtype=object)
        for (factor, letter), n in zip(_FACTORS.items(), shape, strict=True)
    }
    return {
        "obs": _table(codes, names),
        "n_invariant": len(prior.invariant_scale),
        "n_spurious": prior.n_spurious,
        "invariant": ["cell_type", "condition"],
        "spurious": ["batch"],
        "invariant_mean": prior.invariant_mean,
        "invariant_covariance": prior.invariant_scale @ prior.invariant_scale.T,
        "batch_mean": prior.batch_mean,
        "batch_variance": prior.batch_variance,
        "expected": CoveredCells(prior, decoder, names).expected,
        "rate": decoder.rate,
        "log_likelihood": decoder.log_likelihood,
    }


def _root(n, correlated):
    """Symmetric root of the covariance: ones on the diagonal, and beside it if correlated."""
    beside = np.eye(n, k=1) + np.eye(n, k=-1)
    return np.eye(n) + correlated * beside


def _draw_codes(n_cells, shape, unbalanced, shuffle, rng):
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


def _table(codes, names):
    """Covariates of the cells as categories, cell types first."""
    columns = {
        name: pd.Categorical.from_codes(codes[:, [*_FACTORS].index(name)], names[name])
        for name in ("cell_type", "condition", "batch")
    }
    return pd.DataFrame(columns, index=[f"cell{i}" for i in range(len(codes))])


def _check_numbers(values, name):
    """Return one finite number per level, (n_levels,)."""
    try:
        numbers = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(
            f"{name} must be a finite number, or a sequence of them with one for each level, "
            f"got {values!r}"
        )
    return numbers.copy()


def _check_batches(batch_mean, batch_variance):
    """Return mean and variance of each batch, (n_batches,) each, by name."""
    batch_mean = _check_numbers(batch_mean, "batch_mean")
    n_batches = len(batch_mean)
    if batch_variance is None:
        return {"batch_mean": batch_mean, "batch_variance": np.arange(n_batches) + 2.0}
    variance = _check_numbers(batch_variance, "batch_variance")
    if np.ndim(batch_variance) == 0:
        variance = np.repeat(variance, n_batches)
    if len(variance) != n_batches or (variance < 0).any():
        raise ValueError(
            f"batch_variance must be a number that is not negative, or one for each of the "
            f"{n_batches} numbers in batch_mean, got {batch_variance!r}"
        )
    return {"batch_mean": batch_mean, "batch_variance": variance}


def _check_unbalanced(unbalanced, shape):
    n_batches, _, n_conditions = shape
    check_number(unbalanced, "unbalanced", 0, 1, "both")
    if unbalanced > 0 and min(n_batches, n_conditions) < 2:
        raise ValueError(
            f"{unbalanced=} needs at least two batches and two conditions, got {n_batches} and "
            f"{n_conditions}: give batch_mean and condition_shift more numbers"
        )
