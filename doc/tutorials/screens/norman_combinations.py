# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Combinations and interactions
#
# Norman et al. (2019) activated genes in K562 cells, one at a time and in pairs. Two questions.
# What does a pair do that was not measured? And which pairs do something else than the sum of
# their parts? Both are answered with the sum of the parts beside them.

# %%
import os
import time
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold

from skpert import SAMSVAE, AdditiveEffects, InteractionRidge, PerturbedMean
from skpert.exceptions import DataWarning
from skpert.inspection import interactions, latent_genes

warnings.formatwarning = lambda message, kind, *_: f"{kind.__name__}: {message}\n"  # no path
start = time.perf_counter()
folder = Path(os.environ.get("SKPERT_DATA", "."))  # see the list of files

# %% [markdown]
# ## The baseline, and unmeasured pairs
#
# The file has the mean effect of each condition of the whole screen, in 50 coordinates that keep
# distances: 106 single genes, and 131 pairs. A tenth of the pairs is left out at a time, and
# predicted from the single genes and the other pairs. Estimators take effects as they take
# cells, here one row for each condition.

# %%
effects = pd.read_csv(folder / "effects" / "effects_norman2019.csv.gz", index_col=0)
names = effects.index.to_numpy()
is_pair = np.array(["_" in name for name in names])
pairs, rows = names[is_pair], np.flatnonzero(is_pair)
X, controls = effects.to_numpy(), np.zeros((1, effects.shape[1]))  # the control has no effect
print(f"{(~is_pair).sum()} single genes, {is_pair.sum()} pairs")

methods = {
    "mean of all": PerturbedMean(sep="_"),
    "sum of effects": AdditiveEffects(sep="_"),
    "sum times one scale": AdditiveEffects(scale="learned", sep="_"),
    "InteractionRidge": InteractionRidge(sep="_"),
}
warnings.simplefilter("ignore", DataWarning)  # of conditions with one row: these are means
errors = pd.DataFrame(index=pairs)
sums = np.array([effects.loc[pair.split("_")].sum() for pair in pairs])
errors["sum of measured parts"] = np.square(sums - X[rows]).sum(axis=1)
for _, fold in KFold(10, shuffle=True, random_state=0).split(pairs):
    train = np.setdiff1d(np.arange(len(names)), rows[fold])
    known, labels = np.vstack([controls, X[train]]), ["control", *names[train]]
    for name, method in methods.items():
        predicted = method.fit(known, labels).predict_intervention(pairs[fold])
        errors.loc[pairs[fold], name] = np.square(predicted - X[rows[fold]]).sum(axis=1)
size = np.square(X[rows]).sum()
print((errors.sum() / size).round(3).to_string())

# %% [markdown]
# These are squared errors over squared effects: 0 is perfect, and 1 is to predict no effect. The
# sum of the two measured parts is too large. `AdditiveEffects` estimates the effects of single
# genes from the other pairs, too, and so becomes much better; with one scale for all sums it is
# the baseline to beat. `InteractionRidge` learns besides that pairs with similar sums fall short
# in similar ways. Is it better than the baseline, over pairs?

# %%
difference = (errors["InteractionRidge"] - errors["sum times one scale"]) / (size / len(pairs))
rng = np.random.default_rng(0)
drawn = rng.choice(difference, (2000, len(pairs))).mean(axis=1)
low, high = np.quantile(drawn, [0.025, 0.975])
better = (difference < 0).mean()
print(
    f"difference {difference.mean():.3f} [{low:.3f}, {high:.3f}], better in {better:.0%} of pairs"
)

figure, ax = plt.subplots(figsize=(4.6, 4), layout="constrained")
squares = errors[["sum times one scale", "InteractionRidge"]]
ax.loglog(*squares.to_numpy().T, "o", ms=3)
ends = [squares.min(axis=None), squares.max(axis=None)]
ax.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
ax.set(xlabel="squared error, sum times one scale", ylabel="squared error, InteractionRidge")
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## Do interactions of expression say anything about growth?
#
# Norman et al. measured how each pair changes growth, and so which pairs interact in growth. Of
# each pair we take how far its effect on expression falls short of the scaled sum, along that
# sum; no growth was used for it. Positive and negative interactions of growth should differ in
# it.

# %%
growth = pd.read_csv(
    folder / "annotations" / "norman2019_processed_perturbseq_emap.csv", index_col=0
)
parts = [pair.split("_") for pair in pairs]
scale = (sums * X[rows]).sum() / np.square(sums).sum()
along = ((scale * sums - X[rows]) * sums).sum(axis=1) / (scale * np.square(sums).sum(axis=1))
table = pd.DataFrame({"shortfall": along}, index=pairs)
table["growth"] = [growth.reindex(index=[a], columns=[b]).iloc[0, 0] for a, b in parts]
known = table.dropna()
strong = known[known["growth"].abs() > 3]
area = roc_auc_score(strong["growth"] > 0, strong["shortfall"])
print(f"scale of sums {scale:.2f}; {len(known)} pairs with growth, {len(strong)} of them strong")
print(f"positive and negative ones of these: area under the ROC curve {area:.2f}")
area = roc_auc_score(known["growth"].abs() > 3, known["shortfall"].abs())
print(f"strong and weak ones: {area:.2f}")

# %% [markdown]
# Expression tells positive from negative interactions of growth almost without error. Which
# pairs interact at all is found only in part (0.5 is chance).
#
# ## Interactions in single cells
#
# `SAMSVAE(interactions=True)` looks for interactions on each latent, and calls those that noise
# and curvature of the model do not explain. Here is a subset of the screen, of 100 cells for
# each condition. Genes that fewer than one cell in a hundred has are left out.

# %%
adata = anndata.read_h5ad(folder / "norman2019_mcfaline2023_perturbench.h5ad")
adata = adata[adata.obs["dataset"] == "norman19"]
seen = np.asarray((adata.X > 0).mean(axis=0)).ravel() >= 0.01
adata = adata[:, seen].copy()
counts = np.asarray(adata.X.sum(axis=1)).ravel()
print(
    f"{adata.n_obs} cells, {adata.n_vars} genes, {np.median(counts):.0f} counts in a median cell"
)
warnings.simplefilter("default", DataWarning)
model = SAMSVAE(interactions=True, max_epochs=60, random_state=0, verbose=0)
model.fit(adata, adata.obs)
targets = model.targets(fdr=0.05)
moved = targets.loc[(targets != 0).any(axis=1), (targets != 0).any()]
print(moved.round(1).to_string())
found = interactions(model)
print(f"{found['combination'].nunique()} pairs with both parts, {found['called'].sum()} called")
widest = found.sort_values("interaction", key=abs, ascending=False).head(5)
columns = ["combination", "latent", "expected", "interaction", "lower", "upper", "kind"]
print(widest[columns].round(2).to_string(index=False))

# %% [markdown]
# No interaction is called. With so few cells and genes that is the right answer, and even the
# largest have intervals that hold zero. It does not say that there is none: the first parts of
# this page rest on the whole screen.
#
# Three single genes move a latent. Before any is believed, see which genes these latents move
# (log2 fold change for one unit), and in which cells the gene was activated.

# %%
genes = latent_genes(model)
for latent in moved.columns:
    top = genes[genes["latent"] == latent].nsmallest(3, "rank")
    listed = [f"{g} {c:+.1f}" for g, c in zip(top["gene"], top["log2_fold_change"], strict=True)]
    print(f"{latent}: {', '.join(listed)}")
labels = adata.obs["perturbation"].astype(str)
share = adata[:, "TMSB4X"].to_df()["TMSB4X"] / counts
for gene in moved.index:
    conditions = [name for name in labels.unique() if gene in name.split("+")]
    print(f"{gene}: {', '.join(conditions)}")
means = share.groupby(labels).mean()
print(f"share of TMSB4X in all counts: {means['TMSB4X']:.0%}, of controls {means['control']:.0%}")

# %% [markdown]
# Three conditions speak for MAPK1, whose activation lowers globins (HBZ, HBG2, HBE1): this can
# be believed. For TBX3 there is one, in which it came together with SGK1. TMSB4X is itself among
# the genes, and takes up so much of the counts that the share of all others falls: its latent is
# composition, and no programme.

# %%
names = ["skpert", "torch", "scikit-learn"]
versions = ", ".join(f"{name} {version(name)}" for name in names)
took = f"{time.perf_counter() - start:.0f} s on {date.today()}"
print(f"{took}, with Python {python_version()}, {versions}")
