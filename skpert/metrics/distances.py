"""Distances between two populations of cells, such as predicted and measured ones."""

from numbers import Integral

import numpy as np
from scipy.sparse import issparse
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, gen_batches

from .._input.expression import by_name, read_expression

TRAINING_BANDWIDTHS = 1000 / 32 * 2.0 ** np.arange(10)
TILE = 512  # cells of either side whose distances are held at once


def maximum_mean_discrepancy(
    X, Y, *, bandwidths=None, unbiased: bool = True, block_size: int | None = None
) -> float:
    r"""Squared maximum mean discrepancy (MMD) of two populations of cells; lower is better.

    .. math:: \mathrm{E}\,K(x, x') + \mathrm{E}\,K(y, y') - 2\,\mathrm{E}\,K(x, y), \qquad
              K(a, b) = \sum_w \exp(-\lVert a - b \rVert^2 / w)

    It is 0 only if the populations have the same distribution, not the same mean alone [1]_. The
    kernel is a sum, not a mean, so that the largest possible value is twice the number of
    bandwidths.

    Parameters
    ----------
    X, Y : {array-like, sparse CSR} of shape (n_cells_X, n_genes) and (n_cells_Y, n_genes)
        Cells of the two populations. Sparse cells are made dense some at a time.
    bandwidths : array-like of shape (n_bandwidths,), "training" or None, default=None
        Widths :math:`w`, positive, in squared units of expression. None: ``b / 4 * 2 ** i`` for
        ``i`` from 0 to 4 with the mean squared distance ``b`` of two of all these cells, as SCCVAE
        was evaluated [2]_; values with different ``X`` or ``Y`` then have different kernels.
        "training": ``1000 / 32 * 2 ** i`` for ``i`` from 0 to 9, the fixed widths in its loss.
    unbiased : bool, default=True
        Whether means within a population leave out the distance of a cell to itself
        (U-statistic). With fixed bandwidths the expectation is then the discrepancy of the
        populations for any number of cells, so that the value may be below 0 where they hardly
        differ. False is the published form (V-statistic), never negative, but too large by
        ``(K(a, a) - E K(x, x')) / n_cells`` for each side.
    block_size : int or None, default=None
        None compares all cells with all. A number, 32 in the published evaluation, compares the
        first ``block_size`` cells of ``X`` with those of ``Y``, then the next, each with its own
        bandwidths, and takes the mean; cells that do not fill a block are dropped. Only for
        comparison with published numbers: from one in ``n_cells / block_size`` of the pairs, it is
        noisier, depends on the order of cells and, with ``unbiased=False``, has the bias of 32
        cells however many there are.

    Returns
    -------
    mmd : float
        Squared discrepancy, without unit; 0 if all cells are the same and ``bandwidths`` is None.

    Raises
    ------
    ValueError
        If ``X`` and ``Y`` differ in genes, are empty or hold NaN, there are fewer than two cells
        for ``unbiased=True``, ``bandwidths`` are not positive, or blocks cannot be filled or have
        no partner.

    See Also
    --------
    energy_distance : Needs no bandwidth.

    References
    ----------
    .. [1] Gretton et al., A kernel two-sample test, JMLR 13, 2012, equations 3 and 5.
    .. [2] Liu, Zhang and Uhler, Learning genetic perturbation effects with variational causal
       inference (SCCVAE), bioRxiv 2025.06.05.657988; its released evaluation has
       ``unbiased=False, block_size=32``.

    Examples
    --------
    >>> from skpert.metrics import maximum_mean_discrepancy
    >>> X, Y = [[0, 0], [1, 0], [0, 1]], [[2, 2], [3, 2], [2, 3]]
    >>> round(maximum_mean_discrepancy(X, Y), 4)
    4.4106
    >>> round(maximum_mean_discrepancy(X, Y, bandwidths=[1, 10], unbiased=False), 4)
    2.0317
    """
    X, Y = _check_cells(X, Y, unbiased)
    fixed = _check_bandwidths(bandwidths)
    if block_size is None:
        return _mmd(X, Y, fixed, unbiased)
    blocks = _blocks(X, Y, block_size, least=2 if unbiased else 1)
    return float(np.mean([_mmd(X[rows], Y[rows], fixed, unbiased) for rows in blocks]))


def energy_distance(X, Y, *, unbiased: bool = True) -> float:
    r"""Energy distance (E-distance) of two populations of cells; lower is better.

    .. math:: 2\,\mathrm{E}\lVert x - y \rVert - \mathrm{E}\lVert x - x' \rVert
              - \mathrm{E}\lVert y - y' \rVert

    With euclidean norms, not squared ones, it is 0 only if the populations have the same
    distribution [1]_. It grows with the square of a shift of the mean that is small against the
    spread of cells, in proportion to a large one, and needs no bandwidth.

    Parameters
    ----------
    X, Y : as in :func:`maximum_mean_discrepancy`
        Cells of both populations.
    unbiased : bool, default=True
        As in :func:`maximum_mean_discrepancy`. False (V-statistic) is what pertpy [2]_ and
        cell-eval report, too large by ``E||x - x'|| / n_cells`` for each side.

    Returns
    -------
    distance : float
        In the unit of expression; the square of what :func:`scipy.stats.energy_distance` gives.

    Raises
    ------
    ValueError
        If ``X`` and ``Y`` differ in genes, are empty or hold NaN, or there are fewer than two
        cells for ``unbiased=True``.

    See Also
    --------
    released_energy_distance : What SCCVAE's evaluation calls the energy distance.

    References
    ----------
    .. [1] Szekely and Rizzo, Energy statistics: a class of statistics based on distances, Journal
       of Statistical Planning and Inference 143, 2013.
    .. [2] Peidli et al., scPerturb: harmonized single-cell perturbation data, Nature Methods 21,
       2024.

    Examples
    --------
    >>> from skpert.metrics import energy_distance
    >>> X, Y = [[0, 0], [3, 4]], [[0, 0], [3, 4], [6, 8]]
    >>> round(energy_distance(X, Y), 6), round(energy_distance(X, Y, unbiased=False), 6)
    (-3.333333, 1.388889)
    """
    X, Y = _check_cells(X, Y, unbiased)
    # The kernel whose discrepancy is the energy distance is minus the distance.
    return _discrepancy(lambda squared: -np.sqrt(squared), X, Y, _centre(X, Y), unbiased)


def released_energy_distance(
    X, Y, *, block_size: int | None = 32, random_state: int | np.random.RandomState | None = None
) -> float:
    r"""What SCCVAE's released evaluation calls the energy distance, to compare with its numbers.

    .. math:: 2\,\overline{(X - Y)^2} - \overline{(X - \pi X)^2} - \overline{(Y - \rho Y)^2}

    The bars are means over cells and genes, cells are paired by position, and :math:`\pi` and
    :math:`\rho` are one random order of the cells each. For anything else use
    :func:`energy_distance`:

    * Squared differences see the mean alone. Averaged over all pairs, it is twice the mean squared
      error of the mean expression of genes, however wrong the variance or shape.
    * One pairing instead of all makes it noisy: it changes with the seed and the order of
      cells, and may be negative.
    * Cells that a random order leaves in place count 0, which adds about
      ``2 * (variance of X + variance of Y) / block_size`` to the expectation.

    Parameters
    ----------
    X, Y : {array-like, sparse CSR} of shape (n_cells, n_genes)
        Predicted cells, resampled to the number of measured ones, and measured cells.
    block_size : int or None, default=32
        Consecutive cells that are compared and reordered among themselves; the mean over blocks
        is returned, and cells that do not fill a block are dropped. 32 as released. None: all
        cells are one block.
    random_state : int, RandomState instance or None, default=None
        Seeds the random orders.

    Returns
    -------
    distance : float
        In squared units of expression; lower is better, and 0 has no meaning of its own.

    Raises
    ------
    ValueError
        If ``X`` and ``Y`` differ in shape, are empty or hold NaN, or have fewer cells than
        ``block_size``.

    Examples
    --------
    >>> from skpert.metrics import released_energy_distance
    >>> X, Y = [[0.0, 1.0]] * 40, [[2.0, 1.0]] * 40
    >>> released_energy_distance(X, Y, random_state=0)  # no variance, so no noise
    4.0
    """
    X, Y = _check_cells(X, Y, unbiased=False)
    random_state = check_random_state(random_state)
    energies = []
    for rows in _blocks(X, Y, X.shape[0] if block_size is None else block_size):
        x, y = _dense(X, rows), _dense(Y, rows)
        orders = random_state.permutation(len(x)), random_state.permutation(len(y))
        energies.append(_released_energy(x, y, *orders))
    return float(np.mean(energies))


def kernel_bandwidths(X):
    """Widths b / 4 * 2^i, b the mean squared distance of two cells; None if all are the same."""
    n_cells = X.shape[0]
    variance = StandardScaler(with_mean=False).fit(X).var_.sum()
    base = 2 * variance * n_cells / max(n_cells - 1, 1)
    return base / 4 * 2.0 ** np.arange(5) if base > 0 else None


def _mmd(X, Y, bandwidths, unbiased):
    centre = _centre(X, Y)
    if bandwidths is None:
        bandwidths = _evaluation_bandwidths(X, Y, centre)
        if bandwidths[0] == 0:  # nothing differs, so that no kernel is defined
            return 0.0

    def kernel(squared):
        return sum(np.exp(squared / -width) for width in bandwidths)

    return _discrepancy(kernel, X, Y, centre, unbiased)


def _released_energy(X, Y, order_X, order_Y):
    within = np.mean((X - X[order_X]) ** 2) + np.mean((Y - Y[order_Y]) ** 2)
    return 2 * np.mean((X - Y) ** 2) - within


def _evaluation_bandwidths(X, Y, centre):
    """Widths b / 4 * 2^i; b, the mean squared distance of two cells, is twice their variance."""
    squares = sum((_dense(Z, rows, centre) ** 2).sum() for Z in (X, Y) for rows in _tiles(Z))
    base = 2 * squares / (X.shape[0] + Y.shape[0] - 1)
    return base / 4 * 2.0 ** np.arange(5)


def _discrepancy(kernel, X, Y, centre, unbiased):
    """E K(x, x') + E K(y, y') - 2 E K(x, y), the kernel a function of the squared distance."""
    within = sum(_mean_within(kernel, Z, centre, unbiased) for Z in (X, Y))
    return float(within - 2 * _mean_between(kernel, X, Y, centre))


def _mean_within(kernel, X, centre, unbiased):
    total, tiles = 0.0, list(_tiles(X))
    for i, rows in enumerate(tiles):
        x = _dense(X, rows, centre)
        total += kernel(euclidean_distances(x, squared=True)).sum()
        for columns in tiles[i + 1 :]:  # the other half is the same
            total += 2 * _total(kernel, x, _dense(X, columns, centre))
    n_cells = X.shape[0]
    if not unbiased:
        return total / n_cells**2
    return (total - n_cells * kernel(np.zeros(1)).sum()) / (n_cells * (n_cells - 1))


def _mean_between(kernel, X, Y, centre):
    total = 0.0
    for rows in _tiles(X):
        x = _dense(X, rows, centre)
        total += sum(_total(kernel, x, _dense(Y, columns, centre)) for columns in _tiles(Y))
    return total / (X.shape[0] * Y.shape[0])


def _total(kernel, x, y):
    return kernel(euclidean_distances(x, y, squared=True)).sum()


def _centre(X, Y):
    """Mean of all cells, without which squared distances would be differences of large numbers."""
    first = _dense(X, slice(1), 0.0)[0]  # taken off first, so that equal cells become exactly 0
    total = sum(_dense(Z, rows, first).sum(0) for Z in (X, Y) for rows in _tiles(Z))
    return first + total / (X.shape[0] + Y.shape[0])


def _dense(X, rows, centre=0.0):
    """Some cells as a dense float64 array, relative to ``centre``."""
    x = X[rows].toarray() if issparse(X) else X[rows]
    return x.astype(np.float64) - centre


def _tiles(X):
    return gen_batches(X.shape[0], TILE)


def _blocks(X, Y, block_size, least=1):
    """Full blocks of rows, each compared with the same rows on the other side."""
    if not isinstance(block_size, Integral) or block_size < least:
        raise ValueError(f"block_size must be an integer >= {least} or None, got {block_size!r}")
    n_cells = X.shape[0]
    if n_cells != Y.shape[0]:
        raise ValueError(
            f"blocks pair cells by position, but X has {n_cells} of them and Y {Y.shape[0]}: "
            "resample one to the number of the other"
        )
    if n_cells < block_size:
        raise ValueError(f"{n_cells} cells do not fill a block of {block_size}: block_size=None")
    starts = range(0, n_cells - block_size + 1, block_size)
    return [slice(start, start + block_size) for start in starts]


def _check_cells(X, Y, unbiased):
    (X, genes, _), (Y, others, _) = read_expression(X), read_expression(Y, name="Y")
    if X.shape[1] != Y.shape[1]:
        raise ValueError(f"X has {X.shape[1]} genes and Y {Y.shape[1]}: give the same genes")
    if genes is not None and others is not None:
        Y = by_name(Y, others, genes, "of X", "Y")
    if unbiased and min(X.shape[0], Y.shape[0]) < 2:
        raise ValueError(
            "unbiased=True needs two cells of each population, but there are "
            f"{X.shape[0]} in X and {Y.shape[0]} in Y: use unbiased=False"
        )
    return X, Y


def _check_bandwidths(bandwidths):
    """Fixed bandwidths as an array, or None for those of the cells."""
    if bandwidths is None:
        return None
    if isinstance(bandwidths, str):
        if bandwidths != "training":
            raise ValueError(f"bandwidths must be 'training', None or numbers, got {bandwidths!r}")
        return TRAINING_BANDWIDTHS
    values = np.asarray(bandwidths, dtype=np.float64)
    if values.ndim != 1 or not values.size or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"bandwidths must be one or more positive numbers in a list, got {bandwidths!r}"
        )
    return values
