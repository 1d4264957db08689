"""Whether a prediction resembles its own perturbation more than any other."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.utils import gen_batches

from .._input.expression import LARGEST, read_matrix
from ._profiles import aggregated, check_names, kept_genes, read_profiles, read_reference

MAX_PAIRS = 2**22  # of responses whose distances are held at once
DECIMALS = 12  # of a cosine: what differs by less is a tie, and rounding errors are smaller


def perturbation_discrimination(
    true,
    predicted,
    *,
    reference,
    distance: str = "cosine",
    exclude=None,
    candidates=None,
    aggregate: str | None = None,
) -> Any:
    r"""Perturbation discrimination score (PDS), in [0, 1]; higher is better, 0.5 is chance.

    .. math:: \mathrm{PDS}_p = 1 - \frac{k_p}{n - 1}, \qquad
              k_p = \#\{q \neq p: d_{pq} < d_{pp}\} + \tfrac12 \#\{q \neq p: d_{pq} = d_{pp}\}

    :math:`d_{pq}` is the distance of the predicted response to perturbation :math:`p` from the
    measured response to :math:`q`: the score is 1 where no other is nearer than its own. A
    prediction that is the same for all has a mean of exactly 0.5, however near it may be, which no
    error or correlation distinguishes from skill.

    Cosine sees only the pattern of a response. The other distances see its size too, so that
    inflating a prediction changes the score. "euclidean" is the centroid accuracy of Systema (see
    :func:`delta_pearson`; a shared reference cancels out of it) and the normalised inverse rank.

    Parameters
    ----------
    true, predicted : as in :func:`response_mse`
        Measured and predicted profiles.
    reference : array-like of shape (n_genes,) or (n_perturbations, n_genes), or float
        What is subtracted from both, as in :func:`delta_pearson`: the mean of measured controls in
        the Virtual Cell Challenge 2026, for the prediction as well.
    distance : {"cosine", "l1", "euclidean"}, default="cosine"
        Distance of responses. A cosine with a response of zero is taken to be 0, so that a
        prediction of no effect is as near to all.
    exclude : mapping, "targets" or None, default=None
        Genes that do not count, as in :func:`response_mse`. All genes of a mapping are left out
        of every response, because distances are compared over the same genes only; else a
        prediction could win by marking the targets of the others.
    candidates : {array-like, DataFrame} of shape (n_candidates, n_genes) or None, default=None
        Measured profiles of further perturbations, such as those in training, from which a
        prediction must be distinguished; needs a reference that is the same for all.
    aggregate : {"mean", "median"} or None, default=None
        One number over perturbations; None: one for each perturbation. The mean is published.

    Returns
    -------
    pds : Series of shape (n_perturbations,) or float
        Score of each prediction.

    Raises
    ------
    ValueError
        As :func:`delta_pearson`, if the distance is unknown, if a candidate has the name of a
        perturbation, or if there are fewer than two perturbations.

    Examples
    --------
    >>> from skpert.metrics import perturbation_discrimination
    >>> true = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    >>> predicted = [[3, 1, 2], [3, 1, 2], [0, 0, 0]]
    >>> perturbation_discrimination(true, predicted, reference=0).tolist()
    [1.0, 0.0, 0.5]
    """
    profiles = read_profiles(true, predicted)
    reference = read_reference(reference, profiles)
    kept = kept_genes(exclude, profiles).all(0)
    measured = _with_candidates(profiles, candidates, reference)
    if len(measured) < 2:
        raise ValueError("there is one perturbation only, and none to distinguish it from")
    if not kept.any():
        raise ValueError("exclude leaves no gene that counts for all perturbations")
    predicted, measured = (profiles.predicted - reference)[:, kept], measured[:, kept]
    rows = gen_batches(len(predicted), max(MAX_PAIRS // len(measured), 1))
    n_nearer = np.concatenate([_n_nearer(predicted, measured, part, distance) for part in rows])
    scores = 1 - n_nearer / (len(measured) - 1)
    name = "perturbation_discrimination"
    return aggregated(pd.Series(scores, index=profiles.names, name=name), aggregate)


def _n_nearer(predicted, measured, rows, distance):
    """How many measured responses are nearer to predictions than their own; ties count half."""
    distances = _distances(predicted[rows], measured, distance)
    own = distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)][:, None]
    return (distances < own).sum(1) + ((distances == own).sum(1) - 1) / 2


def _with_candidates(profiles, candidates, reference):
    """Measured responses, those to the perturbations themselves first."""
    measured = profiles.true - reference
    if candidates is None:
        return measured
    if reference.ndim == 2:
        raise ValueError("candidates need one reference for all, of shape (n_genes,)")
    if isinstance(candidates, pd.DataFrame) and profiles.genes is not None:
        twice = profiles.names.intersection(candidates.index)
        if len(twice):
            raise ValueError(f"candidates repeat {len(twice)} perturbations, such as {twice[0]!r}")
        check_names(profiles.genes, candidates.columns, "genes", ("true", "candidates"))
        candidates = candidates[profiles.genes]
    candidates = read_matrix(candidates, "candidates", largest=LARGEST)
    if candidates.shape[1] != measured.shape[1]:
        raise ValueError(
            f"candidates have {candidates.shape[1]} genes, but true has {measured.shape[1]}"
        )
    return np.vstack([measured, candidates - reference])


def _distances(predicted, measured, distance):
    """Distance of each predicted from each measured response."""
    if distance == "cosine":
        return -np.round(_directions(predicted) @ _directions(measured).T, DECIMALS)
    if distance not in ("l1", "euclidean"):
        raise ValueError(f"distance must be 'cosine', 'l1' or 'euclidean', got {distance!r}")
    return cdist(predicted, measured, {"l1": "cityblock"}.get(distance, distance))


def _directions(responses):
    norm = np.linalg.norm(responses, axis=1, keepdims=True)
    return responses / np.where(norm > 0, norm, 1)
