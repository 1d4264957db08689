"""Which way the metrics of an evaluation improve."""

GREATER_IS_BETTER = {
    "response_mse": False,
    "weighted_mse": False,
    "delta_pearson": True,
    "delta_pearson_perturbed": True,
    "direction_same": True,
    "direction_opposite": False,
    "perturbation_discrimination": True,
    "energy_distance": False,
    "maximum_mean_discrepancy": False,
}
