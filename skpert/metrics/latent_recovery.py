"""Recovery of true latent states and of the graph from perturbations to latents."""

from numbers import Integral

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.utils import Bunch, check_scalar
from sklearn.utils.validation import check_consistent_length

from .._input.expression import check_same_cells, read_matrix


def mean_correlation_coefficient(Z_true, Z, *, method: str = "pearson") -> float:
    """Mean correlation coefficient (MCC) of matched latents, in [0, 1]; higher is better.

    Each true latent is paired with one inferred latent such that absolute correlations have the
    largest sum [1]_; their mean over true latents is returned. It is 1 when ``Z`` is ``Z_true`` up
    to order, sign, scale and offset ("pearson") or up to order and a monotone function of each
    latent ("spearman"). True latents without a partner count as 0. Noise does not score 0 but
    about the size of a chance correlation, ``1 / sqrt(n_cells)`` and more.

    Parameters
    ----------
    Z_true, Z : array-like of shape (n_cells, n_true) and (n_cells, n_latent)
        True and inferred latent states; the numbers of latents may differ.
    method : {"pearson", "spearman"}, default="pearson"
        Correlation of values or of ranks. A constant latent has correlation 0.

    Returns
    -------
    score : float
        Mean absolute correlation.

    References
    ----------
    .. [1] Hyvarinen and Morioka, Unsupervised feature extraction by time-contrastive learning,
       NeurIPS 2016. Used as here by Lopez et al., CLeaR 2023, Table 1.

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


def match_latents(Z_true, Z, *, method="pearson") -> np.ndarray:
    """Inferred latent that belongs to each true one, by absolute correlation.

    The pairs are those of :func:`mean_correlation_coefficient`, one to one. The sign of a latent
    means nothing, so a flipped latent is matched like any other.

    Parameters
    ----------
    Z_true, Z, method : as in :func:`mean_correlation_coefficient`
        True and inferred latent states, and their correlation.

    Returns
    -------
    match : ndarray of shape (n_true,), int
        Column of ``Z`` for each column of ``Z_true``; -1 where no column is left but constant
        ones, or none.

    Examples
    --------
    >>> from skpert.metrics import match_latents
    >>> match_latents([[0, 1], [1, 0], [2, 3], [3, 1]], [[-1, 0], [0, 2], [-3, 4], [-1, 6]])
    array([1, 0])
    """
    correlation = _absolute_correlation(Z_true, Z, method)
    true, inferred = linear_sum_assignment(correlation, maximize=True)
    match = np.full(len(correlation), -1)
    paired = correlation[true, inferred] > 0
    match[true[paired]] = inferred[paired]
    return match


def latent_r2(Z_true, Z) -> float:
    """Variance of true latents explained by a linear map of ``Z``, in [0, 1]; higher is better.

    Mean coefficient of determination (R2) over true latents, of least squares with an intercept,
    fitted and scored on the same cells. It is 1 when ``Z`` is ``Z_true`` up to an invertible
    affine map, and tends to 1 whenever there are hardly more cells than latents. A constant true
    latent counts as 0. Used as here by Lopez et al., CLeaR 2023, Table 1.

    Parameters
    ----------
    Z_true, Z : as in :func:`mean_correlation_coefficient`
        True and inferred latent states.

    Returns
    -------
    score : float
        Mean R2 over the true latents.

    Examples
    --------
    >>> from skpert.metrics import latent_r2
    >>> round(latent_r2([[0.0], [1.0], [2.0]], [[1.0, 1.0], [1.0, 3.0], [1.0, 5.0]]), 6)
    1.0
    """
    Z_true, Z = _check_latents(Z_true, Z)
    Z_true, Z = standardize(Z_true), standardize(Z)
    coefficients, *_ = np.linalg.lstsq(Z, Z_true, rcond=None)
    explained = ((Z @ coefficients) ** 2).sum(axis=0)  # of the unit length of each true latent
    return float(np.clip(explained, 0, 1).mean())


def graph_scores(mask_true, mask, *, match=None) -> Bunch:
    """Precision, recall and F1 of the edges perturbation -> latent, each in [0, 1], higher better.

    The latents of ``mask`` come in any order, so they are first matched with the true ones [1]_.
    Edges of a latent without a partner are wrong (inferred) or missed (true).

    Parameters
    ----------
    mask_true : array-like of shape (n_perturbations, n_true), bool or 0/1
        True edges.
    mask : array-like of shape (n_perturbations, n_latent), bool or 0/1
        Inferred edges, rows in the same order; the number of latents may differ.
    match : array-like of shape (n_true,), int, or None, default=None
        Column of ``mask`` for each column of ``mask_true``, -1 for none, as
        :func:`match_latents` returns. None takes the matching with the most correct edges, which
        flatters: prefer a match by latent states where those are known.

    Returns
    -------
    scores : Bunch
        ``precision``, correct edges among those inferred; ``recall``, correct edges among the true
        ones; ``f1``, their harmonic mean. Each 0 if there is no edge to divide by.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism shift
       modeling, CLeaR 2023, Table 1. The released code matches by signed correlation and so loses
       latents whose sign is flipped; pass ``match=match_latents(Z_true, Z)`` instead.

    Examples
    --------
    >>> from skpert.metrics import graph_scores
    >>> scores = graph_scores([[1, 0], [0, 1], [1, 1]], [[0, 1], [1, 0], [0, 1]])
    >>> scores.precision, scores.recall, scores.f1
    (1.0, 0.75, 0.8571428571428571)
    """
    mask_true, mask = _check_mask(mask_true, "mask_true"), _check_mask(mask, "mask")
    if len(mask_true) != len(mask):
        raise ValueError(
            f"mask_true has {len(mask_true)} rows and mask {len(mask)}: "
            "they need one for each perturbation, in the same order"
        )
    correct = mask_true.T @ mask  # edges of each true latent found in each inferred one
    if match is None:
        pairs = linear_sum_assignment(correct, maximize=True)
    else:
        match = _check_match(match, *correct.shape)
        pairs = np.flatnonzero(match >= 0), match[match >= 0]
    n_correct, n_true, n_inferred = correct[pairs].sum(), mask_true.sum(), mask.sum()
    return Bunch(
        precision=float(n_correct / max(n_inferred, 1)),
        recall=float(n_correct / max(n_true, 1)),
        f1=float(2 * n_correct / max(n_inferred + n_true, 1)),
    )


def top_k_mask(embedding, k: int = 2) -> np.ndarray:
    """Mask of the k largest absolute entries of each row, for models without a learned mask.

    Lopez et al. (CLeaR 2023) read the graph of an iVAE in this way, with ``k=2``.

    Parameters
    ----------
    embedding : array-like of shape (n_perturbations, n_latent)
        Effect of each perturbation on each latent.
    k : int, default=2
        Number of targets of a perturbation; all latents, if there are fewer. Of equal entries the
        first are taken. An entry of exactly zero is never marked.

    Returns
    -------
    mask : ndarray of shape (n_perturbations, n_latent), bool
        The ``k`` strongest targets of each perturbation.

    Examples
    --------
    >>> from skpert.metrics import top_k_mask
    >>> top_k_mask([[0.1, -3.0, 2.0], [5.0, 0.0, 0.0]])
    array([[False,  True,  True],
           [ True, False, False]])
    """
    check_scalar(k, "k", Integral, min_val=1)
    strength = np.abs(read_matrix(embedding, "embedding"))
    strongest = np.argsort(-strength, axis=1, kind="stable")[:, :k]
    mask = np.zeros(strength.shape, dtype=bool)
    np.put_along_axis(mask, strongest, True, axis=1)
    return mask & (strength > 0)


def _absolute_correlation(Z_true, Z, method):
    """|correlation| of every true with every inferred latent, (n_true, n_latent)."""
    if method not in ("pearson", "spearman"):
        raise ValueError(f"method must be 'pearson' or 'spearman', got {method!r}")
    Z_true, Z = _check_latents(Z_true, Z)
    if method == "spearman":
        Z_true, Z = rankdata(Z_true, axis=0), rankdata(Z, axis=0)
    return np.clip(np.abs(standardize(Z_true).T @ standardize(Z)), 0, 1)


def standardize(Z):
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


def _check_mask(mask, name):
    mask = read_matrix(mask, name)
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{name} must hold only 0 and 1: threshold probabilities first")
    return mask.astype(np.int64)


def _check_match(match, n_true, n_latent):
    match = np.asarray(match)
    if match.shape != (n_true,) or match.dtype.kind not in "iu":
        raise ValueError(f"match must hold {n_true} whole numbers, one for each true latent")
    if (match < -1).any() or (match >= n_latent).any():
        raise ValueError(f"match must lie in [-1, {n_latent}), the columns of mask; got {match}")
    used = match[match >= 0]
    if len(np.unique(used)) < len(used):
        raise ValueError(f"match takes a column of mask twice: {match}")
    return match
