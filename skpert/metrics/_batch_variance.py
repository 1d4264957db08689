"""Variance of an embedding between batches of cells."""

import numpy as np

from ._cell_groups import read_embedding, read_groups


def principal_component_regression(Z, batch):
    r"""Share of the variance of an embedding that batches explain, in [0, 1]; lower is better.

    .. math:: \frac{\sum_k \sigma_k^2 R^2_k}{\sum_k \sigma_k^2}

    with the variance :math:`\sigma_k^2` of principal component :math:`k` and the coefficient of
    determination :math:`R^2_k` of its regression on indicators of the batch. Over all components
    it is the sum of squares between batches over the total, and no rotation changes it. Batches
    drawn at random explain about ``(n_batches - 1) / (n_cells - 1)``; batches that differ in cell
    types explain more, and rightly so.

    Parameters
    ----------
    Z : array-like of shape (n_cells, n_latent)
        Embedding of cells, or their expression.
    batch : array-like of shape (n_cells,)
        Batch of each cell; numbers are names here.

    Returns
    -------
    share : float
        1 if all cells of a batch are the same.

    Raises
    ------
    ValueError
        If ``Z`` holds NaN or all cells are the same, lengths differ, names are missing, or there
        is one batch only.

    See Also
    --------
    pcr_comparison : The share before and after integration, as a score.

    References
    ----------
    .. [1] Buettner, Miao, Wolf, Teichmann and Theis, A test metric for assessing single-cell
       RNA-seq batch correction, Nature Methods 16, 2019.

    Examples
    --------
    >>> from skpert.metrics import principal_component_regression
    >>> principal_component_regression([[0.0], [2.0], [2.0], [4.0]], ["a", "a", "b", "b"])
    0.5
    """
    return _explained(read_embedding(Z, batch=batch), read_groups(batch, len(Z), "batch", least=2))


def pcr_comparison(Z_before, Z, batch):
    """Share of batch variance that integration removed, in [0, 1]; higher is better.

    It is ``1 - after / before`` of :func:`principal_component_regression`, and 0, as published,
    if batches explain more of ``Z`` than of ``Z_before``. An embedding without any biology scores
    1.

    Parameters
    ----------
    Z_before : array-like of shape (n_cells, n_features)
        Cells before integration, such as principal components of their expression.
    Z : array-like of shape (n_cells, n_latent)
        Embedding of the same cells in the same order.
    batch : array-like of shape (n_cells,)
        Batch of each cell.

    Returns
    -------
    score : float
        1 if batches have the same mean of ``Z``.

    Raises
    ------
    ValueError
        As :func:`principal_component_regression`, or if batches explain nothing of ``Z_before``.

    References
    ----------
    .. [1] Luecken et al., Benchmarking atlas-level data integration in single-cell genomics,
       Nature Methods 19, 2022.

    Examples
    --------
    >>> from skpert.metrics import pcr_comparison
    >>> pcr_comparison([[0], [0], [1], [1]], [[0], [2], [2], [4]], ["a", "a", "b", "b"])
    0.5
    """
    Z = read_embedding(Z, batch=batch)
    Z_before = read_embedding(Z_before, batch=batch, input_name="Z_before")
    if len(Z_before) != len(Z):
        raise ValueError(f"Z_before has {len(Z_before)} cells and Z has {len(Z)}: give the same")
    batch = read_groups(batch, len(Z), "batch", least=2)
    before = _explained(Z_before, batch)
    if before == 0:
        raise ValueError("batches explain nothing of Z_before: there is nothing to remove")
    return max(0.0, 1 - _explained(Z, batch) / before)


def _explained(Z, batch):
    """Sum of squares between batches over the total, of cells with mean 0."""
    total = np.zeros((batch.max() + 1, Z.shape[1]))
    np.add.at(total, batch, Z)
    between = (total**2 / np.bincount(batch)[:, None]).sum()
    return float(np.clip(between / (Z**2).sum(), 0, 1))
