"""The strength of a sparsity prior, chosen by what edges explain of held-out cells."""

from numbers import Real

import numpy as np
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from ..exceptions import warn_of_data

N_ERRORS = 1.0  # standard errors within which a difference to the best score is none
MANY = 0.1  # of the edges of the densest model; the sparsest should have fewer


def sparsity_scores(estimator, X, y) -> dict:
    """Held-out IWELBO and number of edges, a scorer for ``GridSearchCV`` with several metrics.

    :func:`sparsest` chooses by these two.

    Parameters
    ----------
    estimator : estimator
        Fitted on the training fold, with ``mask_``.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells of the test fold.
    y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design.

    Returns
    -------
    scores : dict
        ``score``, ``estimator.score(X, y)``, nats per cell, higher is better; ``n_edges``, the
        number of perturbation-latent pairs in ``mask_``.

    Raises
    ------
    TypeError
        If the estimator has no ``mask_``.
    ValueError
        If X or y are not as ``score`` wants them.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.model_selection import sparsity_scores
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> sorted(sparsity_scores(model, screen.X, screen.A))
    ['n_edges', 'score']
    """
    check_is_fitted(estimator)
    if not hasattr(estimator, "mask_"):
        raise TypeError(
            f"{type(estimator).__name__} has no mask_, so there are no edges to count: give a "
            "model that learns masks, such as SVAEPlus or SAMSVAE with edges='learned'"
        )
    return {"score": estimator.score(X, y), "n_edges": int(np.sum(estimator.mask_))}


def sparsest(results: dict, *, share: float = 0.8) -> int:
    r"""Index of the candidate of fewest edges that keeps most of what perturbations explain.

    For ``GridSearchCV(..., scoring=sparsity_scores, refit=sparsest)`` over ``sparsity`` of
    ``SVAEPlus`` or ``mask_prior`` of ``SAMSVAE`` with ``edges="learned"``; for ``SVAE`` it chooses
    too sparse a value. The best held-out likelihood is no guide
    to the edges: most spurious ones copy a little of a strong effect into another latent, which
    is real and hence improves the likelihood, but by much less than the effects themselves. So a
    candidate with score :math:`s` is admitted if

    .. math:: s \ge s_0 + \text{share} \cdot (\max s - s_0)

    where :math:`s_0` is the score of the candidate of fewest edges, or if it is within one
    standard error of the best, that of the paired differences between folds. Of those admitted
    the one with the fewest edges is chosen, the better of two with equally many.

    Parameters
    ----------
    results : dict
        ``cv_results_`` of a search with ``scoring=sparsity_scores``. Candidates whose fit failed
        are left out.
    share : float in (0, 1], default=0.8
        Of the difference between the scores of the best candidate and the one of fewest edges.
        For another value give ``refit=functools.partial(sparsest, share=0.9)``.

    Returns
    -------
    index : int
        Of the candidate, what ``refit`` of ``GridSearchCV`` wants.

    Raises
    ------
    ValueError
        If ``results`` are not those of ``sparsity_scores``, every fit failed, or ``share`` is out
        of range.

    Warns
    -----
    DataWarning
        If even the sparsest candidate has many edges, more than a tenth of those of the densest:
        the grid should begin with a prior that is too weak and end with one that leaves no edge,
        as otherwise what perturbations explain is underestimated. Or masks hardly moved, as in
        trainings of few steps.

    See Also
    --------
    PerturbationKFold : Folds in which every perturbation is on both sides.

    Notes
    -----
    ``python -m benchmarks.svae sparsity`` measures it: with ``SVAEPlus`` the choice was within
    0.05 of the best F1 of its grid in 9 of 10 simulated screens, with ``SAMSVAE`` in 4 of 5, with
    ``SVAE`` in 1 of 4. A prior that counts once per data set, as
    that of ``SVAEPlus`` and ``SAMSVAE`` does, weighs more in a fold than in all cells; with two
    folds the difference is a factor of two, with five 1.25.

    Examples
    --------
    >>> from skpert.model_selection import sparsest
    >>> sparsest({
    ...     "mean_test_score": [-99.8, -100.0, -100.2, -105.0],
    ...     "mean_test_n_edges": [60, 32, 30, 0],
    ... })
    2
    """
    check_scalar(share, "share", Real, min_val=0, max_val=1, include_boundaries="right")
    score, n_edges, folds = _read(results)
    finite = np.isfinite(score) & np.isfinite(n_edges)
    if not finite.any():
        raise ValueError("no candidate has a score: every fit failed, see the warnings above")
    _warn_of_dense(n_edges[finite])
    none = score[finite][n_edges[finite] == n_edges[finite].min()].max()
    best = np.argmax(np.where(finite, score, -np.inf))
    admitted = finite & (score >= none + share * (score[best] - none))
    admitted |= finite & (score[best] - score <= N_ERRORS * _paired_error(folds, best))
    order = np.lexsort([-score, n_edges])
    return int(order[admitted[order]][0])


def _read(results):
    """Mean scores and numbers of edges of the candidates, and scores of their folds."""
    try:
        mean, edges = (results[f"mean_test_{name}"] for name in ("score", "n_edges"))
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            "results must have mean_test_score and mean_test_n_edges: search with "
            "GridSearchCV(..., scoring=sparsity_scores, refit=sparsest)"
        ) from None
    names = [f"split{i}_test_score" for i in range(len(results))]
    folds = [results[name] for name in names if name in results]
    mean, edges = np.asarray(mean, dtype=float), np.asarray(edges, dtype=float)
    return mean, edges, np.reshape(np.asarray(folds, dtype=float), (len(folds), len(mean)))


def _paired_error(folds, best):
    """Standard error of each candidate's difference to the best; 0 where it is not known."""
    if len(folds) < 2:
        return 0.0
    difference = folds - folds[:, [best]]
    return difference.std(0, ddof=1) / np.sqrt(len(folds))


def _warn_of_dense(n_edges):
    fewest, most = n_edges.min(), n_edges.max()
    if fewest > MANY * most:
        warn_of_data(
            f"the sparsest candidate has {fewest:g} edges and the densest {most:g} (means over "
            "folds): extend the grid to a prior so strong that hardly an edge is left, against "
            "which the others are compared. If the numbers hardly differ over the grid, masks had "
            "too few steps to follow the prior: raise max_epochs, or lower batch_size"
        )
