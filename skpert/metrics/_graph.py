"""Recovery of the intervention graph: which perturbation moves which latent."""

from numbers import Integral

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.utils import Bunch, check_scalar

from .._input.expression import read_matrix


def graph_scores(mask_true, mask, *, match=None):
    """Precision, recall and F1 of the edges perturbation -> latent, each in [0, 1], higher better.

    The latents of ``mask`` come in any order, so they are first matched with the true ones. Edges
    of a latent that is matched with none are wrong (inferred) or missed (true).

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
        precision : float
            Correct edges among those inferred; 0 if none was inferred.
        recall : float
            Correct edges among the true ones; 0 if there are none.
        f1 : float
            Harmonic mean of the two; 0 if there are no edges at all.

    References
    ----------
    Lopez et al. (2023). Learning causal representations of single cells via sparse mechanism
    shift modeling. CLeaR, Table 1. The released code matches by signed correlation and so loses
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


def top_k_mask(embedding, k=2):
    """Mask of the k largest absolute entries of each row, for models without a learned mask.

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

    References
    ----------
    Lopez et al. (2023), CLeaR, read the graph of an iVAE in this way, with ``k=2``.

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
