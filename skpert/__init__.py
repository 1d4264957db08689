"""Causal representation learning for single-cell perturbation screens."""

from . import (
    datasets,
    exceptions,
    inspection,
    metrics,
    model_selection,
    planning,
    plotting,
    preprocessing,
)
from ._published import published
from .annotation import annotate, as_anndata
from .models.baselines import (
    AdditiveEffects,
    BilinearRidge,
    ControlMean,
    EffectRegression,
    InteractionRidge,
    PerturbedMean,
)
from .models.contexts import ContextEffects
from .models.invae import NFIVAE, InVAE
from .models.sams import CPAVAE, SAMSVAE, ConditionalVAE
from .models.sccvae import SCCVAE
from .models.svae import IVAE, SVAE, VAE, BetaVAE, SVAEPlus
from .persistence import load, save
from .pipeline import PerturbationPipeline, make_perturbation_pipeline
from .reporting import report

__version__ = "0.1.0"

__all__ = [
    "CPAVAE",
    "IVAE",
    "NFIVAE",
    "SAMSVAE",
    "SCCVAE",
    "SVAE",
    "VAE",
    "AdditiveEffects",
    "BetaVAE",
    "BilinearRidge",
    "ConditionalVAE",
    "ContextEffects",
    "ControlMean",
    "EffectRegression",
    "InVAE",
    "InteractionRidge",
    "PerturbationPipeline",
    "PerturbedMean",
    "SVAEPlus",
    "annotate",
    "as_anndata",
    "datasets",
    "exceptions",
    "inspection",
    "load",
    "make_perturbation_pipeline",
    "metrics",
    "model_selection",
    "planning",
    "plotting",
    "preprocessing",
    "published",
    "report",
    "save",
]
