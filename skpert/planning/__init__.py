"""What a fitted model says about the next screen: its power, its cells, what to perturb."""

from ._next import next_perturbations
from ._power import power
from ._simulate import simulate_screen
from ._subsample import subsample

__all__ = ["next_perturbations", "power", "simulate_screen", "subsample"]
