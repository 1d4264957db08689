r"""Which perturbation moves which latent, called from mean latents by an empirical null.

Entry :math:`v_{pk}` of a matrix :math:`M` is the mean of latent :math:`k` over the cells of
perturbation :math:`p`, less that of the control, and :math:`e_{pk}` its standard error. Some
entries are effects, and the question is which.

**What is no effect is not zero.** Disentanglement is imperfect, so that a perturbation that moves
one latent shows in others, far beyond sampling error where cells are many. The null is therefore
estimated from the bulk of the entries (Efron 2004). With :math:`\rho_{pk}^2 = \sum_{l \ne k}
\mathrm{E}\, b_{pl}^2`, the size of all other effects :math:`b` of the same perturbation, its
variance is

.. math:: s_{pk}^2 = e_{pk}^2 + \sigma_k^2 + \lambda^2 \rho_{pk}^2,

since cross-talk is proportional to the effects that cause it. Each latent has a width
:math:`\sigma_k` of its own, shrunk towards a common one. Most entries that are no effects have the
distribution :math:`\mathcal N(0, s^2)`, the core; some :math:`\mathcal N(0, (2 s)^2)`, a tail; and
some :math:`\mathcal N(0, s^2 + 0.15^2 \rho^2)`: strong cross-talk, where another effect of the
same perturbation is strong.

**Effects have a typical size.** They have the distribution

.. math:: \tfrac12 \mathcal N(m, w^2 + s^2) + \tfrac12 \mathcal N(-m, w^2 + s^2)

of a slab at :math:`\pm m`, at least four widths of the null away from zero, which may be as wide
as :math:`w = m`. Two slabs, as for few strong effects beside many weak ones, are a mixture that
the data must pay for: a slab costs the logarithm of the number of entries. Locations and widths
are on a grid with estimated weights, as in adaptive shrinkage (Stephens 2017); but where that
mixes the whole grid, here the posterior probability of an edge is an average over mixtures of one
and two, by how well they explain the entries. A mixture of all puts a slab onto whatever the tail
of the null leaves unexplained. The first slab pays as well: if a null alone explains the entries
about as well, the probabilities are accordingly small, and a screen without effects has no edges.

The unit of everything is the standard deviation of a latent among equally treated cells.

References
----------
Efron (2004). Large-scale simultaneous hypothesis testing: the choice of a null hypothesis. JASA.
Stephens (2017). False discovery rates: a new deal. Biostatistics.
"""

from operator import attrgetter
from typing import NamedTuple

import numpy as np
from scipy.special import expit, softmax

from .._input.expression import read_matrix
from ..exceptions import warn_of_data

__all__ = ["edge_probability", "edges_at_fdr", "null_width", "probability_of_values"]

FLOOR = 0.02  # least width of the null; what differs by less is the same
UNUSED = 0.1  # of the largest spread among cells; a latent that spreads less is out of use
GUESS, GUESS_WEIGHT = 0.1, 4.0  # width of the null before any entry is seen, worth so many entries
COLUMN_WEIGHT = 20.0  # entries that the common width weighs in the width of each latent
NULL_SHARES = np.array([0.93, 0.05, 0.02])  # core, tail and cross-talk, before any entry is seen
NULL_WEIGHT = 10.0  # entries that those shares are worth
TAIL = 2.0  # width of the tail over that of the core
CROSS_TALK, STRONG_CROSS_TALK = 0.06, 0.15  # lambda to start from, and that of strong cross-talk
CLOSEST = 4.0  # least location of a slab, in widths of the null
LOCATION_STEP, WIDTH_STEP = 2**0.5, 1.5  # ratios of the grids of locations and of null widths
RELATIVE_WIDTHS = np.array([0.125, 0.25, 0.5, 1.0])  # of a slab, over its location
N_SEARCHED = 1000  # entries at most that mixtures are compared on: the largest, and some others
N_KEPT, WORSE = 8, 10.0  # mixtures to average over: how many, and how many nats below the best
N_SEARCH, N_REFINE, N_INNER = 10, 5, 4  # steps of EM
TINY = 1e-300
_value_of = attrgetter("value")


class _Mixture(NamedTuple):
    """A null of one width for all latents, and one or two slabs."""

    value: float  # log-likelihood, with what its priors and slabs cost
    width: float
    slabs: tuple  # two of the candidates, the same twice where there is only one
    weights: np.ndarray  # (5,) of core, tail, cross-talk, first and second slab


class _Table(NamedTuple):
    """Densities of entries under a null of one width and the slabs that it allows."""

    width: float
    counts: np.ndarray  # (n_entries,) that each stands for
    closest: float  # least location of a slab if the null has no tail
    candidates: np.ndarray  # (n_slabs,)
    null: np.ndarray  # (n_entries, 3)
    slabs: np.ndarray  # (n_entries, n_slabs)


class _Refined(NamedTuple):
    """Mixtures with a null for each latent, and what they say of each entry."""

    probability: np.ndarray  # (n_perturbations, n_latent) of an effect
    width: np.ndarray  # of the null beyond the standard error, of the same shape
    columns: np.ndarray  # (n_latent,) variance of the null of a row without effects
    weights: np.ndarray  # (n_mixtures, 5)
    posterior: np.ndarray  # (n_mixtures,)
    slabs: tuple  # first and second of each mixture, (2, n_mixtures) each

    def densities(self, v, variance, crossed):
        """Of null and slabs at these values."""
        return _densities(v, variance, crossed, self.slabs)


def edge_probability(M, standard_error) -> np.ndarray:
    """Probability that each entry is an effect, rather than noise or cross-talk from others.

    Parameters
    ----------
    M : array-like of shape (n_perturbations, n_latent)
        Mean latent state of each perturbation less that of the control, or less the median over
        perturbations, in standard deviations of a latent among equally treated cells.
    standard_error : array-like of shape (n_perturbations, n_latent)
        Standard error of each entry, 0 or more.

    Returns
    -------
    probability : ndarray of shape (n_perturbations, n_latent)
        One less the local false discovery rate, in [0, 1]. It is 0 throughout a latent out of
        use, which no perturbation moves or which hardly differs among cells.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.sparsity.edges import edge_probability
    >>> M = np.array([[3.1, 0.1, -0.1], [0.0, -2.8, 0.1], [0.1, 0.0, 0.1], [-0.1, 0.1, 2.9]])
    >>> edge_probability(M, np.full(M.shape, 0.1)).round(2)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.],
           [0., 0., 1.]])
    """
    return _called(M, standard_error)[0]


def null_width(M, standard_error) -> np.ndarray:
    """Standard deviation of what other effects leave in each entry, beyond its standard error.

    Parameters
    ----------
    M, standard_error : as in :func:`edge_probability`
        Effects and their standard errors.

    Returns
    -------
    width : ndarray of shape (n_perturbations, n_latent)
        The root of ``sigma**2 + lambda**2 * rho**2`` above, in the units of ``M``.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.sparsity.edges import null_width
    >>> M = np.array([[3.1, 0.1, -0.1], [0.0, -2.8, 0.1], [0.1, 0.0, 0.1], [-0.1, 0.1, 2.9]])
    >>> bool(null_width(M, np.full(M.shape, 0.1)).max() < 0.2)
    True
    """
    return _called(M, standard_error)[1]


def probability_of_values(M, standard_error, values, errors) -> np.ndarray:
    """Probability that values of one more perturbation are effects, each the only one of its row.

    Parameters
    ----------
    M, standard_error : as in :func:`edge_probability`
        Effects of a screen, of which the distributions of null and effects are estimated.
    values, errors : array-like of shape (n_values,) and (n_values, n_latent)
        Effects that the further perturbation may have on any of the latents, and their standard
        errors.

    Returns
    -------
    probability : ndarray of shape (n_values, n_latent)
        In [0, 1], as in :func:`edge_probability`; 0 on a latent out of use.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.sparsity.edges import probability_of_values
    >>> M = np.array([[3.1, 0.1, -0.1], [0.0, -2.8, 0.1], [0.1, 0.0, 0.1], [-0.1, 0.1, 2.9]])
    >>> probability_of_values(M, np.full(M.shape, 0.1), [0.1, 3.0], np.full((2, 3), 0.1)).round(2)
    array([[0., 0., 0.],
           [1., 1., 1.]])
    """
    M, standard_error = _check(M, standard_error)
    values, errors = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    probability, used = np.zeros(errors.shape), _in_use(M, standard_error)
    M, standard_error = M[:, used], standard_error[:, used]
    if not used.any():
        return probability
    slabs = _candidates(np.abs(M).max())
    mixtures, gain = _search(M, standard_error, slabs)
    if not mixtures:
        return probability
    fitted = _refine(M, standard_error, slabs, mixtures)
    variance = errors[:, used] ** 2 + fitted.columns
    v = np.repeat(values, used.sum())
    null, densities = fitted.densities(v, variance.ravel(), variance.ravel())
    total = _density(null, *densities, fitted.weights)
    null_share = (null * ((fitted.posterior / total) @ fitted.weights[:, :3])).sum(1)
    found = np.clip(1 - null_share, 0, 1) * expit(gain - np.log(M.size))
    probability[:, used] = found.reshape(len(values), -1)
    return probability


def _called(M, standard_error):
    """Probability of an effect, and width of the null beyond the standard error."""
    M, standard_error = _check(M, standard_error)
    probability, width = np.zeros(M.shape), np.full(M.shape, FLOOR)
    used = _in_use(M, standard_error)
    if used.any():
        probability[:, used], width[:, used] = _posterior(M[:, used], standard_error[:, used])
    return probability, width


def edges_at_fdr(probability, fdr: float = 0.05):
    """Largest set of entries of which at most the share ``fdr`` is expected to be false.

    No entry joins that is more likely false than true, however sure the others are.

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

    Examples
    --------
    >>> from skpert.sparsity.edges import edges_at_fdr
    >>> edges_at_fdr([0.99, 0.93, 0.8, 0.1], fdr=0.1)
    array([ True,  True,  True, False])
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
    M = read_matrix(M, "M")
    standard_error = read_matrix(standard_error, "standard_error")
    if M.shape != standard_error.shape:
        raise ValueError(
            f"standard_error has the shape {standard_error.shape} and M {M.shape}: "
            "each entry needs its own."
        )
    if (standard_error < 0).any():
        raise ValueError("standard_error must not be negative.")
    return M, standard_error


def _in_use(M, e):
    """Latents that some perturbation moves visibly and that differ among cells, (n_latent,)."""
    spread = np.median(e, axis=0)
    return (np.abs(M).max(0) > 2 * FLOOR) & (spread >= UNUSED * spread.max())


def _posterior(M, e):
    """Probability of an effect, averaged over mixtures and weighed against a null alone.

    With it goes the width of the null beyond the standard error.
    """
    slabs = _candidates(np.abs(M).max())
    mixtures, gain = _search(M, e, slabs)
    if not mixtures:
        return np.zeros(M.shape), np.full(M.shape, max(np.sqrt(np.mean(M**2)), FLOOR))
    fitted = _refine(M, e, slabs, mixtures)
    return fitted.probability * expit(gain - np.log(M.size)), fitted.width


def _candidates(largest):
    """Locations and widths of all slabs, (2, n_slabs)."""
    nearest = CLOSEST * FLOOR
    n_steps = np.log(max(largest / nearest, 1)) / np.log(LOCATION_STEP)
    locations = nearest * LOCATION_STEP ** np.arange(np.ceil(n_steps) + 1)
    widths = np.outer(locations, RELATIVE_WIDTHS)
    return np.stack([np.repeat(locations, len(RELATIVE_WIDTHS)), widths.ravel()])


def _search(M, e, slabs):
    """The best mixtures, all with the same null, and the nats by which they beat a null alone.

    First those of one slab, then those of two that have the best single slab in common, then
    those that have its best partner in common.
    """
    entries, counts = _some(M)
    v, e = M.ravel()[entries], e.ravel()[entries]
    widest = max(np.sqrt(np.mean(M**2)), 2 * FLOOR)
    n_widths = int(np.log(widest / FLOOR) / np.log(WIDTH_STEP)) + 2
    widths = np.geomspace(FLOOR, widest, n_widths)
    tables = [_table(v, e, counts, width, slabs) for width in widths]
    mixtures = newest = _fits(tables, slabs, None, M.size)
    for _ in range(2):
        if newest:
            newest = _fits(tables, slabs, max(newest, key=_value_of).slabs[0], M.size)
            mixtures = mixtures + newest
    if not mixtures:
        return [], 0.0
    best = max(mixtures, key=_value_of)
    alike = {
        frozenset(mixture.slabs): mixture  # the same two come in either order
        for mixture in mixtures
        if mixture.width == best.width and mixture.value > best.value - WORSE
    }
    gain = best.value - max(_null_value(table, M.size) for table in tables)
    return sorted(alike.values(), key=_value_of)[-N_KEPT:], gain


def _some(M):
    """The largest entries and an even choice of the others, and how many each stands for."""
    order = np.argsort(-np.abs(M), axis=None)
    n_largest, step = N_SEARCHED // 2, max(2 * M.size // N_SEARCHED, 1)
    if M.size <= N_SEARCHED:
        return order, np.ones(M.size)
    others = order[n_largest + step // 2 :: step]
    share = (M.size - n_largest) / len(others)
    counts = np.repeat([1.0, share], [n_largest, len(others)])
    return np.concatenate([order[:n_largest], others]), counts


def _table(v, e, counts, width, slabs):
    variance = e**2 + width**2
    closest = CLOSEST * np.sqrt(np.median(variance))
    allowed = np.flatnonzero(slabs[0] >= closest)
    densities = _slab_densities(v, variance, *slabs[:, allowed])
    null = _null_densities(v, variance, variance)
    return _Table(width, counts, closest, allowed, null, densities)


def _fits(tables, slabs, partner, n_entries):
    """A mixture for each slab and width of the null, alone or with a given partner."""
    mixtures = []
    for table in tables:
        n_slabs = len(table.candidates)
        if n_slabs == 0 or (partner is not None and partner not in table.candidates):
            continue
        if partner is None:
            weights, second = np.tile([0.8, 0.08, 0.02, 0.1, 0.0], (n_slabs, 1)), table.slabs
        else:
            weights = np.tile([0.8, 0.08, 0.02, 0.05, 0.05], (n_slabs, 1))
            second = table.slabs[:, table.candidates == partner]
        weights, total = _reweigh(table.counts, table.null, table.slabs, second, weights, N_SEARCH)
        value = _value(table, weights, total, n_entries)
        far = slabs[0, table.candidates] >= table.closest * _tail_factor(weights)
        for i in np.flatnonzero(far & (table.candidates != partner)):
            k = table.candidates[i]
            pair = k, k if partner is None else partner
            mixtures.append(_Mixture(value[i], table.width, pair, weights[i]))
    return mixtures


def _reweigh(counts, null, first, second, weights, n_steps):
    """Better weights of the components of each mixture, and its density at each entry."""
    total = _density(null, first, second, weights)  # (n_entries, n_mixtures)
    for _ in range(n_steps):
        inverse = counts[:, None] / total
        shares = inverse.T @ null, (first * inverse).sum(0), (second * inverse).sum(0)
        weights = weights * np.column_stack(shares)
        weights[:, :3] += NULL_WEIGHT * NULL_SHARES
        weights /= weights.sum(1, keepdims=True)
        total = _density(null, first, second, weights)
    return weights, total


def _density(null, first, second, weights):
    return null @ weights[:, :3].T + first * weights[:, 3] + second * weights[:, 4]


def _null_value(table, n_entries):
    """What the null explains without any slab."""
    weights, nothing = np.array([[0.9, 0.08, 0.02, 0.0, 0.0]]), np.zeros((len(table.null), 1))
    weights, total = _reweigh(table.counts, table.null, nothing, nothing, weights, N_SEARCH)
    return _value(table, weights, total, n_entries)[0]


def _value(table, weights, total, n_entries):
    """Log-likelihood of each mixture with what its priors and its second slab cost."""
    believed = np.log(table.width**2) + (GUESS / table.width) ** 2
    prior = _log_prior(weights, n_entries) - GUESS_WEIGHT / 2 * believed
    return table.counts @ np.log(total) + prior


def _log_prior(weights, n_entries):
    """Of the shares of the null and of a second slab, (n_mixtures,)."""
    second = (weights[:, 4] > 0) * np.log(n_entries)
    return NULL_WEIGHT * np.log(weights[:, :3]) @ NULL_SHARES - second


def _tail_factor(weights):
    """Width of core and tail together over that of the core."""
    share = weights[:, 1] / weights[:, :3].sum(1)
    return np.sqrt(1 + share * (TAIL**2 - 1))


def _refine(M, e, slabs, mixtures):
    """Mixtures where each latent has its own null, and what they say of each entry."""
    v, weights = M.ravel(), np.array([mixture.weights for mixture in mixtures])
    first, second = slabs[:, np.array([mixture.slabs for mixture in mixtures]).T].swapaxes(0, 1)
    columns, cross_talk = np.full(M.shape[1], mixtures[0].width ** 2), CROSS_TALK**2
    reach = np.zeros(M.shape)  # rho^2
    for _ in range(N_REFINE):
        variance = e**2 + columns + cross_talk * reach
        crossed = (variance + STRONG_CROSS_TALK**2 * reach).ravel()
        null, densities = _densities(v, variance.ravel(), crossed, (first, second))
        weights, total = _reweigh(np.ones(M.size), null, *densities, weights, N_INNER)
        posterior = softmax(np.log(total).sum(0) + _log_prior(weights, M.size))
        parts = null * ((posterior / total) @ weights[:, :3])
        core, tail, cross = parts.T.reshape(3, *M.shape)
        probability = np.clip(1 - core - tail - cross, 0, 1)
        effects = probability * M**2
        reach = effects.sum(1, keepdims=True) - effects
        squares, counts = M**2 * (core + tail / TAIL**2), core + tail
        for _ in range(N_INNER):
            columns, cross_talk = _widths(squares, counts, e, columns, cross_talk, reach)
    width = np.sqrt(columns + cross_talk * reach)
    return _Refined(probability, width, columns, weights, posterior, (first, second))


def _densities(v, variance, crossed, slabs):
    """Of the parts of the null, (n_entries, 3), and of both slabs of each mixture."""
    null = _null_densities(v, variance, crossed)
    return null, [_slab_densities(v, variance, *slab) for slab in slabs]


def _widths(squares, counts, e, columns, cross_talk, reach):
    """Variances of the null that explain its squares better, by a multiplicative step."""
    variance = e**2 + columns + cross_talk * reach
    gain, cost = squares / variance**2, counts / variance
    common, n = 1 / np.mean(1 / columns), GUESS_WEIGHT / len(columns)
    believed = COLUMN_WEIGHT * common + n * GUESS**2, COLUMN_WEIGHT + n
    step = (gain.sum(0) + believed[0] / columns**2) / (cost.sum(0) + believed[1] / columns)
    cross_talk *= ((gain * reach).sum() + TINY) / ((cost * reach).sum() + TINY)
    return np.maximum(columns * step, FLOOR**2), cross_talk


def _null_densities(v, variance, crossed):
    """Of core, tail and cross-talk at each entry, (..., 3)."""
    parts = _normal(v, variance), _normal(v, TAIL**2 * variance), _normal(v, crossed)
    return np.stack(parts, -1) + TINY


def _slab_densities(v, variance, m, w):
    """Of each slab at each entry, (n_entries, n_slabs)."""
    wide, v = variance[:, None] + w**2, v[:, None]
    return (_normal(v - m, wide) + _normal(v + m, wide)) / 2 + TINY


def _normal(distance, variance):
    return np.exp(-(distance**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def check_calls_edges(estimator):
    """Refuse a fitted estimator that says nothing of edges."""
    if not hasattr(estimator, "mask_probability_"):
        raise ValueError(f"{type(estimator).__name__} calls no edges: give SVAEPlus or SAMSVAE")


def check_edges(estimator, of_learned):
    """Refuse what contradicts edges that are called, and warn of what only learned ones use.

    ``of_learned`` has the parameters of priors, with their defaults.
    """
    if estimator.edges == "learned":
        return
    if estimator.init == "random":
        raise ValueError(
            "edges='called' needs init='rotation', which finds the axes on which they are called: "
            "set that, or edges='learned' for masks that are trained from random weights"
        )
    given = [name for name, value in of_learned.items() if getattr(estimator, name) != value]
    if given:
        warn_of_data(
            f"edges='called' of {type(estimator).__name__} makes no use of {' and '.join(given)}: "
            "set edges='learned' to learn masks under that prior"
        )
