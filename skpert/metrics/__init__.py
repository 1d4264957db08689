"""Scores of latent states, graphs and effects against the truth; arrays in, numbers out."""

from ._effects import ate_pearson, ate_r2
from ._expression import differential_expression
from ._graph import graph_scores, top_k_mask
from ._latent import latent_r2, match_latents, mean_correlation_coefficient

__all__ = [
    "ate_pearson",
    "ate_r2",
    "differential_expression",
    "graph_scores",
    "latent_r2",
    "match_latents",
    "mean_correlation_coefficient",
    "top_k_mask",
]
