"""Figures of fitted models; matplotlib is imported when one is drawn."""

from ._history import HistoryDisplay
from ._targets import TargetsDisplay

__all__ = [
    "HistoryDisplay",
    "TargetsDisplay",
]
