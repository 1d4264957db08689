"""
Unseen perturbations
====================

Some genes have been screened; what would knock-outs of the others do? ``SCCVAE`` predicts this
from features of the perturbed genes: a knock-out shifts the modules of a causal model that
knock-outs with similar features shift. Here it predicts ten unseen knock-outs, beside the
baselines that any such prediction has to beat, with and without information on how strong each one
is.
"""

# %%
# The screen
# ----------
#
# :func:`~skpert.datasets.make_causal_shift` simulates what the model assumes. Forty knock-outs
# come in five clusters of similar features, and so of similar shifts, which pass through a causal
# graph to expression. How far each one shifts, its penetrance, is random: no feature predicts it.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from skpert import SCCVAE, BilinearRidge, ControlMean
from skpert.datasets import make_causal_shift
from skpert.inspection import latent_distances, latent_shifts, titrate
from skpert.metrics import response_mse
from skpert.model_selection import evaluate_perturbations, paired_differences, select_penetrance
from skpert.plotting import EvaluationDisplay

screen = make_causal_shift(
    40,
    n_unseen=10,
    n_clusters=5,
    n_cells_per_perturbation=50,
    n_control_cells=500,
    n_latent=6,
    penetrance=(1, 5),
    random_state=0,
)
X, A, train, test = screen.X, screen.A, screen.train, screen.test
seen, unseen = screen.perturbations[screen.seen], screen.perturbations[~screen.seen]
print(f"{len(seen)} perturbations to train on, {len(unseen)} to predict: {', '.join(unseen)}")

# %%
# What to compare with
# --------------------
#
# ``ControlMean`` predicts no effect, ``BilinearRidge`` is a linear regression on the same
# features. The floor is the mean of the training perturbations, the same for every test
# perturbation; the ceiling is one half of the test cells as the prediction of the other half.
# Without its graph ``SCCVAE`` is a conditional model.

settings = {"features": screen.features, "n_latent": 6, "n_hidden": 64, "max_epochs": 40}
estimators = {
    "control mean": ControlMean(),
    "bilinear ridge": BilinearRidge(screen.features),
    "SCCVAE": SCCVAE(**settings),
    "SCCVAE, no graph": SCCVAE(**settings, graph=None),
}
result = evaluate_perturbations(
    estimators, X, A, cv=[(train, test)], space="lognorm", random_state=0
)
shown = ["response_mse", "perturbation_discrimination", "energy_distance"]
EvaluationDisplay.from_evaluation(result, metrics=shown)
plt.show()

# %%
# The same in numbers, 0 at the floor and 1 at the ceiling. Correlation depends on directions
# alone, and so favours a model that predicts which genes move but not how far.

print(result.calibrated[[*shown, "delta_pearson_perturbed"]].round(2).to_string())

# %%
# Points are perturbations, which differ more than models do. So two models are compared on the
# same perturbations; below 0 is better than the ridge.

differences = paired_differences(result.per_perturbation, "response_mse", "bilinear ridge")
print(differences.round(3).to_string())

# %%
# How strong is a perturbation?
# -----------------------------
#
# For an unseen perturbation the model takes the penetrance of similar ones. It may be known from
# another source: from a bulk experiment, or a simpler model.
# :func:`~skpert.model_selection.select_penetrance` takes the penetrance whose prediction is
# closest to such a reference. Instead of a bulk experiment we use one half of the test cells.

model = SCCVAE(**settings, random_state=0).fit(X[train], A[train])
ridge = BilinearRidge(screen.features).fit(X[train], A[train])
bulk = pd.DataFrame(X[test[::2]]).groupby(A[test[::2]]).mean()
truth = pd.DataFrame(screen.expected_expression, screen.perturbations).loc[unseen]

selections = [select_penetrance(model, unseen, reference) for reference in (None, ridge, bulk)]
errors = {"the ridge itself": ridge.predict_intervention(unseen)}
errors |= {s.source: s.estimator.predict_intervention(unseen) for s in selections}
errors = {
    source: response_mse(truth, pd.DataFrame(predicted, unseen)).mean()
    for source, predicted in errors.items()
}
print("mean squared error by source of the penetrance")
print(pd.Series(errors).round(3).to_string())

# %%
# The ridge has the same features, and adds no information to them. Bulk data add information, but
# with them it is no longer a prediction from features alone. To choose by the same cells that are
# scored, as published numbers do, is an oracle. Report beside a number which of these it is;
# ``selection.source`` says so.

# %%
# Titration
# ---------
#
# What would a stronger or a weaker perturbation do? On the left, control cells are perturbed
# increasingly, and compared with the measured cells of that perturbation. The curve is lowest
# where they are most similar; if it does not come near 0, the direction is wrong. On the right is
# the expected expression of the genes that move most, with their mean in measured cells at the
# penetrance that bulk data give.

shown_perturbations = unseen[:4]
grid = np.linspace(0, 1.5 * model.penetrance_.max(), 25)
expected, by_bulk = selections[0].penetrance, selections[2].penetrance
controls = X[A == "control"]

figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
for name, colour in zip(shown_perturbations, plt.color_sequences["Dark2"], strict=False):
    titration = titrate(model, name, grid, X=controls, measured=X[A == name])
    curve = titration.distance.loc[name]
    axes[0].plot(curve, color=colour, label=name)
    for chosen, marker in ((expected[name], "o"), (by_bulk[name], "^")):
        axes[0].plot(chosen, np.interp(chosen, grid, curve), marker, color=colour)
axes[0].plot([], [], "o", color="0.4", label="from features")
axes[0].plot([], [], "^", color="0.4", label="by bulk data")
axes[0].set(xlabel="penetrance", ylabel="energy distance to measured cells", ylim=(0, None))
axes[0].legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))

name = shown_perturbations[1]
expression = titrate(model, name, grid).expression.loc[name]
genes = (expression.iloc[-1] - expression.iloc[0]).abs().nlargest(6).index
for gene, colour in zip(genes, plt.color_sequences["Dark2"], strict=False):
    axes[1].plot(expression[gene], color=colour)
    axes[1].plot(by_bulk[name], X[A == name, gene].mean(), "^", color=colour)
axes[1].set(xlabel=f"penetrance of {name}", ylabel="expected expression of six genes")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Far in the model, far in the cells
# ----------------------------------
#
# Does the model predict which perturbations are far from control? Its distance in the latent space
# is compared with that of the measured cells. For training perturbations this checks the fit, for
# others it is a prediction. As no feature predicts penetrance, it is poor without bulk data.

by_features = latent_distances(model, X, A)
informed = latent_distances(selections[2].estimator, X, A)
groups = {
    "seen": (by_features.loc[seen], "#0072B2", "o"),
    "unseen": (by_features.loc[unseen], "none", "o"),
    "unseen, penetrance by bulk data": (informed.loc[unseen], "none", "^"),
}
figure, ax = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
for what, (part, face, marker) in groups.items():
    rank = part["latent"].corr(part["expression"], method="spearman")
    colour = "#D55E00" if marker == "^" else "#0072B2"
    label = f"{what}: rank correlation {rank:.2f}"
    ax.plot(*part[["latent", "expression"]].T.to_numpy(), marker, c=colour, mfc=face, label=label)
ax.set(xlabel="latent distance to control", ylabel="MMD of measured cells to control")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
plt.show()

# %%
# A map of perturbations
# ----------------------
#
# Mean latent states under all perturbations, by their first two principal components. Colours are
# the clusters of features; unseen perturbations (open) lie in their clusters. In a simulation the
# true map is known. It has the same clusters; axes and scales have no meaning, because a linear
# map of the states gives an equivalent model.

maps = {
    "learned": latent_shifts(model, screen.perturbations).to_numpy(),
    "true": screen.effect @ np.linalg.inv(np.eye(6) - screen.weights),
}
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, (title, shifts) in zip(axes, maps.items(), strict=True):
    place = PCA(2).fit(shifts)
    points, origin = place.transform(shifts), place.transform(np.zeros((1, 6)))[0]
    for (x, y), cluster, known in zip(points, screen.clusters, screen.seen, strict=True):
        colour = plt.cm.Dark2(cluster)
        ax.plot(x, y, "o", color=colour, markerfacecolor=colour if known else "none")
    ax.plot(*origin, "k+", markersize=12, markeredgewidth=2)
    ax.set(title=title, xlabel="first component", ylabel="second component")
    ax.set_aspect("equal", "datalim")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].plot([], [], "o", color="0.4", label="seen")
axes[0].plot([], [], "o", color="0.4", markerfacecolor="none", label="unseen")
axes[0].plot([], [], "k+", label="control")
axes[0].legend(frameon=False)
plt.show()

# %%
# A screen of your own
# --------------------
#
# Real targets need features that describe their function. Try gene sets first::
#
#     from skpert.preprocessing import GeneSetFeatures, LogNormalize
#
#     values = LogNormalize().fit_transform(adata.layers["counts"])
#     model = SCCVAE(features=GeneSetFeatures("reactome.gmt")).fit(values, adata.obs)
#     model.predict_intervention(["MED7"])  # any gene that is in a set
