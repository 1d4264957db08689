r"""Simulated screens in which perturbations shift the variables of a latent causal model.

.. math:: u = u B + z + \sum_p a_p c_p S_p, \qquad z \sim \mathcal{N}(0, I), \qquad
          S_p = \mathrm{softmax}(F_p V), \qquad x \sim p(x \mid u)

:math:`B_{ij} \ne 0` is an edge :math:`i \to j` of an acyclic graph, :math:`a_p` the dosage of
perturbation :math:`p`, :math:`c_p` its penetrance and :math:`S_p \ge 0` its shift, which sums to
one and follows from its features :math:`F_p`, those of an unseen perturbation, too. Rows are
cells, so that :math:`u = (z + s) (I - B)^{-1}` for the shift :math:`s` of a cell. Without cycles
the latents have an order in which :math:`I - B` is triangular with ones on its diagonal.
"""

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from numbers import Integral, Real

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular
from scipy.special import softmax
from sklearn.utils import Bunch, check_random_state, check_scalar

from .._input.expression import read_matrix
from .._input.values import check_number, check_range
from ._decoders import CountDecoder, NormalDecoder, decoder_drawer
from ._simulation import (
    Population,
    check_sizes,
    draw_expression,
    draw_rows,
    numbered,
)

_SPREAD = 0.1  # share of the variance of features that lies within clusters
_MAX_SHARPNESS = 1e3  # shifts then have a single target


def make_causal_shift(
    n_perturbations: int = 40,
    *,
    n_unseen: int | None = None,
    n_cells_per_perturbation: int = 100,
    n_control_cells: int = 1000,
    n_latent: int = 10,
    n_genes: int = 100,
    graph=None,
    edge_probability: float = 0.3,
    edge_weight: float | tuple[float, float] = (0.25, 0.75),
    penetrance: float | tuple[float, float] = (0.5, 3.0),
    n_features: int = 5,
    n_clusters: int | None = None,
    sharpness: float = 3.0,
    likelihood: str = "normal",
    linear: bool = False,
    library_size: float = 1e4,
    library_scale: float = 0.3,
    dispersion: float | tuple[float, float] = (1.0, 10.0),
    noise_fraction: float = 0.2,
    shuffle: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Screen in which perturbations shift a latent causal model, as the SCCVAE paper assumes.

    A cell under perturbation ``p`` has basal state ``z ~ Normal(0, I)`` and causal state
    ``u = u @ weights + z + penetrance[p] * shift[p]``, so that what moves a latent moves its
    descendants in the graph. Expression follows from ``u`` as in :func:`make_additive_shift`.
    Shifts are a function of features, from which those of unseen perturbations can be predicted;
    penetrances are not.

    Parameters
    ----------
    n_perturbations : int, default=40
        Number of perturbations, unseen ones included.
    n_unseen : int or None, default=None
        The last ``n_unseen`` perturbations are for testing: their cells are in the data, and not
        in ``train``. None means a quarter, rounded down.
    n_cells_per_perturbation, n_control_cells : int, default=100 and 1000
        Number of cells of each perturbation, and of those labelled ``"control"``, which have no
        shift.
    n_latent, n_genes : int, default=10 and 100
        Number of latent variables, the modules, at most 40 for counts and 50 for ``"normal"``,
        and number of genes, at least 40 or 50; if ``linear``, only ``n_latent <= n_genes``.
    graph : array-like of shape (n_latent, n_latent) or None, default=None
        Given graph, without cycles: 1 in row i and column j is an edge i -> j, 0 is none.
        None draws one.
    edge_probability : float in [0, 1], default=0.3
        Each latent is a cause of each later one with this probability, unless ``graph`` is given;
        0 makes the latents independent, and the screen additive.
    edge_weight : float or (float, float), default=(0.25, 0.75)
        Absolute weight of an edge, positive: the same for all, or drawn uniformly from this
        range. Signs are random.
    penetrance : float or (float, float), default=(0.5, 3.0)
        Total shift of a perturbation, in standard deviations of a basal latent: the same for all,
        or drawn uniformly from this range, which may include negative numbers.
    n_features : int, default=5
        Number of features of a perturbation, normal with unit variance.
    n_clusters : int or None, default=None
        Number of clusters of perturbations, of equal size up to one, whose features correlate by
        0.9 within a cluster and not between them. None leaves all perturbations independent.
    sharpness : float in [0, 1000], default=3.0
        Standard deviation of the logits of a shift: at 0, shifts are spread evenly over all
        latents; large ones fall on one.
    likelihood : {"normal", "negative_binomial", "poisson"}, default="normal"
        Kind of expression; ``"normal"`` is for models of normalised expression.
    linear : bool, default=False
        Expression is linear in the causal states, for ``"normal"`` only: its expectation under
        perturbation ``p`` is ``effect[p] @ inv(I - weights) @ loadings``.
    library_size, library_scale : float, default=1e4 and 0.3
        Depth of counts, as in :func:`make_additive_shift`.
    dispersion : float or (float, float), default=(1.0, 10.0)
        Noise of negative binomial counts, as in :func:`make_additive_shift`.
    noise_fraction : float in (0, 1), default=0.2
        Share of noise in the variance of each gene over the cells; ``"normal"`` only.
    shuffle : bool, default=True
        Shuffle the cells; otherwise they come in the order of ``perturbations``, controls last.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is drawn; an int gives the same data each time.

    Returns
    -------
    data : Bunch
        As of :func:`make_additive_shift` are ``X``, ``A``, ``perturbations``,
        ``expected_expression``, ``control_expression``, ``library_size``, ``dispersion``,
        ``noise_scale`` and ``DESCR``. There are no combinations in the data.

        Z, U : ndarray of shape (n_cells, n_latent)
            True basal and causal states.
        train, test : ndarray of int
            Rows of the cells of seen perturbations and of controls; of unseen perturbations.
        graph : ndarray of shape (n_latent, n_latent), bool
            Edges: True in row i and column j is i -> j; i < j unless the graph was given.
        weights : ndarray of shape (n_latent, n_latent)
            B, the weights of the edges, zero elsewhere.
        features : DataFrame of shape (n_perturbations, n_features)
            F, with the names of the perturbations as index.
        feature_weights : ndarray of shape (n_features, n_latent)
            V, sharpness included: ``shift`` is the softmax of ``features @ feature_weights``.
        clusters : ndarray of shape (n_perturbations,), int
            Cluster of each perturbation; all differ without ``n_clusters``.
        shift : ndarray of shape (n_perturbations, n_latent)
            S, not negative, rows summing to one.
        penetrance : ndarray of shape (n_perturbations,)
            c, the total shift of each perturbation.
        effect : ndarray of shape (n_perturbations, n_latent)
            Penetrance times shift.
        seen : ndarray of shape (n_perturbations,), bool
            Whether cells of the perturbation are in ``train``.
        expected : callable
            ``expected(A)`` as of :func:`make_additive_shift`, combinations included; dosages
            scale penetrances. Exact if ``linear``.
        rate, log_likelihood : callable
            ``rate(U)`` and ``log_likelihood(X, U)`` as of :func:`make_additive_shift`, with causal
            states in place of latent states.
        loadings : ndarray of shape (n_latent, n_genes)
            Expected expression per unit of each causal state; ``linear`` only.

    Raises
    ------
    ValueError
        If an argument is out of its range, if ``graph`` has a cycle (which is named), another
        shape or other entries than 0 and 1, or if ``linear`` counts are asked for.

    See Also
    --------
    make_additive_shift : Latents without a graph, perturbations without features.

    References
    ----------
    Liu, Zhang & Uhler (2025). Learning genetic perturbation effects with variational causal
    inference. bioRxiv 2025.06.05.657988. Its structural causal model and its shifts on the
    simplex; the paper simulates no screens, so that the defaults here are our own.

    Examples
    --------
    >>> from skpert.datasets import make_causal_shift
    >>> data = make_causal_shift(8, n_cells_per_perturbation=20, random_state=0)
    >>> data.X.shape, data.U.shape, data.features.shape
    ((1160, 100), (1160, 10), (8, 5))
    >>> data.perturbations[~data.seen].tolist(), len(data.train), len(data.test)
    (['P6', 'P7'], 1120, 40)
    """
    check_sizes(n_perturbations, n_cells_per_perturbation, n_control_cells)
    noise = library_size, library_scale, dispersion, noise_fraction
    draw_decoder = decoder_drawer(likelihood, n_latent, n_genes, noise, linear=linear)
    graph = _check_graph(graph, edge_probability, n_latent)
    edge_weight = _check_interval(edge_weight, "edge_weight", 0)
    penetrance = _check_interval(penetrance, "penetrance", -np.inf)
    n_unseen = _check_unseen(n_unseen, n_perturbations)
    n_clusters = _check_features(n_features, n_clusters, sharpness, n_perturbations)
    rng = check_random_state(random_state)

    weights = _draw_weights(graph, edge_probability, edge_weight, n_latent, rng)
    shifts = _draw_shifts((n_perturbations, n_features, n_latent), n_clusters, sharpness, rng)
    effects = _draw_effects(shifts["shift"], penetrance, n_unseen, rng)
    n_each = n_cells_per_perturbation, n_control_cells
    cells = _draw_cells(n_each, effects, weights, shuffle, rng)
    decoder = draw_decoder(cells["U"], n_genes, rng)
    return Bunch(
        DESCR=f"Causal shifts: {n_perturbations} perturbations, {n_unseen} of them unseen, "
        f"{n_latent} latents, {(weights != 0).sum()} edges, {likelihood=}, {linear=}.",
        **(shifts | effects | cells | _draw_expression(decoder, weights, effects, cells, rng)),
    )


@dataclass(frozen=True, eq=False)
class CausalDecoder:
    """Expression given shifted basal states: the causal model and what follows from it."""

    decoder: CountDecoder | NormalDecoder  # p(x | u)
    weights: np.ndarray  # B

    def mean(self, Z):
        """Return the expected expression of basal states plus shifts; nothing is checked."""
        return self.decoder.mean(causal_states(Z, 0.0, self.weights))


def causal_states(z, shift, B):
    """Solve u = u B + z + shift of cells, (n_cells, n_latent), or of one, causes first."""
    order = topological_order(B != 0)
    system = (np.eye(len(B)) - B)[np.ix_(order, order)]  # upper triangular, ones on the diagonal
    total = z + shift
    u = np.empty(total.shape)
    solved = solve_triangular(system, total[..., order].T, trans="T", unit_diagonal=True)
    u[..., order] = solved.T
    return u


def topological_order(graph):
    """Latents, causes before effects; a cycle is named."""
    causes = {j: np.flatnonzero(column).tolist() for j, column in enumerate(graph.T)}
    try:
        return list(TopologicalSorter(causes).static_order())
    except CycleError as error:
        cycle = " -> ".join(map(str, error.args[1]))
        raise ValueError(f"graph must have no cycle, it has {cycle}: remove an edge") from None


def _draw_weights(graph, edge_probability, edge_weight, n_latent, rng):
    """Weights of the edges of a graph, (n_latent, n_latent); as many draws for any graph."""
    coins = rng.random_sample((n_latent, n_latent)) < edge_probability
    strength = rng.uniform(*edge_weight, size=coins.shape)
    signed = rng.choice([-1.0, 1.0], size=coins.shape) * strength
    return np.where(np.triu(coins, k=1) if graph is None else graph, signed, 0.0)


def _draw_shifts(shape, n_clusters, sharpness, rng):
    """Features of perturbations and the shifts that follow from them."""
    n_perturbations, n_features, n_latent = shape
    clusters = rng.permutation(np.arange(n_perturbations) % n_clusters)
    centres = rng.normal(size=(n_clusters, n_features))
    own = rng.normal(size=(n_perturbations, n_features))
    features = np.sqrt(1 - _SPREAD) * centres[clusters] + np.sqrt(_SPREAD) * own
    scale = sharpness / np.sqrt(n_features)  # logits then have this standard deviation
    feature_weights = scale * rng.normal(size=(n_features, n_latent))
    names, columns = numbered("P", n_perturbations), [f"F{k}" for k in range(n_features)]
    return {
        "features": pd.DataFrame(features, index=names, columns=columns),
        "feature_weights": feature_weights,
        "clusters": clusters,
        "shift": softmax(features @ feature_weights, axis=1),
    }


def _draw_effects(shift, penetrance, n_unseen, rng):
    penetrance = rng.uniform(*penetrance, size=len(shift))
    seen = np.arange(len(shift)) < len(shift) - n_unseen
    return {"penetrance": penetrance, "effect": penetrance[:, None] * shift, "seen": seen}


def _draw_cells(n_each, effects, weights, shuffle, rng):
    """Labels and states of all cells, and what they are for."""
    (n_treated, n_control), effect = n_each, effects["effect"]
    row = draw_rows([n_treated] * len(effect) + [n_control], shuffle, rng)
    Z = rng.normal(size=(len(row), effect.shape[1]))
    labels = np.array([*numbered("P", len(effect)), "control"], dtype=object)
    shift = np.vstack([effect, np.zeros(effect.shape[1])])[row]
    in_train = np.append(effects["seen"], True)[row]
    return {
        "A": labels[row],
        "Z": Z,
        "U": causal_states(Z, shift, weights),
        "perturbations": labels[:-1],
        "train": np.flatnonzero(in_train),
        "test": np.flatnonzero(~in_train),
    }


def _draw_expression(decoder, weights, effects, cells, rng):
    """Expression of all cells, and what is known of it and of the graph behind it."""
    mean, effect = CausalDecoder(decoder, weights).mean, effects["effect"]
    return {
        "graph": weights != 0,
        "weights": weights,
        **draw_expression(decoder, mean, cells["U"], effect, rng),
        "expected": Population(mean, cells["perturbations"], effect).expected,
        **decoder.parameters(),
    }


def _check_graph(graph, edge_probability, n_latent):
    """Return a given graph, (n_latent, n_latent), bool, or None."""
    check_number(edge_probability, "edge_probability", 0, 1, "both")
    if graph is None:
        return None
    graph = read_matrix(graph, "graph")
    if graph.shape != (n_latent, n_latent):
        raise ValueError(f"graph has shape {graph.shape}; it must be that of {n_latent=} latents")
    if not np.isin(graph, [0, 1]).all():
        raise ValueError("graph must hold 0 and 1 only: weights are drawn, see edge_weight")
    topological_order(graph != 0)
    return graph != 0


def _check_interval(value, name, above):
    """Return the smallest and largest of the numbers to be drawn."""
    must = f"{name} must be a number above {above} and below inf, or two as (lowest, highest)"
    return check_range(value, must, Real, lambda low, high: above < low <= high < np.inf)


def _check_unseen(n_unseen, n_perturbations):
    """Return the number of perturbations that are not for training."""
    n_unseen = n_perturbations // 4 if n_unseen is None else n_unseen
    check_scalar(n_unseen, "n_unseen", Integral, min_val=0)
    if n_unseen >= n_perturbations:
        raise ValueError(f"{n_unseen=} must leave some of the {n_perturbations=}")
    return n_unseen


def _check_features(n_features, n_clusters, sharpness, n_perturbations):
    """Return the number of clusters of features."""
    check_scalar(n_features, "n_features", Integral, min_val=1)
    check_number(sharpness, "sharpness", 0, _MAX_SHARPNESS, "both")
    n_clusters = n_perturbations if n_clusters is None else n_clusters
    check_scalar(n_clusters, "n_clusters", Integral, min_val=1, max_val=n_perturbations)
    return n_clusters
