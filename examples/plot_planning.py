"""
A pilot, and the screen that it plans
=====================================

A pilot of 50 cells per perturbation: how many cells does a full screen need, what does the pilot
say that it will find, and what did the full screen then find?
"""

# %%
# The full screen is simulated; the pilot is the first 50 cells of each perturbation.

import numpy as np
import pandas as pd

from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.planning import power, subsample
from skpert.plotting import PowerDisplay

screen = make_sparse_shift(
    20,
    n_cells_per_perturbation=250,
    n_control_cells=500,
    n_latent=4,
    n_targets=(1, 2),
    effect_size=0.8,
    effect_scale=0.3,
    library_size=3000,
    random_state=0,
)
place = pd.Series(screen.A).groupby(screen.A).cumcount().to_numpy()
pilot = place < np.where(screen.A == "control", 100, 50)
X, A = screen.X[pilot], screen.A[pilot]
model = SVAEPlus(random_state=0).fit(X, A)
print(f"{pilot.sum()} cells of the pilot: {model.mask_.sum()} edges")

# %%
# What the pilot says
# -------------------
#
# The power of one further effect by its size, in standard deviations of a latent, and by the
# number of cells:

plan = power(model, X, A, n_cells=[25, 50, 100, 250], random_state=0)
display = PowerDisplay.from_power(plan)

# %%
# The smallest effect that is called with a power of 0.8, by latent, and the cells for each size:

print(plan.minimal_effect.round(2).to_string())
print(plan.cells_needed.to_string())

# %%
# How many edges a screen of so many cells is expected to call:

calls = plan.screen.groupby("n_cells")["power"].sum()
print(calls.round(1).to_string())

# %%
# What the full screen found
# --------------------------
#
# Subsamples of the full screen show what each number of cells would have found, in the latent
# space of all cells.

full = SVAEPlus(random_state=0).fit(screen.X, screen.A)
table = subsample(
    full, screen.X, screen.A, n_cells=[25, 50, 100, 250], n_draws=5, refit=False, random_state=0
)
print(table.groupby("size")[["n_called", "recovered", "agreement"]].mean().round(2).to_string())
