"""Latent states of new cells, found among those of training cells."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.random import sample_without_replacement
from sklearn.utils.validation import check_is_fitted

MAX_ELEMENTS = 2**22  # numbers in the expected expression of all candidates at once


def posterior_search(
    estimator,
    X,
    X_train,
    A_train=None,
    *,
    A=None,
    n_candidates: int = 100,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Find the latent state of each cell among the posterior means of training cells.

    For each cell ``n_candidates`` training cells are drawn, and the state that explains it best,
    by log p(x | z), is taken. The authors' released code of inVAE reads cells without covariates
    in this way [1]_. ``estimator.transform`` is the default here: its encoder has learned to do
    without covariates, and costs one pass. A search does not use the encoder for the new cells,
    and so shows whether that fails where they are unlike the training cells. But it ignores the
    prior, has no state between those of training cells, and gets noisier the fewer candidates
    there are.

    Parameters
    ----------
    estimator : InVAE or NFIVAE
        Fitted, with ``posterior`` and ``log_likelihood``.
    X : {array, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
        Expression of the cells whose states are wanted.
    X_train : {array-like, sparse matrix, AnnData} of shape (n_train, n_genes)
        Expression of training cells.
    A_train : DataFrame of shape (n_train, n_columns) or array-like of shape (n_train,), \
            default=None
        Covariates of training cells: their states are read with them, and candidates drawn from
        each combination of known covariates, so that rare ones are among them. None reads the
        states from expression alone, and draws uniformly.
    A : DataFrame of shape (n_cells, n_columns), default=None
        Design of the new cells, for the columns in ``estimator.environment`` if there are any;
        others are not read.
    n_candidates : int, default=100
        Training cells drawn for each cell, without replacement; with ``A_train`` from each
        combination. All of them where there are no more.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws.

    Returns
    -------
    search : Bunch
        ``Z``, ndarray of shape (n_cells, n_latent), the states, of all latents, invariant ones
        first; ``log_likelihood``, ndarray of shape (n_cells,), log p(x | z), nats per cell; and
        ``index``, ndarray of shape (n_cells,), the training cell whose state was taken.

    Raises
    ------
    ValueError
        If ``n_candidates`` is below 1, or ``estimator`` refuses X or a design.
    TypeError
        If the estimator has no ``log_likelihood``.

    Notes
    -----
    The "IRM" classifier of the released code is a network trained on the states of training cells
    and applied to states found in this way. Its loss is the mean of each batch's own loss, without
    the penalty of invariant risk minimisation, so that it differs from any classifier only by the
    weights of batches; it is hence not offered. Use any classifier of scikit-learn in its place.

    References
    ----------
    .. [1] Aliee, Kapl, Hediyeh-Zadeh and Theis, Conditionally invariant representation learning
       for disentangling cellular heterogeneity, 2023, arXiv 2307.00558.

    Examples
    --------
    >>> from skpert import InVAE
    >>> from skpert.datasets import make_invariant
    >>> from skpert.inspection import posterior_search
    >>> cells = make_invariant(20, random_state=0)
    >>> X, obs = cells.X, cells.obs
    >>> model = InVAE(4, invariant="cell_type", spurious="batch", max_epochs=2, random_state=0)
    >>> model = model.fit(X[:200], obs[:200])
    >>> search = posterior_search(model, X[200:], X[:200], obs[:200], random_state=0)
    >>> search.Z.shape, bool((search.index < 200).all())
    ((40, 4), True)
    """
    check_is_fitted(estimator)
    if not hasattr(estimator, "log_likelihood"):
        raise TypeError(
            f"{type(estimator).__name__} has no log_likelihood to search by: give an InVAE"
        )
    if not isinstance(n_candidates, Integral) or n_candidates < 1:
        raise ValueError(f"n_candidates must be an integer of at least 1, got {n_candidates!r}")
    states = estimator.posterior(X_train, A_train).z
    groups = _groups(estimator, A_train, len(states))
    random = check_random_state(random_state)
    rows = _rows(X)
    n_cells, n_drawn = rows.shape[0], sum(min(n_candidates, len(group)) for group in groups)
    size = max(MAX_ELEMENTS // (n_drawn * rows.shape[1]), 1)
    found = []
    for start in range(0, n_cells, size):
        block = np.arange(start, min(start + size, n_cells))
        index = np.stack([_drawn(groups, n_candidates, random) for _ in block], axis=1)
        taken = rows.iloc[block] if hasattr(rows, "iloc") else rows[block]
        design = None if A is None else A.iloc[block]
        log_likelihood = estimator.log_likelihood(taken, states[index], design)
        best = log_likelihood.argmax(0), np.arange(len(block))
        found.append((index[best], log_likelihood[best]))
    index, log_likelihood = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Bunch(Z=states[index], log_likelihood=log_likelihood, index=index)


def _groups(estimator, A_train, n_train):
    """Training cells of each combination of covariates, from which candidates are drawn."""
    if A_train is None:
        return [np.arange(n_train)]
    _, label = np.unique(estimator.design_.labels(A_train).astype(str), return_inverse=True)
    return [np.flatnonzero(label == code) for code in range(label.max() + 1)]


def _drawn(groups, n_candidates, random):
    """Candidates for one cell, (n_drawn,)."""
    return np.concatenate(
        [
            group[sample_without_replacement(len(group), n_candidates, random_state=random)]
            if len(group) > n_candidates
            else group
            for group in groups
        ]
    )


def _rows(X):
    """Expression of which rows can be taken."""
    if hasattr(X, "tocsr"):
        return X.tocsr()
    return X if hasattr(X, "shape") else np.asarray(X)
