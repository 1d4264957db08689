"""Estimators compared on held-out cells, between a floor and a ceiling."""

import warnings
from collections import defaultdict
from numbers import Integral

import pandas as pd
from scipy.stats import t as student
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.parallel import Parallel, delayed

from .._input.values import listed
from ..exceptions import recorded, warn_of_data, warn_once
from ..metrics import calibrate
from ..metrics.calibration import GREATER_IS_BETTER
from ._rounds import Plan, Screen, Split, split_cells, unwrapped
from ._truth import METRICS, check_metrics, coverage, scores

FLOOR, CEILING = "floor (perturbed mean)", "ceiling (split half)"
OTHERS = "floor (other contexts)"


def evaluate_perturbations(
    estimators,
    X,
    A,
    *,
    cv=None,
    space: str,
    metrics: list[str] | None = None,
    n_samples: int | None = None,
    max_cells: int = 500,
    n_jobs: int | None = None,
    random_state=None,
    control="control",
    sep: str | None = "+",
    perturbation: str | None = "perturbation",
    layer: str | None = None,
    context: str | list[str] | None = None,
) -> Bunch:
    """Compare estimators by what they predict for held-out cells of perturbations.

    In each split the estimators are fitted on the training cells and predict the mean expression
    and a population of cells of every test perturbation. Both are compared with the test cells in
    log-normalised expression. Two rows are added: the floor, a prediction that knows no
    perturbation [1]_, and the ceiling, what a replicate of the experiment reaches.

    Parameters
    ----------
    estimators : dict of str to estimator
        Models of perturbations by the name of their row, with ``fit``, ``predict_intervention``
        and ``sample_intervention``; they stay as they are. With counts, those that want
        log-normalised expression go into ``make_pipeline(LogNormalize(), estimator)``.
    X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
        Expression. Sparse stays sparse, but for predicted cells.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Design, as in :func:`skpert.metrics.differential_expression`.
    cv : int, splitter, iterable of (train, test) or None, default=None
        Splits of cells; a splitter is given the labels as ``y``. An int is the number of splits
        of :class:`LeavePerturbationsOut`, None five of them: perturbations that were never seen.
        For seen ones, give a :class:`PerturbationKFold` or ``StratifiedShuffleSplit``.
    space : {"counts", "lognorm"}
        What X holds. Counts, measured and predicted, are log-normalised by one
        ``LogNormalize(target_sum=None)`` of each split, fitted on its training cells. With
        log-normalised values all estimators predict in these units.
    metrics : list of str or None, default=None
        Columns to compute, those of the notes; None: all.
    n_samples : int or None, default=None
        Predicted cells of each perturbation, at least 2. None: for distances as many as were
        measured, and for means of counts ``max_cells``.
    max_cells : int, default=500
        Measured cells of a perturbation that distances use, drawn at random from more, at
        least 2. Means are of all cells. Time grows with its square.
    n_jobs : int or None, default=None
        Number of processes over pairs of estimator and split; None is 1. It changes no result.
    random_state : int, RandomState instance or None, default=None
        Seeds the default splits, all draws of cells, and estimators without ``random_state``.
    control, sep, perturbation, layer : str or None
        As in :func:`skpert.metrics.differential_expression`; ``layer`` holds for estimators too.
    context : str, list of str or None, default=None
        Columns of a design frame that name the context of a cell, such as its donor. Given,
        every context is compared with its own controls, and ``cv=None`` is
        :class:`LeaveContextsOut`: contexts of which only controls were seen.

    Returns
    -------
    result : Bunch
        ``per_perturbation``, a DataFrame with a row for each estimator, split and test
        perturbation (in each context): columns ``estimator``, ``split``, ``perturbation``,
        ``context`` if there is one, ``n_cells`` (measured), and the metrics; NaN where nothing
        could be predicted. Of estimators with ``predict_interval``, such as
        :class:`ConformalIntervals`, also ``coverage``, the share of genes within,
        ``interval_width`` and ``reliability``. ``summary``, a DataFrame of shape
        (n_estimators + 2, n_metrics): the mean over perturbations, each first averaged over
        splits. ``calibrated``, the summary on the scale of :func:`skpert.metrics.calibrate`, 0 at
        the floor and 1 at the ceiling.
        ``floor`` and ``ceiling``, the names of these rows.

    Raises
    ------
    ValueError
        If there are no estimators, one has the name of the floor or ceiling or another
        ``control``, ``sep`` or ``perturbation``, a pipeline has other steps, the space or a
        metric is unknown, a split tests or trains on no perturbation or does both with one cell,
        or an estimator cannot predict a perturbation that it was trained on.
    TypeError
        If an estimator lacks one of the methods.

    Warns
    -----
    DataWarning
        If an estimator raises a ValueError for perturbations that it was not trained on, or if no
        training cell is a control, so that the mean of all training cells is the reference.
        Warnings of estimators are given once.

    See Also
    --------
    paired_differences : Whether one estimator is better than another.
    skpert.plotting.EvaluationDisplay : The result as a figure.

    Notes
    -----
    Metrics are those of :mod:`skpert.metrics`. Lower is better for ``response_mse``,
    ``weighted_mse`` (with ``response_weights`` of the split's cells), ``direction_opposite``,
    ``energy_distance`` and ``maximum_mean_discrepancy``; higher for ``delta_pearson``,
    ``delta_pearson_perturbed``, ``direction_same`` and ``perturbation_discrimination``.

    * The reference of responses is the mean of training controls; for
      ``delta_pearson_perturbed`` it is the mean of training perturbations, each counted once, as
      in Systema [2]_. A prediction that is the reference has no response: its correlation is 0,
      and no gene goes the same or the opposite way.
    * ``perturbation_discrimination`` (cosine) compares a perturbation with all others of the
      screen, by test cells where it is tested and training cells where it is not. The floor of
      unseen perturbations may come out below 0.5, as it is a mean of all but the one asked for.
    * Distances are unbiased, and NaN where one cell was measured. The bandwidths of a split are
      those of its measured test cells and training controls, the same for all estimators.
    * Cells are predicted from training controls, ``sample_intervention(a, n, X=controls)``, of
      which 2,000 are drawn at random where there are more.
    * A pipeline's last step is fitted on, and predicts, expression that the ``LogNormalize`` of
      the split makes, whatever its own target sum.

    The floor is the mean of the training perturbations' means, its cells those of training
    perturbations drawn with equal weight. The ceiling is one random half of the test cells as the
    prediction of the other half. With half of the cells it is conservative: a good prediction of
    the mean may come out above it. With ``context`` the floor is what the perturbation does in the
    other contexts on average, added to the controls of this one, the reference of all responses;
    estimators predict these control cells, ``predict_intervention(a, X=controls)``, and designs
    name the context. Means are over the perturbations that an estimator predicted:
    compare one that cannot predict all by :func:`paired_differences`.

    References
    ----------
    .. [1] Ahlmann-Eltze, Huber and Anders, Deep learning-based predictions of gene perturbation
       effects do not yet outperform simple linear baselines, Nature Methods 2025.
    .. [2] Vinas Torne et al., Systema: a framework for evaluating genetic perturbation response
       prediction beyond systematic variation, Nature Biotechnology 2025.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skpert import ControlMean
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.model_selection import evaluate_perturbations
    >>> from skpert.preprocessing import LogNormalize
    >>> screen = make_sparse_shift(6, n_cells_per_perturbation=20, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> estimators = {"no effect": make_pipeline(LogNormalize(), ControlMean())}
    >>> result = evaluate_perturbations(estimators, screen.X, screen.A, cv=3, space="counts",
    ...                                 metrics=["perturbation_discrimination"], random_state=0)
    >>> result.summary.round(1)
    metric                  perturbation_discrimination
    estimator
    no effect                                       0.5
    ...
    """
    _check_numbers(n_samples, max_cells)
    metrics = check_metrics(metrics)
    screen = Screen(
        X,
        A,
        space=space,
        control=control,
        sep=sep,
        perturbation=perturbation,
        layer=layer,
        context=context,
    )
    _check_estimators(estimators, screen)
    splits = split_cells(cv, screen, random_state)
    plan = Plan(metrics, n_samples, max_cells, check_random_state(random_state).randint(2**31 - 1))
    floor = OTHERS if screen.context else FLOOR
    rows = {**estimators, floor: None, CEILING: None}
    table = _scored(rows, screen, splits, plan, n_jobs)
    summary = _summary(table, metrics).loc[list(rows)]
    calibrated = calibrate(summary, summary.loc[floor], summary.loc[CEILING])
    names = {"floor": floor, "ceiling": CEILING}
    return Bunch(per_perturbation=table, summary=summary, calibrated=calibrated, **names)


def paired_differences(
    per_perturbation: pd.DataFrame, metric: str, reference: str, *, confidence: float = 0.95
) -> pd.DataFrame:
    """Mean difference of each estimator from a reference, over the perturbations of both.

    Perturbations differ much more in how well they can be predicted than estimators do, so compare
    estimators perturbation by perturbation.

    Parameters
    ----------
    per_perturbation : DataFrame
        Of :func:`evaluate_perturbations`.
    metric : str
        Column to compare.
    reference : str
        Estimator to compare with, such as the floor.
    confidence : float, default=0.95
        Level of the interval, in (0, 1).

    Returns
    -------
    differences : DataFrame of shape (n_estimators - 1, 6)
        ``mean`` of estimator minus reference, in units of the metric; its ``standard_error``,
        and ``lower`` and ``upper`` bounds of the t interval; ``share_better``, the share of
        perturbations in which the estimator is better, in the direction of the metric; and
        ``n_perturbations``, how many both predicted. Missing where there are too few.

    Raises
    ------
    ValueError
        If the metric or the reference is not in the table, or the level is not in (0, 1).

    Notes
    -----
    Differences are averaged over splits first; a perturbation in each context is one of its own.
    The interval treats perturbations as independent,
    though those of a split are predicted by one fit: it holds for new perturbations, not for new
    seeds. It is for one comparison; with many estimators some intervals exclude 0 by chance.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.model_selection import paired_differences
    >>> table = pd.DataFrame({"estimator": ["a", "a", "b", "b"], "split": 0,
    ...                       "perturbation": ["JAK2", "SMAD4"] * 2,
    ...                       "response_mse": [1.0, 3.0, 2.0, 5.0]})
    >>> paired_differences(table, "response_mse", "b").round(2).T
    estimator            a
    mean             -1.50
    standard_error    0.50
    lower            -7.85
    upper             4.85
    share_better      1.00
    n_perturbations   2.00
    """
    if metric not in METRICS or metric not in per_perturbation:
        known = [name for name in per_perturbation if name in METRICS]
        raise ValueError(f"the table has no metric {metric!r}: it has {known}")
    names = list(per_perturbation["estimator"].unique())
    if reference not in names:
        raise ValueError(f"no estimator {reference!r}: the table has {names}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
    keys = _units(per_perturbation)
    scored = per_perturbation.pivot(index=[*keys, "split"], columns="estimator", values=metric)
    difference = scored[names].sub(scored[reference], axis=0).drop(columns=reference)
    difference = difference.groupby(level=keys).mean()
    gain = difference if GREATER_IS_BETTER[metric] else -difference
    n, mean, error = difference.count(), difference.mean(), difference.sem()
    width = error * student.ppf((1 + confidence) / 2, (n - 1).where(n > 1))
    return pd.DataFrame(
        {
            "mean": mean,
            "standard_error": error,
            "lower": mean - width,
            "upper": mean + width,
            "share_better": (gain > 0).sum() / n.where(n > 0),
            "n_perturbations": n,
        }
    )


def _scored(rows, screen, splits, plan, n_jobs):
    """Scores of all rows in all splits; every warning is given once."""
    jobs = [
        (name, estimator, screen, index, train, test, plan)
        for name, estimator in rows.items()
        for index, (train, test) in enumerate(splits)
    ]
    found = Parallel(n_jobs=n_jobs)(
        delayed(recorded)(f"{job[0]!r}, split {job[3]}", _evaluate, *job) for job in jobs
    )
    scored, caught = zip(*found, strict=True)
    tables, unknown = zip(*scored, strict=True)
    names = [job[0] for job in jobs]
    warn_once(caught, list(map(repr, names)))
    _warn_of_unknown(names, unknown)
    return pd.concat(tables, ignore_index=True)


def _evaluate(name, estimator, screen, index, train, test, plan):
    """Scores of one row in one split, and what could not be predicted."""
    warnings.filterwarnings("ignore", "X looks like")  # the whole of X was looked at
    split, tables, unknown = Split(screen, index, train, test, plan), [], {}
    fitted = None if estimator is None else split.fitted(name, estimator)
    for part in split.parts():
        truth = part.truth()
        if name == CEILING:
            truth, predicted = part.ceiling(truth)
        elif fitted is None:
            predicted = part.floor(truth)
        else:
            predicted, missing = part.predicted(*fitted)
            unknown |= missing
        table = scores(truth, predicted, plan.metrics)
        if predicted.intervals:
            table = table.join(coverage(truth, predicted))
        about = {"estimator": name, "split": index, "perturbation": table.index}
        about |= {} if part.context is None else {"context": part.context}
        about["n_cells"] = [len(part.tested[label]) for label in table.index]
        for column, value in enumerate(about):
            table.insert(column, value, about[value])
        tables.append(table)
    return pd.concat(tables), unknown


def _warn_of_unknown(names, unknown):
    """One warning for each estimator that cannot predict all perturbations."""
    failed = defaultdict(dict)
    for name, missing in zip(names, unknown, strict=True):
        failed[name].update(missing)
    for name, missing in failed.items():
        if missing:
            warn_of_data(
                f"{name!r} cannot predict {len(missing)} perturbations that it was not trained "
                f"on, whose scores are NaN: {listed(sorted(missing), 10)}. It says: "
                f"{next(iter(missing.values()))}"
            )


def _summary(table, metrics):
    means = table.groupby(["estimator", *_units(table)], sort=False)[metrics].mean()
    return means.groupby(level="estimator", sort=False).mean().rename_axis(columns="metric")


def _units(table):
    """Columns that name what is predicted."""
    return [name for name in ("perturbation", "context") if name in table]


def _check_numbers(n_samples, max_cells):
    for name, value in {"n_samples": n_samples, "max_cells": max_cells}.items():
        missing = value is None and name == "n_samples"
        if not missing and (not isinstance(value, Integral) or value < 2):
            raise ValueError(f"{name} must be an integer of at least 2, got {value!r}")


def _check_estimators(estimators, screen):
    if not isinstance(estimators, dict) or not estimators:
        raise ValueError(f"estimators must be a dict of one or more by name, got {estimators!r}")
    for name, estimator in estimators.items():
        if name in (FLOOR, OTHERS, CEILING):
            raise ValueError(f"{name!r} is the name of a row that is added: choose another")
        unwrapped(name, estimator, screen)
