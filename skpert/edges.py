r"""Which perturbation moves which latent, judged from mean latents: an empirical null.

Entry :math:`v_{pk}` of a matrix :math:`M` is the mean of latent :math:`k` over the cells of
perturbation :math:`p`, less that of the control, and :math:`e_{pk}` its standard error. It is an
effect or it is not:

.. math::
    v_{pk} \sim \pi_0 \, f_0(v_{pk}; s_{pk})
        + \sum_c \pi_c \tfrac12 \bigl[\mathcal N(m_c, w_c^2 + s_{pk}^2)
        + \mathcal N(-m_c, w_c^2 + s_{pk}^2)\bigr].

**What is no effect is not zero.** Disentanglement is imperfect, so a perturbation that moves one
latent leaks a little into the others, and far beyond sampling error when cells are many. So the
null is estimated from the bulk of the entries (Efron 2004), with the variance

.. math:: s_{pk}^2 = e_{pk}^2 + \sigma_k^2 + \lambda^2 \sum_{l \ne k} \mathrm{E}\, b_{pl}^2,

where :math:`b` are effects: what leaks is proportional to what there is to leak. Every latent has
a width :math:`\sigma_k` of its own, drawn towards a common one; :math:`f_0` mixes a normal
distribution of standard deviation :math:`s` with one of :math:`2 s`, a tail.

**Effects have any size** that stands out of the null: a fixed grid of locations :math:`m_c`, from
four typical widths of the null upwards, each at several relative widths :math:`w_c / m_c`,
with weights that are estimated (Stephens 2017). So weak effects can stand beside strong ones.

The unit is the standard deviation of a latent among equally treated cells, about 1 in all models
here whose latents are in use.

References
----------
Efron (2004). Large-scale simultaneous hypothesis testing: the choice of a null hypothesis. JASA.
Stephens (2017). False discovery rates: a new deal. Biostatistics.
"""

import numpy as np
from sklearn.utils import check_array

FLOOR = 0.02  # least width of the null; what differs by less is the same
GUESS, GUESS_WEIGHT = 0.1, 4.0  # width of the null before any entry is seen, worth so many entries
TAIL = 2.0  # width of the null's tail over that of its core
CLOSEST = 4.0  # smallest typical effect, in widths of the null
RELATIVE_WIDTHS = np.array([0.125, 0.25, 0.5])
COLUMN_WEIGHT = 20.0  # entries that the common width of the null weighs in that of a latent
NULL_WEIGHT = 10.0  # entries known to be null beforehand
N_ITER = 60


def edge_probability(M, standard_error):
    """Probability that each entry is an effect, and not noise or what leaks from other entries.

    Parameters
    ----------
    M : array-like of shape (n_perturbations, n_latent)
        Mean latent state of each perturbation less that of the control, or less the median over
        perturbations. In units of the standard deviation among equally treated cells.
    standard_error : array-like of shape (n_perturbations, n_latent)
        Standard error of each entry, 0 or more.

    Returns
    -------
    probability : ndarray of shape (n_perturbations, n_latent)
        One less the local false discovery rate, in [0, 1]; 0 throughout a latent out of use.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.edges import edge_probability
    >>> M = np.array([[3.1, 0.1, -0.1], [0.0, -2.8, 0.1], [0.1, 0.0, 0.1], [-0.1, 0.1, 2.9]])
    >>> edge_probability(M, np.full(M.shape, 0.1)).round(2)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.],
           [0., 0., 1.]])
    """
    M, standard_error = _check(M, standard_error)
    probability = np.zeros(M.shape)
    live = _in_use(M, standard_error)
    if live.any():
        probability[:, live] = _posterior(M[:, live], standard_error[:, live])
    return probability


def edges_at_fdr(probability, fdr=0.05):
    """Largest set of entries of which at most the share ``fdr`` is expected to be false.

    No entry joins that is more likely false than not, however sure the others are.

    Parameters
    ----------
    probability : array-like of any shape
        Probability that each entry is an effect.
    fdr : float, default=0.05
        Largest mean of one less the probability over the set (the Bayesian false discovery
        rate), in [0, 1]. Above 0.5 it also bounds each entry.

    Returns
    -------
    edges : ndarray of bool, of the same shape
        The most probable entries; of equal ones all or none.
    """
    probability = np.asarray(probability, dtype=np.float64)
    if not ((probability >= 0) & (probability <= 1)).all():  # NaN is neither
        raise ValueError("probability must be in [0, 1], without NaN.")
    if not 0 <= fdr <= 1:
        raise ValueError(f"fdr must be in [0, 1]; got {fdr}.")
    local = 1 - probability
    ranked, n_equal = np.unique(local[local <= max(fdr, 0.5)], return_counts=True)
    n_called = np.cumsum(n_equal)
    within = np.flatnonzero(np.cumsum(ranked * n_equal) <= fdr * n_called * (1 + 1e-12))
    return local <= (ranked[within[-1]] if len(within) else -1.0)


def _check(M, standard_error):
    M = check_array(M, dtype=np.float64, input_name="M")
    standard_error = check_array(standard_error, dtype=np.float64, input_name="standard_error")
    if M.shape != standard_error.shape:
        raise ValueError(
            f"standard_error has the shape {standard_error.shape} and M {M.shape}: "
            "each entry needs its own."
        )
    if (standard_error < 0).any():
        raise ValueError("standard_error must not be negative.")
    return M, standard_error


def _in_use(M, standard_error):
    """Latents that some perturbation moves visibly and that differ among cells, (n_latent,)."""
    spread = np.median(standard_error, axis=0)
    return (np.abs(M).max(0) > 2 * FLOOR) & (spread >= 0.1 * spread.max())


def _posterior(M, e):
    """Posterior probability of an effect under the best null of those that several starts find."""
    starts = np.quantile(np.abs(M), [0.3, 0.5, 0.7]) / [0.385, 0.674, 1.036]
    fits = [_fit(M, e, max(start, FLOOR)) for start in np.append(starts, GUESS)]
    return max(fits, key=lambda fit: fit[0])[1]


def _fit(M, e, width):
    """Log-likelihood, penalties included, and probability of an effect, by EM."""
    n, columns = M.size, np.full(M.shape[1], width**2)
    leak, reach = 0.03**2, np.zeros(M.shape)
    shares = np.array([0.85, 0.05])
    weights = None
    for _ in range(N_ITER):
        variance = e**2 + columns + leak * reach
        null = np.stack([_normal(M, variance), _normal(M, TAIL**2 * variance)], -1)
        m, w = _grid(np.abs(M).max(), np.sqrt(np.median(variance)))
        slab = _slab(M, variance, m, w)
        if weights is None or len(weights) != len(m):
            weights = np.full(len(m), 0.1 / len(m))
        joint_null, joint_slab = null * shares, slab * weights
        density = joint_null.sum(-1) + joint_slab.sum(-1) + 1e-300
        r_null, r_slab = joint_null / density[..., None], joint_slab / density[..., None]
        probability = np.clip(r_slab.sum(-1), 0, 1)
        counts = r_null.sum((0, 1)) + [NULL_WEIGHT, 0]
        total = n + NULL_WEIGHT
        shares, weights = counts / total, r_slab.sum((0, 1)) / total
        objective = np.log(density).sum() + NULL_WEIGHT * np.log(shares[0])
        squares = M**2 * (r_null[..., 0] + r_null[..., 1] / TAIL**2)
        columns, leak = _widths(squares, r_null.sum(-1), variance, columns, leak, reach)
        effects = probability * M**2
        reach = effects.sum(1, keepdims=True) - effects
    return objective, probability


def _widths(squares, weight, variance, columns, leak, reach):
    """Variances of the null that explain the squares better (a step of a multiplicative rule)."""
    gain, cost = squares / variance**2, weight / variance
    common = columns.mean()
    common *= (gain.sum() + GUESS_WEIGHT * GUESS**2 / common**2) / (
        cost.sum() + GUESS_WEIGHT / common
    )
    columns = (
        columns
        * (gain.sum(0) + COLUMN_WEIGHT * common / columns**2)
        / (cost.sum(0) + COLUMN_WEIGHT / columns)
    )
    leak = leak * ((gain * reach).sum() + 1e-9) / ((cost * reach).sum() + 1e-9)
    return np.maximum(columns, FLOOR**2), min(leak, 0.2**2)


def _grid(largest, width):
    """Locations and widths of the components of the slab."""
    closest = CLOSEST * width
    n = max(int(np.ceil(np.log(max(largest / closest, 1.0)) / np.log(1.5))) + 1, 1)
    m = np.repeat(closest * 1.5 ** np.arange(n), len(RELATIVE_WIDTHS))
    return m, m * np.tile(RELATIVE_WIDTHS, n)


def _slab(M, variance, m, w):
    """Density of each symmetric component at each entry, (n_perturbations, n_latent, n)."""
    wide = variance[..., None] + w**2
    distance = np.abs(M)[..., None]
    return (_normal(distance - m, wide) + _normal(distance + m, wide)) / 2


def _normal(distance, variance):
    return np.exp(-(distance**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
