"""Scores of latent states, graphs and effects against the truth; arrays in, numbers out."""

from ._calibration import calibrate
from ._distances import (
    energy_distance,
    maximum_mean_discrepancy,
    released_energy_distance,
)
from ._effects import ate_pearson, ate_r2
from ._expression import differential_expression
from ._graph import graph_scores, top_k_mask
from ._latent import latent_r2, match_latents, mean_correlation_coefficient

__all__ = [
    "ate_pearson",
    "ate_r2",
    "calibrate",
    "differential_expression",
    "energy_distance",
    "graph_scores",
    "latent_r2",
    "match_latents",
    "maximum_mean_discrepancy",
    "mean_correlation_coefficient",
    "released_energy_distance",
    "top_k_mask",
]
