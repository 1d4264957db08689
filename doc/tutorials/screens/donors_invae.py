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
# # Donors and sites
#
# Two data sets, each of two donors. The blood cells of Kang et al. (2018) were treated with
# interferon beta or not; the marrow cells of the NeurIPS 2021 challenge have fine cell types and
# no treatment. Cells of one type should lie together, from either donor. `InVAE` has latents for
# biology and others for donors. The baseline is principal components, which know nothing of
# either.

# %%
import os
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpert import InVAE
from skpert.metrics import integration_scores
from skpert.preprocessing import LogNormalize

start = time.perf_counter()
folder = Path(os.environ.get("SKPERT_DATA", "."))  # see the list of files
kang = anndata.read_h5ad(folder / "kang2018_pbmc_muscat_2donors.h5ad")
kang.obs = kang.obs.astype(str)
print(kang.obs.groupby(["cell_type", "perturbation", "donor"]).size().unstack().to_string())

# %% [markdown]
# ## Half of the cells, from a model of the other half
#
# What is biology is named in `invariant`, what is not in `spurious`. A model that has seen the
# labels of the cells it is scored on looks better than it is. So it is fitted to one half, and
# scored on the other, whose latents it reads from expression alone.

# %%
train, test = train_test_split(
    np.arange(kang.n_obs), test_size=0.5, stratify=kang.obs["cell_type"], random_state=0
)
pca = make_pipeline(LogNormalize(), PCA(10, random_state=0)).fit(kang.X[train])
model = InVAE(
    n_latent=10,
    invariant=["cell_type", "perturbation"],
    spurious="donor",
    random_state=0,
    verbose=0,
).fit(kang.X[train], kang.obs.iloc[train])
latents = {
    "PCA": pca.transform(kang.X[test]),
    "InVAE, invariant": model.transform(kang.X[test]),
    "InVAE, spurious": model.posterior(kang.X[test]).z[:, -model.n_spurious :],
}
held_out = kang.obs.iloc[test]
state = held_out["cell_type"] + ", " + held_out["perturbation"]
scores = pd.DataFrame(
    {
        name: integration_scores(Z, state, held_out["donor"], random_state=0)
        for name, Z in latents.items()
    }
)
print(scores.loc[["bio_conservation", "batch_correction", "total"]].round(2).to_string())

# %% [markdown]
# The first row says whether types and treatment are kept, the second whether donors are mixed
# within them; the last is 0.6 times the first plus 0.4 times the second. Higher is better, at
# most 1. `InVAE` keeps more biology. It does not mix donors better than principal components do,
# as these two donors hardly differ: there is nothing to correct. With several sites name both
# columns, `spurious=["site", "donor"]`.

# %%
figure, axes = plt.subplots(2, 2, figsize=(8.5, 6.5), layout="constrained")
for column, name in zip(axes.T, ["PCA", "InVAE, invariant"], strict=True):
    plane = PCA(2).fit_transform(latents[name])
    for ax, covariate in zip(column, ["cell_type", "donor"], strict=True):
        for code, value in enumerate(sorted(held_out[covariate].unique())):
            chosen = plane[(held_out[covariate] == value).to_numpy()]
            ax.scatter(*chosen.T, s=4, color=plt.cm.Dark2(code), label=value, linewidths=0)
        ax.set(xticks=[], yticks=[], xlabel="first component", ylabel="second component")
    column[0].set_title(name)
for row in axes:
    row[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3)
plt.show()

# %% [markdown]
# ## Labels of a new donor
#
# The use of it: a classifier that learns cell types in one donor should be right in the other
# one. A model is fitted to all cells; for those of the new donor the labels are hidden.
# Principal components are fitted to all cells, too, and the third row has all genes.


# %%
def accuracy(adata, invariant, label, new):
    """Share of cells of a new donor whose label is right, by each embedding."""
    obs = adata.obs.copy()
    is_new = (obs["donor"] == new).to_numpy()
    obs.loc[is_new, invariant] = None
    model = InVAE(
        10, invariant=invariant, spurious="donor", max_epochs=60, random_state=0, verbose=0
    ).fit(adata.X, obs)
    log = LogNormalize().fit_transform(adata.X).toarray()
    embeddings = {
        "InVAE": model.transform(adata.X),
        "PCA": PCA(10, random_state=0).fit_transform(log),
        "all genes": log,
    }
    counts = adata.obs.groupby("donor")[label].value_counts().unstack(fill_value=0)
    common = counts.columns[(counts >= 5).all()]
    kept = adata.obs[label].isin(common).to_numpy()
    truth = adata.obs[label].to_numpy()
    right = {"types": len(common), "cells": (kept & is_new).sum()}
    for name, Z in embeddings.items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(Z[kept & ~is_new], truth[kept & ~is_new])
        right[name] = (classifier.predict(Z[kept & is_new]) == truth[kept & is_new]).mean()
    return right


marrow = anndata.read_h5ad(folder / "neurips2021_bmmc_cite_starter.h5ad")
marrow.obs = marrow.obs.astype(str)
rows = {}
for name, adata, invariant in (
    ("blood", kang, ["cell_type", "perturbation"]),
    ("marrow", marrow, ["cell_type"]),
):
    for donor in sorted(adata.obs["donor"].unique()):
        rows[name, donor] = accuracy(adata, invariant, "cell_type", donor)
print(pd.DataFrame(rows).T.round(2).to_string())

# %% [markdown]
# This is no reason to prefer `InVAE` to principal components. In blood these are ahead for
# either donor, and in marrow each is ahead for one. After sixty epochs, that is: with more the
# two are level in blood ([Results](../../results.rst)). Two donors are too few to know more. In
# marrow both are better than all genes.
#
# Each number is of one start. Where donors differ more, fit several (`n_init=5`), and believe
# the warning that `fit` gives if they do not mix.

# %%
names = ["skpert", "torch", "scikit-learn"]
versions = ", ".join(f"{name} {version(name)}" for name in names)
took = f"{time.perf_counter() - start:.0f} s on {date.today()}"
print(f"{took}, with Python {python_version()}, {versions}")
