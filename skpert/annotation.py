"""Results of a fitted model in an AnnData, in the places where scanpy looks for them."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from ._effects import effects
from ._input.expression import check_same_cells
from ._input.values import check_has_latents
from .inspection import latent_genes, responders
from .inspection._responders import LEAST_CONTROLS

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["annotate", "as_anndata"]


def annotate(adata, estimator, A=None, *, key: str = "skpert", fdr: float = 0.05) -> "AnnData":
    """Write what a model found to an AnnData, which is changed in place.

    Everything can be written to an h5ad file, and the embedding is where scanpy looks for one:
    ``sc.pp.neighbors(adata, use_rep="X_skpert")``, ``sc.pl.embedding(adata, "skpert")``.

    Parameters
    ----------
    adata : AnnData of shape (n_cells, n_genes)
        Cells, of the training or others.
    estimator : estimator
        Fitted, with ``transform``.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame, default=None
        Design of the cells, such as ``adata.obs``. Where it names perturbations, and at least 20
        control cells, responders are written.
    key : str, default="skpert"
        What all names begin with. Results of an earlier call with the same key are replaced.
    fdr : float, default=0.05
        False discovery rate at which edges are called, in [0, 1].

    Returns
    -------
    adata : AnnData
        The same object. ``obsm["X_skpert"]``: latent states, (n_cells, n_latent).
        ``varm["skpert_genes"]``: log2 fold change of each gene per unit of each latent, a
        DataFrame, NaN for genes that the model was not trained on. ``uns["skpert"]``: ``model``,
        its name; ``latents`` and ``perturbations``, their names; and where edges are called
        ``targets``, ``probability`` and ``effects``, DataFrames (see
        :func:`skpert.inspection.effects`). With A, ``obs["skpert_responded"]``: the probability
        that a cell responded, and ``uns["skpert"]["responders"]``: shares (see
        :func:`skpert.inspection.responders`).

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData.
    ValueError
        If its genes are not those of the training, A is of another length or other cells, or
        ``key`` holds a "/".

    Examples
    --------
    >>> import anndata
    >>> from skpert import SVAEPlus, annotate
    >>> from skpert.datasets import make_sparse_shift
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> adata = anndata.AnnData(screen.X, obs={"perturbation": screen.A})
    >>> model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(adata, adata.obs)
    >>> annotate(adata, model, adata.obs).obsm["X_skpert"].shape
    (240, 3)
    """
    check_has_latents(estimator)
    if not (hasattr(adata, "obsm") and hasattr(adata, "varm")):
        raise TypeError(f"adata must be an AnnData, got a {type(adata).__name__}")
    if not isinstance(key, str) or not key or "/" in key:
        raise ValueError(
            f"key must be a name without '/', which HDF5 files part names at: {key!r}"
        )
    labels = None
    if A is not None:
        check_same_cells(adata, A, ("adata", "A"))
        labels = estimator.design_.labels(A)
        check_consistent_length(adata.obs_names, labels)
    states = np.asarray(estimator.transform(adata), dtype=np.float32)
    latents = [str(name) for name in estimator.get_feature_names_out()]
    found = {"model": type(estimator).__name__, "latents": np.array(latents, dtype=object)}
    found["perturbations"] = np.asarray(estimator.perturbations_, dtype=object)
    if hasattr(estimator, "mask_probability_"):
        targets = estimator.targets(fdr=fdr)
        probability = pd.DataFrame(estimator.mask_probability_, targets.index, targets.columns)
        table = effects(estimator, fdr=fdr)
        found |= {"targets": targets, "probability": probability, "effects": table}
    genes, responded = _genes(adata, estimator, latents), f"{key}_responded"
    told = None
    if labels is not None and _has_controls(estimator, labels):
        told = responders(estimator, adata, A)
        found["responders"] = told.shares
    if told is not None:
        adata.obs[responded] = told.cells["probability"].to_numpy()
    elif responded in adata.obs:  # of another model
        del adata.obs[responded]
    adata.obsm[f"X_{key}"] = states
    adata.varm[f"{key}_genes"] = genes
    adata.uns[key] = found
    return adata


def as_anndata(values, A, estimator) -> "AnnData":
    """Predicted or sampled expression as an AnnData, with its design in ``obs``.

    For ``sc.tl.rank_genes_groups(adata, "perturbation")`` and for programs that compare predicted
    with measured cells.

    Parameters
    ----------
    values : array-like of shape (n_designs, n_genes) or (n_designs, n_samples, n_genes)
        What ``predict_intervention(A)`` or ``sample_intervention(A, n_samples)`` returned.
    A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
        The designs they were asked for; a bare string is one.
    estimator : estimator
        Fitted, that made the values.

    Returns
    -------
    adata : AnnData of shape (n_designs, n_genes) or (n_designs * n_samples, n_genes)
        ``X``, the values, all samples of a design in turn; ``obs``, the columns of a design frame,
        or the label of each row in the estimator's column ``perturbation``, and for samples their
        number in ``sample``; ``var_names``, the genes that the estimator was fitted on.

    Raises
    ------
    ImportError
        If anndata is not installed.
    ValueError
        If there are not as many designs as rows of values, or genes as the estimator has, or the
        frame of samples has a column ``sample``.

    Examples
    --------
    >>> from skpert import SVAEPlus, as_anndata
    >>> from skpert.datasets import make_sparse_shift
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> designs = ["P0", "control"]
    >>> drawn = as_anndata(model.sample_intervention(designs, 30), designs, model)
    >>> drawn.shape, drawn.obs["perturbation"].value_counts().to_dict()
    ((60, 50), {'P0': 30, 'control': 30})
    """
    check_is_fitted(estimator)
    anndata = _anndata()
    A = [A] if isinstance(A, str) else A
    labels = estimator.design_.labels(A)
    values = np.asarray(values)
    n_genes = estimator.n_features_in_
    if values.ndim not in (2, 3) or values.shape[0] != len(labels) or values.shape[-1] != n_genes:
        raise ValueError(
            f"values have shape {values.shape}: A has {len(labels)} designs and the model "
            f"{n_genes} genes, so that it should be ({len(labels)}, {n_genes}) or "
            f"({len(labels)}, n_samples, {n_genes})"
        )
    n_samples = 1 if values.ndim == 2 else values.shape[1]
    obs = pd.DataFrame({estimator.perturbation: labels})
    if isinstance(A, pd.DataFrame) and not set(A.columns) <= set(estimator.perturbations_):
        obs = A.reset_index(drop=True).set_axis([str(name) for name in A.columns], axis=1)
        if estimator.perturbation not in obs:
            obs.insert(0, estimator.perturbation, labels)
    obs = obs.loc[obs.index.repeat(n_samples)].copy()
    if values.ndim == 3 and "sample" in obs:
        raise ValueError("A has a column 'sample', which is to number samples: rename it")
    if values.ndim == 3:
        obs["sample"] = np.tile(np.arange(n_samples), len(labels))
    obs.index = [str(row) for row in range(len(obs))]
    genes = getattr(estimator, "feature_names_in_", None)
    genes = (
        [f"gene{i}" for i in range(n_genes)] if genes is None else [str(name) for name in genes]
    )
    return anndata.AnnData(values.reshape(-1, n_genes), obs=obs, var=pd.DataFrame(index=genes))


def _anndata():
    try:
        import anndata
    except ImportError:
        raise ImportError("as_anndata needs anndata: pip install 'skpert[data]'") from None
    return anndata


def _has_controls(estimator, labels):
    return (labels == str(estimator.control)).sum() >= LEAST_CONTROLS and len(set(labels)) > 1


def _genes(adata, estimator, latents):
    """Log2 fold change of each gene of the AnnData per unit of each latent; NaN if unknown."""
    known = getattr(estimator, "feature_names_in_", None)
    genes = [str(name) for name in adata.var_names] if known is None else known
    table = latent_genes(estimator, genes=genes)
    wide = table.pivot(index="gene", columns="latent", values="log2_fold_change")
    wide = wide.reindex(index=[str(name) for name in adata.var_names], columns=latents)
    wide.columns.name = wide.index.name = None
    return wide.set_axis(adata.var_names)
