"""Scores of latent states, graphs and effects against the truth; arrays in, numbers out."""

from ._calibration import calibrate
from ._de_table import de_table
from ._discrimination import perturbation_discrimination
from ._distances import (
    energy_distance,
    maximum_mean_discrepancy,
    released_energy_distance,
)
from ._effects import ate_pearson, ate_r2
from ._expression import differential_expression
from ._graph import graph_scores, top_k_mask
from ._latent import latent_r2, match_latents, mean_correlation_coefficient
from ._pseudobulk import expression_error
from ._recovery import de_recovery
from ._responses import delta_pearson, direction_agreement, profile_pearson, response_mse
from ._weighted import response_weights, weighted_mse, weighted_r2

__all__ = [
    "ate_pearson",
    "ate_r2",
    "calibrate",
    "de_recovery",
    "de_table",
    "delta_pearson",
    "differential_expression",
    "direction_agreement",
    "energy_distance",
    "expression_error",
    "graph_scores",
    "latent_r2",
    "match_latents",
    "maximum_mean_discrepancy",
    "mean_correlation_coefficient",
    "perturbation_discrimination",
    "profile_pearson",
    "released_energy_distance",
    "response_mse",
    "response_weights",
    "top_k_mask",
    "weighted_mse",
    "weighted_r2",
]
