"""What predictions of a split are compared with, and by which metrics."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..metrics import (
    delta_pearson,
    direction_agreement,
    energy_distance,
    maximum_mean_discrepancy,
    perturbation_discrimination,
    response_mse,
    response_weights,
    weighted_mse,
)
from ..metrics.cells import as_logarithms, group_means

CLOSE = 1e-6  # relative difference of a predicted mean from a reference that counts as rounding


class Truth(NamedTuple):
    """Measured test cells of a split and its references, in log-normalised expression."""

    means: pd.DataFrame  # (n_tested, n_genes) of all test cells of each tested perturbation
    cells: dict  # at most `max_cells` of them, by perturbation
    control: np.ndarray  # (n_genes,) mean of training controls
    perturbed: np.ndarray  # (n_genes,) mean of the means of training perturbations
    others: pd.DataFrame  # means of training perturbations that are not tested
    weights: pd.DataFrame | None  # (n_weighted, n_genes) of response_weights
    bandwidths: np.ndarray | None  # of the kernel; None where no two cells differ


class Prediction(NamedTuple):
    """Predicted means and cells of some of the tested perturbations."""

    means: pd.DataFrame  # (n_predicted, n_genes)
    cells: dict  # by perturbation; empty where no metric asks for cells
    intervals: dict = MappingProxyType({})  # bounds and reliability, of those that have them


class Metric(NamedTuple):
    """How a prediction is scored."""

    score: Callable  # of Truth and Prediction; Series by perturbation
    of_cells: bool = False  # whether it compares populations, not means


def label_means(values, labels):
    """Mean expression of the cells of each label, DataFrame."""
    codes, names = pd.factorize(labels, sort=True)
    logarithms = partial(as_logarithms, space="lognorm")
    return pd.DataFrame(group_means(values, codes, len(names), logarithms), index=names)


def screen_weights(values, labels, *, control):
    """Weights of genes, from the cells of perturbations that have a variance."""
    counts = pd.Series(labels).groupby(labels).transform("size").to_numpy()
    kept = np.flatnonzero((counts > 1) | (labels == control))
    read = {"control": control, "sep": None}  # labels were read before
    return response_weights(values[kept], labels[kept], space="lognorm", **read)


def scores(truth, predicted, metrics):
    """Table of the metrics, a row for each tested perturbation, NaN if it was not predicted."""
    columns = {}
    for name in metrics if len(predicted.means) else ():
        columns[name] = METRICS[name].score(truth, predicted)
    return pd.DataFrame(columns, truth.means.index, columns=list(metrics), dtype=np.float64)


def coverage(truth, predicted):
    """Share of genes within the interval, its width, and reliability, by perturbation."""
    rows = {}
    for name, (lower, upper, reliability) in predicted.intervals.items():
        measured = truth.means.loc[name].to_numpy()
        within = (lower <= measured) & (measured <= upper)
        rows[name] = within.mean(), (upper - lower).mean(), reliability
    columns = ["coverage", "interval_width", "reliability"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _mse(truth, predicted):
    return response_mse(_measured(truth, predicted), predicted.means)


def _weighted_mse(truth, predicted):
    names = predicted.means.index.intersection(truth.weights.index)
    if not len(names):
        return pd.Series(dtype=np.float64)
    tables = truth.means, predicted.means, truth.weights
    return weighted_mse(*(table.loc[names] for table in tables))


def _pearson(truth, predicted, *, reference):
    reference = getattr(truth, reference)
    means = _without_rounding(predicted.means, reference)
    correlation = delta_pearson(_measured(truth, predicted), means, reference=reference)
    return correlation.mask((means == reference).all(axis=1), 0.0)


def _direction(truth, predicted, *, column):
    means = _without_rounding(predicted.means, truth.control)
    measured = _measured(truth, predicted)
    return direction_agreement(measured, means, reference=truth.control)[column]


def _discrimination(truth, predicted):
    means = _without_rounding(predicted.means, truth.control)
    candidates = pd.concat([truth.means.drop(means.index), truth.others])
    if len(means) + len(candidates) < 2:
        return pd.Series(np.nan, means.index)
    return perturbation_discrimination(
        _measured(truth, predicted),
        means,
        reference=truth.control,
        candidates=candidates if len(candidates) else None,
    )


def _mmd(truth, predicted):
    distance = partial(maximum_mean_discrepancy, bandwidths=truth.bandwidths)
    return _by_population(truth, predicted, distance=distance)


def _by_population(truth, predicted, *, distance):
    """Distance of predicted from measured cells; NaN for one cell, which has no spread."""
    pairs = {name: (cells, truth.cells[name]) for name, cells in predicted.cells.items()}
    defined = {name: min(x.shape[0], y.shape[0]) > 1 for name, (x, y) in pairs.items()}
    return pd.Series(
        {name: distance(*pair) if defined[name] else np.nan for name, pair in pairs.items()},
        dtype=np.float64,
    )


def _measured(truth, predicted):
    return truth.means.loc[predicted.means.index]


def _without_rounding(means, reference):
    """Means, set to the reference where they differ from it only by rounding, as in float32."""
    close = np.isclose(means, reference, rtol=CLOSE, atol=1e-9)
    return means.mask(close, np.broadcast_to(reference, means.shape))


METRICS = {
    "response_mse": Metric(_mse),
    "weighted_mse": Metric(_weighted_mse),
    "delta_pearson": Metric(partial(_pearson, reference="control")),
    "delta_pearson_perturbed": Metric(partial(_pearson, reference="perturbed")),
    "direction_same": Metric(partial(_direction, column="same")),
    "direction_opposite": Metric(partial(_direction, column="opposite")),
    "perturbation_discrimination": Metric(_discrimination),
    "energy_distance": Metric(partial(_by_population, distance=energy_distance), of_cells=True),
    "maximum_mean_discrepancy": Metric(_mmd, of_cells=True),
}


def check_metrics(metrics):
    """Names of metrics, all of them for None; ValueError for one that is not known."""
    names = list(METRICS) if metrics is None else [metrics] if isinstance(metrics, str) else None
    names = list(dict.fromkeys(metrics)) if names is None else names
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise ValueError(f"unknown metrics {unknown}: known are {list(METRICS)}")
    return names
