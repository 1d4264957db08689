"""What a fitted model says about its latents, and how far perturbations move them."""

import copy
from functools import partial

import numpy as np
import pandas as pd
from sklearn.utils import Bunch, _safe_indexing, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from .._effects import stability_of_axes
from .._input.cells import check_cells, log_normalised, median_library_size
from .._input.values import check_has_latents, listed
from ..metrics import maximum_mean_discrepancy
from ..metrics.distances import kernel_bandwidths
from ..parameters import REAL_VALUED
from ..preprocessing._confounding import confounding_of
from ..sparsity.edges import check_calls_edges
from ..sparsity.effects import LEAST_STABILITY
from ._enrichment import names_of


def latent_summary(estimator, *, fdr: float = 0.05, names=None) -> pd.DataFrame:
    """Which perturbations target each latent, and so which latents mean something.

    Sparse shifts identify the axes of those latents that some perturbation moves. Latents without
    a target are known as a group only: any rotation among them fits as well, so that one of them
    has no meaning by itself (a single one is what the others leave over) [1]_. A latent that few
    perturbations target, and always together with the same other one, is hardly better off.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``mask_probability_``, such as ``SVAEPlus``.
    fdr : float, default=0.05
        False discovery rate at which edges are called, in [0, 1], as in ``estimator.targets``.
    names : dict of str to str or DataFrame, default=None
        What to call latents in the index, or the table of :func:`~skpert.inspection.enrich`, which
        names them as :func:`~skpert.inspection.latent_names` does.

    Returns
    -------
    summary : DataFrame of shape (n_latent, 5)
        A row per latent, those with most perturbations first: ``n_perturbations`` that target
        it, ``expected`` number of them, the sum of their probabilities; ``strongest``, the
        perturbation with the largest effect on it, None without any, and that ``effect``, in
        standard deviations of the latent; ``targeted``, whether there is one.

    Raises
    ------
    ValueError
        If the estimator calls no edges, ``fdr`` is out of range, or ``names`` are of neither form,
        of none of its latents, or the same for two of them.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism shift
       modeling, CLeaR 2023, Appendix H.3.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import latent_summary
    >>> screen = make_sparse_shift(12, n_cells_per_perturbation=100, n_control_cells=100,
    ...                            n_latent=3, n_genes=50, n_covered=2, n_targets=1,
    ...                            effect_size=3.0, library_size=5000, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=60, random_state=0).fit(screen.X, screen.A)
    >>> latent_summary(model)["targeted"].tolist()
    [True, True, False]
    """
    check_is_fitted(estimator)
    check_calls_edges(estimator)
    effects = estimator.targets(fdr=fdr)
    size = effects.abs()
    targeted = (size > 0).any()
    strongest = size.idxmax()
    summary = pd.DataFrame(
        {
            "n_perturbations": (size > 0).sum(),
            "expected": estimator.mask_probability_.sum(0),
            "strongest": strongest.where(targeted, None),
            "effect": [effects.loc[row, column] for column, row in strongest.items()],
            "targeted": targeted,
        },
        index=pd.Index(effects.columns, name="latent"),
    )
    summary = summary.rename(index=names_of(names, effects.columns))
    return summary.sort_values(["n_perturbations", "expected"], ascending=False, kind="stable")


def identifiability(estimator, *, fdr: float = 0.05, floor=None, X=None, A=None) -> Bunch:
    """Which latents the called edges single out, and which are known as a group only.

    Sparse shifts identify latent i if it is the only one that all perturbations with an edge to
    it have in common: the intersection of their target sets is i alone [1]_. Otherwise it is
    identified up to a mixture with the others in that intersection: what is said of the group
    holds, what is said of one of them need not. Latents without an edge are one group: any
    rotation among them fits as well. The graph is the called one, and its errors are this table's.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``mask_probability_``, such as ``SVAEPlus``.
    fdr : float, default=0.05
        False discovery rate at which edges are called, in [0, 1].
    floor : estimator, default=None
        A fitted ``VAE``, which knows nothing of perturbations, of the same data: what labels
        explain is the IWELBO beyond its.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
        Cells on which the two are compared, better not those of training.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame, default=None
        Their design.

    Returns
    -------
    report : Bunch
        ``table``, a DataFrame with a row per latent: ``identified``; ``stability``, in [0, 1], how
        close to it an axis is found without a fifth of the perturbations (below 0.95 where edges
        are called, it hangs on single ones and no edge on it is called; 0 where equally treated
        cells hardly differ along it; NaN for learned and for empty latents); ``group``, the names
        of the latents that it cannot be separated from, itself included; ``n_perturbations`` with
        an edge to it; ``n_confounded``, how many of these are confounded with a column of the
        design frame; ``covered_by``, the fewest perturbations with an edge to it whose target
        sets have only the group in common, found greedily. ``confounded``, a DataFrame with a row
        per perturbation and column that go together, ``confounded_`` of the estimator's
        ``design_``: edges of these perturbations may be those of the column. ``gain`` and
        ``gain_error``, the mean IWELBO beyond the floor, nats per cell, and its standard error,
        paired over cells; None without a floor. ``summary``, two sentences, and further ones where
        latents were found that ``n_latent`` did not allow to keep, and where perturbations are
        confounded.

    Raises
    ------
    ValueError
        If the estimator calls no edges, ``floor`` is given without cells or cells without
        ``floor``, or there is but one cell.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism shift
       modeling, CLeaR 2023, section 3 and Appendix H.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import identifiability
    >>> screen = make_sparse_shift(12, n_cells_per_perturbation=100, n_control_cells=100,
    ...                            n_latent=3, n_genes=50, n_covered=2, n_targets=1,
    ...                            effect_size=3.0, library_size=5000, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=60, random_state=0).fit(screen.X, screen.A)
    >>> report = identifiability(model)
    >>> int(report.table["identified"].sum())  # nothing moves the third latent
    2
    """
    check_is_fitted(estimator)
    if len({floor is None, X is None, A is None}) > 1:
        raise ValueError("what labels explain is measured by floor, X and A: give all, or none")
    check_calls_edges(estimator)
    edges = estimator.targets(fdr=fdr).to_numpy() != 0
    found = np.arange(edges.shape[1]) < getattr(estimator, "n_latent_", edges.shape[1])
    groups = [_group(edges, i, found) for i in range(edges.shape[1])]
    names, perturbations = estimator.get_feature_names_out(), estimator.perturbations_
    confounded = confounding_of(estimator)
    is_confounded = np.isin(perturbations, confounded["perturbation"])
    table = pd.DataFrame(
        {
            "identified": [len(group) == 1 and edges[:, group[0]].any() for group in groups],
            "stability": stability_of_axes(estimator),
            "group": [tuple(names[group]) for group in groups],
            "n_perturbations": edges.sum(0),
            "n_confounded": edges[is_confounded].sum(0),
            "covered_by": [
                tuple(perturbations[_cover(edges, i, group)]) for i, group in enumerate(groups)
            ],
        },
        index=pd.Index(names, name="latent"),
    )
    gain = error = None
    if floor is not None:
        difference = estimator.score_cells(X, A) - floor.score_cells(X, A)
        if len(difference) < 2:
            raise ValueError("a standard error takes at least 2 cells in X, got 1")
        gain, error = difference.mean(), difference.std(ddof=1) / np.sqrt(len(difference))
    summary = _summary(table[found], fdr, gain, error)
    n_missing = max(getattr(getattr(estimator, "module_", None), "n_found", 0) - len(names), 0)
    if n_missing:
        summary += (
            f" The cells vary along {n_missing} more, which n_latent={len(names)} left out: what "
            "perturbations do to these shows in those that are kept."
        )
    if len(confounded):
        summary += (
            f" Edges of {is_confounded.sum()} of {len(perturbations)} perturbations may be those "
            f"of {listed(confounded['column'].unique(), 3)}: they are confounded."
        )
    report = {"table": table, "confounded": confounded, "summary": summary}
    return Bunch(**report, gain=gain, gain_error=error)


def _group(edges, latent, found):
    """Latents that share all target sets of a latent; those without an edge are one group.

    One that was not found in the data is in none.
    """
    having = edges[edges[:, latent]]
    alike = having.all(0) if len(having) else ~edges.any(0) & found
    return np.flatnonzero(alike & found[latent])


def _cover(edges, latent, group):
    """Few perturbations whose targets have only the group in common, chosen greedily."""
    rows, chosen = np.flatnonzero(edges[:, latent]), []
    common = np.ones(edges.shape[1], dtype=bool)
    while len(rows) and common.sum() > len(group):
        best = rows[(edges[rows] & common).sum(1).argmin()]
        chosen.append(best)
        common &= edges[best]
    return chosen


def _summary(table, fdr, gain, error):
    n_latent, n_identified = len(table), int(table["identified"].sum())
    n_silent = int((table["n_perturbations"] == 0).sum())
    silent = table["n_perturbations"] == 0
    n_unstable = int((silent & (table["stability"] < LEAST_STABILITY)).sum())
    counts = {
        "are identified by the edges called at a false discovery rate of {fdr:g}": n_identified,
        "known only as part of a group": n_latent - n_identified - n_silent,
        "without an edge": n_silent,
    }
    parts = [f"{n} {what.format(fdr=fdr)}" for what, n in counts.items()]
    kind = "latent" if n_latent == 1 else "latents"
    first = f"Of {n_latent} {kind}, {', '.join(parts[:2])}, and {parts[2]}"
    hanging = f" ({n_unstable} of these since cells or perturbations do not fix their axes)"
    first += f"{hanging if n_unstable else ''}."
    if gain is None:
        return f"{first} What labels explain beyond a VAE was not measured."
    return (
        f"{first} Labels explain {gain:.2f} nats per cell beyond a VAE (standard error "
        f"{error:.2f})."
    )


def latent_shifts(estimator, A) -> pd.DataFrame:
    """Change of the mean latent state under each design, unseen perturbations included.

    For ``SCCVAE`` it is the change of u, behind the graph: ``penetrance * shift @ inv(I - B)``.
    For models with targets it is the sum of their rows, each times its dosage; on axes that hang
    on single perturbations, or where shifts are not sparse, it is all of the shift, edge or not.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``posterior``.
    A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
        Designs, not cells: a row each; a bare string is one. ValueError for one that is unknown
        and cannot be predicted.

    Returns
    -------
    shifts : DataFrame of shape (n_designs, n_latent)
        A row per design, by label, in units of the latent state.

    Examples
    --------
    >>> from skpert import SCCVAE
    >>> from skpert.datasets import make_causal_shift
    >>> from skpert.inspection import latent_shifts
    >>> screen = make_causal_shift(8, n_cells_per_perturbation=40, n_control_cells=80,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> model = SCCVAE(n_latent=4, features=screen.features, max_epochs=2, random_state=0)
    >>> model = model.fit(screen.X[screen.train], screen.A[screen.train])
    >>> latent_shifts(model, ["P0", "P7", "control"]).shape  # P7 was not seen
    (3, 4)
    """
    check_has_latents(estimator)
    A = [A] if isinstance(A, str) else A
    labels = estimator.design_.labels(A)
    # What shifts a cell is not its expression.
    X = np.ones((len(labels), estimator.n_features_in_))
    if hasattr(estimator, "feature_names_in_"):
        X = pd.DataFrame(X, columns=estimator.feature_names_in_)
    reader = copy.copy(estimator)
    reader.layer = None  # of an AnnData, which X is not
    posterior = reader.posterior(X, A)
    return pd.DataFrame(
        posterior.z - posterior.z_basal,
        index=pd.Index(labels, name="perturbation"),
        columns=estimator.get_feature_names_out(),
    )


def latent_distances(
    estimator, X, A, *, max_cells: int = 500, random_state: int | np.random.RandomState | None = 0
) -> pd.DataFrame:
    """Distance of each perturbation to control, in the latent space and in measured expression.

    A model that captures how strong perturbations are moves those far whose cells are far from
    control. The rank correlation is ``latent_distances(...).corr("spearman")``. For perturbations
    of the training it checks the fit; for others it is a prediction.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``posterior``.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Measured cells, controls among them.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design. A combination is a perturbation of its own.
    max_cells : int, default=500
        Cells of a perturbation, and of controls, that are compared; drawn from more.
    random_state : int, RandomState instance or None, default=0
        Seeds the draws.

    Returns
    -------
    distances : DataFrame of shape (n_perturbations, 3)
        A row per perturbation of A: ``latent``, the length of its row of :func:`latent_shifts`;
        ``expression``, the unbiased squared MMD of its cells to controls (see
        :func:`skpert.metrics.maximum_mean_discrepancy`), about 0 without an effect and NaN for a
        single cell; ``n_cells``, how many were measured.

    Raises
    ------
    ValueError
        If there are not two control cells, a perturbation is unknown and cannot be predicted, or
        ``max_cells`` is below 2.

    Notes
    -----
    Counts are log-normalised to the median of their totals, real values taken as they are. All
    perturbations are compared with one kernel, whose bandwidths follow the mean squared distance
    of two cells of X. In the paper (Liu, Zhang and Uhler, bioRxiv 2025.06.05.657988, Figure 4)
    each comparison has a kernel of its own, which makes large distances look smaller.

    Examples
    --------
    >>> from skpert import SCCVAE
    >>> from skpert.datasets import make_causal_shift
    >>> from skpert.inspection import latent_distances
    >>> screen = make_causal_shift(8, n_cells_per_perturbation=40, n_control_cells=80,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> model = SCCVAE(n_latent=4, features=screen.features, max_epochs=2, random_state=0)
    >>> model = model.fit(screen.X[screen.train], screen.A[screen.train])
    >>> distances = latent_distances(model, screen.X, screen.A)
    >>> distances.columns.tolist(), len(distances)
    (['latent', 'expression', 'n_cells'], 8)
    """
    check_has_latents(estimator)
    if max_cells < 2:
        raise ValueError(f"max_cells must be at least 2, got {max_cells!r}")
    values, _ = on_log_scale(estimator, X, A)
    labels = pd.Series(estimator.design_.labels(A))
    check_consistent_length(values, labels)
    random = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    rows = {name: index.to_numpy() for name, index in labels.groupby(labels).groups.items()}
    controls = rows.pop(str(estimator.control), [])
    if len(controls) < 2 or not rows:
        raise ValueError(
            f"A has {len(controls)} cells of the control {estimator.control!r} and {len(rows)} "
            "perturbations: at least two cells and one perturbation are compared"
        )
    drawn = values[_some(controls, max_cells, random)]
    bandwidths = kernel_bandwidths(values)
    designs = _safe_indexing(A, np.array([index[0] for index in rows.values()]))
    table = pd.DataFrame({"latent": np.linalg.norm(latent_shifts(estimator, designs), axis=1)})
    table["expression"] = [
        maximum_mean_discrepancy(
            values[_some(index, max_cells, random)], drawn, bandwidths=bandwidths
        )
        if len(index) > 1
        else np.nan
        for index in rows.values()
    ]
    table["n_cells"] = list(map(len, rows.values()))
    return table.set_index(pd.Index(list(rows), name="perturbation"))


def on_log_scale(estimator, X, A=None):
    """Real values or log-normalised counts, and the function that puts other cells on their scale.

    Squared distances of counts make no sense.
    """
    counts = getattr(estimator, "likelihood", "normal") not in REAL_VALUED
    values = check_cells(estimator, X, counts=counts, layer=estimator.layer, design=A)
    if not counts:
        return values, lambda cells: cells
    normalise = partial(log_normalised, target_sum=median_library_size(values))
    return normalise(values), normalise


def _some(rows, max_cells, random):
    """All rows, or so many of them."""
    return rows if len(rows) <= max_cells else random.choice(rows, max_cells, replace=False)
