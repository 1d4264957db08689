r"""Which guides work: a mixture of dead and living ones over the guides of each gene.

The share :math:`u` of its gene's expression that a guide takes away (less one over the fold
change, of an activated gene) is zero for a dead guide; those of living guides of one gene are
alike, :math:`u \sim \mathcal N(m, s^2)`. Counts of the gene say how likely each :math:`u` is (the
quasi-likelihood of :mod:`skpert.inspection._pseudobulk`, with this screen's own null). :math:`m`
and :math:`s` are summed over, under a distribution that all genes of the screen have in common,
so that no guide of few cells is taken by itself. Where the gene is not measured the witness is
the shift of the latent state along that of the other guides of the gene: about 0 for a dead
guide, and about 1, that of its siblings, for a living one.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import softmax, xlogy
from scipy.stats import chi2, false_discovery_control, norm
from sklearn.utils import Bunch

from .._input.expression import check_same_cells, of_each_cell
from .._input.values import as_list, check_has_latents, check_number, listed, text
from ._direct import LEAST_NULLS, Conditions, gene_names, of_conditions, target_genes

SHARES = np.linspace(-0.995, 0.995, 399)  # lost (negative) or gained
FOLDS = np.where(SHARES < 0, np.log1p(np.minimum(SHARES, 0)), -np.log1p(-np.maximum(SHARES, 0)))
ZERO = len(SHARES) // 2
MEANS = np.linspace(-1, 1, 81)  # of living guides of a gene
USUAL_MEAN = -0.6  # worth one gene
SPREADS = np.array([0.05, 0.1, 0.2])  # among living guides
DEAD_SHARE, DEAD_WEIGHT = 0.25, 100.0  # of guides, before any is seen; worth so many guides
SIBLING_SPREAD = 0.5  # of latent shifts of living guides, over that of their siblings
SEEN = 0.01  # p-value below which the siblings of a guide move the latent state
N_STEPS = 10  # of EM
MIN_EXPECTED = 5.0  # counts of a gene in a guide's cells, to take part in the null
LEAST = 0.25  # efficacy of a guide that works
LIKELY_DEAD = 1 / 3  # probability to be dead, beside siblings that work
RELATIVE = 0.5  # efficacy of a guide that works, over that of its gene's living guides


def guide_efficacy(
    estimator,
    X,
    A,
    guides,
    *,
    nulls: str | list[str] | None = None,
    batch=None,
    fdr: float = 0.05,
    level: float = 0.95,
) -> pd.DataFrame:
    """How far each guide moves its cells along the effect of its gene, and whether it works.

    Parameters
    ----------
    estimator : estimator
        Fitted on genes or on guides, with ``transform``, ``posterior`` and
        ``predict_intervention``.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells of training, or others.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design as the estimator knows it. It names genes and ``guides`` the guide of each
        cell, or it names guides and ``guides`` is a table.
    guides : str, array-like of shape (n_cells,), mapping or Series
        Guide of each cell, or its column in A: the label in A is the gene. Or the gene of each
        guide, as a mapping or a Series with guides as its index: labels in A are the guides.
        Guides of the control label, or not in the table, are non-targeting.
    nulls : str or list of str, default=None
        Genes in ``guides`` or A that stand for non-targeting guides, beside the control label.
    batch : str or array-like of shape (n_cells,), default=None
        As in :func:`skpert.inspection.direct_effects`.
    fdr : float, default=0.05
        False discovery rate at which a guide has another effect than its siblings, in [0, 1].
    level : float, default=0.95
        Coverage of the intervals, strictly between 0 and 1.

    Returns
    -------
    efficacy : DataFrame of shape (n_guides, 13)
        A row per ``guide``, sorted by ``gene``, then by guide; ``n_cells``. ``efficacy`` is the
        share of the gene's expression that the guide takes away where that is measured (of an
        activated gene, one less the inverse fold change), in [-1, 1]; else the shift of the
        latent state along that of its siblings, 1 for one as large as theirs. It is the mean of
        the posterior, ``lower`` and ``upper`` the ends of its interval, ``evidence`` which of the
        two it is: "expression", "latents" or None. ``probability_dead`` is that of no effect
        at all; ``log2_fold_change`` of the gene itself, ``latent_shift`` along the siblings' and
        its ``latent_error``, each by itself and not shrunk, NaN where unknown; ``q_shift``, the
        smallest ``fdr`` at which the guide moves the latent state at all; ``verdict``: "works";
        "weak", for an efficacy below 0.25 or below half of that of the gene's living guides, or
        whose interval holds 0; "dead", if having no effect is more probable than not, or has a
        probability of a third beside siblings that have one; neither of the two if the guide
        moves the latent state at least half as far as its siblings, as a knock-out may leave the
        RNA of its gene; "differs", for a guide that moves the latent state, and less along its
        siblings' shift than away from it; "unknown", where the gene is not measured and no guide
        of it moves the latent state.
        A non-targeting guide is "dead", or "differs".

    Raises
    ------
    ValueError
        If lengths differ, a guide has two genes, no guide is targeting, or a number is out of
        range.

    Notes
    -----
    Control cells and those of non-targeting guides are the reference, and how non-targeting
    guides differ, in expression and in latent state, is the null. With fewer than five of these
    it is, in expression, what most guides do; in latent state, without any, what the quarter
    does that moves a latent least. The effect on the gene itself is that of
    :func:`skpert.inspection.direct_effects`.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import guide_efficacy
    >>> screen = make_sparse_shift(10, n_cells_per_perturbation=120, n_control_cells=200,
    ...                            n_latent=3, n_genes=50, n_targets=1, effect_size=2.0,
    ...                            library_size=5000, random_state=0)
    >>> random, A = np.random.default_rng(0), screen.A.copy()
    >>> guide = A + np.char.add("_", random.integers(1, 4, len(A)).astype(str))
    >>> dead = guide == "P3_2"  # its cells are control cells
    >>> screen.X[dead] = random.poisson(screen.rate(random.normal(size=(dead.sum(), 3))))
    >>> model = SVAEPlus(n_latent=3, max_epochs=30, random_state=0).fit(screen.X, A)
    >>> table = guide_efficacy(model, screen.X, A, guide).set_index("guide")
    >>> table.loc[["P3_1", "P3_2", "P3_3"], "verdict"].tolist()
    ['works', 'dead', 'works']
    """
    check_has_latents(estimator)
    check_number(fdr, "fdr", 0, 1, "both")
    check_number(level, "level", 0, 1, "neither")
    conditions, genes = _read(estimator, X, A, guides, nulls)
    measured = gene_names(estimator, X)
    of_guide = dict(zip(conditions.names, genes, strict=True))
    own = target_genes(conditions.names, measured, of_guide, estimator.design_)
    found = of_conditions(estimator, X, A, conditions, own, batch, MIN_EXPECTED)
    shift = _shifts(estimator.transform(X), found, conditions, genes)
    rows = np.flatnonzero(~conditions.control)
    expression = _of_expression(found, own)
    belief = _believe(expression, shift, genes, rows, conditions.null)
    table = _table(conditions, genes, rows, found, own, expression, shift, belief, level)
    table["verdict"] = _verdicts(table, shift, rows, belief, conditions.null, fdr)
    return table.sort_values(["gene", "guide"], kind="stable").reset_index(drop=True)


def _read(estimator, X, A, guides, nulls):
    """Conditions, one per guide, and the gene of each; None for the control."""
    check_same_cells(X, A)
    labels = np.asarray(estimator.design_.labels(A), dtype=object)
    untargeted = {text(estimator.control), *map(text, as_list(nulls))}
    is_table = isinstance(guides, Mapping) or (
        isinstance(guides, pd.Series) and len(guides) != len(labels)
    )
    if is_table:
        gene_of = {text(guide): text(gene) for guide, gene in guides.items()}
        guide, gene = labels, [gene_of.get(name, text(estimator.control)) for name in labels]
        gene = np.array(gene, dtype=object)
        if not set(gene_of) & set(labels):
            given = listed(list(gene_of), 3) or "nothing"
            raise ValueError(
                f"guides is a table of {given}, none of which is a label in A, such as "
                f"{listed(list(pd.unique(labels)), 3)}"
            )
    else:
        guide, gene = _guide_of_each(A, guides, len(labels)), labels
    codes, names = pd.factorize(guide, sort=True)
    names = np.asarray(names, dtype=object)
    pairs = pd.DataFrame({"guide": codes, "gene": gene}).drop_duplicates()
    twice = pairs["guide"][pairs["guide"].duplicated()]
    if len(twice):
        name = names[twice.iloc[0]]
        both = pairs.loc[pairs["guide"] == twice.iloc[0], "gene"].tolist()
        raise ValueError(f"guide {name!r} has cells of several genes in A: {listed(both, 5)}")
    genes = pairs.set_index("guide")["gene"].sort_index().to_numpy()
    control = names == text(estimator.control)
    null = np.isin(genes, list(untargeted)) & ~control
    if (control | null).all():
        raise ValueError("no guide in A targets a gene: all are the control or non-targeting")
    return Conditions(names, codes, control, null), genes


def _guide_of_each(A, guides, n_cells):
    """Guide of each cell as text."""
    values = pd.Series(of_each_cell(guides, A, n_cells, "guides"))
    if values.isna().any():
        raise ValueError(
            f"{values.isna().sum()} of {n_cells} cells have no guide: leave them out, or give "
            "them a label of their own"
        )
    return values.map(text).to_numpy(dtype=object)


def _shifts(Z, found, conditions, genes):
    """Shift of the latent state of each guide, and what it is along that of its siblings."""
    codes, reference = found.codes, found.reference
    Z, n = np.asarray(Z, dtype=np.float64), np.bincount(codes, minlength=len(found.names))
    means = pd.DataFrame(Z).groupby(codes).mean().to_numpy()
    centred = Z - means[codes]
    values, axes = np.linalg.eigh(centred.T @ centred / len(Z))
    used = values > 1e-6 * max(values.max(initial=0), 1e-300)
    d = (means - Z[reference].mean(0)) @ (axes[:, used] / np.sqrt(values[used]))
    variance = (1 / n + 1 / reference.sum())[:, None]
    variance = variance + _spread_of_null(d**2, variance, conditions.null, found.treated)
    size = (d**2 / variance).sum(1)
    q = np.full(len(n), np.nan)
    p = _shift_p(size, size[conditions.null], d.shape[1])
    q[found.treated] = false_discovery_control(p[found.treated])
    along = np.full((len(n), 3), np.nan)
    for i in np.flatnonzero(found.treated):
        siblings = (genes == genes[i]) & found.treated & (np.arange(len(n)) != i)
        if siblings.any():
            along[i] = _along_siblings(d[i], variance[i], d[siblings], variance[siblings])
    share, error, away = along.T
    return Bunch(share=share, error=error, away=away, q=q)


def _along_siblings(d, variance, siblings, variances):
    """Share of the siblings' shift that a guide has, its error, and what is away from it.

    NaN where the siblings do not move the latent state.
    """
    weight = 1 / variances
    mean, error = (weight * siblings).sum(0) / weight.sum(0), 1 / weight.sum(0)
    length = (mean**2 / variance).sum()
    size = length - (error / variance).sum()  # without what noise adds
    if size <= 0 or chi2.sf((mean**2 / error).sum(), len(d)) > SEEN:
        return np.nan, np.nan, np.nan
    share = (d * mean / variance).sum() / size
    rest = ((d - share * mean) ** 2 / variance).sum()
    return share, np.sqrt(length) / size, np.sqrt(rest / length) / max(share, 1e-12)


def _spread_of_null(square, variance, null, treated):
    """Variance of the latent state between guides that do nothing, beyond that of sampling.

    Without such guides it is that of the quarter that moves a latent least.
    """
    if null.any():
        excess = (square - variance)[null].sum(0) / (null.sum() + LEAST_NULLS)
    else:
        excess = np.quantile(square[treated], 0.25, axis=0) / chi2.ppf(0.25, 1)
        excess = excess - variance[treated].mean()
    return np.maximum(excess, 0)


def _shift_p(size, null, n_used):
    """P-values of squared lengths, by the scaled chi-square of the null's mean and variance."""
    if not n_used:  # cells of a guide do not vary, or it has a single one
        return np.ones(len(size))
    if len(null) < LEAST_NULLS:
        return chi2.sf(size, n_used)
    df = np.clip(2 * null.mean() ** 2 / max(null.var(ddof=1), 1e-12), 1, n_used)
    return chi2.sf(size * df / max(null.mean(), n_used), df)


def _of_expression(found, own):
    """Log-likelihood of each fold change of the guide's gene, (n_guides, n_folds), or None."""
    rows = [np.flatnonzero(mine) for mine in own]
    values = [None] * len(rows)
    for i, genes in enumerate(rows):
        if not found.treated[i] or not len(genes):
            continue
        j, left = genes[0], found.left
        if not found.counts:
            deviance = ((left.effect[i, j] - FOLDS) / left.standard_error[i, j]) ** 2
            values[i] = (deviance.min() - deviance) / 2
            continue
        x, a = found.observed[i, j], left.noise[i, j]
        size = a / max(left.extra[i, j], 1e-9)
        mean = left.mean[i, j] * np.exp(FOLDS)
        deviance = xlogy(x, x / mean) - (x + size) * np.log1p((x - mean) / (mean + size))
        values[i] = (deviance.min() - deviance) / a
    return values


def _believe(expression, shift, genes, rows, null):
    """Posterior of each guide: whether it is dead, and its fold change or latent shift."""
    kernel = norm.pdf(SHARES, MEANS[:, None, None], SPREADS[:, None]).reshape(-1, len(SHARES))
    kernel /= kernel.sum(1, keepdims=True)
    witnesses = [_witness(expression[i], shift, i, kernel) for i in range(len(genes))]
    targeting = [i for i in rows if not null[i] and witnesses[i].known]
    groups = pd.Series(targeting).groupby([genes[i] for i in targeting]).apply(list)
    share, prior = DEAD_SHARE, np.full(len(kernel), 1 / len(kernel))
    for _ in range(N_STEPS):
        found = [_of_gene([witnesses[i] for i in group], share, prior, kernel) for group in groups]
        n_dead = sum(part.dead.sum() for part in found)
        share = (n_dead + DEAD_WEIGHT * DEAD_SHARE) / (len(targeting) + DEAD_WEIGHT)
        prior = _prior([part.weight for part in found if any(f is not None for f in part.fold)])
    belief = {}
    for group, part in zip(groups, found, strict=True):
        for k, i in enumerate(group):
            belief[i] = Bunch(dead=part.dead[k], fold=part.fold[k], mean=part.mean)
    return belief


def _witness(likelihood, shift, i, kernel):
    """Log-likelihood of a guide if it is dead, and if it is alive under each mean and spread."""
    share, error = shift.share[i], shift.error[i]
    dead, alive = 0.0, np.zeros(len(kernel))
    if likelihood is not None:
        dead, alive = likelihood[ZERO], np.log(np.maximum(kernel @ np.exp(likelihood), 1e-300))
    elif not np.isnan(share):
        dead = norm.logpdf(share, 0, error)
        alive = alive + norm.logpdf(share, 1, np.hypot(error, SIBLING_SPREAD))
    known = likelihood is not None or not np.isnan(share)
    return Bunch(dead=dead, alive=alive, known=known, likelihood=likelihood)


def _prior(weights):
    """Of means and spreads of living guides, from their posteriors for each gene."""
    n_spreads = len(SPREADS)
    total = np.sum([np.zeros(len(MEANS) * n_spreads), *weights], axis=0)
    by_mean = total.reshape(-1, n_spreads).sum(1)
    n = by_mean.sum()
    centre = (by_mean @ MEANS + USUAL_MEAN) / (n + 1)
    variance = (by_mean @ (MEANS - centre) ** 2 + 0.1) / (n + 1)
    of_mean = softmax(-((MEANS - centre) ** 2) / (2 * variance))
    of_spread = (total.reshape(-1, n_spreads).sum(0) + 1) / (n + n_spreads)
    return np.outer(of_mean, of_spread).ravel()


def _of_gene(witnesses, dead_share, prior, kernel):
    """Posterior of the guides of one gene."""
    dead = np.array([w.dead for w in witnesses])[:, None] + np.log(dead_share)
    alive = np.array([w.alive for w in witnesses]) + np.log1p(-dead_share)
    both = np.logaddexp(dead, alive)
    weight = softmax(both.sum(0) + np.log(prior))  # of each mean and spread
    living = np.exp(alive - both) * weight  # (n_guides, n_kernels)
    fold = []
    for w, mine, of_dead in zip(witnesses, living, 1 - living.sum(1), strict=True):
        if w.likelihood is None:
            fold.append(None)
            continue
        likelihood = np.exp(w.likelihood)
        posterior = (mine / np.maximum(kernel @ likelihood, 1e-300)) @ kernel * likelihood
        posterior[ZERO] += of_dead
        fold.append(posterior / posterior.sum())
    mean = float(weight @ np.repeat(MEANS, len(SPREADS)))
    dead = np.clip(1 - living.sum(1), 0, 1)
    return Bunch(dead=dead, fold=fold, mean=mean, weight=weight)


def _table(conditions, genes, rows, found, own, expression, shift, belief, level):
    """All columns but the verdict."""
    n_cells = np.bincount(found.codes, minlength=len(genes))
    table = []
    for i in rows:
        j = np.flatnonzero(own[i])[:1]
        unit = np.log(2) if found.counts else 1.0
        evidence, value = None, (np.nan,) * 3
        if i in belief and belief[i].fold is not None:
            evidence, value = "expression", _lost(belief[i], level)
        elif not np.isnan(shift.share[i]):
            evidence = "latents"
            value = _along(shift.share[i], shift.error[i], belief.get(i), level)
        table.append(
            {
                "guide": conditions.names[i],
                "gene": genes[i],
                "n_cells": n_cells[i],
                "efficacy": value[0],
                "lower": value[1],
                "upper": value[2],
                "evidence": evidence,
                "probability_dead": belief[i].dead if i in belief else np.nan,
                "log2_fold_change": found.left.effect[i, j[0]] / unit if len(j) else np.nan,
                "latent_shift": shift.share[i],
                "latent_error": shift.error[i],
                "q_shift": shift.q[i],
            }
        )
    return pd.DataFrame(table)


def _lost(belief, level):
    """Mean and interval of the share of expression that is lost; gained, if living guides do."""
    share = SHARES if belief.mean > 0 else -SHARES + 0.0  # no -0
    return (belief.fold @ share, *_quantiles(share, belief.fold, level))


def _along(share, error, belief, level):
    """Mean and interval of the latent shift, over that of its siblings."""
    values = np.linspace(-2, 4, 601)
    alive = norm.pdf(values, 1, SIBLING_SPREAD) * norm.pdf(values, share, error)
    alive /= max(alive.sum(), 1e-300)
    dead = 0.0 if belief is None else belief.dead
    posterior = (1 - dead) * alive
    posterior[np.abs(values).argmin()] += dead
    return (values @ posterior, *_quantiles(values, posterior, level))


def _quantiles(values, weight, level):
    order = np.argsort(values)
    below = np.cumsum(weight[order])
    ends = np.searchsorted(below, [(1 - level) / 2, (1 + level) / 2])
    return values[order][np.minimum(ends, len(values) - 1)]


def _verdicts(table, shift, rows, belief, null, fdr):
    """One word for each guide."""
    probability = table["probability_dead"].to_numpy()
    living = table["efficacy"].where((probability < LIKELY_DEAD) & ~null[rows])
    usual = living.groupby(table["gene"]).transform("median").to_numpy()  # NaN if none lives
    dead = (probability > np.where(usual >= LEAST, LIKELY_DEAD, 0.5)) & ~(usual < LEAST)
    moves = shift.q[rows] <= fdr
    away = moves & (shift.away[rows] > 1)
    by_expression = (table["evidence"] == "expression").to_numpy()
    seen = table["evidence"].notna().to_numpy()
    enough = (table["efficacy"] >= LEAST) & (table["efficacy"] >= RELATIVE * usual)
    along = shift.share[rows] - norm.isf(0.025) * shift.error[rows]
    follows = moves & (along >= RELATIVE)
    works = (enough & (table["lower"] > 0)).to_numpy() | follows
    alone = table["gene"].map(table["gene"].value_counts()).to_numpy() == 1
    choices = [
        (null[rows] & moves, "differs"),
        (null[rows] | (by_expression & dead & ~follows), "dead"),
        (seen & away, "differs"),
        (seen & dead & ~follows, "dead"),
        (seen & works, "works"),
        (seen, "weak"),
        (alone & moves, "works"),
        (moves, "differs"),
    ]
    conditions, words = zip(*choices, strict=True)
    return np.select(conditions, words, "unknown")
