"""How the answer of a screen would have looked with fewer cells, guides or replicates."""

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.parallel import Parallel, delayed

from .._input.expression import check_same_cells, of_each_cell
from .._input.values import (
    as_list,
    check_has_latents,
    check_integer,
    check_number,
    is_positive_integer,
    listed,
    text,
)
from ..exceptions import recorded, warn_once
from ..inspection._stability import matched
from ..sparsity.edges import check_calls_edges, edges_at_fdr
from ._pilot import found_latents, pilot_of

LEAST_CELLS = 2  # of a perturbation, to take part


def subsample(
    estimator,
    X,
    A,
    *,
    n_cells=(20, 50, 100, 200),
    guides=None,
    n_guides=(1, 2),
    replicates=None,
    n_replicates=(1,),
    n_draws=1,
    refit=True,
    edges=None,
    test_fraction=0.0,
    fdr=0.05,
    n_jobs=None,
    random_state=None,
) -> pd.DataFrame:
    """What would have been called with fewer cells, guides or replicates.

    Subsamples of one draw are nested: the cells of a smaller one are in all larger ones.

    Parameters
    ----------
    estimator : estimator
        Fitted on all cells, with ``mask_probability_``, such as ``SVAEPlus``: its edges are those
        to be found again. It stays as it is.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        The cells of its training. With ``refit=False`` they may be others: then the table says
        what a new screen calls in the latent space of an earlier one.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design.
    n_cells : int or list of int, default=(20, 50, 100, 200)
        Cells per perturbation. Control cells are cut by the same share as cells of a perturbation
        of median size; a perturbation with fewer cells keeps all.
    guides : str or array-like of shape (n_cells,), default=None
        Guide of each cell, or its column in A; with it, subsamples of guides are taken, too.
    n_guides : int or list of int, default=(1, 2)
        Guides per perturbation; control cells all stay.
    replicates : str or array-like of shape (n_cells,), default=None
        Replicate, batch or donor of each cell, or its column in A.
    n_replicates : int or list of int, default=(1,)
        Replicates, of all perturbations and controls.
    n_draws : int, default=1
        Orders in which cells, guides and replicates are left out.
    refit : bool, default=True
        Fit a clone on each subsample. False keeps the latents of ``estimator`` and calls edges
        anew from the cells that are left: what is lost by noise alone, within milliseconds.
    edges : DataFrame of bool of shape (n_perturbations, n_latent), default=None
        Edges to be found again, by name of perturbation (index) and of latent (columns); what is
        missing is none. None: those of ``estimator`` at this ``fdr``. Edges called from the cells
        that are subsampled come again too often: where a subsample has nearly all of them, they
        do so by construction. What a new screen would show is the share of edges that were called
        from other cells than those of ``X``.
    test_fraction : float, default=0.0
        Share of cells that no subsample has and refits are scored on, in [0, 1).
    fdr : float, default=0.05
        False discovery rate at which edges are called, in [0, 1].
    n_jobs : int or None, default=None
        Subsamples at the same time, in processes of joblib. Results do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws.

    Returns
    -------
    table : DataFrame
        A row per subsample: ``kind`` ("cells", "guides" or "replicates"), ``size``, ``draw``,
        ``n_cells`` and ``n_control_cells`` in it; ``n_perturbations`` that have at least two
        cells; ``n_edges`` to be found among these; ``n_called``; ``recovered``, the share of
        the former that are called again, and ``agreement``, the share of those called that
        are among them, on latents matched by correlation, in [0, 1], NaN of none;
        ``score``, mean importance-weighted ELBO of the cells left out, nats per cell, NaN without
        ``test_fraction`` or without ``refit``.

    Raises
    ------
    ValueError
        If a number is out of range, no perturbation has cells, lengths differ, ``edges`` is not
        of the estimator's latents, or the estimator calls no edges.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.planning import subsample
    >>> screen = make_sparse_shift(12, n_cells_per_perturbation=100, n_control_cells=100,
    ...                            n_latent=3, n_genes=50, n_targets=1, effect_size=2.0,
    ...                            library_size=5000, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=60, random_state=0).fit(screen.X, screen.A)
    >>> table = subsample(model, screen.X, screen.A, n_cells=[5, 50], refit=False, random_state=0)
    >>> table["n_control_cells"].tolist(), bool(table["recovered"].iloc[1] > 0.8)
    ([5, 50], True)
    """
    _check(estimator, X, A, n_draws, test_fraction, fdr)
    reference = _reference(estimator, edges, fdr)
    labels = np.array(estimator.design_.labels(A), dtype=object)
    groups = _groups(guides, replicates, A, len(labels))
    sizes = {"cells": n_cells, "guides": n_guides, "replicates": n_replicates}
    sizes = {kind: _sizes(values, f"n_{kind}") for kind, values in sizes.items()}
    rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    test = rng.uniform(size=len(labels)) < test_fraction
    control = text(estimator.control)
    jobs = [
        ({"kind": kind, "size": size, "draw": draw}, index)
        for draw in range(n_draws)
        for kind, size, index in _nested(labels, control, groups, sizes, ~test, rng)
    ]
    Z = found_latents(estimator, estimator._expression(X, A))
    function = _refitted if refit else _called_again
    given = estimator, X, A, labels, Z, np.flatnonzero(test), fdr, reference
    names = [f"subsample {i}" for i in range(len(jobs))]
    results = Parallel(n_jobs=n_jobs)(
        delayed(recorded)(name, function, index, *given)
        for name, (_, index) in zip(names, jobs, strict=True)
    )
    rows, caught = zip(*results, strict=True)
    warn_once(list(caught), names)
    return pd.DataFrame([key | row for (key, _), row in zip(jobs, rows, strict=True)])


def _groups(guides, replicates, A, n_cells):
    """Guide and replicate of each cell, None where they are not given."""
    given = {"guides": guides, "replicates": replicates}
    return {
        name: None if values is None else of_each_cell(values, A, n_cells, name)
        for name, values in given.items()
    }


def _check(estimator, X, A, n_draws, test_fraction, fdr):
    check_has_latents(estimator)
    check_calls_edges(estimator)
    check_same_cells(X, A)
    check_integer(n_draws, "n_draws", 1)
    check_number(test_fraction, "test_fraction", 0, 1, "left")
    estimator.targets(fdr=fdr)  # refuses what is no rate


def _reference(estimator, edges, fdr):
    """Edges to be found again, a DataFrame of bool with a column per latent."""
    own = estimator.targets(fdr=fdr) != 0
    if edges is None:
        return own
    if not isinstance(edges, pd.DataFrame):
        raise ValueError(f"edges must be a DataFrame of bool, got {type(edges).__name__}")
    unknown = [name for name in edges.columns if name not in own.columns]
    if unknown or edges.columns.has_duplicates:
        raise ValueError(
            f"edges must have a column per latent, {listed(list(own.columns), 3)}, got "
            f"{listed(unknown or list(edges.columns), 3)}"
        )
    if edges.isna().any(axis=None) or not edges.isin([False, True]).all(axis=None):
        raise ValueError("edges must be True or False")
    edges = edges.rename(index=text)
    repeated = edges.index[edges.index.duplicated()]
    if len(repeated):
        raise ValueError(f"edges has several rows of {listed(list(repeated), 5)}")
    return edges.astype(bool).reindex(columns=own.columns, fill_value=False)


def _sizes(values, name):
    values = as_list(values)
    wrong = [value for value in values if not is_positive_integer(value)]
    if wrong or not values:
        seen = repr(wrong[0]) if wrong else "none"
        raise ValueError(f"{name} must be integers of at least 1, got {seen}")
    return sorted(set(values))


def _nested(labels, control, groups, sizes, allowed, rng):
    """Kind, size and cells of each subsample of one draw."""
    order = pd.Series(rng.permutation(len(labels)))
    order = order[allowed[order]].to_numpy()
    rank = np.full(len(labels), len(labels))
    rank[order] = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    n_each = pd.Series(labels[order])[labels[order] != control].value_counts()
    if not len(n_each):
        raise ValueError("A has no cells of a perturbation")
    n_controls = int((labels[order] == control).sum())
    for size in sizes["cells"]:
        share = min(size / n_each.median(), 1)
        most = np.where(labels == control, max(round(share * n_controls), 1), size)
        yield "cells", size, np.flatnonzero(rank < most)
    for kind in ("guides", "replicates"):
        if groups[kind] is None:
            continue
        place = _places(groups[kind], labels if kind == "guides" else None, rng)
        kept = (labels == control) & (kind == "guides")
        for size in sizes[kind]:
            yield kind, size, np.flatnonzero(((place < size) | kept) & allowed)


def _places(groups, labels, rng):
    """Place of each cell's group in a random order, of those of its label or of all."""
    frame = pd.DataFrame({"group": pd.Series(groups).astype(str)})
    frame["label"] = "" if labels is None else labels
    pairs = frame.drop_duplicates().sample(frac=1, random_state=int(rng.integers(2**31)))
    pairs["place"] = pairs.groupby("label").cumcount()
    return frame.merge(pairs, how="left", on=["label", "group"])["place"].to_numpy()


def _cells(X, index):
    return X[index] if hasattr(X, "obs_names") else _safe_indexing(X, index)


def _refitted(index, estimator, X, A, labels, Z, test, fdr, reference):
    """Row of a fit on these cells alone."""
    refit = clone(estimator).fit(_cells(X, index), _safe_indexing(A, index))
    own = pd.Index(refit.perturbations_)
    edges = refit.targets(fdr=fdr).to_numpy() != 0
    Z_refit = found_latents(refit, refit._expression(X, A))
    edges = edges[:, : refit.n_latent_]
    effects = refit.embedding_[:, : refit.n_latent_]
    edges = matched(Z, Z_refit, edges, effects)[0]
    score = np.nan
    if len(test):
        known = np.isin(labels[test], [*own, text(estimator.control)])
        test = test[known]
        score = refit.score(_cells(X, test), _safe_indexing(A, test))
    n_called = int((refit.targets(fdr=fdr).to_numpy() != 0).sum())
    return _row(estimator, labels, index, own, edges, n_called, reference, score)


def _called_again(index, estimator, X, A, labels, Z, test, fdr, reference):
    """Row of edges called from these cells in the latent space of all."""
    pilot = pilot_of(estimator, Z[index], labels[index])
    edges = edges_at_fdr(pilot.judged(pilot.effect, pilot.standard_error), fdr)
    own = pd.Index(pilot.names)
    return _row(estimator, labels, index, own, edges, int(edges.sum()), reference, np.nan)


def _row(estimator, labels, index, own, edges, n_called, reference, score):
    """How edges of perturbations ``own`` compare with those to be found again."""
    counts = pd.Series(labels[index]).value_counts()
    own_rows = [i for i, name in enumerate(own) if counts.get(name, 0) >= LEAST_CELLS]
    names = own[own_rows]
    true = reference.reindex(names, fill_value=False).to_numpy()
    true = true[:, : edges.shape[1]]
    found = edges[own_rows]
    n_both = int((true & found).sum())
    return {
        "n_cells": len(index),
        "n_control_cells": int(counts.get(text(estimator.control), 0)),
        "n_perturbations": len(names),
        "n_edges": int(true.sum()),
        "n_called": n_called,
        "recovered": n_both / true.sum() if true.any() else np.nan,
        "agreement": n_both / n_called if n_called else np.nan,
        "score": score,
    }
