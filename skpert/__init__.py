"""Causal representation learning for single-cell perturbation screens."""

from . import (
    datasets,
    exceptions,
    inspection,
    metrics,
    model_selection,
    plotting,
    preprocessing,
)
from .models.svae import IVAE, SVAE, VAE, BetaVAE, SVAEPlus
from .persistence import load, save

__version__ = "0.1.0"

__all__ = [
    "IVAE",
    "SVAE",
    "VAE",
    "BetaVAE",
    "SVAEPlus",
    "datasets",
    "exceptions",
    "inspection",
    "load",
    "metrics",
    "model_selection",
    "plotting",
    "preprocessing",
    "save",
]
