"""Figures of fitted models; matplotlib is imported when one is drawn."""

from ._clusters import EmbeddingClustersDisplay
from ._combinations import CombinationTargetsDisplay
from ._direct_effects import DirectEffectsDisplay
from ._dose_response import DoseResponseDisplay
from ._effect_scatter import EffectsDisplay
from ._evaluation import EvaluationDisplay
from ._history import HistoryDisplay
from ._interactions import InteractionsDisplay
from ._pathways import PathwayTargetsDisplay
from ._power import PowerDisplay
from ._predictive import PosteriorPredictiveDisplay
from ._programmes import LatentProgrammesDisplay
from ._targets import TargetsDisplay

__all__ = [
    "CombinationTargetsDisplay",
    "DirectEffectsDisplay",
    "DoseResponseDisplay",
    "EffectsDisplay",
    "EmbeddingClustersDisplay",
    "EvaluationDisplay",
    "HistoryDisplay",
    "InteractionsDisplay",
    "LatentProgrammesDisplay",
    "PathwayTargetsDisplay",
    "PosteriorPredictiveDisplay",
    "PowerDisplay",
    "TargetsDisplay",
]
