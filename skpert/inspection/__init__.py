"""What a fitted model says about its latents, and about the effects of perturbations."""

from .._effects import effects
from ._direct import direct_effects
from ._dose_response import dose_response
from ._enrichment import enrich, latent_names
from ._genes import latent_genes
from ._guides import guide_efficacy
from ._interactions import interactions
from ._latents import identifiability, latent_distances, latent_shifts, latent_summary
from ._predictive import posterior_predictive_check
from ._responders import responders
from ._search import posterior_search
from ._stability import stability
from ._titration import titrate
from ._treatment_effects import average_treatment_effect

__all__ = [
    "average_treatment_effect",
    "direct_effects",
    "dose_response",
    "effects",
    "enrich",
    "guide_efficacy",
    "identifiability",
    "interactions",
    "latent_distances",
    "latent_genes",
    "latent_names",
    "latent_shifts",
    "latent_summary",
    "posterior_predictive_check",
    "posterior_search",
    "responders",
    "stability",
    "titrate",
]
