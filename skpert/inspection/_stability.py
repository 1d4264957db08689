"""How often edges and latents come back when a model is fitted again."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from .._bootstrap import bootstrapped
from .._input.values import check_integer, listed
from ..exceptions import recorded, warn_once
from ..metrics import match_latents
from ..metrics.latent_recovery import standardize
from ..sparsity.edges import check_calls_edges

SHARE = 0.2  # of the epochs of the first fit, for a refit that starts from its weights
LEAST = 0.5  # absolute correlation below which latents are not the same one
RETURNED = 0.9  # absolute correlation above which a latent has come back


def stability(
    estimator,
    X,
    A,
    *,
    n_refits: int = 10,
    resample: str = "cells",
    fdr: float = 0.05,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """How often each edge and each latent comes back when the model is fitted again.

    Probabilities of edges are given the fitted axes. Whether the axes themselves depend on the
    cells that were drawn, or on the seed, shows when all is repeated. Latents of a refit are
    matched with those of ``estimator`` one to one, by absolute correlation over all cells.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``mask_probability_``, such as ``SVAEPlus``; it stays as it is.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        The cells of its training, or others of the same perturbations.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design.
    n_refits : int, default=10
        Number of refits, at least 1. The standard error of a share p is
        ``sqrt(p * (1 - p) / n_refits)``.
    resample : {"cells", "seeds"}, default="cells"
        "cells": each refit has cells drawn with replacement within each perturbation, and within
        the controls. It starts from the weights of ``estimator``, trains for a fifth of the
        epochs, first without sparsity, then on axes that are found anew, and calls its edges; the
        number of latents stays. "seeds": the same
        cells in full fits from other initial weights, which cost ``n_refits`` times the first.
        Cells show sampling variation near one solution, and keep its errors where axes are
        mixed; seeds show whether there are others.
    fdr : float, default=0.05
        False discovery rate at which edges are called, in [0, 1].
    n_jobs : int or None, default=None
        Refits at the same time, in processes of joblib; None is 1 unless in a
        ``joblib.parallel_config``, -1 uses all cores. Results do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws of cells and the refits.

    Returns
    -------
    stability : Bunch
        ``edges``, a DataFrame of shape (n_perturbations, n_latent), the share of refits in which
        the edge is called, in [0, 1]; a latent whose match has an absolute correlation below 0.5
        has no edges in that refit. ``latents``, a DataFrame with a row per latent:
        ``correlation``, the mean absolute correlation with its match, 0 where it has none, and
        ``returned``, the share of refits in which that is above 0.9. ``effect_std``, a DataFrame
        of shape (n_perturbations, n_latent), the standard deviation of effects across refits with
        signs aligned, in standard deviations of a latent; NaN where fewer than two refits have
        the latent.

    Raises
    ------
    ValueError
        If the estimator calls no edges, a perturbation of its training or the control has no
        cells, ``n_refits`` is below 1, or ``resample`` or ``fdr`` is not one of the above.

    Notes
    -----
    A share is no probability that an edge is true: an error that all fits make, such as that of
    a confounded perturbation, comes back every time. Edges of a share well below 1 depend on
    the draw. Warnings of refits are given once.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import stability
    >>> screen = make_sparse_shift(12, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=10, random_state=0).fit(screen.X, screen.A)
    >>> found = stability(model, screen.X, screen.A, n_refits=2, random_state=0)
    >>> found.edges.shape, found.latents.columns.tolist()
    ((12, 3), ['correlation', 'returned'])
    """
    _check(estimator, A, n_refits, resample)
    estimator.targets(fdr=fdr)  # refuses what is no rate
    Z, first = recorded("the estimator", estimator.transform, X)
    Z = np.asarray(Z, dtype=np.float64)
    seeds = check_random_state(random_state).randint(2**31 - 1, size=n_refits)
    names = [f"refit {i}" for i in range(n_refits)]
    results = Parallel(n_jobs=n_jobs)(
        delayed(recorded)(name, _refit, estimator, X, A, Z, resample, fdr, int(seed))
        for name, seed in zip(names, seeds, strict=True)
    )
    found, caught = zip(*results, strict=True)
    warn_once([first, *caught], ["the estimator", *names])
    edges, correlation, effects = (np.stack(part) for part in zip(*found, strict=True))
    latents = pd.Index(estimator.get_feature_names_out(), name="latent")
    rows = pd.Index(estimator.perturbations_, name="perturbation")
    table = {"correlation": correlation.mean(0), "returned": (correlation > RETURNED).mean(0)}
    return Bunch(
        edges=pd.DataFrame(edges.mean(0), rows, latents),
        latents=pd.DataFrame(table, latents),
        effect_std=pd.DataFrame(_deviation(effects), rows, latents),
    )


def _check(estimator, A, n_refits, resample):
    check_is_fitted(estimator)
    check_calls_edges(estimator)
    check_integer(n_refits, "n_refits", 1)
    if resample not in ("cells", "seeds"):
        raise ValueError(f"resample must be 'cells' or 'seeds', got {resample!r}")
    design = estimator.design_
    dosage = csr_array(design.transform(A))
    missing = estimator.perturbations_[dosage.sum(0) == 0]
    if len(missing):
        raise ValueError(
            f"{len(missing)} perturbations of the fit have no cells in A: {listed(missing, 5)}. "
            "Give the cells of the fit, or all perturbations of new ones"
        )
    if design.n_control_cells_ and np.diff(dosage.indptr).all():
        raise ValueError(
            "A has no control cells, and the fit had some: without them effects would be relative "
            "to other perturbations"
        )


def _refit(estimator, X, A, Z, resample, fdr, seed):
    """Edges, absolute correlations and effects of a refit, in the order and signs of Z."""
    if resample == "seeds":
        refit = clone(estimator).set_params(random_state=seed).fit(X, A)
    else:
        refit = bootstrapped(estimator, X, A, seed, SHARE)
    # adapted perturbations come last, those of a fit in the order of their names
    row = pd.Index(refit.perturbations_).get_indexer(estimator.perturbations_)
    edges = (refit.targets(fdr=fdr).to_numpy() != 0)[row]
    return matched(Z, np.asarray(refit.transform(X)), edges, refit.embedding_[row])


def matched(Z, Z_refit, edges_refit, effects_refit):
    """Edges, absolute correlations and effects of a refit, in the order and signs of Z.

    A latent without match has no edges, a correlation of 0 if no latent is left for it, and
    effects of NaN.
    """
    signed = standardize(Z).T @ standardize(np.asarray(Z_refit, dtype=np.float64))
    match = match_latents(Z, Z_refit)
    latent = np.flatnonzero(match >= 0)
    signed = signed[latent, match[latent]]
    correlation = np.zeros(len(match))
    correlation[latent] = np.abs(signed)
    edges = np.zeros((len(edges_refit), len(match)), dtype=bool)
    effects = np.full(edges.shape, np.nan)
    same = np.abs(signed) >= LEAST
    latent, sign = latent[same], np.sign(signed[same])
    edges[:, latent] = edges_refit[:, match[latent]]
    effects[:, latent] = effects_refit[:, match[latent]] * sign
    return edges, correlation, effects


def _deviation(effects):
    """Standard deviation over the first axis without NaN; NaN for fewer than two numbers."""
    n = np.isfinite(effects).sum(0)
    centred = effects - np.nansum(effects, axis=0) / np.maximum(n, 1)
    variance = np.nansum(centred**2, axis=0) / np.maximum(n - 1, 1)
    return np.where(n > 1, np.sqrt(variance), np.nan)
