r"""Dose-response curves by weighted least squares on the means of doses.

The mean response to a dose d is :math:`b + m \, g(d)`, with b that of control cells and
:math:`g(d) = d`, :math:`\log(1 + d / d_1)` (:math:`d_1` the smallest dose) or the Hill function

.. math:: g(d) = d^h / (\mathrm{EC}_{50}^h + d^h).

b and m are linear, and least squares has them in closed form for any :math:`\mathrm{EC}_{50}` and
h. These two are scanned on a grid that closes in on the values that the data allow. So there is no
starting value, from which a local optimiser would go astray where a curve is nearly flat, and
intervals are those of the profile likelihood, open where the doses do not bracket the curve.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import f, t

N_EC50, N_EXPONENTS, N_SCANS = 121, 31, 3
BEYOND = 2.0  # decades below the smallest dose and above the largest one that are scanned
EXPONENTS = 0.3, 6.0
PRIOR_CELLS = 20.0  # cells of all doses that the variance of one is shrunk towards
HILL_DOSES = 3  # fewest for the four parameters, beside control cells


class Means(NamedTuple):
    """Mean responses to the doses of one perturbation; the first dose is 0."""

    dose: np.ndarray  # (n_doses + 1,)
    n_cells: np.ndarray  # (n_doses + 1,)
    mean: np.ndarray  # (n_doses + 1, n_responses)
    variance: np.ndarray  # of the means, (n_doses + 1, n_responses)
    df: int  # degrees of freedom of the variances

    def of(self, response):
        """Means of one response."""
        columns = slice(response, response + 1)
        return self._replace(mean=self.mean[:, columns], variance=self.variance[:, columns])


class Hill(NamedTuple):
    """The Hill curve of all responses; a value, and the ends of its interval, in rows of three."""

    ec50: tuple  # 0 or infinity if open
    exponent: tuple  # the same
    maximum: np.ndarray  # (3, n_responses) m, infinite if open
    error: float  # squared error of the curve


def means_of(dose, Z):
    """Group the cells of a perturbation and of the control by dose; None if too few repeat one."""
    doses, codes, n = np.unique(dose, return_inverse=True, return_counts=True)
    df = len(dose) - len(doses)
    if df < 2:
        return None
    mean = _sums(codes, Z, len(doses)) / n[:, None]
    square = _sums(codes, (Z - mean[codes]) ** 2, len(doses))
    pooled = square.sum(0) / df
    own = (square + PRIOR_CELLS * pooled) / (n[:, None] - 1 + PRIOR_CELLS)
    least = (1e-9 * np.abs(Z - Z.mean(0)).max(0)) ** 2  # where doses have no spread
    least[least == 0] = 1.0  # of a response that never varies, which no dose moves
    return Means(doses, n, mean, np.maximum(own, least) / n[:, None], df)


def _sums(codes, values, n_groups):
    found = np.zeros((n_groups, values.shape[1]))
    np.add.at(found, codes, values)
    return found


def hill(dose, ec50, exponent):
    """Share of the largest effect at each dose above 0, between 0 and 1."""
    return 1 / (1 + (ec50 / dose) ** exponent)


def log_dose(dose, smallest):
    """Logarithm of doses in units of the smallest one, 0 for 0."""
    return np.log1p(dose / smallest)


def least_squares(basis, means):
    """Squared error of ``b + m * basis``, m and its information, for each response.

    Parameters
    ----------
    basis : ndarray of shape (..., n_doses + 1)
    means : Means

    Returns
    -------
    error, slope, information : ndarray of shape (..., n_responses)
    """
    weight = 1 / means.variance
    total = weight.sum(0)
    y = means.mean - (weight * means.mean).sum(0) / total
    centre = basis @ weight / total
    information = np.maximum(basis**2 @ weight - centre**2 * total, 1e-12 * total)
    slope = basis @ (weight * y) / information
    return np.maximum((weight * y**2).sum(0) - slope**2 * information, 0), slope, information


def response_p(means):
    """P-value of no response to any dose, for each response, and for all."""
    flat, _, _ = least_squares(np.zeros(len(means.dose)), means)
    n = len(means.dose) - 1
    together = f.sf(flat.mean() / n, n * len(flat), means.df)
    return f.sf(flat / n, n, means.df), together


def fit_hill(means, level):
    """The Hill curve that all responses have in common but for its height."""
    low, high = np.log10(means.dose[1]) - BEYOND, np.log10(means.dose[-1]) + BEYOND
    limits = (low, high), tuple(np.log10(EXPONENTS))
    grid = [np.linspace(*limits[0], N_EC50), np.linspace(*limits[1], N_EXPONENTS)]
    allowance = f.ppf(level, 1, means.df)
    for _ in range(N_SCANS - 1):
        error = _scan(grid, means)[0].sum(-1)
        inside = error <= error.min() + allowance
        grid = [_closer(grid[0], inside.any(1)), _closer(grid[1], inside.any(0))]
    errors, maximum, information = _scan(grid, means)
    error = errors.sum(-1)
    allowed = error.min() + allowance
    best = np.unravel_index(error.argmin(), error.shape)
    ends = [_interval(grid[k], error.min(1 - k), allowed, limits[k]) for k in (0, 1)]
    values = [(10 ** grid[k][best[k]], *(10.0 ** np.array(ends[k]))) for k in (0, 1)]
    room = np.sqrt(np.maximum(allowed - error, 0)[..., None] / information)
    inside = (error <= allowed)[..., None]
    lower = np.where(inside, maximum - room, np.inf).min((0, 1))
    upper = np.where(inside, maximum + room, -np.inf).max((0, 1))
    if ends[0][1] == np.inf:  # half the largest effect may be beyond all doses
        lower = np.where(maximum[best] < 0, -np.inf, lower)
        upper = np.where(maximum[best] > 0, np.inf, upper)
    return Hill(*values, np.stack([maximum[best], lower, upper]), error[best])


def _scan(grid, means):
    """Least squares of all curves on the grid of logarithms of EC50 and exponent."""
    basis = np.zeros((N_EC50, N_EXPONENTS, len(means.dose)))
    ec50, exponent = 10 ** grid[0][:, None, None], 10 ** grid[1][:, None]
    basis[..., 1:] = hill(means.dose[1:], ec50, exponent)
    return least_squares(basis, means)


def _closer(values, inside):
    """As many values around those that the data allow."""
    rows = np.flatnonzero(inside)
    first, last = max(rows[0] - 2, 0), min(rows[-1] + 2, len(values) - 1)
    return np.linspace(values[first], values[last], len(values))


def _interval(values, error, allowed, limits):
    """Ends of where the squared error is at most ``allowed``; infinite at the limits."""
    inside = np.flatnonzero(error <= allowed)
    ends = []
    for at, step, limit in ((inside[0], -1, limits[0]), (inside[-1], 1, limits[1])):
        beside = min(max(at + step, 0), len(values) - 1)
        if beside == at:
            ends.append(step * np.inf if values[at] == limit else values[at])
        else:  # between two values of the grid
            share = (allowed - error[at]) / (error[beside] - error[at])
            ends.append(values[at] + share * (values[beside] - values[at]))
    return ends


def standard_error(lower, upper, level, df):
    """Of a value, from its interval; NaN if that is open."""
    width = upper - lower
    return width / (2 * t.ppf((1 + level) / 2, df)) if np.isfinite(width) else np.nan
