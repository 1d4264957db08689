"""Which way metrics improve, and scores from a useless prediction to a replicate."""

from typing import Any

import numpy as np
import pandas as pd

GREATER_IS_BETTER = {
    "response_mse": False,
    "weighted_mse": False,
    "delta_pearson": True,
    "delta_pearson_perturbed": True,
    "direction_same": True,
    "direction_opposite": False,
    "perturbation_discrimination": True,
    "energy_distance": False,
    "maximum_mean_discrepancy": False,
}


def calibrate(value, floor, ceiling) -> Any:
    """Score between a floor, which becomes 0, and a ceiling, which becomes 1; higher is better.

    ``(value - floor) / (ceiling - floor)`` makes scores of different metrics and screens
    comparable. The floor is what a prediction without knowledge of the perturbation reaches, such
    as the mean of all perturbed cells; the ceiling is what the experiment itself reaches, such as
    one half of its cells predicting the other half [1]_. Either direction will do: of an error,
    the floor is larger.

    The result is not clipped. Below 0 is worse than the floor, above 1 better than the replicate,
    which is noisy too. Clipping at 0 would let a prediction be arbitrarily wrong by one metric to
    gain by another, which participants of a public challenge have exploited.

    Where floor and ceiling are close, the ratio is mostly noise and dominates a mean over
    perturbations: average the three scores first, or look at medians.

    Parameters
    ----------
    value, floor, ceiling : float, array-like, Series or DataFrame
        Scores of a prediction, such as one per perturbation, of a prediction without knowledge,
        and of a replicate, by the same metric on the same cells.

    Returns
    -------
    score : float, ndarray, Series or DataFrame
        Without unit or bounds; NaN where a score is NaN or floor and ceiling are equal. Series and
        DataFrames are matched by their labels, in whatever order, and give a result with labels; a
        Series beside a DataFrame is matched with its columns, one score per metric. Everything
        else is broadcast as arrays are.

    Raises
    ------
    ValueError
        If labels differ or are given twice in different orders, or shapes do not broadcast.

    References
    ----------
    .. [1] Arc Institute, cell-eval2, metrics of the Virtual Cell Challenge 2026, where the floor
       is the mean response.

    Examples
    --------
    >>> from skpert.metrics import calibrate
    >>> calibrate(0.75, floor=0.5, ceiling=1.0)
    0.5
    >>> calibrate([0.25, 0.75, 1.25], floor=1.0, ceiling=0.5)  # an error, lower is better
    array([ 1.5,  0.5, -0.5])
    """
    scores = {"value": value, "floor": floor, "ceiling": ceiling}
    labelled = [score for score in scores.values() if isinstance(score, pd.Series | pd.DataFrame)]
    like = max(labelled, key=np.ndim, default=None)  # the first of those with the most dimensions
    calibrated = _ratio(*(_matched(score, like, name) for name, score in scores.items()))
    if like is None:
        return float(calibrated) if calibrated.ndim == 0 else calibrated
    if calibrated.shape != like.shape:
        raise ValueError(
            f"scores broadcast to shape {calibrated.shape}, but the labels are of shape "
            f"{like.shape}: give arrays of that shape, or numbers"
        )
    if like.ndim == 2:
        return pd.DataFrame(calibrated, index=like.index, columns=like.columns)
    return pd.Series(calibrated, index=like.index, name=like.name)


def _ratio(value, floor, ceiling):
    with np.errstate(invalid="ignore"):  # infinite scores
        gain, span = np.broadcast_arrays(value - floor, ceiling - floor)
        return np.divide(gain, span, where=span != 0, out=np.full(gain.shape, np.nan))


def _matched(score, like, name):
    """Values of a score as floats, in the order of the labels of ``like``."""
    if not isinstance(score, pd.Series | pd.DataFrame):
        return np.asarray(score, dtype=np.float64)
    axes = like.axes[-score.ndim :]  # a Series beside a DataFrame has a score for each column
    for axis, (labels, wanted) in enumerate(zip(score.axes, axes, strict=True)):
        if not labels.equals(wanted):
            _check_labels(labels, wanted, name)
            score = score.reindex(wanted, axis=axis)
    return score.to_numpy(dtype=np.float64, na_value=np.nan)


def _check_labels(labels, wanted, name):
    if not (labels.is_unique and wanted.is_unique):
        raise ValueError(f"labels of {name} occur more than once, so that they cannot be matched")
    odd = labels.symmetric_difference(wanted, sort=False)
    if len(odd):
        raise ValueError(
            f"labels of {name} differ from those of the other scores in {len(odd)} places, such "
            f"as {odd[0]!r}: give the same perturbations or metrics to all three"
        )
