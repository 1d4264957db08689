"""Causal representation learning for single-cell perturbation screens."""

from . import datasets, metrics, preprocessing
from .models.svae import IVAE, SVAE, VAE, BetaVAE, SVAEPlus

__version__ = "0.1.0"

__all__ = ["IVAE", "SVAE", "VAE", "BetaVAE", "SVAEPlus", "datasets", "metrics", "preprocessing"]
