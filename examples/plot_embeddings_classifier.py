"""
Embeddings as features
======================

A fitted model maps cells to latent states and perturbations to targets. Both are features for any
scikit-learn estimator. Here one classifier predicts the perturbation of a cell from its state, and
another predicts the pathway of a perturbation from its targets.
"""

# %%
# The screen
# ----------
#
# Simulated: 40 perturbations, each of one of five pathways. Those of a pathway move the same
# latent, some up, some down, and some more than others.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.preprocessing import LogNormalize

screen = make_sparse_shift(
    40,
    n_cells_per_perturbation=80,
    n_control_cells=400,
    n_latent=10,
    n_covered=5,
    n_targets=1,
    effect_size=2.5,
    effect_scale=1.0,
    library_size=1000,
    random_state=0,
)
pathway = screen.mask.argmax(axis=1)
X_train, X_test, A_train, A_test = train_test_split(
    screen.X, screen.A, test_size=0.25, stratify=screen.A, random_state=0
)

# few cells: small minibatches and a high learning rate
model = SVAEPlus(n_latent=10, batch_size=64, learning_rate=0.01, max_epochs=50, random_state=0)
model.fit(X_train, A_train)

# %%
# The perturbation of a cell
# --------------------------
#
# ``FrozenEstimator`` keeps the pipeline from fitting the model again. The latent state depends on
# expression only, so that it can be computed for cells whose perturbation is unknown. The
# comparison is PCA of log-normalised counts, with as many components.

label = LogisticRegression(max_iter=1000)
pipelines = {
    "SVAEPlus": make_pipeline(FrozenEstimator(model), StandardScaler(), label),
    "PCA": make_pipeline(LogNormalize(), PCA(10, random_state=0), StandardScaler(), label),
}
cells = {
    name: pipeline.fit(X_train, A_train).score(X_test, A_test)
    for name, pipeline in pipelines.items()
}
for name, accuracy in cells.items():
    print(f"perturbation of a cell from {name}: {accuracy:.1%} right")

# %%
# The pathway of a perturbation
# -----------------------------
#
# A row of ``mask_probability_`` says which latents a perturbation moves, regardless of direction
# and strength. The comparison is the mean of its cells in PCA. There are twenty splits of the 40
# perturbations, all with every pathway on both sides.

control = pipelines["PCA"][:2].transform(X_train[A_train == "control"]).mean(axis=0)
means = [
    pipelines["PCA"][:2].transform(X_train[A_train == name]).mean(axis=0) - control
    for name in model.perturbations_
]
splits = RepeatedStratifiedKFold(n_splits=4, n_repeats=5, random_state=0)
forest = RandomForestClassifier(100, random_state=0)
features = {"SVAEPlus": model.mask_probability_, "PCA": np.array(means)}
pathways = {name: cross_val_score(forest, Z, pathway, cv=splits) for name, Z in features.items()}
for name, accuracy in pathways.items():
    print(f"pathway of a perturbation from {name}: {accuracy.mean():.1%} right")

# %%
# The most frequent class is right for one cell in ten, and for one perturbation in four.

colours = ["#8fb3d9", "0.82"]
guess = {"cells": (A_test == "control").mean(), "pathways": np.bincount(pathway).max() / 40}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
axes[0].bar(cells.keys(), cells.values(), color=colours, width=0.6)
axes[0].axhline(guess["cells"], color="0.4", linestyle=":")
axes[0].set(title="perturbation of a cell, from its state", ylabel="accuracy on held-out cells")
for i, accuracy in enumerate(pathways.values()):
    jitter = np.linspace(-0.15, 0.15, len(accuracy))
    axes[1].plot(i + jitter, np.sort(accuracy), "o", color="0.25", markersize=3)
axes[1].bar(pathways.keys(), [a.mean() for a in pathways.values()], color=colours, width=0.6)
axes[1].axhline(guess["pathways"], color="0.4", linestyle=":", label="most frequent class")
axes[1].set(title="pathway, from the targets", ylabel="accuracy on held-out perturbations")
axes[1].legend(frameon=False, loc="upper right")
for ax in axes:
    ax.set_ylim(0, 1.05)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
