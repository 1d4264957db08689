"""
How sparse? A search with cross-validation
==========================================

The prior strength ``sparsity`` decides how much evidence a perturbation needs to be said to move a
latent. It is a parameter like any other, so that scikit-learn's ``GridSearchCV`` can choose it: by
how well cells of the same perturbations are foreseen that were not in training.
"""

# %%
# The screen
# ----------
#
# Simulated: 20 perturbations, each of which moves one or two of five latents.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.metrics import graph_scores
from skpert.model_selection import PerturbationKFold

screen = make_sparse_shift(
    20,
    n_cells_per_perturbation=100,
    n_control_cells=200,
    n_latent=5,
    n_targets=(1, 2),
    effect_size=3.0,
    n_genes=60,
    library_size=1000,
    random_state=0,
)

# %%
# The search
# ----------
#
# ``PerturbationKFold`` deals the cells of each perturbation, and the controls, evenly to the
# folds: no fold lacks one, in training or in test. Beside the score that chooses, functions of the
# fitted model can be recorded, here the number of targets and how many of them are right. Of
# values that are about as good, the sparsest is taken.

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
    """Index of the sparsest value within one standard error of the best."""
    score = results["mean_test_score"]
    error = results["std_test_score"][score.argmax()] / np.sqrt(N_SPLITS)
    return np.flatnonzero(score >= score.max() - error)[-1]


search = GridSearchCV(
    SVAEPlus(n_latent=8, batch_size=64, max_epochs=40, n_particles=20, random_state=0),
    {"sparsity": [1, 3, 10, 30]},
    scoring={"score": score, "n_targets": n_targets, "f1": f1},
    refit=sparsest,
    cv=PerturbationKFold(N_SPLITS, random_state=0),
).fit(screen.X, screen.A)
print(f"chosen sparsity: {search.best_params_['sparsity']}")
print(f"targets per perturbation: {n_targets(search.best_estimator_, None, None):.2f}")
print(f"true number: {screen.mask.sum(axis=1).mean():.2f}")

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
