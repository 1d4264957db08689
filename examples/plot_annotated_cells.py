"""
From a model to scanpy
======================

What a model found is written to the AnnData that it was fitted on: latent states, targets, genes
of latents, and which cells responded. From there on scanpy takes over: neighbours, UMAP, and
differential expression of predicted cells. Cells are simulated; those of a real screen are read
by ``anndata.read_h5ad``.
"""

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc

from skpert import SVAEPlus, annotate, as_anndata
from skpert.datasets import make_sparse_shift

screen = make_sparse_shift(
    20,
    n_cells_per_perturbation=80,
    n_control_cells=440,
    n_latent=5,
    n_covered=5,
    n_targets=1,
    library_size=5000,
    random_state=0,
)
labels = screen.A.copy()
escaped = np.flatnonzero(labels == "control")[:40]
labels[escaped] = "P00"  # a third of the cells of P00 did not respond
adata = anndata.AnnData(screen.X, obs={"perturbation": labels})
adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]

model = SVAEPlus(learning_rate=0.005, max_epochs=50, random_state=0).fit(adata, adata.obs)
annotate(adata, model, adata.obs)
print(adata)

# %%
# Neighbours and UMAP
# -------------------
#
# Both are computed on latent states, where cells differ by what perturbations do and not by depth.
# In the right panel are the probabilities that cells have responded; control cells, and
# perturbations without a response, have none and are grey.

sc.pp.neighbors(adata, use_rep="X_skpert", random_state=0)
sc.tl.umap(adata, random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
sc.pl.umap(adata, color="perturbation", ax=axes[0], show=False, frameon=False)
sc.pl.umap(adata, color="skpert_responded", ax=axes[1], show=False, frameon=False)
plt.show()

# %%
# Tables that came along, in ``adata.uns["skpert"]``:

print(adata.uns["skpert"]["targets"].round(1).to_string())
print(adata.uns["skpert"]["responders"].head().round(2).to_string())

# %%
# Differential expression of predicted cells
# ------------------------------------------
#
# Cells are drawn from the model, as many of each perturbation as one likes, and scanpy tests them
# as measured ones. Their p-values say what the model expects, and are no evidence: they shrink
# with the number drawn. Fold changes are beside those of measured cells here.

designs = ["P01", "P02", "control"]
drawn = as_anndata(model.sample_intervention(designs, 300, random_state=0), designs, model)
measured = adata[adata.obs["perturbation"].isin(designs)].copy()
changes = {}
for name, cells in {"predicted": drawn, "measured": measured}.items():
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.tl.rank_genes_groups(cells, "perturbation", groups=["P01", "P02"], reference="control")
    table = sc.get.rank_genes_groups_df(cells, group=None)
    changes[name] = table.set_index(["group", "names"])["logfoldchanges"]
changes = pd.DataFrame(changes)
print(changes.loc["P01"].head(5).round(2).to_string())

figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), sharex=True, sharey=True, layout="constrained")
for ax, name in zip(axes, ["P01", "P02"], strict=True):
    ax.plot(*changes.loc[name][["measured", "predicted"]].to_numpy().T, "o", markersize=3)
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
    ax.set(title=name, xlabel="measured log2 fold change")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("predicted")
plt.show()
