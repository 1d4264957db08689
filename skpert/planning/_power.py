r"""Power of a screen that is planned, from a pilot.

**Effects on latents.** The judge of edges (:mod:`skpert.sparsity.edges`) is run on tables of
effects that the planned screen may show: true effects drawn given the pilot, with the standard
error :math:`\sigma_k \sqrt{1/n + 1/n_0}` of ``n`` cells and ``n_0`` control cells. Of each table
the judge says from which size :math:`t_k` a value would be called, and the power is that of a
normal value to be beyond it,

.. math:: \Phi\!\left(\frac{d' - t_k}{e}\right) + \Phi\!\left(\frac{-d' - t_k}{e}\right), \qquad
          d' = d \cdot \text{efficacy} \cdot \text{share of responders} \cdot r_k,

averaged over tables, with :math:`r_k` what is left of the effect at less depth.

**Genes.** The log fold change of a gene has the standard error of a mean of negative binomial
counts, :math:`\sqrt{(1/\mu + \phi)(1/n + 1/n_0)}`, and is tested two-sided at the level at which
the false discovery rate is kept if so large a share of genes changes (Jung, Bioinformatics 2005).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.utils import Bunch, check_random_state

from .._input.values import as_list, check_integer, check_number, listed, text
from ..sparsity.edges import edge_probability, edges_at_fdr, null_width, probability_of_values
from ._depth import at_depth
from ._pilot import check_depth, errors, guides_of, read_pilot

N_VALUES = 200  # sizes of an effect among which the threshold of a table is sought
SIZES = np.linspace(0.05, 6.0, N_VALUES)  # in latent units
LEAST_MEAN = 1e-4  # counts of a gene in a control cell


class _Plan(NamedTuple):
    """What the planned screen is like."""

    n_cells: np.ndarray
    n_controls: list
    n_perturbations: int
    efficacy: float
    response: float
    fdr: float
    target: float


def power(
    estimator,
    X,
    A,
    *,
    n_cells=(20, 50, 100, 200, 400),
    effect=(0.25, 0.5, 1.0, 2.0),
    log2_fold_change=(0.5, 1.0, 2.0),
    genes=None,
    n_control_cells=None,
    n_perturbations=None,
    depth=1.0,
    efficacy=1.0,
    response=1.0,
    fdr=0.05,
    target=0.8,
    changed=0.05,
    n_draws=20,
    random_state=None,
) -> Bunch:
    r"""Probability that effects are called in a screen of so many cells per perturbation.

    Parameters
    ----------
    estimator : estimator
        Fitted on a pilot, with ``mask_probability_``, such as ``SVAEPlus``.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Cells of the pilot, counts.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design; a combination is a perturbation of its own.
    n_cells : int or list of int, default=(20, 50, 100, 200, 400)
        Cells per perturbation, 1 or more.
    effect : float or list of float, default=(0.25, 0.5, 1.0, 2.0)
        Sizes of effects on a latent, in standard deviations of the latent, above 0.
    log2_fold_change : float or list of float, default=(0.5, 1.0, 2.0)
        Sizes of changes of a gene, above 0; only with ``genes``.
    genes : str, list of str or None, default=None
        Genes of ``X`` whose power is wanted; positions where genes have no names. None: none.
    n_control_cells : int or None, default=None
        Control cells of the planned screen. None keeps the pilot's ratio to the median number of
        cells per perturbation.
    n_perturbations : int or None, default=None
        Perturbations of the planned screen, of the kinds in the pilot; None: as many as it has.
    depth : float, default=1.0
        Counts per cell over those of the pilot, above 0. Up to 1, counts of the pilot are thinned
        and encoded again. Beyond, the information that the likelihood has of the latent state at
        the larger library says how much less noise hides an effect; not with a zero-inflated
        likelihood. Genes that the pilot did not see stay unseen.
    efficacy : float or array-like of shape (n_guides,), default=1.0
        Share of the effect that a guide has, of each guide among which cells are divided
        equally, in [0, 1], relative to guides of the pilot. A mean of cells sees their mean.
    response : float, default=1.0
        Share of cells that respond, in (0, 1], relative to the pilot's.
    fdr : float, default=0.05
        False discovery rate at which edges and genes are called, strictly between 0 and 1.
    target : float, default=0.8
        Power for ``minimal_effect`` and ``cells_needed``, strictly between 0 and 1.
    changed : float, default=0.05
        Share of all genes that a perturbation changes, strictly between 0 and 1.
    n_draws : int, default=20
        Tables of effects on which the judge is run for each number of cells. The standard error
        of the mean of ``screen`` falls with its root.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws.

    Returns
    -------
    power : Bunch
        ``latents``, a DataFrame with a row per ``latent``, ``n_cells`` and ``effect``: ``power``
        that one further perturbation with this effect alone is called, in [0, 1].
        ``minimal_effect``, a DataFrame of shape (n_latent, n_numbers_of_cells), the smallest
        effect with the power ``target``, up to 6, NaN beyond. ``cells_needed``, of shape
        (n_latent, n_effects), cells per perturbation for it, between the smallest and the largest
        of ``n_cells``; inf if more are needed. ``screen``, a DataFrame with a row per
        ``perturbation``, ``latent`` and ``n_cells``: the pilot's ``effect`` and
        ``probability`` of its edge, and ``power``, the share of draws in which it is called.
        ``genes``, as ``latents`` with ``gene``, ``log2_fold_change`` and ``mean``, expected counts
        in a control cell; None without ``genes``.

    Raises
    ------
    ValueError
        If ``n_cells`` has no number or one below 1, a number is out of range, there are no
        control cells with ``genes``, a gene is missing, the estimator calls no edges, or X and A
        are not as it wants them.

    Notes
    -----
    Axes are taken as known: that a small screen finds them worse than the pilot did, or that a
    large one finds further latents, is not in the power. On axes that hang on single perturbations
    in the pilot nothing is called: in ``screen`` their power is 0, and ``latents`` says what it
    would be on an axis that is stable. :func:`subsample` refits and sees it.
    The further effect takes no part in what the judge learns of sizes: where a planned screen is
    too small for any edge, an effect of any size counts as missed.
    Cells are independent replicates given their perturbation; batches of a small number make
    standard errors larger.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.planning import power
    >>> pilot = make_sparse_shift(12, n_cells_per_perturbation=50, n_control_cells=100,
    ...                           n_latent=3, n_genes=50, n_targets=1, effect_size=2.0,
    ...                           library_size=5000, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=60, random_state=0).fit(pilot.X, pilot.A)
    >>> plan = power(model, pilot.X, pilot.A, n_cells=[5, 200], effect=0.8, random_state=0)
    >>> by_cells = plan.latents.groupby("n_cells")["power"].mean()
    >>> bool(by_cells[5] < 0.5 < by_cells[200])
    True
    """
    efficacy = _check(efficacy, response, fdr, target, changed)
    check_integer(n_draws, "n_draws", 1)
    cells = _numbers(n_cells, "n_cells", integer=True)
    sizes = _numbers(effect, "effect")
    values, labels, pilot = read_pilot(estimator, X, A)
    check_depth(estimator, depth, informative=True)
    n_controls = _controls(pilot, cells, n_control_cells)
    n_rows = len(pilot.names) if n_perturbations is None else n_perturbations
    check_integer(n_rows, "n_perturbations", 1)
    plan = _Plan(cells, n_controls, n_rows, efficacy, response, fdr, target)
    random = check_random_state(random_state).randint(2**31 - 1)
    rng = np.random.default_rng(random)
    ratio, variance = at_depth(estimator, values, labels, pilot, depth, rng)
    thresholds, screen = _judged(pilot, plan, ratio, variance, n_draws, rng)
    found = _of_latents(pilot, plan, ratio, variance, thresholds, sizes)
    of_genes = None
    if genes is not None:
        folds = _numbers(log2_fold_change, "log2_fold_change")
        control = labels == text(estimator.control)
        of_genes = _of_genes(estimator, values[control], genes, folds, plan, depth, changed)
    return Bunch(**found, screen=screen, genes=of_genes)


def _check(efficacy, response, fdr, target, changed):
    """The mean efficacy of the guides, once all are in range."""
    for name, value in [("fdr", fdr), ("target", target), ("changed", changed)]:
        check_number(value, name, 0, 1, "neither")
    check_number(response, "response", 0, 1, "right")
    return float(guides_of(efficacy).mean())


def _numbers(values, name, *, integer=False):
    """Distinct positive numbers, sorted; ValueError that names the first that is none."""
    must = "integers of at least 1" if integer else "positive numbers"
    try:
        values = np.unique(np.atleast_1d(np.asarray(values, dtype=np.float64)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {must}, got {values!r}") from error
    wrong = (values < 1) | (values != np.floor(values)) if integer else values <= 0
    wrong |= ~np.isfinite(values)
    if not len(values) or wrong.any():
        seen = f"{values[wrong][0]:g}" if wrong.any() else "none"
        raise ValueError(f"{name} must be {must}, got {seen}")
    return values.astype(np.int64) if integer else values


def _controls(pilot, cells, n_control_cells):
    """Control cells for each number of cells per perturbation."""
    if n_control_cells is not None:
        check_integer(n_control_cells, "n_control_cells", 1)
        return [int(n_control_cells)] * len(cells)
    ratio = pilot.n_controls / np.median(pilot.n_cells)
    return [max(round(ratio * n), 1) if pilot.n_controls else 0 for n in cells]


def _judged(pilot, plan, ratio, variance, n_draws, rng):
    """Thresholds of each draw, (n_numbers, n_draws, n_latent), and how often edges are called."""
    true = edge_probability(pilot.effect, pilot.standard_error)
    width = null_width(pilot.effect, pilot.standard_error)
    probability = pilot.judged(pilot.effect, pilot.standard_error)
    n = len(pilot.names)
    thresholds = np.empty((len(plan.n_cells), n_draws, len(pilot.latents)))
    parts = []
    for i, (n_cells, n_controls) in enumerate(zip(plan.n_cells, plan.n_controls, strict=True)):
        error = errors(variance, [n_cells] * plan.n_perturbations, n_controls)
        called, times = np.zeros((n, len(pilot.latents))), np.zeros(n)
        for j in range(n_draws):
            rows = _rows(n, plan.n_perturbations, rng)
            truth = pilot.drawn(true, width, rng)[rows]
            seen = truth * ratio * plan.efficacy * plan.response + error * rng.normal(
                size=error.shape
            )
            edges, thresholds[i, j] = _calls(pilot, seen, error, plan.fdr)
            np.add.at(called, rows, edges)
            np.add.at(times, rows, 1)
        parts.append(_screen(pilot, probability, n_cells, called / np.maximum(times, 1)[:, None]))
    return thresholds, pd.concat(parts, ignore_index=True)


def _rows(n_pilot, n_planned, rng):
    """Perturbations of the pilot that the planned ones are like, as evenly as can be."""
    whole, rest = divmod(n_planned, n_pilot)
    return np.concatenate([np.tile(np.arange(n_pilot), whole), rng.permutation(n_pilot)[:rest]])


def _calls(pilot, seen, error, fdr):
    """Edges of a table, and the size from which an additional value is called, per latent."""
    probability = pilot.judged(seen, error)
    known = np.sort(1 - probability, axis=None)
    of_values = np.repeat(error[:1], N_VALUES, axis=0)
    local = 1 - probability_of_values(seen, error, SIZES, of_values)
    total = np.append(0, np.cumsum(known))
    n_before = np.searchsorted(known, local)
    rate = (total[n_before] + local) / (n_before + 1)
    called = (rate <= fdr) & (local <= max(fdr, 0.5))
    first = np.where(called.any(0), SIZES[called.argmax(0)], np.inf)
    return edges_at_fdr(probability, fdr), first


def _screen(pilot, probability, n_cells, called):
    n, n_latent = probability.shape
    return pd.DataFrame(
        {
            "perturbation": np.repeat(pilot.names, n_latent),
            "latent": np.tile(pilot.latents, n),
            "n_cells": n_cells,
            "effect": pilot.effect.ravel(),
            "probability": probability.ravel(),
            "power": called.ravel(),
        }
    )


def _of_latents(pilot, plan, ratio, variance, thresholds, sizes):
    """Tables of power, of minimal effects, and of cells needed."""

    def at(size):
        """Power of an effect of these sizes, (n_numbers, n_latent)."""
        share, mean = plan.response, size * ratio * plan.efficacy
        of_cells = variance + share * (1 - share) * mean**2
        rows = []
        for t, n, n_controls in zip(thresholds, plan.n_cells, plan.n_controls, strict=True):
            e = np.sqrt(of_cells / n + (variance / n_controls if n_controls else 0))
            z = (share * mean - t) / e, (-share * mean - t) / e
            rows.append((norm.cdf(z[0]) + norm.cdf(z[1])).mean(0))
        return np.array(rows)

    latents = pd.Index(pilot.latents, name="latent")
    fine = np.stack([at(size) for size in SIZES])
    # an effect that sampling hides can look like one: power rises with size all the same
    reached = np.maximum.accumulate(fine, axis=0) >= plan.target
    minimal = np.where(reached.any(0), SIZES[reached.argmax(0)], np.nan)
    by_size = np.stack([at(size) for size in sizes])
    keys = pd.MultiIndex.from_product(
        [sizes, plan.n_cells, pilot.latents], names=["effect", "n_cells", "latent"]
    )
    table = pd.DataFrame({"power": by_size.ravel()}, keys).reset_index()
    needed = [[_needed(plan, curve) for curve in of_size.T] for of_size in by_size]
    columns = pd.Index(sizes, name="effect")
    return {
        "latents": table[["latent", "n_cells", "effect", "power"]],
        "minimal_effect": pd.DataFrame(minimal.T, latents, pd.Index(plan.n_cells, name="n_cells")),
        "cells_needed": pd.DataFrame(np.array(needed).T, latents, columns),
    }


def _needed(plan, curve):
    """Cells at which a curve of power reaches the target, on a scale of logarithms."""
    curve = np.maximum.accumulate(curve)
    if curve[-1] < plan.target:
        return np.inf
    i = int((curve >= plan.target).argmax())
    if i == 0:
        return float(plan.n_cells[0])
    logs = np.log(plan.n_cells[i - 1 : i + 1])
    return float(np.ceil(np.exp(np.interp(plan.target, curve[i - 1 : i + 1], logs)) - 1e-9))


def _of_genes(estimator, controls, genes, folds, plan, depth, changed):
    """Power of log fold changes by the negative binomial variance of control cells."""
    if controls.shape[0] < 2 or not all(plan.n_controls):
        raise ValueError("power of genes needs control cells, at least 2 in A")
    wanted = pd.Index(as_list(genes))
    columns = _names(estimator, controls).get_indexer(wanted)
    if (columns < 0).any():
        raise ValueError(
            f"genes has {listed(list(wanted[columns < 0]), 5)}, which the model does not know"
        )
    mean, dispersion = _moments(controls[:, columns], controls)
    mean = np.maximum(mean * depth, LEAST_MEAN)
    rows = []
    for n, n_controls in zip(plan.n_cells, plan.n_controls, strict=True):
        for fold in folds:
            lost = 1 - plan.efficacy * plan.response * (1 - 2.0**-fold)  # of a knock-down
            size = -np.log(lost)
            variance = (1 / (mean * lost) + dispersion) / n + (1 / mean + dispersion) / n_controls
            rows.append(_two_sided(size / np.sqrt(variance), plan.fdr, changed))
    keys = [plan.n_cells, folds, wanted]
    index = pd.MultiIndex.from_product(keys, names=["n_cells", "log2_fold_change", "gene"])
    table = pd.DataFrame({"power": np.concatenate(rows)}, index).reset_index()
    table["mean"] = np.tile(mean, len(plan.n_cells) * len(folds))
    return table[["gene", "mean", "n_cells", "log2_fold_change", "power"]]


def _names(estimator, values):
    known = getattr(estimator, "feature_names_in_", None)
    return pd.Index(np.arange(values.shape[1]) if known is None else known)


def _moments(chosen, controls):
    """Mean counts at the usual library size, and dispersion beyond Poisson, by moments."""
    library = np.asarray(controls.sum(1), dtype=np.float64).ravel()
    factor = np.maximum(library / library.mean(), 1e-6)[:, None]
    counts = chosen.toarray() if hasattr(chosen, "toarray") else np.asarray(chosen)
    counts = counts.astype(np.float64)
    mean = counts.sum(0) / factor.sum()
    square = np.square(counts - factor * mean) - factor * mean
    return mean, np.maximum(square.sum(0) / np.maximum((factor**2).sum() * mean**2, 1e-12), 0)


def _two_sided(signal, fdr, changed):
    """Power of tests of this signal, at the level that keeps the false discovery rate."""

    def level(share):
        """Of each test, if this share of those that changed is found."""
        return min(fdr / (1 - fdr) * changed / (1 - changed) * share, 1.0)

    def found(one):
        def excess(share):
            z = norm.isf(level(share) / 2)
            return norm.cdf(one - z) + norm.cdf(-one - z) - share

        # fewer found need a smaller level, at which fewer are found: the largest share agrees
        grid = np.geomspace(1e-6, 1, 60)
        above = np.flatnonzero([excess(share) >= 0 for share in grid])
        if not len(above) or above[-1] == len(grid) - 1:
            return 1.0 if len(above) else 0.0
        return brentq(excess, grid[above[-1]], grid[above[-1] + 1])

    return np.array([found(one) for one in signal])
