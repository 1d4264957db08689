"""Recovery of true latent states: matching, correlation and variance explained."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.utils.validation import check_consistent_length

from .._input.expression import check_same_cells, read_matrix


def mean_correlation_coefficient(Z_true, Z, *, method="pearson"):
    """Mean correlation coefficient (MCC) of matched latents, in [0, 1]; higher is better.

    Each true latent is paired with one inferred latent so that the absolute correlations sum to
    the most possible; their mean over the true latents is returned. It is 1 when ``Z`` is
    ``Z_true`` up to order, sign, scale and offset ("pearson") or up to order and a monotone
    function of each latent ("spearman"). True latents without a partner count as 0. Noise does
    not score 0 but about the size of a chance correlation, ``1 / sqrt(n_cells)`` and more.

    Parameters
    ----------
    Z_true : array-like of shape (n_cells, n_true)
        True latent states.
    Z : array-like of shape (n_cells, n_latent)
        Inferred latent states; the number of latents may differ.
    method : {"pearson", "spearman"}, default="pearson"
        Correlation of values or of ranks. A constant latent has correlation 0.

    Returns
    -------
    score : float
        Mean absolute correlation.

    References
    ----------
    Hyvarinen and Morioka (2016). Unsupervised feature extraction by time-contrastive learning.
    NeurIPS. Used as here by Lopez et al. (2023), CLeaR, Table 1.

    Examples
    --------
    >>> from skpert.metrics import mean_correlation_coefficient
    >>> Z_true = [[0, 1], [1, 0], [2, 3], [3, 1]]
    >>> Z = [[-1, 0], [0, 2], [-3, 4], [-1, 6]]
    >>> round(mean_correlation_coefficient(Z_true, Z), 6)
    1.0
    """
    correlation = _absolute_correlation(Z_true, Z, method)
    pairs = linear_sum_assignment(correlation, maximize=True)
    return float(correlation[pairs].sum() / len(correlation))


def match_latents(Z_true, Z, *, method="pearson"):
    """Inferred latent that belongs to each true one, by absolute correlation.

    The pairs are one to one and those of :func:`mean_correlation_coefficient`. The sign of a
    latent means nothing, so a flipped latent is matched like any other.

    Parameters
    ----------
    Z_true : array-like of shape (n_cells, n_true)
        True latent states.
    Z : array-like of shape (n_cells, n_latent)
        Inferred latent states; the number of latents may differ.
    method : {"pearson", "spearman"}, default="pearson"
        Correlation of values or of ranks. A constant latent has correlation 0.

    Returns
    -------
    match : ndarray of shape (n_true,), int
        Column of ``Z`` for each column of ``Z_true``; -1 where no column is left.

    Examples
    --------
    >>> from skpert.metrics import match_latents
    >>> match_latents([[0, 1], [1, 0], [2, 3], [3, 1]], [[-1, 0], [0, 2], [-3, 4], [-1, 6]])
    array([1, 0])
    """
    correlation = _absolute_correlation(Z_true, Z, method)
    true, inferred = linear_sum_assignment(correlation, maximize=True)
    match = np.full(len(correlation), -1)
    match[true] = inferred
    return match


def latent_r2(Z_true, Z):
    """Variance of true latents explained by a linear map of ``Z``, in [0, 1]; higher is better.

    Least squares with an intercept, fitted and scored on the same cells; the mean of the
    coefficients of determination (R2) of the true latents. It is 1 when ``Z`` holds ``Z_true`` up
    to an invertible affine map, and tends to it whenever there are hardly more cells than
    latents. A constant true latent, of which there is nothing to explain, counts as 0.

    Parameters
    ----------
    Z_true : array-like of shape (n_cells, n_true)
        True latent states.
    Z : array-like of shape (n_cells, n_latent)
        Inferred latent states; the number of latents may differ.

    Returns
    -------
    score : float
        Mean R2 over the true latents.

    References
    ----------
    Lopez et al. (2023). Learning causal representations of single cells via sparse mechanism
    shift modeling. CLeaR, Table 1.

    Examples
    --------
    >>> from skpert.metrics import latent_r2
    >>> round(latent_r2([[0.0], [1.0], [2.0]], [[1.0, 1.0], [1.0, 3.0], [1.0, 5.0]]), 6)
    1.0
    """
    Z_true, Z = _check_latents(Z_true, Z)
    Z_true, Z = _standardize(Z_true), _standardize(Z)
    coefficients, *_ = np.linalg.lstsq(Z, Z_true, rcond=None)
    explained = ((Z @ coefficients) ** 2).sum(axis=0)  # of the unit length of each true latent
    return float(np.clip(explained, 0, 1).mean())


def _absolute_correlation(Z_true, Z, method):
    """|correlation| of every true with every inferred latent, (n_true, n_latent)."""
    if method not in ("pearson", "spearman"):
        raise ValueError(f"method must be 'pearson' or 'spearman', got {method!r}")
    Z_true, Z = _check_latents(Z_true, Z)
    if method == "spearman":
        Z_true, Z = rankdata(Z_true, axis=0), rankdata(Z, axis=0)
    return np.clip(np.abs(_standardize(Z_true).T @ _standardize(Z)), 0, 1)


def _standardize(Z):
    """Columns with mean 0 and length 1; constant ones become 0."""
    constant = np.ptp(Z, axis=0) == 0  # exactly: the mean of equal numbers may be rounded
    centred = np.where(constant, 0.0, Z - Z.mean(axis=0))
    centred = centred / np.where(constant, 1.0, np.abs(centred).max(axis=0))
    return centred / np.where(constant, 1.0, np.linalg.norm(centred, axis=0))


def _check_latents(Z_true, Z):
    check_same_cells(Z_true, Z, ("Z_true", "Z"))
    Z_true = read_matrix(Z_true, "Z_true", least=2)
    Z = read_matrix(Z, "Z", least=2)
    check_consistent_length(Z_true, Z)
    return Z_true, Z
