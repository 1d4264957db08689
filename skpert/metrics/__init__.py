"""Scores of latent states, graphs and effects against the truth; arrays in, numbers out."""

from ._batches import (
    graph_connectivity,
    kbet,
    pcr_comparison,
    principal_component_regression,
    silhouette_batch,
)
from ._differential_expression import de_table, differential_expression
from ._discrimination import perturbation_discrimination
from ._integration import (
    integration_scores,
    isolated_label_score,
    kmeans_agreement,
    silhouette_label,
)
from ._pseudobulk import expression_error
from ._recovery import de_recovery
from ._responses import (
    ate_pearson,
    ate_r2,
    delta_pearson,
    direction_agreement,
    profile_pearson,
    response_mse,
)
from ._weighted import response_weights, weighted_mse, weighted_r2
from .calibration import calibrate
from .distances import energy_distance, maximum_mean_discrepancy, released_energy_distance
from .latent_recovery import (
    graph_scores,
    latent_r2,
    match_latents,
    mean_correlation_coefficient,
    top_k_mask,
)

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
    "graph_connectivity",
    "graph_scores",
    "integration_scores",
    "isolated_label_score",
    "kbet",
    "kmeans_agreement",
    "latent_r2",
    "match_latents",
    "maximum_mean_discrepancy",
    "mean_correlation_coefficient",
    "pcr_comparison",
    "perturbation_discrimination",
    "principal_component_regression",
    "profile_pearson",
    "released_energy_distance",
    "response_mse",
    "response_weights",
    "silhouette_batch",
    "silhouette_label",
    "top_k_mask",
    "weighted_mse",
    "weighted_r2",
]
