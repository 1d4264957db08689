"""Simulated screens with known truth, and readers of real ones."""

from ._additive import make_additive_shift
from ._screens import load_screen
from ._simulators import make_sparse_shift

__all__ = ["load_screen", "make_additive_shift", "make_sparse_shift"]
