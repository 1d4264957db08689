"""
From a screen to its targets
============================

Which latent processes does each perturbation of a screen move? This example covers the whole way,
from counts and labels to a table and a map of targets, with a check on cells that the model has
not seen.

To run it on a screen of your own, an ``.h5ad`` file of raw counts with a column ``perturbation``
in which untreated cells are called ``control``, set the environment variable ``SKPERT_SCREEN`` to
its path. A screen of 20,000 cells takes some minutes. Without Python, ``skpert fit`` goes the same
way (:doc:`/command`).
"""

# %%
# A screen
# --------
#
# Without a screen of your own, cells are simulated: 18 perturbations that move one or two of six
# processes, and 6 without any effect (GENE18 to GENE23), as in real screens.

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from skpert import VAE, SVAEPlus
from skpert.datasets import load_screen, make_sparse_shift
from skpert.inspection import identifiability
from skpert.metrics import match_latents
from skpert.plotting import TargetsDisplay


def simulated_screen(n_cells=200, n_moving=18, n_silent=6):
    """Counts, labels and the simulation; the last ``n_silent`` perturbations do nothing."""
    screen = make_sparse_shift(
        n_moving,
        n_cells_per_perturbation=n_cells,
        n_control_cells=n_cells * (n_silent + 4),
        n_latent=6,
        n_targets=(1, 2),
        effect_size=3.0,
        library_size=2000,
        random_state=0,
    )
    labels = pd.Series(screen.A).str.replace("P", "GENE")
    untreated = labels.index[labels == "control"]
    for i in range(n_silent):  # control cells under another name
        labels[untreated[i * n_cells : (i + 1) * n_cells]] = f"GENE{n_moving + i}"
    return screen.X, labels.to_numpy(), screen


path = os.environ.get("SKPERT_SCREEN")
if path:
    screen = load_screen(path)
    X, A = screen.X, screen.A
else:
    X, A, simulation = simulated_screen()
print(f"{X.shape[0]} cells, {X.shape[1]} genes, {len(set(A)) - 1} perturbations")

# %%
# Fit and check
# -------------
#
# The number of latents is found from the data. A fifth of the cells is held out. The score is the
# importance-weighted ELBO: how well, in nats per cell, a model predicts the expression of held-out
# cells. The plain VAE ignores perturbations, so that the difference is what they explain.

X_train, X_test, A_train, A_test = train_test_split(
    X, A, test_size=0.2, stratify=A, random_state=0
)
model = SVAEPlus(random_state=0).fit(X_train, A_train)
vae = VAE(n_latent=model.n_latent_, random_state=0).fit(X_train, A_train)
print(f"{model.n_latent_} latents found")
for fitted in (model, vae):
    print(f"{type(fitted).__name__:>9}: {fitted.score(X_test, A_test):.2f} nats per held-out cell")

# %%
# Targets
# -------
#
# ``targets_`` is a table of shifts, a row per perturbation and a column per latent, zero where
# the perturbation leaves the latent alone. The unit is the standard deviation of the latent among
# cells of one perturbation.

targets = model.targets_
moved = targets[(targets != 0).any(axis=1)]
for name, row in moved.iterrows():
    print(f"{name:>10}: " + ", ".join(f"{k} {v:+.2f}" for k, v in row[row != 0].items()))
silent = targets.index.difference(moved.index)
print(f"{len(silent)} move nothing: {', '.join(silent)}")

# %%
# Which of the latents these edges single out, and which are known as a group only:

print(identifiability(model).summary)

# %%
# Against the truth
# -----------------
#
# The simulated screen knows its edges. Each true latent is matched with one that was found, and an
# edge on a latent without a match counts as false.

if not path:
    match = match_latents(simulation.Z, model.transform(X))
    called = targets.to_numpy() != 0
    true = np.zeros_like(called)
    found = match >= 0
    rows = targets.index.get_indexer(pd.Series(simulation.perturbations).str.replace("P", "GENE"))
    true[np.ix_(rows, match[found])] = simulation.mask[:, found]
    n_planted, n_false = int(simulation.mask.sum()), int((called & ~true).sum())
    print(
        f"{n_planted} edges planted, {called.sum()} called: {(called & true).sum()} true, "
        f"{n_false} false"
    )
    assert n_false <= 0.08 * called.sum()
    assert (called & true).sum() >= 0.9 * n_planted

# %%
# The map groups perturbations that move the same latents in the same direction, however far: the
# programmes of the screen.

display = TargetsDisplay.from_estimator(model)

# %%
# Run as a script, the example leaves table and map in the current folder.

if __name__ == "__main__" and "sphinx_gallery" not in sys.modules:
    targets.to_csv("targets.csv")
    display.figure_.savefig("targets.png", dpi=150)
    print(f"written: {Path('targets.csv').resolve()}, {Path('targets.png').resolve()}")
