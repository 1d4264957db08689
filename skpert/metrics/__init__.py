"""Scores of latent states and of intervention graphs against the truth; arrays in, numbers out."""

from ._graph import graph_scores, top_k_mask
from ._latent import latent_r2, match_latents, mean_correlation_coefficient

__all__ = [
    "graph_scores",
    "latent_r2",
    "match_latents",
    "mean_correlation_coefficient",
    "top_k_mask",
]
