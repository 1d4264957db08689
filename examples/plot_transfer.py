"""
Perturbations never trained on
==============================

A latent space in which perturbations act on few processes should be a good place for the next
perturbation as well. The test of the sVAE+ paper: perturbations are left out of training; then
encoder and decoder are frozen, the shift of each new perturbation is learned, and the likelihood
of its cells is measured.
"""

# %%
# The screen
# ----------
#
# Simulated: 30 perturbations, of which 10 are kept for later.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skpert import IVAE, VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.model_selection import interventional_nll

screen = make_sparse_shift(
    30,
    n_cells_per_perturbation=100,
    n_control_cells=500,
    n_latent=5,
    n_targets=(1, 2),
    n_genes=100,
    library_size=2000,
    n_held_out=10,
    random_state=0,
)
new = np.isin(screen.A, screen.held_out)
X_train, A_train = screen.X[~new], screen.A[~new]
X_new, A_new = screen.X[new], screen.A[new]

# %%
# Three priors
# ------------
#
# ``VAE`` knows no perturbation, ``IVAE`` gives each a free shift, ``SVAEPlus`` a shift of few
# latents. ``interventional_nll`` adapts a copy of the model and returns the negative
# log-likelihood per cell; lower is better.

# few cells: small minibatches and a high learning rate
settings = {"batch_size": 64, "learning_rate": 0.01, "max_epochs": 50, "random_state": 0}
models = [cls(n_latent=5, **settings) for cls in (VAE, IVAE, SVAEPlus)]
results = {}
for model in models:
    model.fit(X_train, A_train)
    result = interventional_nll(model, X_new, A_new, n_particles=200)
    name = type(model).__name__
    results[name] = result.per_perturbation["nll"]
    print(f"{name:>9}: {result.nll:.2f} nats per cell")
nll = pd.DataFrame(results)

# %%
# The same by hand: ``adapt`` returns a new estimator, which knows the new perturbations and says
# of the old ones what the model said before.

adapted = models[-1].adapt(X_new, A_new)
print(
    len(models[-1].perturbations_), "perturbations before,", len(adapted.perturbations_), "after"
)
print(adapted.targets_.loc[screen.held_out].round(1).to_string())

# %%
# Result
# ------
#
# Each line is a new perturbation, measured against the VAE.

gain = nll.sub(nll["VAE"], axis=0)[["VAE", "IVAE", "SVAEPlus"]]
figure, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
ax.plot(gain.columns, gain.T, color="0.75", marker="o", markersize=3, linewidth=0.8)
ax.plot(gain.columns, gain.mean(), color="C0", marker="o", linewidth=2, label="mean")
ax.axhline(0, color="0.4", linestyle=":")
ax.set_ylabel("NLL relative to the VAE, nats per cell\n(lower is better)")
ax.set_title("cells of perturbations never trained on")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()
