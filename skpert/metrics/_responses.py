"""Agreement of predicted with measured profiles, the mean expression under each perturbation."""

from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from ._profiles import (
    aggregated,
    aligned,
    by_row,
    kept_genes,
    pearson,
    read_differences,
    read_profiles,
)


def response_mse(true, predicted, *, exclude=None, aggregate: str | None = None) -> Any:
    """Mean squared error of profiles over genes, at least 0; lower is better.

    Most genes respond to nothing, so that the mean of all cells has a low error too [1]_. Sampling
    noise in ``true`` adds the variance of a mean: compare at equal numbers of cells, or take
    :func:`expression_error`.

    Parameters
    ----------
    true, predicted : {array-like, DataFrame} of shape (n_perturbations, n_genes)
        Measured and predicted mean expression under each perturbation, in the same units. If both
        are DataFrames, the rows and columns of ``true`` are looked up in ``predicted`` by name,
        which may have more; else they are in the same order.
    exclude : mapping, "targets" or None, default=None
        Genes that do not count, by name, for which ``true`` must be a DataFrame. A mapping from
        perturbation to genes leaves these out for that perturbation; "targets" leaves out, for
        all, every gene that is named like a perturbation or like a part of "A+B".
    aggregate : {"mean", "median"} or None, default=None
        One number over perturbations, NaN left out; None: one for each perturbation.

    Returns
    -------
    mse : Series of shape (n_perturbations,) or float
        In squared units of the profiles.

    Raises
    ------
    ValueError
        If shapes differ, names are missing or not unique, values are missing or infinite, or
        ``exclude`` leaves out nothing or everything.

    References
    ----------
    .. [1] Ahlmann-Eltze, Huber and Anders, Deep learning-based predictions of gene perturbation
       effects do not yet outperform simple linear baselines, Nature Methods 2025.

    Examples
    --------
    >>> from skpert.metrics import response_mse
    >>> response_mse([[1, 2], [3, 4]], [[1, 4], [3, 4]]).tolist()
    [2.0, 0.0]
    """
    scores = by_row(_mse, read_profiles(true, predicted), exclude, "response_mse")
    return aggregated(scores, aggregate)


def profile_pearson(true, predicted, *, exclude=None, aggregate=None) -> Any:
    """Pearson correlation of profiles over genes, in [-1, 1]; higher is better.

    As published with many models, and near 0.99 for any prediction whatsoever, controls included:
    it asks which genes are expressed highly, which no perturbation changes much. Use
    :func:`delta_pearson` to see what a prediction is worth.

    Parameters
    ----------
    true, predicted, exclude, aggregate : as in :func:`response_mse`
        Measured and predicted profiles, genes that do not count, and the average. Errors are the
        same.

    Returns
    -------
    r : Series of shape (n_perturbations,) or float
        NaN where either profile is constant.

    Examples
    --------
    >>> from skpert.metrics import profile_pearson
    >>> profile_pearson([[1, 2, 9]], [[2, 1, 9]]).round(3).tolist()
    [0.974]
    """
    scores = by_row(pearson, read_profiles(true, predicted), exclude, "profile_pearson")
    return aggregated(scores, aggregate)


def delta_pearson(true, predicted, *, reference, exclude=None, aggregate=None) -> Any:
    """Pearson correlation of responses over genes, in [-1, 1]; higher is better.

    A response is a profile minus the reference. Against the mean of control cells, what all
    perturbations have in common suffices for a high score, and the noise of the reference, which
    both sides share, adds to it. Against the mean of the training perturbations [1]_, only what
    distinguishes a perturbation is left. For the genes that respond most, give differences to
    :func:`ate_pearson` with ``top=20`` and ``average="perturbation"``.

    Parameters
    ----------
    true, predicted : as in :func:`response_mse`
        Measured and predicted profiles.
    reference : {array-like, Series} of shape (n_genes,), {array-like, DataFrame} of shape \
            (n_perturbations, n_genes), or float
        What is subtracted from both: the mean of measured control cells, or the mean of training
        perturbations; 0 for profiles that are differences already. Matched by name where it and
        ``true`` have names.
    exclude, aggregate : as in :func:`response_mse`
        Genes that do not count, and the average.

    Returns
    -------
    r : Series of shape (n_perturbations,) or float
        NaN where either response is constant, such as a prediction that is the reference.

    Raises
    ------
    ValueError
        As :func:`response_mse`, and if the reference fits no profile.

    References
    ----------
    .. [1] Vinas Torne et al., Systema: a framework for evaluating genetic perturbation response
       prediction beyond systematic variation, Nature Biotechnology 2025.

    Examples
    --------
    >>> from skpert.metrics import delta_pearson
    >>> delta_pearson([[1, 2, 9]], [[2, 1, 9]], reference=[1, 1, 9]).round(3).tolist()
    [-0.5]
    """
    profiles = read_differences(true, predicted, reference)
    return aggregated(by_row(pearson, profiles, exclude, "delta_pearson"), aggregate)


def direction_agreement(true, predicted, *, reference, exclude=None, aggregate=None) -> Any:
    """Fractions of genes that go the same and the opposite way, in [0, 1].

    "same" (higher is better) counts equal signs of predicted and measured response, both exactly
    zero included; "opposite" (lower is better) counts opposite signs. One exact zero counts in
    neither. Genes that do not respond go either way, so that 0.5 is chance, not 0.

    Parameters
    ----------
    true, predicted : as in :func:`response_mse`
        Measured and predicted profiles.
    reference : array-like of shape (n_genes,) or (n_perturbations, n_genes), or float
        As in :func:`delta_pearson`; published with the mean of control cells.
    exclude, aggregate : as in :func:`response_mse`
        Genes that do not count, and the average of each column. Errors are those of
        :func:`delta_pearson`.

    Returns
    -------
    fractions : DataFrame of shape (n_perturbations, 2), or Series of shape (2,)
        Columns "same" and "opposite", published as "fraction same" and "fraction changed".

    Examples
    --------
    >>> from skpert.metrics import direction_agreement
    >>> true, predicted = [[2, 0.5, 1, 3]], [[1.5, 1.2, 1.1, 0.8]]
    >>> direction_agreement(true, predicted, reference=1.0)
       same  opposite
    0  0.25       0.5
    """
    profiles = read_differences(true, predicted, reference)
    kept = kept_genes(exclude, profiles)
    product = np.sign(profiles.true) * np.sign(profiles.predicted)
    same = (np.sign(profiles.true) == np.sign(profiles.predicted)) & kept
    opposite = (product < 0) & kept
    counts = pd.DataFrame({"same": same.sum(1), "opposite": opposite.sum(1)}, profiles.names)
    return aggregated(counts.div(kept.sum(1), axis=0), aggregate)


def ate_pearson(effect_true, effect, *, top: int | None = None, average: str = "pooled") -> Any:
    """Pearson correlation of predicted with measured effects, in [-1, 1]; higher is better.

    Pooled over perturbations and genes, as published [1]_, it asks for the pattern of effects,
    with the strong perturbations counting most; it is blind to a common scale and offset, which
    :func:`ate_r2` is not.

    Parameters
    ----------
    effect_true : {array-like, DataFrame} of shape (n_perturbations, n_genes)
        Measured effects, such as those of :func:`differential_expression`.
    effect : {array-like, DataFrame} of shape (n_perturbations, n_genes)
        Predicted effects, such as :func:`skpert.inspection.average_treatment_effect` gives. If
        both are DataFrames, the rows and columns of ``effect_true`` are looked up in ``effect``
        by name, which may have more; else they are in the same order.
    top : int or None, default=None
        Only the ``top`` genes with the largest ``|effect_true|`` of each perturbation count; 20
        in publications. None: all genes.
    average : {"pooled", "perturbation"}, default="pooled"
        One correlation over all perturbations and genes, or one over genes for each perturbation.

    Returns
    -------
    r : float or Series of shape (n_perturbations,)
        A number if pooled. NaN where either side is constant, so that nothing can correlate.

    Raises
    ------
    ValueError
        If shapes differ, names are missing or not unique, values are missing or infinite, or
        ``top`` is not from 1 to the number of genes.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023, Table 1 and Figure 3.

    Examples
    --------
    >>> from skpert.metrics import ate_pearson
    >>> effect_true = [[1, 2, 3], [0, -4, 1]]
    >>> round(ate_pearson(effect_true, [[2, 4, 6], [0, -8, 2]]), 6)
    1.0
    >>> ate_pearson(effect_true, [[3, 2, 1], [0, -4, 1]], average="perturbation").round(6).tolist()
    [-1.0, 1.0]
    """
    return _agreement(pearson, "ate_pearson", effect_true, effect, top, average)


def ate_r2(effect_true, effect, *, top=None, average="pooled") -> Any:
    """R2, the share of variance of measured effects predicted, at most 1; higher is better.

    Unlike :func:`ate_pearson` it sees the scale of effects: 0 is as good as the mean effect for
    all, and predictions that are too strong score below. Used by Bereket and Karaletsos (NeurIPS
    2023).

    Parameters
    ----------
    effect_true, effect, top, average : as in :func:`ate_pearson`
        Measured effects, the truth here, and predicted ones; the genes that count; the average.
        Errors are the same.

    Returns
    -------
    r2 : float or Series of shape (n_perturbations,)
        A number if pooled. NaN where ``effect_true`` is constant.

    Examples
    --------
    >>> from skpert.metrics import ate_r2
    >>> ate_r2([[1, 2, 3]], [[1, 2, 3]]), ate_r2([[1, 2, 3]], [[2, 2, 2]])
    (1.0, 0.0)
    """
    return _agreement(_r2, "ate_r2", effect_true, effect, top, average)


def _mse(true, predicted):
    return np.mean((true - predicted) ** 2)


def _r2(true, predicted):
    return np.nan if np.ptp(true) == 0 else r2_score(true, predicted)


def _agreement(score, name, effect_true, effect, top, average):
    """Score of all values, or of each row, in the order (true, predicted)."""
    if average not in ("pooled", "perturbation"):
        raise ValueError(f"average must be 'pooled' or 'perturbation', got {average!r}")
    true, predicted, rows = aligned(effect_true, effect, ("effect_true", "effect"))
    n_genes = true.shape[1]
    if top is not None:
        if not isinstance(top, Integral) or not 1 <= top <= n_genes:
            raise ValueError(f"top must be an integer from 1 to n_genes={n_genes}, got {top!r}")
        largest = np.argsort(-np.abs(true), axis=1, kind="stable")[:, :top]
        true = np.take_along_axis(true, largest, 1)
        predicted = np.take_along_axis(predicted, largest, 1)
    if average == "pooled":
        return score(true.ravel(), predicted.ravel())
    scores = [score(t, p) for t, p in zip(true, predicted, strict=True)]
    return pd.Series(scores, index=rows, name=name)
