"""Differences of estimators, perturbation by perturbation."""

import pandas as pd
from scipy.stats import t as student

from ..metrics._calibration import GREATER_IS_BETTER
from ._truth import METRICS


def paired_differences(per_perturbation, metric, reference, *, confidence=0.95):
    """Mean difference of each estimator from a reference, over the perturbations of both.

    Perturbations differ much more in how well they can be predicted than estimators do, so that
    estimators are to be compared perturbation by perturbation.

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
    Differences are averaged over splits first. The interval takes perturbations for independent,
    though those of a split are predicted by one fit: it holds for new perturbations, not for new
    seeds. It is for one comparison; with many estimators some intervals leave out 0 by chance.

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
    keys = ["perturbation", "split"]
    scored = per_perturbation.pivot(index=keys, columns="estimator", values=metric)[names]
    difference = scored.sub(scored[reference], axis=0).drop(columns=reference)
    difference = difference.groupby(level="perturbation").mean()
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
