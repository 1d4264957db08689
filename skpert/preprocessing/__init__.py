"""From designs, counts and gene sets to what the models take."""

from ._cells import check_cells
from ._design import PerturbationEncoder
from ._detectable import detectable_perturbations
from ._genes import HighlyVariableGenes, LogNormalize
from ._genesets import GeneSetFeatures, read_gmt
from ._labels import perturbation_labels
from ._target_features import TargetFeatures

__all__ = [
    "GeneSetFeatures",
    "HighlyVariableGenes",
    "LogNormalize",
    "PerturbationEncoder",
    "TargetFeatures",
    "check_cells",
    "detectable_perturbations",
    "perturbation_labels",
    "read_gmt",
]
