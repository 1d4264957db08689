"""From designs, counts and gene sets to what the models take."""

from .._input.cells import check_cells
from .._input.design import perturbation_labels
from ._assignment import assign_guides
from ._compounds import CompoundFingerprints, TargetGenes
from ._control_expression import ControlExpression
from ._covariates import CovariateEncoder
from ._design import PerturbationEncoder
from ._detectable import detectable_perturbations
from ._dosages import DosageTransform
from ._genes import HighlyVariableGenes, LogNormalize
from ._genesets import GeneSetFeatures, read_gmt
from ._graphs import causal_graph
from ._target_features import TargetFeatures

__all__ = [
    "CompoundFingerprints",
    "ControlExpression",
    "CovariateEncoder",
    "DosageTransform",
    "GeneSetFeatures",
    "HighlyVariableGenes",
    "LogNormalize",
    "PerturbationEncoder",
    "TargetFeatures",
    "TargetGenes",
    "assign_guides",
    "causal_graph",
    "check_cells",
    "detectable_perturbations",
    "perturbation_labels",
    "read_gmt",
]
