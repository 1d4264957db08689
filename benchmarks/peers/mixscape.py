"""Mixscape of pertpy on cells and labels; 1.0.3 needs scikit-learn<1.8 and statsmodels<0.15."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pertpy
import scanpy as sc
from scipy import sparse

N_COMPONENTS = 40  # principal components of Seurat's vignette; the signature takes 15, its default


def responded(X, labels, *, control, genes, batch=None, seed=0):
    """Which treated cells have a response, False for control cells, (n_cells,).

    Its default parameters; with a batch, neighbours of a cell are control cells of its own batch.
    """
    obs = pd.DataFrame({"perturbation": pd.Categorical(labels)})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    if batch is not None:
        obs["batch"] = pd.Categorical(batch)
    var = pd.DataFrame(index=[str(gene) for gene in genes])
    data = anndata.AnnData(sparse.csr_matrix(X, dtype=np.float32), obs=obs, var=var)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.normalize_total(data)
        sc.pp.log1p(data)
        sc.pp.pca(data, n_comps=min(N_COMPONENTS, data.n_vars - 1), random_state=seed)
        mixscape = pertpy.tl.Mixscape()
        split = None if batch is None else "batch"
        mixscape.perturbation_signature(
            data, "perturbation", control, split_by=split, random_state=seed
        )
        mixscape.mixscape(data, "perturbation", control, random_state=seed)
    return (data.obs["mixscape_class_global"] == "KO").to_numpy()
