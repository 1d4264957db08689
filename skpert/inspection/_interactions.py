"""Which combinations do something else than the sum of their parts, and of what kind that is."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted

from .._effects import CURVATURE
from .._input.values import check_number
from ..sparsity.edges import edges_at_fdr
from ..sparsity.interactions import error_of_sums


def interactions(estimator, *, fdr: float = 0.05, level: float = 0.95) -> pd.DataFrame:
    """Effect of each measured combination on each latent beyond the sum of its parts.

    Parameters
    ----------
    estimator : estimator
        Fitted ``SAMSVAE(interactions=True)``.
    fdr : float, default=0.05
        False discovery rate at which interactions are called, in [0, 1], by themselves: edges of
        single perturbations do not count.
    level : float, default=0.95
        Coverage of the intervals, strictly between 0 and 1.

    Returns
    -------
    interactions : DataFrame of shape (n_combinations * n_latent, 10)
        A row per pair of ``combination`` and ``latent``, sorted by combination, then by
        probability, largest first. All effects are in standard deviations of the latent among
        equally treated cells, at dosage 1. ``expected`` is the sum of the parts' effects, times
        the scale of all combinations of so many parts; ``interaction``, the effect of the
        combination less that; ``standard_error``, its sampling error; ``lower`` and ``upper``,
        ends of its interval; ``probability`` that it is none of noise, cross-talk and curvature;
        ``called``, whether it is called at ``fdr``; ``kind``, "additive" where it is not.
        Otherwise "emergent" is an effect on a latent that no part moves; "epistasis", that of one
        of several parts that move the latent, as if the others were not there; "synergy", more
        than the sum, in its direction; "suppression", less than the sum, or the reverse.

    Raises
    ------
    ValueError
        If the estimator has no interactions, or ``fdr`` or ``level`` is out of range.

    Notes
    -----
    Combinations without a row are predicted by the scaled sum: those that were not measured, those
    of fewer than 5 training cells, and those of which a part was not measured alone. The interval
    is normal; it allows for what sums usually miss and for curved latents, and not for errors of
    the axes (see :func:`skpert.inspection.effects`). A mean over cells says nothing of single
    cells: a combination in which few cells respond strongly, and one in which all respond weakly,
    look alike.

    Examples
    --------
    >>> from skpert import SAMSVAE
    >>> from skpert.datasets import make_additive_shift
    >>> from skpert.inspection import interactions
    >>> screen = make_additive_shift(5, n_cells_per_perturbation=40, n_combinations=4,
    ...                              n_control_cells=40, n_latent=3, n_genes=50, random_state=0)
    >>> model = SAMSVAE(n_latent=3, interactions=True, max_epochs=2, random_state=0)
    >>> interactions(model.fit(screen.X, screen.A)).shape
    (12, 10)
    """
    check_is_fitted(estimator)
    check_number(level, "level", 0, 1, "neither")
    found = _arrays(estimator)
    effect, expected, error = found["interaction"], found["expected"], found["standard_error"]
    width = np.hypot(error_of_sums(effect, expected, error), CURVATURE * effect)
    half = norm.isf((1 - level) / 2) * width
    called = edges_at_fdr(found["probability"], fdr)
    names, columns = _names(estimator), estimator.get_feature_names_out()
    values = found | {"lower": effect - half, "upper": effect + half, "called": called}
    values["kind"] = np.where(called, _kinds(effect, expected, found["parts"], half), "additive")
    shown = ["expected", "interaction", "standard_error", "lower", "upper"]
    table = pd.DataFrame(
        {
            "combination": np.repeat(names, len(columns)),
            "latent": np.tile(columns, len(names)),
            **{name: values[name].ravel() for name in [*shown, "probability", "called", "kind"]},
        }
    )
    order = np.argsort(-found["probability"], axis=1, kind="stable")
    order += len(columns) * np.arange(len(names))[:, None]
    return table.iloc[order.ravel()].reset_index(drop=True)


def _module(estimator):
    """The module of a model with interactions."""
    module = getattr(estimator, "module_", None)
    if getattr(module, "interactions", None) is None:
        found = hasattr(estimator, "interactions") and estimator.interactions
        raise ValueError(
            f"this {type(estimator).__name__} has no interactions: "
            + (
                "no combination had 5 training cells, and each part measured alone"
                if found
                else "fit SAMSVAE(interactions=True)"
            )
        )
    return module


def _arrays(estimator):
    """What is known of interactions, (n_combinations, n_latent), float64.

    Of ``parts`` there are the effects of each, (n_combinations, n_parts, n_latent).
    """
    module = _module(estimator)
    n, known = module.n_first, module.interactions
    with torch.no_grad():
        rows, effect = module.learned_rows(), module.effect()
        parts = effect[n:][known.part.clamp(min=0)] * (known.part >= 0)[:, :, None].to(effect)
        found = {
            "interaction": rows["embedding"][:n],
            "standard_error": rows["standard_error"][:n],
            "probability": rows["mask_probability"][:n],
            "expected": known.sums(effect),
        }
    full = {
        name: estimator._full(v.detach().cpu().numpy().astype(float)) for name, v in found.items()
    }
    parts = parts.detach().cpu().numpy().astype(float)
    n_empty = full["expected"].shape[1] - parts.shape[2]
    return full | {"parts": np.pad(parts, [(0, 0), (0, 0), (0, n_empty)])}


def _names(estimator):
    """Names of combinations."""
    part = _module(estimator).interactions.part.cpu().numpy()
    sep = estimator.sep or "+"
    return [sep.join(str(estimator.perturbations_[i]) for i in row if i >= 0) for row in part]


def _kinds(effect, expected, parts, half):
    """Kind of each interaction, were it called."""
    moved, total = parts != 0, expected + effect
    of_one = (moved & (np.abs(total[:, None] - parts) <= half[:, None])).any(1)
    of_one &= moved.sum(1) > 1
    kind = np.where(effect * expected > 0, "synergy", "suppression")
    kind = np.where(of_one, "epistasis", kind)
    return np.where(moved.any(1), kind, "emergent")
