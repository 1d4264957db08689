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
# # From an h5ad file to programmes
#
# Twenty-five genes were knocked out in THP-1 cells that had been stimulated with interferon
# gamma (Papalexi et al. 2021). Which processes does each knock-out move? scanpy answers gene by
# gene; `SVAEPlus` looks for the few processes behind the genes. Here both read the same AnnData.

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
import scanpy as sc
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from skpert import SVAEPlus, annotate
from skpert.inspection import enrich, latent_genes, responders
from skpert.plotting import TargetsDisplay

warnings.simplefilter("ignore", pd.errors.PerformanceWarning)  # of scanpy, on many groups
warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, in notebooks
start = time.perf_counter()
folder = Path(os.environ.get("SKPERT_DATA", "."))  # see the list of files
adata = anndata.read_h5ad(folder / "papalexi2021_thp1_crispr.h5ad")
order = np.random.default_rng(0).permutation(adata.n_obs)
some = adata.obs.iloc[order].groupby("perturbation", observed=True).head(300).index
some = some.union(adata.obs_names[adata.obs["perturbation"] == "control"])
adata = adata[adata.obs_names.isin(some)].copy()
print(adata)

# %% [markdown]
# At most 300 cells of each knock-out are kept, and all control cells, so that this takes about a
# minute; leave these lines out to use all cells. `X` has raw counts, as the model needs.
#
# ## The baseline: a test per gene
#
# It needs no model, and what a model says has to agree with it. The knocked-out gene itself does
# not count.

# %%
adata.layers["counts"] = adata.X.copy()
sc.pp.normalize_total(adata, target_sum=500)
sc.pp.log1p(adata)
sc.tl.rank_genes_groups(adata, "perturbation", reference="control", method="wilcoxon")
changed = sc.get.rank_genes_groups_df(adata, group=None, pval_cutoff=0.05)
changed = changed[changed["names"] != changed["group"]]
by_gene = changed.groupby("group", observed=False).size().sort_values(ascending=False)
print("genes changed at a false discovery rate of 5 %")
print(by_gene.head(10).to_string())
print(f"none: {', '.join(by_gene.index[by_gene == 0])}")

# %% [markdown]
# Six knock-outs change more than ten genes, and fourteen change none. Lists of genes do not say
# which knock-outs do the same thing: that is the question of the model.
#
# ## What the model adds: programmes
#
# It reads counts and the column of labels, and finds the number of latents by itself.

# %%
model = SVAEPlus(layer="counts", max_epochs=40, random_state=0, verbose=0)
model.fit(adata, adata.obs)
targets = model.targets(fdr=0.05)
moved = targets.loc[(targets != 0).any(axis=1), (targets != 0).any()]
print(f"{model.n_latent_} latents, of which {moved.shape[1]} are moved")
print(moved.round(1).to_string())

# %% [markdown]
# A number is the shift of a latent, in standard deviations of cells of one knock-out. Its sign
# means something only beside other numbers of the same column. The interferon receptor and its
# signal (IFNGR1, IFNGR2, JAK2, STAT1) share one latent, and IRF1, which acts downstream of them,
# moves it less far. SMAD4 has a latent of its own. No pathway was given to the model. It agrees
# with the tests: whatever moves a latent changes genes.
#
# It is also more cautious: BRD4 changes seven genes, and no edge is called.
#
# ## What the latents are
#
# `latent_genes` says what becomes of each gene when a latent moves by one unit (log2 fold
# change), and `enrich` which gene sets change most.

# %%
genes = latent_genes(model)
top = genes[genes["latent"].isin(moved.columns)].sort_values(["latent", "rank"])
for latent, table in top.groupby("latent"):
    shown = table.head(8)
    listed = [
        f"{g} {c:+.1f}" for g, c in zip(shown["gene"], shown["log2_fold_change"], strict=True)
    ]
    print(f"{latent}: {', '.join(listed)}")
enriched = enrich(genes, folder / "genesets" / "h.all.v7.0.symbols.gmt.gz")
best = enriched[enriched["unit"].isin(moved.columns)].groupby("unit").head(3)
print(best[["unit", "set", "n_genes", "genes", "q"]].round(3).to_string(index=False))

# %% [markdown]
# Do not believe a name because it fits. This file has 303 genes, most of them drawn at random,
# so that sets of Hallmark have ten genes or fewer in it. Interferon gamma comes first for the
# latent of its receptor, as it should, but not at a false discovery rate of 5 % (column `q`).
# The genes are the better evidence: the latent of SMAD4 is first of all fibronectin (FN1).

# %%
display = TargetsDisplay.from_estimator(model)
plt.show()

# %% [markdown]
# The figure has all edges that are more probable than not. That of BRD4 is the one that was not
# called at 5 %.
#
# ## Which cells responded
#
# A guide may cut one copy of a gene only, so that some cells of a knock-out are like untreated
# ones. The guides of control cells are non-targeting, and say how far cells of two guides differ
# that do nothing.

# %%
found = responders(model, adata, adata.obs, guides="guide_id")
columns = ["n_cells", "share", "lower", "upper", "shift"]
print(found.shares.loc[found.shares["detected"], columns].round(2).to_string())

# %% [markdown]
# Guides of one gene differ: compare the intervals of those of IFNGR1. Where the shift is small,
# as in IRF1, intervals are wide, and a share says little.

# %% [markdown]
# ## Beside scanpy
#
# `annotate` writes latent states and tables into the AnnData, and scanpy goes on from there. On
# the left is the usual embedding by principal components, on the right that by the model's
# latents.

# %%
annotate(adata, model, adata.obs)
chain = ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]
shown = adata.obs["perturbation"].isin([*chain, "SMAD4", "control"]).to_numpy()
small = adata[shown].copy()
small.obs["knock-out"] = pd.Categorical(
    small.obs["perturbation"].astype(str).replace(dict.fromkeys(chain, "interferon chain"))
)
sc.pp.pca(small, n_comps=20, random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
for ax, (title, key) in zip(axes, {"PCA": "X_pca", "SVAEPlus": "X_skpert"}.items(), strict=True):
    sc.pp.neighbors(small, use_rep=key, random_state=0)
    sc.tl.umap(small, random_state=0)
    sc.pl.umap(small, color="knock-out", title=title, ax=ax, show=False, frameon=False, size=8)
plt.show()

# %% [markdown]
# Pictures flatter. A number: how many of the 30 nearest neighbours of a cell have the interferon
# chain knocked out? The area under the ROC curve says how well that separates cells of the chain
# from control cells (0.5 is chance, 1 is perfect).

# %%
treated = small.obs["knock-out"].to_numpy() == "interferon chain"
kept = treated | (small.obs["knock-out"].to_numpy() == "control")
for title, key in {"PCA": "X_pca", "SVAEPlus": "X_skpert"}.items():
    Z = small.obsm[key][kept]
    near = NearestNeighbors(n_neighbors=31).fit(Z).kneighbors(Z, return_distance=False)[:, 1:]
    area = roc_auc_score(treated[kept], treated[kept][near].mean(axis=1))
    print(f"{title}: {area:.2f}")

# %% [markdown]
# Principal components separate the cells almost as well. A picture of cells is no reason to fit
# this model; the table of targets is, and the list of knock-outs without any.

# %%
names = ["skpert", "torch", "scikit-learn", "scanpy"]
versions = ", ".join(f"{name} {version(name)}" for name in names)
took = f"{time.perf_counter() - start:.0f} s on {date.today()}"
print(f"{took}, with Python {python_version()}, {versions}")
