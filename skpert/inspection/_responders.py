r"""Which treated cells responded: a mixture of two components along the shift of a perturbation.

The latent states of the cells of a perturbation are reduced to one score, along the direction
:math:`\Sigma^{-1} (\bar z_p - \bar z_0)` that tells them best from control cells, in standard
deviations of these. Cells that did not respond have the distribution :math:`f_0` of control cells;
those that did have the same, moved by m:

.. math:: s \sim (1 - \pi) \, f_0(s) + \pi \, f_0(s - m)

with a share :math:`\pi` and a shift :math:`m > 0` of maximum likelihood. The direction of a cell's
score is found without the cell, treated or control, so that a perturbation that does nothing shows
nothing; and few control cells do not say exactly where such cells are, which is allowed for.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm
from sklearn.model_selection import KFold
from sklearn.utils import Bunch, check_consistent_length

from .._input.expression import cell_names, check_same_cells, of_each_cell
from .._input.values import as_list, check_has_latents, check_number, listed, text
from ._direct import LEAST_NULLS

LEAST_CONTROLS, LEAST_CELLS = 20, 10
N_FOLDS = 5  # of cells, each scored along the direction of the others
LEAST_SHIFT, SHIFT_STEP = 0.5, 0.1  # of responders, in standard deviations of control cells
SHARES = np.linspace(0, 1, 201)
OUTLIERS, OUTLIER_SPREAD = 0.01, 4.0  # share and spread of control cells that are like no others
N_POINTS = 512  # at which the density of control cells is known
NOISE = 1e-4  # p value of a response, at most
DRIFTS = np.append(0, np.geomspace(0.01, 3, 40))  # in standard deviations of control cells
OFFSETS = np.linspace(-4, 4, 17)  # in standard errors
LARGEST_COST = 10.0  # beyond which a drift is not looked at; of ``NOISE``, it is 9.2
TINY = 1e-300


def responders(
    estimator, X, A, *, guides=None, nulls: str | list[str] | None = None, level: float = 0.95
) -> Bunch:
    """Probability of each treated cell to have responded, and the share of those that did.

    Cells escape a perturbation, for instance as a guide did not cut both alleles. Mixscape [1]_
    finds them by hand along the difference of mean expression; here the difference is that of
    latent states, which are the model's summary of all genes, and it works for any design.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``transform``.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Expression of treated and of at least 20 control cells.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design. A combination is a perturbation of its own.
    guides : str or array-like of str of shape (n_cells,), default=None
        Guide of each cell, or its column in A. Shares are then those of guides, whose responders
        have the shift that all cells of the perturbation say. Guides of control cells are
        non-targeting ones: five or more say how far guides differ that do nothing.
    nulls : str or list of str, default=None
        Perturbations known to do nothing, such as non-targeting guides. Five or more say how far
        such perturbations differ, too. Without any, all cells count as independent, and
        perturbations that do nothing are detected too often.
    level : float, default=0.95
        Coverage of the intervals, strictly between 0 and 1.

    Returns
    -------
    responders : Bunch
        ``cells``, a DataFrame with a row per cell: ``perturbation``; ``score``, how far it is
        along the shift of its perturbation, in standard deviations of control cells; and the
        ``probability`` that it responded. Both are NaN for control cells, and the probability
        also where no response is detected: none can be told then from a cell that escaped.

        ``shares``, a DataFrame with a row per perturbation, or per perturbation and guide:
        ``n_cells``; ``share`` of responders, in [0, 1], with its interval ``lower`` and ``upper``;
        ``shift`` of responders, in standard deviations of control cells; ``detected``, whether
        the cells of the perturbation differ from control cells at all (p below 0.0001), further
        than those of guides that do nothing, if these are known. Where they do not, or are fewer
        than 10, share and shift are NaN and the interval is all of [0, 1].

    Raises
    ------
    ValueError
        If there are fewer than 20 control cells or no treated ones, lengths differ, a treated
        cell has no guide among ``guides``, a name in ``nulls`` has no cells, or ``level`` is out
        of range.

    Notes
    -----
    Responders are taken to have one shift. Where a guide works in part in every cell, shift and
    share cannot be told apart, and the share is that of cells which look as if it worked entirely.
    Intervals are by profile likelihood and hold for cells that are independent replicates.

    References
    ----------
    .. [1] Papalexi et al., Characterizing the molecular regulation of inhibitory immune
       checkpoints with multimodal single-cell screens, Nature Genetics 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import responders
    >>> screen = make_sparse_shift(6, n_cells_per_perturbation=100, n_control_cells=300,
    ...                            n_latent=3, n_genes=50, n_targets=1, library_size=5000,
    ...                            random_state=0)
    >>> A = screen.A.copy()
    >>> A[np.flatnonzero(A == "control")[:100]] = "P0"  # half of these cells escaped
    >>> model = SVAEPlus(max_epochs=30, random_state=0).fit(screen.X, A)
    >>> share = responders(model, screen.X, A).shares.loc["P0"]
    >>> bool(share["lower"] < 0.5 < share["upper"])
    True
    """
    check_has_latents(estimator)
    check_number(level, "level", 0, 1, "neither")
    check_same_cells(X, A)
    labels = pd.Series(estimator.design_.labels(A))
    Z = np.asarray(estimator.transform(X), dtype=np.float64)
    check_consistent_length(Z, labels)
    control = text(estimator.control)
    guides = _guide_of_each(A, guides, labels, control)
    rows = {name: index.to_numpy() for name, index in labels.groupby(labels).groups.items()}
    controls = rows.pop(control, np.array([], dtype=int))
    if len(controls) < LEAST_CONTROLS or not rows:
        raise ValueError(
            f"A has {len(controls)} cells of the control {estimator.control!r} and {len(rows)} "
            f"perturbations: {LEAST_CONTROLS} control cells and one perturbation are needed"
        )
    nulls = [name for name in map(text, as_list(nulls)) if name != control]
    known = _null_groups(Z, controls, rows, guides, nulls)
    cells = pd.DataFrame(
        {"perturbation": labels.to_numpy(), "score": np.nan, "probability": np.nan}
    )
    shares = []
    for name, index in rows.items():
        own = pd.Series(np.zeros(len(index)) if guides is None else guides[index])
        parts = {guide: part.to_numpy() for guide, part in own.groupby(own).groups.items()}
        weight = np.square([len(part) / len(index) for part in parts.values()]).sum()
        fitted = _fit(Z[controls], Z[index], known.but(name), weight)
        cells.loc[index, "score"] = fitted.score
        for guide, part in parts.items():
            row, probability = _share(fitted, part, level)
            cells.loc[index[part], "probability"] = probability
            shares.append({"perturbation": name, "guide": guide} | row)
    keys = ["perturbation"] if guides is None else ["perturbation", "guide"]
    names = cell_names(X)
    cells.index = cells.index if names is None else names
    columns = ["n_cells", "share", "lower", "upper", "shift", "detected"]
    return Bunch(cells=cells, shares=pd.DataFrame(shares).set_index(keys)[columns])


def _guide_of_each(A, guides, labels, control):
    """Guide of each cell, of which only control cells may lack one; None if there are none."""
    if guides is None:
        return None
    guides = of_each_cell(guides, A, len(labels), "guides")
    missing = pd.isna(guides) & (labels != control).to_numpy()
    if missing.any():
        raise ValueError(
            f"{missing.sum()} treated cells have no guide, the first in row "
            f"{missing.argmax()}: leave them out, or name what they have"
        )
    return guides


class _Nulls(NamedTuple):
    """Groups of cells that are known to do nothing, such as those of non-targeting guides."""

    label: np.ndarray  # (n_groups,) of their cells
    shift: np.ndarray  # mean state less that of other control cells, (n_groups, n_latent)
    variance: np.ndarray  # of the mean of a score, by sampling cells, (n_groups,)

    def but(self, name):
        """Without the groups of a perturbation; all or none are needed."""
        others = _Nulls(*(part[self.label != name] for part in self))
        return others if len(others.label) >= LEAST_NULLS else _Nulls(*(p[:0] for p in self))


def _null_groups(Z, controls, rows, guides, nulls):
    """Groups of the perturbations ``nulls``, and of the guides of control cells."""
    absent = [name for name in nulls if name not in rows]
    if absent:
        raise ValueError(
            f"nulls names {listed(absent, 5)}, which have no treated cells in A: its "
            f"perturbations are {listed(list(rows), 5)}"
        )
    label, shift, variance = [], [np.empty((0, Z.shape[1]))], []
    whole, n_whole = Z[controls].sum(0), len(controls)
    for name in [*dict.fromkeys(nulls), None]:  # None is the control
        index = controls if name is None else rows[name]
        if guides is None:
            groups = [] if name is None else [index]
        else:
            own = pd.Series(guides[index])
            groups = [index[part] for part in own.groupby(own).indices.values()]
        for group in groups:
            total, n = Z[group].sum(0), len(group)
            rest, n_rest = (whole - total, n_whole - n) if name is None else (whole, n_whole)
            if min(n, n_rest) >= LEAST_CELLS:
                label.append(name)
                shift.append(total[None] / n - rest / n_rest)
                variance.append(1 / n + 1 / n_rest)
    return _Nulls(np.array(label, dtype=object), np.concatenate(shift), np.array(variance))


class _Fit(NamedTuple):
    """Cells of one perturbation, and the mixture that explains them."""

    score: np.ndarray  # (n_cells,)
    unmoved: np.ndarray  # density of each score among control cells, (n_cells,)
    moved: np.ndarray  # the same after each shift, (n_cells, n_shifts)
    shifts: np.ndarray  # (n_shifts,)
    best: int  # the shift of maximum likelihood
    detected: bool


def _fit(control, Z, nulls, weight):
    """Scores of cells, and the shift and share of maximum likelihood.

    ``weight`` is the variance of the drift of these cells in that of one guide.
    """
    if len(Z) < LEAST_CELLS:
        nothing = np.full(len(Z), np.nan)
        return _Fit(nothing, nothing, nothing[:, None], np.array([np.nan]), 0, False)
    score, reference = np.empty(len(Z)), np.empty(len(control))
    folds = KFold(N_FOLDS, shuffle=True, random_state=0)
    for (others, some), (known, unknown) in zip(folds.split(Z), folds.split(control), strict=True):
        mean, direction = _direction(control[known], Z[others])
        score[some] = (Z[some] - mean) @ direction
        reference[unknown] = (control[unknown] - mean) @ direction
    points, density = _density(reference, score)
    furthest = max(np.quantile(score, 0.99) + 1, LEAST_SHIFT + 1)
    shifts = np.arange(LEAST_SHIFT, furthest, SHIFT_STEP)
    unmoved = np.interp(score, points, density)
    moved = np.interp(score[:, None] - shifts, points, density)
    value = np.array([_log_likelihood(unmoved, one) for one in moved.T])  # (n_shifts, n_shares)
    drift = _drift(nulls, _direction(control, Z)[1])
    gain = value.max() - _unmoved(score, points, density, len(control), *drift, weight)
    best = int(value.max(1).argmax())
    return _Fit(score, unmoved, moved, shifts, best, bool(chi2.sf(2 * gain, 2) < NOISE))


def _drift(nulls, direction):
    """Standard deviations of the mean score of a guide that does nothing, and what each costs.

    The cost is the log-likelihood of the scores of ``nulls`` less than the largest.
    """
    if not len(nulls.label):
        return np.zeros(1), np.zeros(1)
    square = (nulls.shift @ direction)[:, None] ** 2
    variance = nulls.variance[:, None] + DRIFTS**2
    value = -(square / variance + np.log(variance)).sum(0) / 2
    return DRIFTS, value.max() - value


def _unmoved(score, points, density, n_controls, drifts, costs, weight):
    """Log-likelihood without responders, where control cells may lie and spread otherwise.

    So many of them say so only with an error, and guides that do nothing drift, which the largest
    deviation pays for.
    """
    best = -np.inf
    widths = np.sqrt(1 / n_controls + weight * drifts**2)
    likely = widths[costs < LARGEST_COST]
    off = np.concatenate([width * OFFSETS for width in likely])
    paid = ((off[:, None] / widths) ** 2 / 2 + costs).min(1)
    for spread in np.exp(OFFSETS / np.sqrt(2 * n_controls)):
        scaled = (score[:, None] - off) / spread
        with np.errstate(divide="ignore"):  # nothing is as far as that
            value = np.log(np.interp(scaled, points, density) / spread).sum(0)
        cost = paid + n_controls * np.log(spread) ** 2
        best = max(best, (value - cost).max())
    return best


def _direction(control, Z):
    """Mean of control cells, and the direction along which these cells differ from it most.

    The scores of control cells have unit variance.
    """
    mean, (n_cells, n_latent) = control.mean(0), control.shape
    covariance = np.atleast_2d(np.cov(control.T))
    own = np.diag(covariance.diagonal())  # of which few cells need more
    covariance = (n_cells * covariance + n_latent * own) / (n_cells + n_latent)
    direction = np.linalg.pinv(covariance) @ (Z.mean(0) - mean)
    length = np.sqrt(direction @ covariance @ direction)
    return mean, direction / max(length, TINY)


def _density(score, treated):
    """Of control cells, at points that reach as far as any shift of the treated ones needs."""
    low, high = min(score.min(), treated.min()), max(score.max(), treated.max())
    reach = high - low + 2
    points = np.linspace(low - reach, high + 2, N_POINTS)
    spread = max(score.std(), np.sqrt(TINY))
    others = norm.pdf(points, scale=OUTLIER_SPREAD * spread)
    width = spread * len(score) ** -0.2  # of Gaussian kernels, by Scott's rule
    kernels = norm.pdf(points[:, None], score, width).mean(1)
    return points, (1 - OUTLIERS) * kernels + OUTLIERS * others


def _log_likelihood(unmoved, moved):
    """Of every share of responders, (n_shares,)."""
    density = unmoved[:, None] + (moved - unmoved)[:, None] * SHARES
    return np.log(np.maximum(density, TINY)).sum(0)


def _share(fitted, part, level):
    """Share of responders among some of the cells, its interval, and each cell's probability."""
    row = {"n_cells": len(part), "share": np.nan, "lower": 0.0, "upper": 1.0, "shift": np.nan}
    row["detected"] = fitted.detected
    if not fitted.detected:
        return row, np.nan
    unmoved, moved = fitted.unmoved[part], fitted.moved[part]
    own = moved[:, fitted.best]
    value = _log_likelihood(unmoved, own)
    share = SHARES[value.argmax()]
    if len(part) == len(fitted.score):  # whose shift is not known from others
        value = np.max([_log_likelihood(unmoved, one) for one in moved.T], axis=0)
    inside = SHARES[2 * (value.max() - value) <= chi2.ppf(level, 1)]
    row |= {"share": share, "lower": inside[0], "upper": inside[-1]}
    row["shift"] = fitted.shifts[fitted.best]
    return row, share * own / np.maximum(share * own + (1 - share) * unmoved, TINY)
