"""
How sparse? A search with cross-validation
==========================================

By default ``SVAEPlus`` calls edges after training, by a test that needs no prior. With
``edges="learned"`` masks are learned under a prior, as published, and its strength ``sparsity``
determines how much evidence an edge needs. It is a parameter like any other, which scikit-learn's
``GridSearchCV`` can search.

What to choose it by is the question. Held-out likelihood hardly falls, or even rises, with edges
that are only cross-talk of others. But such edges explain little, so that of the models which keep
most of what perturbations explain, the sparsest is a good choice.
"""

# %%
# The screen
# ----------
#
# Simulated: 20 perturbations, each of which moves one of four latents.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.metrics import graph_scores
from skpert.model_selection import PerturbationKFold, sparsest, sparsity_scores

screen = make_sparse_shift(
    20,
    n_cells_per_perturbation=60,
    n_control_cells=300,
    n_latent=4,
    n_targets=1,
    n_genes=50,
    library_size=1000,
    random_state=0,
)

# %%
# The search
# ----------
#
# ``PerturbationKFold`` distributes the cells of each perturbation, and the controls, evenly over
# the folds, so that each is in training and in test. ``sparsity_scores`` records the held-out
# IWELBO and the number of edges. Other functions of the fitted model can be recorded beside them,
# here how many edges are right. The grid ends with a value so strong that no edge is left: the
# difference between its score and the best one is what perturbations explain. ``sparsest`` takes
# the fewest edges that keep 80 percent of that.

N_SPLITS = 3


def scores(model, X, A):
    """Held-out IWELBO, nats per cell, number of edges and their agreement with the true ones."""
    return sparsity_scores(model, X, A) | {"f1": graph_scores(screen.mask, model.mask_).f1}


# few cells: small minibatches and a high learning rate
model = SVAEPlus(
    n_latent=4,
    edges="learned",
    batch_size=64,
    learning_rate=0.01,
    max_epochs=40,
    n_particles=20,
    random_state=0,
)
search = GridSearchCV(
    model,
    {"sparsity": [1, 3, 10, 30, 500]},
    scoring=scores,
    refit=sparsest,
    cv=PerturbationKFold(N_SPLITS, random_state=0),
).fit(screen.X, screen.A)
print(f"chosen sparsity: {search.best_params_['sparsity']}")
print(f"edges: {search.best_estimator_.mask_.sum()} of a true {screen.mask.sum()}")

# %%
# What it found
# -------------
#
# ``best_estimator_`` is the model with the chosen value (dotted), trained again on all cells.

results = search.cv_results_
sparsity = results["param_sparsity"].astype(float)
panels = {
    "score": "held-out IWELBO, nats per cell",
    "n_edges": "edges",
    "f1": "F1 of the edges",
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for ax, (name, label) in zip(axes, panels.items(), strict=True):
    error = results[f"std_test_{name}"] / np.sqrt(N_SPLITS)
    ax.errorbar(sparsity, results[f"mean_test_{name}"], error, marker="o", capsize=3)
    ax.axvline(search.best_params_["sparsity"], color="0.7", linestyle=":", zorder=0)
    ax.set(xscale="log", xlabel="sparsity", title=label)
    ax.spines[["top", "right"]].set_visible(False)
axes[1].axhline(screen.mask.sum(), color="0.5", linestyle="--", label="true number")
axes[1].legend(frameon=False)
axes[2].set_ylim(0, 1.05)
plt.show()
