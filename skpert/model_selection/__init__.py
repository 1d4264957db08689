"""Splits, scores and model choice that know what a perturbation is."""

from ._conformal import ConformalIntervals, error_by_share_answered
from ._evaluation import evaluate_perturbations, paired_differences
from ._fitting import fit_many
from ._penetrance import select_penetrance
from ._scores import (
    discrimination_scorer,
    interventional_nll,
    interventional_nll_scorer,
    udr_score,
)
from ._sparsity import sparsest, sparsity_scores
from ._splits import (
    CombinationHoldout,
    LeaveContextsOut,
    LeavePathwaysOut,
    LeavePerturbationsOut,
    PerturbationKFold,
)

__all__ = [
    "CombinationHoldout",
    "ConformalIntervals",
    "LeaveContextsOut",
    "LeavePathwaysOut",
    "LeavePerturbationsOut",
    "PerturbationKFold",
    "discrimination_scorer",
    "error_by_share_answered",
    "evaluate_perturbations",
    "fit_many",
    "interventional_nll",
    "interventional_nll_scorer",
    "paired_differences",
    "select_penetrance",
    "sparsest",
    "sparsity_scores",
    "udr_score",
]
