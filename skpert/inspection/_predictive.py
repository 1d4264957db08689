r"""Posterior predictive checks: whether a model makes data like these.

Replicates :math:`x^{(1)}, \ldots, x^{(n)}` of the data :math:`x^{(0)}` are drawn from the model,
each with masks and effects of its own from their posterior. If the model is right, a statistic
:math:`T` of the data lies among those of the replicates as any of them does, so that

.. math:: p = \frac{1 + \#\{k : T(x^{(k)}) \ge T(x^{(0)})\}}{1 + n}

is uniform on held-out cells. A statistic with a value per gene is reduced to one number for each
perturbation in a way that treats the data and all replicates alike, which keeps that true.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control
from sklearn.utils import Bunch, check_random_state

from .._input.parts import parts_of_names
from .._input.values import check_has_latents, check_integer, check_number, listed
from .._prediction import posterior_draw, replicated
from ..metrics.cells import SCALE, log_relative_counts
from ..models.invae import InvariantModule
from ..models.sams import AdditiveModule, ConditionalModule
from ..models.svae import ShiftModule

MAX_ELEMENTS = 2**21  # entries of replicated cells that are held at once
ORDERS = "control", "single", "double", "triple"  # of designs with so many perturbations


def posterior_predictive_check(
    estimator,
    X,
    A,
    statistic=("mean", "variance", "zero_fraction"),
    *,
    cells: str = "new",
    n_replicates: int = 100,
    alternative: str = "two-sided",
    level: float = 0.95,
    random_state: int | np.random.RandomState | None = 0,
) -> Bunch:
    """Compare cells with replicates drawn from a fitted model, perturbation by perturbation.

    In this posterior predictive check [3]_ masks and effects are drawn once for each replicate,
    from their posterior, and are shared by its cells; each cell then gets a latent state and
    expression, under its own design, environment and library size. On held-out cells p-values are
    uniform if the model is right.

    Parameters
    ----------
    estimator : estimator
        Fitted, with latent states: any but the baselines.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Expression, best of cells that the estimator was not fitted to.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design, of perturbations that the estimator can predict.
    statistic : str, callable or list of these, default=("mean", "variance", "zero_fraction")
        What is compared. By name, of each gene over the cells of a perturbation: "mean",
        "variance" and "coefficient_of_variation" [2]_ of its counts per ten thousand;
        "zero_fraction"; and "ate", the average treatment effect: the mean of
        ``log2(1 + 1e4 * x / x.sum())`` minus that of control cells [1]_. With a normal likelihood
        all are of x as it is. A callable gets x of all cells of a perturbation, (n_cells,
        n_genes), and returns a number or a vector. What is not finite counts as NaN: a gene that
        has one anywhere is left out, and a number has no p-value.
    cells : {"new", "same"}, default="new"
        Where latent states come from. "new": their prior under the design, as for cells never
        seen. "same": their posterior given these cells, as scvi-tools' posterior predictive
        samples, which tests the decoder and its noise, and hardly the perturbations. Not for
        ``SCCVAE``.
    n_replicates : int, default=100
        Data sets drawn, at least 2. No p-value is below ``1 / (n_replicates + 1)``, so that one
        perturbation among many is found at a false discovery rate of 0.05 only with 20 times as
        many replicates.
    alternative : {"two-sided", "greater", "less"}, default="two-sided"
        What counts against the model, of numbers that a callable returns: the data far out on
        either side of the replicates, or above, or below them.
    level : float, default=0.95
        Share of replicates between ``lower`` and ``upper``, strictly between 0 and 1.
    random_state : int, RandomState instance or None, default=0
        Seeds the draws.

    Returns
    -------
    check : Bunch
        ``table``, a DataFrame with a row per statistic and perturbation (label, the control
        included): ``n_cells``; ``observed``, the value of the data; ``expected``, the mean of the
        replicates, with the interval from ``lower`` to ``upper`` of these; ``p`` in (0, 1]; and
        ``q``, the smallest false discovery rate at which it is found, among the perturbations.

        A statistic of genes is summed up in one value, which is about 1 if the model is right:
        the root mean square, over genes, of the distance from the mean of the data and all
        replicates, in standard deviations of these; large values have small p. "ate" is the
        Pearson correlation, over genes, with the effect that the model expects; small values
        have small p, and one above ``upper`` says that the effect is larger than the model has
        it.

        ``pooled``, the same for all perturbations together, for single perturbations and, where
        there are any, for combinations: "single", "double"...; "ate" is then one correlation
        over perturbations and genes, the ATE-Pearson of [1]_.

        ``genes``, a DataFrame with a row per statistic, perturbation and gene: ``observed``,
        ``expected``, ``lower``, ``upper`` and ``z``, the difference of the first two in standard
        deviations of replicates.

        ``replicates``, a DataFrame with a row per replicate and a column per row of ``table``.

    Raises
    ------
    ValueError
        If the estimator has no latent states, or none of "same" cells; a perturbation is unknown;
        "ate" lacks control cells or others; or an argument is out of range.

    Notes
    -----
    On the cells that the estimator was fitted to, p-values are too large, as their noise was
    fitted too; with ``cells="same"`` on any. A small one is evidence in any case. A model takes
    the library size of a cell as given, and its replicates vary around it: a callable should look
    at relative counts where totals matter. Masks that were called have the
    probability of each edge as their posterior; effects of ``SVAE`` and ``SVAEPlus`` their
    sampling error if edges were called, and none where masks are learned; ``IVAE``, ``InVAE``,
    ``SCCVAE`` and the networks of all models are point estimates, whose errors count as misfit.
    For ``SCCVAE``, states of new cells are those of control cells of the training.

    Memory holds a minibatch of replicated cells, or all cells of a perturbation for a callable,
    and 4 bytes per replicate, perturbation, gene and statistic.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023, section 5.
    .. [2] ``scvi.criticism`` of scvi-tools: Gayoso et al., A Python library for probabilistic
       analysis of single-cell omics data, Nature Biotechnology 2022.
    .. [3] Gelman, Meng and Stern, Posterior predictive assessment of model fitness via realized
       discrepancies, Statistica Sinica 1996.

    Examples
    --------
    >>> from skpert import SAMSVAE
    >>> from skpert.datasets import make_additive_shift
    >>> from skpert.inspection import posterior_predictive_check
    >>> screen = make_additive_shift(5, n_cells_per_perturbation=60, n_control_cells=60,
    ...                              n_latent=3, n_genes=50, random_state=0)
    >>> model = SAMSVAE(n_latent=3, max_epochs=20, random_state=0)
    >>> model = model.fit(screen.X[::2], screen.A[::2])
    >>> check = posterior_predictive_check(model, screen.X[1::2], screen.A[1::2],
    ...                                    ["zero_fraction", "ate"], n_replicates=40)
    >>> check.table.columns.tolist()[2:]
    ['n_cells', 'observed', 'expected', 'lower', 'upper', 'p', 'q']
    >>> check.pooled["pool"].unique().tolist()
    ['all', 'single']
    """
    check_integer(n_replicates, "n_replicates", 2)
    check_number(level, "level", 0, 1, "neither")
    statistics = _read_statistics(statistic, alternative)
    read = _reader(estimator, cells)
    model = estimator._reaching(A)
    measured = model._check(X, A)
    groups = _Groups.of(model.design_.labels(A), str(getattr(model, "control", "control")))
    if "ate" in statistics and (groups.control is None or len(groups.names) < 2):
        raise ValueError(
            "'ate' compares perturbed cells with control cells: A needs both, and has "
            f"{listed(list(groups.names), 5)}"
        )
    measured = measured.subset(torch.from_numpy(groups.order))
    size = max(MAX_ELEMENTS // measured.n_genes, 2)
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    summary = partial(_summaries, groups=groups, statistics=statistics, counts=model._counts)
    values = [summary(b.x.numpy() for b in measured.minibatches(size, shuffle=False))]
    with model._inference(seed):
        for _ in range(n_replicates):
            drawn = posterior_draw(model.module_)
            values.append(summary(replicated(drawn, measured, size, read)))
    found = {name: _stacked([value[name] for value in values], name) for name in statistics}
    pools = _pools(groups, model)
    table, replicates = _by_group(statistics, found, groups, level)
    genes = getattr(model, "feature_names_in_", np.arange(measured.n_genes))
    return Bunch(
        table=table,
        pooled=_by_pool(statistics, found, pools, level),
        genes=_by_gene(found, groups, genes, level),
        replicates=replicates,
    )


class _Groups(NamedTuple):
    """Cells in the order of their perturbations."""

    names: np.ndarray  # (n_groups,) labels, sorted
    order: np.ndarray  # (n_cells,) rows of the cells
    n_cells: np.ndarray  # (n_groups,)
    ends: np.ndarray  # (n_groups,) where the cells of each end in that order
    control: int | None  # which are the control cells

    @classmethod
    def of(cls, labels, control):
        names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        order, n_cells = np.argsort(codes, kind="stable"), np.bincount(codes)
        names = names.astype(object)  # plain text
        found = np.flatnonzero(names == control)
        return cls(names, order, n_cells, n_cells.cumsum(), int(found[0]) if len(found) else None)

    def parts(self, start, stop):
        """Groups with cells from ``start`` to ``stop``, where each begins, and which end."""
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right")
        index = np.arange(first, last + 1)
        begins = np.maximum(self.ends[index] - self.n_cells[index], start) - start
        return index, begins, self.ends[index] <= stop


class _Statistic(NamedTuple):
    """What is computed of the cells of each group, and how the data are compared in it."""

    value: Callable  # of the sums over the cells of groups, or of all cells of one
    sums: tuple[str, ...] | None  # None: of all cells of one
    compared: Callable | None  # (1 + n, n_groups, n_values) to (1 + n,); None: as fits the values
    alternative: str


def _mean(sums, groups):
    return sums["x"] / groups.n_cells[:, None]


def _variance(sums, groups):
    return np.maximum(sums["square"] / groups.n_cells[:, None] - _mean(sums, groups) ** 2, 0)


def _zero_fraction(sums, groups):
    return sums["zero"] / groups.n_cells[:, None]


def _coefficient_of_variation(sums, groups):
    mean = _mean(sums, groups)
    scale = np.sqrt(_variance(sums, groups))
    return np.divide(scale, mean, out=np.zeros_like(mean), where=mean != 0)


def _effect(sums, groups):
    mean = sums["log"] / np.maximum(sums["counted"], 1)
    return mean - mean[groups.control]


def _departure(values):
    """Root mean square of the distances from the mean of all, in standard deviations, (1 + n,).

    Genes that are the same in all, such as those never seen, do not count.
    """
    square = np.zeros(len(values))
    for group in np.moveaxis(values, 1, 0):
        group = group.astype(np.float64)
        varies = np.ptp(group, axis=0) > 0
        off = group[:, varies] - group[:, varies].mean(0)
        square += np.square(off / off.std(0)).sum(1) / max(varies.sum(), 1)
    return np.sqrt(square / values.shape[1])


def _agreement(values):
    """Pearson correlation of each with the mean of all others, (1 + n,)."""
    total = values.sum(0, dtype=np.float64)
    return np.array([_pearson(one.ravel(), (total - one).ravel()) for one in values])


def _pearson(a, b):
    a, b = a - a.mean(dtype=np.float64), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return a @ b / scale if scale > 0 else 0.0


def _average(values):
    """A number of each group, averaged over them, (1 + n,)."""
    return values[:, :, 0].mean(1, dtype=np.float64)


NAMED = {
    "mean": _Statistic(_mean, ("x",), _departure, "greater"),
    "variance": _Statistic(_variance, ("x", "square"), _departure, "greater"),
    "zero_fraction": _Statistic(_zero_fraction, ("zero",), _departure, "greater"),
    "coefficient_of_variation": _Statistic(
        _coefficient_of_variation, ("x", "square"), _departure, "greater"
    ),
    "ate": _Statistic(_effect, ("log", "counted"), _agreement, "less"),
}
VALUES = "observed", "expected", "lower", "upper", "p"
TAILS = {  # number of replicates at least as far out as the data
    "greater": lambda observed, replicates: (replicates >= observed).sum(),
    "less": lambda observed, replicates: (replicates <= observed).sum(),
}


def _per_cell(x):
    """Counts per ten thousand of each cell."""
    total = x.sum(1, keepdims=True, dtype=np.float64)
    return x * (SCALE / np.where(total > 0, total, 1))


COUNTS = {  # what is summed over cells
    "x": _per_cell,
    "square": lambda x: np.square(_per_cell(x)),
    "zero": lambda x: x == 0,
    "log": lambda x: log_relative_counts(x)[0],
    "counted": lambda x: x.any(1, keepdims=True),
}
REAL_VALUES = COUNTS | {
    "x": np.float64,
    "square": lambda x: np.square(x, dtype=np.float64),
    "log": np.float64,
    "counted": lambda x: np.ones((len(x), 1)),
}


def _read_statistics(statistic, alternative):
    """Statistics by name."""
    if alternative not in ("two-sided", *TAILS):
        raise ValueError(
            f"alternative must be 'two-sided', 'greater' or 'less', got {alternative!r}"
        )
    single = isinstance(statistic, str) or callable(statistic)
    if not single and not isinstance(statistic, Iterable):
        raise ValueError(
            f"statistic must be a name, a function, or a list of these, got {statistic!r}"
        )
    statistics = {}
    for one in [statistic] if single else statistic:
        if callable(one):
            name, found = getattr(one, "__name__", type(one).__name__), None
            found = _Statistic(one, None, None, alternative)
        elif isinstance(one, str) and one in NAMED:
            name, found = one, NAMED[one]
        else:
            raise ValueError(
                f"statistic {one!r} is neither callable nor one of {listed(list(NAMED), 9)}"
            )
        if name in statistics:
            raise ValueError(
                f"two statistics have the name {name!r}: give functions names of their own"
            )
        statistics[name] = found
    if not statistics:
        raise ValueError("statistic is empty: give at least one, such as 'mean'")
    return statistics


def _of_state(module, z, cells):
    return module.decoder(z, cells.library, cells.environment)


def _of_state_and_design(module, z, cells):
    return module.intervene(z, cells)


READERS = {  # expression of a state of the guide
    ShiftModule: _of_state,
    AdditiveModule: _of_state,
    InvariantModule: _of_state,
    ConditionalModule: _of_state_and_design,
}


def _reader(estimator, cells):
    """What makes expression of the states of the same cells; None for new cells."""
    check_has_latents(estimator)
    if cells not in ("new", "same"):
        raise ValueError(f"cells must be 'new' or 'same', got {cells!r}")
    if cells == "new":
        return None
    if type(estimator.module_) not in READERS:
        name = type(estimator).__name__
        raise ValueError(f"{name} does not draw the states of the same cells: give cells='new'")
    return READERS[type(estimator.module_)]


def _summaries(batches, *, groups, statistics, counts):
    """Values of each statistic for each group, from cells in the order of these."""
    transforms = COUNTS if counts else REAL_VALUES
    whole = {name: kind.value for name, kind in statistics.items() if kind.sums is None}
    needed = dict.fromkeys(s for kind in statistics.values() for s in kind.sums or ())
    sums, held, start = {}, [], 0
    found = {name: [] for name in whole}
    for x in batches:
        index, begins, ends = groups.parts(start, start + len(x))
        start += len(x)
        for key in needed:
            of_batch = np.add.reduceat(transforms[key](x), begins, axis=0, dtype=np.float64)
            sums.setdefault(key, np.zeros((len(groups.names), of_batch.shape[1])))
            sums[key][index] += of_batch
        for cells in _complete(held, np.split(x, begins[1:]), ends) if whole else ():
            for name, value in whole.items():
                found[name].append(_numbers(value(cells), name))
    kinds = statistics.items()
    named = {name: kind.value(sums, groups) for name, kind in kinds if kind.sums is not None}
    return found | {name: value.astype(np.float32) for name, value in named.items()}


def _numbers(value, name):
    """What a callable returned, as numbers that are finite or NaN."""
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"statistic {name!r} must return numbers: {error}") from error
    if not numbers.size:
        raise ValueError(f"statistic {name!r} returned an empty array")
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _complete(held, parts, ends):
    """All cells of each group that ends with its part; those of others are held until it does."""
    for rows, last in zip(parts, ends, strict=True):
        held.append(rows)
        if last:
            yield np.concatenate(held)
            held.clear()


def _stacked(values, name):
    """Values of the data and of the replicates, (1 + n, n_groups, n_values)."""
    shapes = {np.shape(one) for value in values for one in value}
    if len(shapes) > 1 or len(next(iter(shapes))) > 1:
        raise ValueError(
            f"statistic {name!r} must return a number or a vector, always of the same length; "
            f"it returned arrays of the shapes {listed(sorted(shapes), 3)}"
        )
    return np.stack(values).reshape(len(values), len(values[0]), -1)


def _comparison(kind, values):
    """How these values are compared."""
    if kind.compared is not None:
        return kind.compared, kind.alternative
    return (_average, kind.alternative) if values.shape[2] == 1 else (_departure, "greater")


def _pools(groups, estimator):
    """Groups that are taken together, by name; covariates are no combinations."""
    treated = [i for i in range(len(groups.names)) if i != groups.control]
    pools = {"all": treated} if treated else {}
    if not hasattr(estimator.design_, "sep"):
        return pools
    parts = parts_of_names(list(groups.names[treated]), estimator.design_.sep)
    for n_parts in sorted({len(of) for of in parts.values()}):
        name = ORDERS[n_parts] if n_parts < len(ORDERS) else f"{n_parts} perturbations"
        pools[name] = [i for i in treated if len(parts[groups.names[i]]) == n_parts]
    return pools


def _row(values, alternative, level):
    """The data among their replicates."""
    observed, replicates = values[0], values[1:]
    tail = (1 - level) / 2
    lower, upper = np.quantile(replicates, [tail, 1 - tail])
    sides = TAILS if alternative == "two-sided" else [alternative]
    p = min((1 + TAILS[side](observed, replicates)) / len(values) for side in sides)
    p = min(len(sides) * p, 1.0) if np.isfinite(values).all() else np.nan
    return dict(zip(VALUES, (observed, replicates.mean(), lower, upper, p), strict=True))


def _by_group(statistics, found, groups, level):
    """Rows of perturbations, with q-values, and what the replicates had there."""
    tables, replicates = [], {}
    for name, kind in statistics.items():
        compared, alternative = _comparison(kind, found[name])
        rows = []
        for i, group in enumerate(groups.names):
            if name == "ate" and i == groups.control:
                continue
            values = compared(found[name][:, [i]])
            replicates[name, group] = values[1:]
            row = {"statistic": name, "perturbation": group, "n_cells": groups.n_cells[i]}
            rows.append(row | _row(values, alternative, level))
        table = pd.DataFrame(rows)
        known = table["p"].notna()
        table.loc[known, "q"] = false_discovery_control(table.loc[known, "p"])
        tables.append(table)
    replicates = pd.DataFrame(replicates)
    replicates.columns.names = ["statistic", "perturbation"]
    return pd.concat(tables, ignore_index=True), replicates


def _by_pool(statistics, found, pools, level):
    rows = []
    for name, kind in statistics.items():
        compared, alternative = _comparison(kind, found[name])
        for pool, members in pools.items():
            row = {"statistic": name, "pool": pool, "n_perturbations": len(members)}
            rows.append(row | _row(compared(found[name][:, members]), alternative, level))
    columns = ["statistic", "pool", "n_perturbations", *VALUES]
    return pd.DataFrame(rows, columns=columns)


def _by_gene(found, groups, genes, level):
    """Rows of genes, of statistics that have a value for each."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    parts = []
    for name, values in found.items():
        if values.shape[2] != len(genes):
            continue
        for i, group in enumerate(groups.names):
            observed, replicates = values[0, i].astype(np.float64), values[1:, i]
            expected, scale = (f(replicates, axis=0, dtype=np.float64) for f in (np.mean, np.std))
            lower, upper = np.quantile(replicates, tails, axis=0)
            off = observed - expected
            row = {"statistic": name, "perturbation": group, "gene": genes, "observed": observed}
            row |= {"expected": expected, "lower": lower, "upper": upper}
            row |= {"z": np.divide(off, scale, out=np.full_like(off, np.nan), where=scale > 0)}
            parts.append(pd.DataFrame(row))
    columns = ["statistic", "perturbation", "gene", "observed", "expected", "lower", "upper", "z"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
