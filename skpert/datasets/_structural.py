r"""The structural causal model behind simulated screens: its graph, weights and states.

.. math:: u = u B + z + s \quad\Longrightarrow\quad u = (z + s) (I - B)^{-1}

Rows are cells. :math:`B_{ij} \ne 0` is an edge :math:`i \to j`; without cycles the latents have an
order in which :math:`I - B` is triangular with ones on its diagonal, and its determinant is one.
"""

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import numpy as np
from scipy.linalg import solve_triangular

from .._input.expression import read_matrix
from ._mixing import check_number
from ._noise import CountDecoder, NormalDecoder


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


def draw_weights(graph, edge_probability, edge_weight, n_latent, rng):
    """Weights of the edges of a graph, (n_latent, n_latent); as many draws for any graph."""
    coins = rng.random_sample((n_latent, n_latent)) < edge_probability
    strength = rng.uniform(*edge_weight, size=coins.shape)
    signed = rng.choice([-1.0, 1.0], size=coins.shape) * strength
    return np.where(np.triu(coins, k=1) if graph is None else graph, signed, 0.0)


def check_graph(graph, edge_probability, n_latent):
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
