"""
New perturbations
=================

A latent space in which perturbations act on few processes should also fit the next perturbation.
This is the test of the sVAE+ paper: some perturbations are left out of training. Then encoder and
decoder are frozen, the shifts of the new perturbations are learned, and the likelihood of their
cells is measured.
"""

# %%
# The screen
# ----------
#
# Simulated: 40 perturbations, each of which moves one of four latents. Ten of them are kept for
# later.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skpert import IVAE, VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.metrics import graph_scores, match_latents
from skpert.model_selection import interventional_nll
from skpert.plotting import TargetsDisplay

screen = make_sparse_shift(
    40,
    n_cells_per_perturbation=60,
    n_control_cells=300,
    n_latent=4,
    n_targets=1,
    n_genes=50,
    library_size=1000,
    n_held_out=10,
    random_state=0,
)
new = np.isin(screen.A, screen.held_out)
X_train, A_train = screen.X[~new], screen.A[~new]
X_new, A_new = screen.X[new], screen.A[new]

# %%
# Three models
# ------------
#
# ``VAE`` ignores perturbations, ``IVAE`` gives each a free shift, ``SVAEPlus`` a shift of few
# latents. All have more latents than there are processes, whose number is unknown in practice.
# ``interventional_nll`` adapts a copy of the model to the new perturbations and returns the
# negative log-likelihood of their cells; lower is better.

# few cells: small minibatches and a high learning rate
settings: dict = {"batch_size": 64, "learning_rate": 0.01, "max_epochs": 50, "random_state": 0}
svae = SVAEPlus(n_latent=6, **settings)
nll = pd.DataFrame(index=screen.held_out)
for model in (VAE(n_latent=6, **settings), IVAE(n_latent=6, **settings), svae):
    model.fit(X_train, A_train)
    name = type(model).__name__
    result = interventional_nll(model, X_new, A_new, n_particles=500)
    nll[name] = result.per_perturbation["nll"]
    print(f"{name:>9}: {result.nll:.2f} nats per cell")

# %%
# What the new perturbations do
# -----------------------------
#
# ``adapt`` returns a new estimator, which has the new perturbations and gives the same results for
# the old ones. With ``sparse=True`` it learns which latents they move. This is compared with the
# truth.

adapted = svae.adapt(X_new, A_new, sparse=True)
print(len(svae.perturbations_), "perturbations before,", len(adapted.perturbations_), "after")
targets = adapted.targets_.loc[screen.held_out]
match = match_latents(screen.Z, adapted.transform(screen.X))
scores = graph_scores(screen.mask[-10:], targets != 0, match=match)
print(f"precision {scores.precision:.2f}, recall {scores.recall:.2f} of the new targets")

# %%
# Left: likelihood of each new perturbation, measured against the VAE. Right: the latents that the
# new perturbations move, and how far.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", width_ratios=[3, 2])
gain = nll.sub(nll["VAE"], axis=0)
axes[0].plot(gain.columns, gain.T, color="0.75", marker="o", markersize=3, linewidth=0.8)
axes[0].plot(gain.columns, gain.mean(), color="C0", marker="o", linewidth=2, label="mean")
axes[0].axhline(0, color="0.4", linestyle=":")
axes[0].set_ylabel("NLL relative to the VAE, nats per cell\n(lower is better)")
axes[0].spines[["top", "right"]].set_visible(False)
axes[0].legend(frameon=False)
TargetsDisplay(targets).plot(axes[1])
plt.show()
