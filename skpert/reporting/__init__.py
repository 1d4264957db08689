"""One page on a screen and a fitted model, to be sent to a colleague."""

from ._report import report

__all__ = ["report"]
