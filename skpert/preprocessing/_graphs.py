"""A causal graph over nodes from cells that nothing was done to: best order score search."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state, check_scalar

from .._input.expression import LARGEST, read_matrix

_TOLERANCE = 1e-4  # of scores, above their rounding errors
_N_IDLE = 3  # moves of every node without a better score before the search ends


def causal_graph(
    X,
    *,
    penalty: float = 2.0,
    n_init: int = 3,
    random_state: int | np.random.RandomState | None = None,
) -> np.ndarray:
    r"""Directed acyclic graph that a linear Gaussian causal model of the cells would have.

    Among all orders of the nodes, and the parents that each then takes from those before it, the
    search seeks the smallest

    .. math:: \sum_j n \log \hat\sigma_j^2 + \text{penalty} \cdot \log(n) \cdot |\text{parents}(j)|

    where :math:`\hat\sigma_j^2` is what a linear regression on the parents leaves of the variance
    of node j in n cells. The graph can be given to a model, ``SCCVAE(graph=causal_graph(X))``.

    Parameters
    ----------
    X : array-like of shape (n_cells, n_nodes)
        Log-normalised expression of control cells, one column for each node; more cells than
        nodes. Columns may have any scale.
    penalty : float, default=2.0
        Cost of an edge, more than 0, in units of that of the Bayesian information criterion
        (BIC), which is 1. Larger means fewer edges.
    n_init : int, default=3
        Number of searches from random orders, of which the best graph is taken. More help where
        nodes are few and edges many; with hundreds of nodes one will do.
    random_state : int, RandomState instance or None, default=None
        Seeds the orders.

    Returns
    -------
    graph : ndarray of shape (n_nodes, n_nodes), bool
        Entry (i, j) says whether there is an edge i -> j. There is no cycle.

    Raises
    ------
    ValueError
        If X has missing values, constant or linearly dependent columns, or no more cells than
        nodes, or if a parameter is out of its range.

    Notes
    -----
    Without interventions a graph is known up to Markov equivalence only: which pairs are joined,
    and the direction of edges that meet in a node without being joined. Other directions are
    arbitrary. The graph is causal if all common causes are among the nodes and the model is
    linear, acyclic and Gaussian.

    The "Causal-GSP" variant of [1]_ learns its graph by greedy sparsest permutation [2]_, which
    reverses covered edges and drops those that are then not needed. This is its successor, the
    best order score search of [3]_, which moves one node at a time to its best place in the
    order. Here it continues among equally good places, and starts several times, instead
    of the backward equivalence search that can follow. It is greedy: a better graph can exist.

    Time grows about with the square of the number of nodes, and with the number of edges at each.

    References
    ----------
    .. [1] Liu, Zhang and Uhler, "Learning genetic perturbation effects with variational causal
       inference", bioRxiv 2025.06.05.657988.
    .. [2] Solus, Wang and Uhler, "Consistency guarantees for greedy permutation-based causal
       inference algorithms", Biometrika 108, 795-814 (2021).
    .. [3] Andrews et al., "Fast scalable and accurate discovery of DAGs using the best order score
       search and grow-shrink trees", NeurIPS 2023.

    Examples
    --------
    Two causes that are independent of each other, and their effect:

    >>> import numpy as np
    >>> from skpert.preprocessing import causal_graph
    >>> X = np.random.default_rng(0).normal(size=(500, 3))
    >>> X[:, 1] += X[:, 0] - X[:, 2]
    >>> causal_graph(X, random_state=0).astype(int)
    array([[0, 1, 0],
           [0, 0, 0],
           [0, 1, 0]])
    """
    check_scalar(n_init, "n_init", Integral, min_val=1)
    if not isinstance(penalty, Real) or not 0 < penalty < np.inf:
        raise ValueError(f"penalty must be a finite number above 0, got {penalty!r}")
    X = read_matrix(X, "X", largest=LARGEST)
    scorer = _Scorer(_correlation(X), len(X), penalty)
    random = check_random_state(random_state)
    fits = min(
        (_search(scorer, random) for _ in range(n_init)),
        key=lambda fits: sum(fit.score for fit in fits),
    )
    graph = np.zeros((len(fits), len(fits)), dtype=bool)
    for node, fit in enumerate(fits):
        graph[list(fit.parents), node] = True
    return graph


def _correlation(X):
    """Correlation of the columns, if they allow all regressions on each other."""
    n_cells, n_nodes = X.shape
    if n_cells <= n_nodes:
        raise ValueError(
            f"X has {n_cells} cells and {n_nodes} nodes: there must be more cells than nodes; "
            "take fewer genes"
        )
    constant = np.flatnonzero(np.ptp(X, axis=0) == 0)
    if len(constant):
        raise ValueError(
            f"{len(constant)} of {n_nodes} columns of X are constant, the first is column "
            f"{constant[0]}: leave them out"
        )
    correlation = np.atleast_2d(np.corrcoef(X, rowvar=False))
    if np.linalg.eigvalsh(correlation)[0] < 1e-9:
        raise ValueError(
            "columns of X are linearly dependent, such as a gene that is there twice: leave one "
            "of them out"
        )
    return correlation


class _Fit(NamedTuple):
    """Regression of a node on parents chosen among the nodes that it may have."""

    parents: tuple[int, ...]
    score: float
    path: tuple[int, ...]  # in the order in which they were found; some may have been dropped
    entering: np.ndarray  # (n_nodes,) whether it would change the path if it were allowed


class _Scorer:
    """Parents of a node, by forward and then backward selection, from correlations alone."""

    def __init__(self, correlation, n_cells, penalty):
        self.correlation = correlation
        self.n_cells = n_cells
        self.cost = penalty * np.log(n_cells)
        self.least = -np.expm1(-self.cost / n_cells)  # squared partial correlation of an edge

    def fit(self, node, allowed):
        """Best parents of a node among those allowed, a mask of the nodes."""
        path, entering = self._grow(node, allowed)
        return _Fit(*self._shrink(node, path), path, entering)

    def _grow(self, node, allowed):
        """Take the largest partial correlation as long as it pays."""
        n_nodes = len(self.correlation)
        path, entering = [], np.zeros(n_nodes, dtype=bool)
        rows = np.empty((8, n_nodes))  # of the Cholesky factor, as far as nodes are in the path
        variance, covariance = np.ones(n_nodes), self.correlation[node].copy()
        covariance[node] = 0
        while True:
            squared = covariance**2 / (variance * variance[node])
            best = int(np.argmax(squared * allowed))
            if not (allowed[best] and squared[best] > self.least):
                return tuple(path), entering | (squared > self.least)
            entering |= squared > squared[best]
            m = len(path)
            if m == len(rows):
                rows = np.vstack([rows, np.empty_like(rows)])
            row = self.correlation[best] - rows[:m, best] @ rows[:m]
            row /= np.sqrt(variance[best])
            path.append(best)
            rows[m] = row
            variance = variance - row**2
            covariance -= row * row[node]
            covariance[[node, *path]] = 0
            variance[path] = 1

    def _shrink(self, node, path):
        """Drop the smallest partial correlation as long as it pays; parents and their score."""
        names = np.array([node, *path])
        precision = np.linalg.inv(self.correlation[np.ix_(names, names)])
        while len(names) > 1:
            diagonal = precision.diagonal()
            squared = precision[0, 1:] ** 2 / (diagonal[0] * diagonal[1:])
            drop = 1 + squared.argmin()
            if squared[drop - 1] > self.least:
                break
            column = precision[:, drop] / precision[drop, drop]
            keep = np.arange(len(names)) != drop
            precision = (precision - np.outer(column, precision[drop]))[np.ix_(keep, keep)]
            names = names[keep]
        n_parents = len(names) - 1
        score = -self.n_cells * np.log(precision[0, 0]) + self.cost * n_parents
        return tuple(names[1:].tolist()), score


def _search(scorer, random):
    """One fit for each node, of an order that moves of single nodes no longer improve."""
    n_nodes = len(scorer.correlation)
    order = random.permutation(n_nodes).tolist()
    fits = [None] * n_nodes
    allowed = np.zeros(n_nodes, dtype=bool)
    for node in order:
        fits[node] = scorer.fit(node, allowed)
        allowed[node] = True
    n_idle = 0
    while n_idle < _N_IDLE:
        nodes = random.permutation(n_nodes)
        n_better = sum(_move(scorer, order, fits, node, random) for node in nodes)
        n_idle = 0 if n_better else n_idle + 1
    return fits


def _move(scorer, order, fits, node, random):
    """Put a node to a best place in the order, all in place; whether that is a better one."""
    at = order.index(node)
    others = order[:at] + order[at + 1 :]
    own = _fits_at_all_places(scorer, node, others)
    without, after = _fits_of_others(scorer, node, others, at, fits)
    scores = np.array([fit.score for fit in own])
    scores[1:] += np.cumsum([fit.score for fit in without])
    scores[:-1] += np.cumsum([fit.score for fit in after[::-1]])[::-1]
    # among equal ones at random: graphs of one class differ in what the next move can reach
    best = int(random.choice(np.flatnonzero(scores < scores.min() + _TOLERANCE)))
    order[:] = [*others[:best], node, *others[best:]]
    fits[node] = own[best]
    for place, other in enumerate(others):
        fits[other] = (without if place < best else after)[place]
    return scores[best] < scores[at] - _TOLERANCE


def _fits_at_all_places(scorer, node, others):
    """Fit of a node on the first 0, 1, 2, ... of the others."""
    allowed = np.zeros(len(others) + 1, dtype=bool)
    fits = [scorer.fit(node, allowed)]
    for other in others:
        allowed[other] = True
        fits.append(scorer.fit(node, allowed) if fits[-1].entering[other] else fits[-1])
    return fits


def _fits_of_others(scorer, node, others, at, fits):
    """Fits of the others on those before them, without the node and with it."""
    allowed = np.zeros(len(fits), dtype=bool)
    without, after = [fits[other] for other in others], [fits[other] for other in others]
    for place, other in enumerate(others):
        if place >= at and node in fits[other].path:
            without[place] = scorer.fit(other, allowed)
        elif place < at and fits[other].entering[node]:
            allowed[node] = True
            after[place] = scorer.fit(other, allowed)
            allowed[node] = False
        allowed[other] = True
    return without, after
