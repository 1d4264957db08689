"""
How sparse? A search with cross-validation
==========================================

By default ``SVAEPlus`` calls edges after training, by a test that needs no prior. With
``edges="learned"`` masks are learned under a prior, as published, and its strength ``sparsity``
determines how much evidence an edge needs. It is a parameter like any other, so that
scikit-learn's ``GridSearchCV`` can compare values by how well they predict held-out cells.

Sparsity does not improve prediction: if a perturbation has many cells, a model in which it may
move every latent predicts them well enough. Sparsity gives latents a meaning, and the search shows
its cost.
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
from skpert.model_selection import PerturbationKFold

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
# the folds, so that each is in training and in test. Beside the score, functions of the fitted
# model can be recorded, here the number of targets and how many of them are right. The last value
# is so sparse that no perturbation has a target; the difference between its score and the best one
# is what perturbations explain. ``refit`` takes the sparsest value that keeps half of that.

N_SPLITS = 3


def score(model, X, A):
    """Held-out IWELBO, nats per cell."""
    return model.score(X, A)


def n_targets(model, X, A):
    """Targets of a perturbation, on average."""
    return model.mask_.sum(axis=1).mean()


def f1(model, X, A):
    """Agreement of the targets with the true ones, at most 1."""
    return graph_scores(screen.mask, model.mask_).f1


def sparsest(results):
    """Index of the sparsest value that keeps half of what perturbations explain."""
    score = results["mean_test_score"]
    none, best = score[-1], score.max()
    return np.flatnonzero(score >= none + (best - none) / 2)[-1]


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
    {"sparsity": [1, 5, 20, 50, 500]},
    scoring={"score": score, "n_targets": n_targets, "f1": f1},
    refit=sparsest,
    cv=PerturbationKFold(N_SPLITS, random_state=0),
).fit(screen.X, screen.A)
print(f"chosen sparsity: {search.best_params_['sparsity']}")
print(f"targets per perturbation: {n_targets(search.best_estimator_, None, None):.2f}")

# %%
# What it found
# -------------
#
# ``best_estimator_`` is the model with the chosen value (dotted), trained again on all cells.

results = search.cv_results_
sparsity = results["param_sparsity"].astype(float)
panels = {
    "score": "held-out IWELBO, nats per cell",
    "n_targets": "targets per perturbation",
    "f1": "F1 of the targets",
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for ax, (name, label) in zip(axes, panels.items(), strict=True):
    error = results[f"std_test_{name}"] / np.sqrt(N_SPLITS)
    ax.errorbar(sparsity, results[f"mean_test_{name}"], error, marker="o", capsize=3)
    ax.axvline(search.best_params_["sparsity"], color="0.7", linestyle=":", zorder=0)
    ax.set(xscale="log", xlabel="sparsity", title=label)
    ax.spines[["top", "right"]].set_visible(False)
axes[1].axhline(screen.mask.sum(axis=1).mean(), color="0.5", linestyle="--", label="true number")
axes[1].legend(frameon=False)
axes[2].set_ylim(0, 1.05)
plt.show()
