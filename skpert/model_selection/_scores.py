"""Scores of models: perturbations never trained on, agreement between trainings."""

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from scipy.stats import rankdata
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_consistent_length

from .._input.cells import check_cells
from .._input.contexts import context_labels
from .._input.design import perturbation_labels
from .._input.expression import check_same_cells
from .._input.values import as_design, text
from ..metrics import perturbation_discrimination
from ..metrics.latent_recovery import standardize
from ._conformal import READ


def interventional_nll(
    estimator, X, A, X_train=None, A_train=None, *, n_particles: int = 5000, min_cells: int = 10
) -> Bunch:
    """Interventional negative log-likelihood of perturbations never trained on; lower is better.

    The published protocol [1]_: fix the masks and train on with the training cells (step 2), learn
    shifts of the new perturbations with encoder and decoder frozen (step 3), then average the
    importance-weighted log-likelihood over the cells of each and over perturbations (step 4).

    Parameters
    ----------
    estimator : estimator
        Fitted without the new perturbations; it stays as it is.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells of new perturbations; control cells among them are left out.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design.
    X_train, A_train : as X and A, default=None
        Training cells. Without them step 2 is skipped, and the result says so.
    n_particles : int, default=5000
        Samples of the latent state per cell; the released code takes 1,000.
    min_cells : int, default=10
        A perturbation needs more cells than this to count.

    Returns
    -------
    result : Bunch
        ``nll``, nats per cell, the mean over perturbations; ``per_perturbation``, a DataFrame
        with ``nll``, ``n_cells`` and whether it is ``counted``; ``refined``, whether step 2 was
        run; ``estimator``, the adapted one.

    Raises
    ------
    ValueError
        If one of ``X_train`` and ``A_train`` is missing, or no perturbation has enough cells.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism
       shift modeling, CLeaR 2023, section 5 and equation 18.
    """
    if (X_train is None) != (A_train is None):
        raise ValueError("give both X_train and A_train, or neither")
    refined = X_train is not None
    if refined:
        estimator = estimator.refine(X_train, A_train)
    estimator = estimator.adapt(X, A)
    labels = estimator.design_.labels(A)
    scores = pd.Series(estimator.score_cells(X, A, n_particles=n_particles))
    treated = labels != text(estimator.control)
    grouped = scores[treated].groupby(labels[treated])
    table = pd.DataFrame({"nll": -grouped.mean(), "n_cells": grouped.size()})
    table.index.name = "perturbation"
    table["counted"] = table["n_cells"] > min_cells
    if not table["counted"].any():
        raise ValueError(
            f"no perturbation has more than min_cells={min_cells} cells; the largest has "
            f"{table['n_cells'].max()}"
        )
    nll = float(table.loc[table["counted"], "nll"].mean())
    return Bunch(nll=nll, per_perturbation=table, refined=refined, estimator=estimator)


def interventional_nll_scorer(estimator, X, y) -> float:
    """Minus the interventional NLL of held-out perturbations, a scorer for ``cross_validate``.

    Use it with ``LeavePerturbationsOut``: the model is adapted to the perturbations of the test
    fold, step 3 of :func:`interventional_nll`, and scored on the same cells.

    Parameters
    ----------
    estimator : estimator
        Fitted on the training fold.
    X, y : as X and A of :func:`interventional_nll`
        Cells of the test fold and their design.

    Returns
    -------
    score : float
        Nats per cell, higher is better; every perturbation counts, however few its cells.
    """
    result = interventional_nll(estimator, X, y, n_particles=estimator.n_particles, min_cells=0)
    return -result.nll


def discrimination_scorer(estimator, X, y) -> float:
    """Discrimination of held-out perturbations, a scorer for ``cross_validate`` or a search.

    Use it with ``LeavePerturbationsOut``, to choose the features, penalty or centre of a model of
    unseen perturbations by whether its predictions tell which is which. An error prefers what is
    near to all, and may choose otherwise.

    Parameters
    ----------
    estimator : estimator
        Fitted on the training fold, with ``predict_intervention`` for what was not trained on; or
        a pipeline that ends with one, through whose other steps the cells go first.
    X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
        Cells of the test fold; control cells among them do not count.
    y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design A, a frame where the estimator reads contexts.

    Returns
    -------
    score : float
        Mean over perturbations of :func:`~skpert.metrics.perturbation_discrimination` among those
        of the fold, with the predicted control as reference; in [0, 1], chance is 0.5. With
        contexts, among those of the same context.

    Raises
    ------
    ValueError
        If there are fewer than two perturbations in the fold, or in each of its contexts, or X
        and A are not as the estimator takes them.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skpert import BilinearRidge
    >>> from skpert.datasets import make_causal_shift
    >>> from skpert.model_selection import LeavePerturbationsOut, discrimination_scorer
    >>> screen = make_causal_shift(12, n_cells_per_perturbation=20, n_control_cells=40,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> search = GridSearchCV(
    ...     BilinearRidge(screen.features), {"center": ["perturbations", "contrast"]},
    ...     scoring=discrimination_scorer, cv=LeavePerturbationsOut(3, random_state=0),
    ... ).fit(screen.X, screen.A)
    >>> search.best_estimator_.predict_intervention(["P03"]).shape
    (1, 50)
    """
    check_same_cells(X, y)
    model = estimator
    while isinstance(model, Pipeline):
        X = model[:-1].transform(X) if len(model.steps) > 1 else X
        model = model[-1]
    parameters = getattr(model, "estimator", model).get_params(deep=False)  # of what is wrapped
    names = {key: parameters.get(key, value) for key, value in READ.items()}
    values = check_cells(model, X, counts=None, layer=names.pop("layer"), dtype=np.float64)
    labels = perturbation_labels(y, **names)
    check_consistent_length(values, labels)
    contexts = context_labels(y, parameters.get("context"))
    treated = np.flatnonzero(labels != text(names["control"]))
    if not len(treated):
        raise ValueError("there is no cell of a perturbation to score")
    groups = pd.Series(treated).groupby(contexts[treated])
    parts = [part.to_numpy() for _, part in groups]
    several = [part for part in parts if len(set(labels[part])) > 1] or parts[:1]
    found = []
    for part in several:
        first = pd.Series(part).groupby(labels[part]).first()  # cell of each perturbation
        design = _designs(y, first, names)
        found.append(_discriminations(model, values[part], labels[part], design))
    return float(np.concatenate(found).mean())


def _discriminations(model, values, labels, design):
    """Discrimination of each perturbation of these cells; the last design is the control."""
    values = pd.DataFrame(values.toarray() if issparse(values) else values)
    measured = values.groupby(labels).mean()
    predicted = np.asarray(model.predict_intervention(design))
    scores = perturbation_discrimination(
        measured.to_numpy(), predicted[:-1], reference=predicted[-1]
    )
    return np.asarray(scores)


def _designs(A, first, names):
    """Treatments of the ``first`` cells, by label, and the control last, in the form of A."""
    A, labels = as_design(A), [*first.index, text(names["control"])]
    if isinstance(A, pd.DataFrame):
        rows = A.iloc[[*first, first.iloc[0]]].reset_index(drop=True)
        if names["perturbation"] in A.columns:
            return rows.assign(**{names["perturbation"]: labels})
        return rows.mul([1] * len(first) + [0], axis=0)
    if A.ndim == 1:
        return labels
    rows = A.tocsr()[first.to_numpy()].toarray() if issparse(A) else A[first.to_numpy()]
    return np.vstack([rows, np.zeros_like(rows[:1])])


def udr_score(estimators, X, *, threshold: float = 0.01) -> np.ndarray:
    """Unsupervised disentanglement ranking of each fitted estimator, in [0, 1]; higher is better.

    Estimators whose latents others found too rank high, without any ground truth (Duan et al.,
    Unsupervised model selection for variational disentangled representation learning, ICLR 2020).
    Give several seeds of one setting, and choose the setting whose median is best.
    It does not choose the strength of a sparsity prior, as seeds agree on latents under weak and
    strong ones alike; :func:`sparsest` does. Fits that have one latent in common rank as high as
    fits that have all: see ``n_latent_`` beside it.

    Parameters
    ----------
    estimators : list of estimators
        At least two, fitted on the same genes; fewer are a ValueError.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells on which to compare the latents; about a thousand are enough.
    threshold : float, default=0.01
        A latent counts as informative if its KL to N(0, 1) is above this, mean nats per cell.

    Returns
    -------
    scores : ndarray of shape (n_estimators,)
        Median over the other estimators of the pairwise ranking.
    """
    if len(estimators) < 2:
        raise ValueError(f"a ranking needs at least two estimators, got {len(estimators)}")
    posteriors = [estimator.posterior(X, None) for estimator in estimators]
    ranks = [standardize(rankdata(q.z, axis=0)) for q in posteriors]
    informative = [
        ((q.scale**2 + q.z**2 - 1) / 2 - np.log(q.scale)).mean(0) > threshold for q in posteriors
    ]
    pairs = np.full((len(ranks), len(ranks)), np.nan)
    for i in range(len(ranks)):
        for j in range(len(ranks)):
            if i != j:
                similarity = np.abs(ranks[i].T @ ranks[j])
                pairs[i, j] = pair_ranking(similarity, informative[i], informative[j])
    return np.nanmedian(pairs, axis=1)


def pair_ranking(similarity, informative, other_informative):
    """How far the informative latents of two models, rows and columns, match one to one."""
    n_informative = informative.sum() + other_informative.sum()
    if n_informative == 0:
        return 0.0

    def matched(axis, counted):
        total = similarity.sum(axis)
        share = similarity.max(axis) ** 2 / np.where(total > 0, total, 1)
        return (share * counted).sum()

    return (matched(0, other_informative) + matched(1, informative)) / n_informative
