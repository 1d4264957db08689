"""From designs, counts and gene sets to what the models take."""

from ._cells import check_cells
from ._design import PerturbationEncoder
from ._genes import HighlyVariableGenes, LogNormalize
from ._genesets import GeneSetFeatures, read_gmt
from ._labels import perturbation_labels

__all__ = [
    "GeneSetFeatures",
    "HighlyVariableGenes",
    "LogNormalize",
    "PerturbationEncoder",
    "check_cells",
    "perturbation_labels",
    "read_gmt",
]
