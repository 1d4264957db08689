"""Table of what each perturbation does to each latent, and how sure that is."""

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted

from ._input.values import check_number
from .sparsity.edges import check_calls_edges, edges_at_fdr, null_width

CURVATURE = 0.1  # of an effect by which a latent departs from a straight axis, standard deviation


def effects(estimator, *, fdr: float = 0.05, level: float = 0.95) -> pd.DataFrame:
    """Effect of each perturbation on each latent, with an interval and a probability.

    ``estimator.targets`` is the same as a matrix, of the edges that are called.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``mask_probability_``, such as ``SVAEPlus``.
    fdr : float, default=0.05
        False discovery rate at which edges are called, in [0, 1], as in ``estimator.targets``.
    level : float, default=0.95
        Coverage of the intervals, strictly between 0 and 1.

    Returns
    -------
    effects : DataFrame of shape (n_perturbations * n_latent, 9)
        A row per pair of ``perturbation`` and ``latent``, sorted by perturbation, then by
        probability, largest first. ``effect`` is that of ``embedding_``, in standard deviations
        of the latent among equally treated cells; ``standard_error``, its sampling error;
        ``lower`` and ``upper``, ends of its interval; ``probability`` of the edge, that of
        ``mask_probability_``; ``called``, whether it is an edge at ``fdr``; ``stability`` of the
        latent's axis, as in :func:`skpert.inspection.identifiability`: below 0.95 nothing is
        called on it, however large an effect, which predictions use all the same. Where masks of
        ``SVAE`` and ``SVAEPlus`` are learned, effects are point estimates: standard errors and
        intervals are NaN. So are intervals of latents that were asked for and not found.

    Raises
    ------
    ValueError
        If the estimator calls no edges, or ``fdr`` or ``level`` is out of range.

    Notes
    -----
    The standard error is that of the mean latent state of so many equally treated cells; where
    masks of ``SAMSVAE`` are learned, the scale of the posterior. The interval is normal, and
    wider: its variance is the sum of the squared standard error, of the variance by which entries
    without an edge differ from zero beyond it, which is cross-talk
    (:func:`skpert.sparsity.edges.null_width`), and of a tenth of the effect, squared, as latents
    are slightly curved functions of the true ones.

    It is the interval of the size given that the edge is there. It does not allow for the choice
    of edges by their size (the largest of many effects tends to be too large), and not for latents
    that are mixed or collapsed, for instance because ``n_latent`` is far too large:
    :func:`skpert.inspection.stability` shows whether axes come back. Cells that are no independent
    replicates, such as those of one batch, make standard errors too small.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import effects
    >>> screen = make_sparse_shift(12, n_cells_per_perturbation=100, n_control_cells=100,
    ...                            n_latent=3, n_genes=50, n_covered=2, n_targets=1,
    ...                            effect_size=3.0, library_size=5000, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=60, random_state=0).fit(screen.X, screen.A)
    >>> table = effects(model)
    >>> edges = table[table["called"]]
    >>> len(table), len(edges), bool((edges["lower"] * edges["upper"] > 0).all())
    (36, 12, True)
    """
    check_is_fitted(estimator)
    check_calls_edges(estimator)
    check_number(level, "level", 0, 1, "neither")
    effect, probability = estimator.embedding_, estimator.mask_probability_
    error = getattr(estimator, "standard_error_", np.full_like(effect, np.nan))
    half = norm.isf((1 - level) / 2) * _width(effect.astype(np.float64), error.astype(np.float64))
    rows, columns = estimator.perturbations_, estimator.get_feature_names_out()
    table = pd.DataFrame(
        {
            "perturbation": np.repeat(rows, len(columns)),
            "latent": np.tile(columns, len(rows)),
            "effect": effect.ravel(),
            "standard_error": error.ravel(),
            "lower": (effect - half).ravel(),
            "upper": (effect + half).ravel(),
            "probability": probability.ravel(),
            "called": edges_at_fdr(probability, fdr).ravel(),
            "stability": np.tile(stability_of_axes(estimator), len(rows)),
        }
    )
    order = np.argsort(-probability, axis=1, kind="stable")
    order += len(columns) * np.arange(len(rows))[:, None]
    return table.iloc[order.ravel()].reset_index(drop=True)


def stability_of_axes(estimator):
    """Of each axis without a fifth of the perturbations, (n_latent,); NaN if not looked at."""
    masks = getattr(getattr(estimator, "module_", None), "masks", None)
    found = getattr(masks, "stability", None)
    values = np.full(estimator.mask_probability_.shape[1], np.nan)
    if found is not None:
        values[: len(found)] = found.cpu().numpy()
    return values


def _width(effect, error):
    """Standard deviation of the interval around each effect, NaN where there is none."""
    if np.isnan(error).any():
        return error
    width = np.sqrt(error**2 + null_width(effect, error) ** 2 + (CURVATURE * effect) ** 2)
    return np.where(error.any(0), width, np.nan)
