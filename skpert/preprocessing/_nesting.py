"""Which treatments can be compared with the control where cells differ in other ways, too.

Treatments and the levels of a column are the two kinds of nodes of a graph, joined where a cell
has both. The effect of a treatment can be compared with the control if there is a way from one to
the other, as in any block design [1]_. A perturbation none of whose treatments is joined to the
control is nested in the levels that it has.

For several environments together, some of them numbers, the same is said by the scatter W of their
columns within treatments: a treatment can be compared with the control if the difference d of
their means lies in the range of W. The variance of the comparison is then larger by the factor
``1 + d' W^- d / (1 / n_treated + 1 / n_control)`` than without environments.

References
----------
.. [1] Eccleston and Hedayat. On the Theory of Connected Designs. Annals of Statistics (1974).
"""

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import gammaln
from scipy.stats import hypergeom
from sklearn.utils import gen_batches

FEWEST = 3  # cells of a perturbation; fewer may have come to one batch by chance
N_CELLS = 65536  # that are summed at once
WIDEST = 1000  # columns of environments that are looked at together
ZERO = 1e-6  # of a scatter, relative to the largest, and of a difference


def nested_in(design, levels):
    """Whether no treatment with a name is joined to the control, or to most cells without one."""
    n_treatments, known = design.dosage.shape[0], levels >= 0
    edges = design.codes[known], n_treatments + levels[known]
    shape = 2 * (n_treatments + levels.max() + 1,)
    graph = coo_array((np.ones(known.sum()), edges), shape=shape)
    part = connected_components(graph, directed=False)[1][:n_treatments]
    n_cells = np.bincount(design.codes[known], minlength=n_treatments)
    return _apart(design, n_cells, part)


def inflation(design, environments):
    """Factor of the variance of each name's effect by environments, inf where it is unknown.

    Of the treatments with a name the one that is compared best counts. Without a control, nothing
    is said but what is unknown: factors are 1 or infinite. All are 1 for more columns than take
    time worth mentioning.
    """
    if environments.shape[1] > WIDEST:
        return np.ones(len(design.names))
    n_treatments, width = design.dosage.shape[0], environments.shape[1]
    n_cells = np.bincount(design.codes, minlength=n_treatments)
    total, scatter = np.zeros((n_treatments, width)), np.zeros((width, width))
    for some in gen_batches(len(design.codes), N_CELLS):
        values = environments[some].astype(np.float64)
        present, codes = np.unique(design.codes[some], return_inverse=True)
        place = codes, np.arange(len(codes))
        total[present] += csr_array((np.ones(len(codes)), place)) @ values
        scatter += values.T @ values
    means = total / np.maximum(n_cells, 1)[:, None]
    within = scatter - total.T @ means
    size, axes = np.linalg.eigh(within)
    null = size <= ZERO * max(size.max(initial=0), 1)
    _, part = np.unique(np.round(means @ axes[:, null], 6), axis=0, return_inverse=True)
    apart = _apart(design, n_cells, part.ravel())
    control = np.flatnonzero(_is_control(design) & (n_cells > 0))
    factor = np.ones(n_treatments)
    if len(control):
        shift = (means - means[control[0]]) @ axes[:, ~null]
        variance = 1 / np.maximum(n_cells, 1) + 1 / n_cells[control[0]]
        factor += (shift**2 / size[~null]).sum(1) / variance
    best = np.full(len(design.names), np.inf)
    rows = np.repeat(np.arange(n_treatments), np.diff(design.dosage.indptr))
    np.minimum.at(best, design.dosage.indices, factor[rows])
    return np.where(apart, np.inf, best)


def _is_control(design):
    return np.diff(design.dosage.indptr) == 0


def _apart(design, n_cells, part):
    """Names with enough cells, none of whose treatments is in the part of the control."""
    control = _is_control(design) & (n_cells > 0)
    joined = part[control] if control.any() else [np.bincount(part, n_cells).argmax()]
    member = (design.dosage.T > 0).astype(np.int64)
    seen, apart = member @ n_cells, member @ (n_cells * ~np.isin(part, joined))
    return (apart >= FEWEST) & (apart == seen)


def level_counts(design, levels, n_levels):
    """Cells of each name, and of what it is compared with, in each level.

    These are control cells or, where there are none, all cells without the name. Cells without a
    level do not count. Both arrays have the shape (n_names, n_levels).
    """
    n_treatments, known = design.dosage.shape[0], levels >= 0
    place = design.codes[known], levels[known]
    table = coo_array((np.ones(known.sum()), place), shape=(n_treatments, n_levels)).toarray()
    count = (design.dosage.T > 0).astype(np.float64) @ table
    control = table[_is_control(design)].sum(0)
    return count, np.broadcast_to(control, count.shape) if control.any() else table.sum(0) - count


def imbalance(count, reference, stratum):
    """How much more often the cells of a name are in its levels than those it is compared with.

    Cells are compared within strata only: those of the reference are weighted as if they came from
    strata in the proportions of the name. What has no reference in its stratum does not count.

    Parameters
    ----------
    count, reference : ndarray of shape (n_names, n_levels)
        Of :func:`level_counts`.
    stratum : ndarray of shape (n_levels,)
        Stratum of each level, a code.

    Returns
    -------
    excess : ndarray of shape (n_names, n_levels)
        Share of the name's cells that are in the level less that of the reference. The sum of
        those above 0 is the total variation distance of the two.
    """
    place = np.arange(len(stratum)), stratum
    of_stratum = csr_array((np.ones(len(stratum)), place))  # (n_levels, n_strata)
    n_reference = (reference @ of_stratum)[:, stratum]
    comparable = np.where(n_reference > 0, count, 0)
    n_comparable = (comparable @ of_stratum)[:, stratum]
    total = np.maximum(comparable.sum(1, keepdims=True), 1)
    return (comparable - n_comparable * reference / np.maximum(n_reference, 1)) / total


def chance(count, reference, chosen):
    """Bound of the probability that cells put at random into levels are as uneven as these.

    A hypergeometric tail for the ``chosen`` levels of each name, times the number of ways in which
    that many levels could have been chosen; (n_names,).
    """
    n_cells, n_reference = count.sum(1), reference.sum(1)
    inside = (count * chosen).sum(1)
    n_inside = inside + (reference * chosen).sum(1)
    log_tail = hypergeom.logsf(inside - 1, n_cells + n_reference, n_inside, n_cells)
    n_levels, n_chosen = count.shape[1], chosen.sum(1)
    log_ways = gammaln(n_levels + 1) - gammaln(n_chosen + 1) - gammaln(n_levels - n_chosen + 1)
    return np.exp(np.minimum(log_tail + log_ways + np.log(n_levels), 0))
