"""Screens in the containers of the field: AnnData, MuData, loom and 10x's HDF5."""

import html
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix, csr_matrix, issparse, vstack
from sklearn.utils import gen_batches

from .._input.files import reading
from .._input.stored import check_is_whole
from .._input.values import listed

BLOCK = 512  # cells read at a time
_CELL_NAMES = ("CellID", "cell_names", "obs_names", "barcode", "barcodes")
_GENE_NAMES = ("Gene", "gene_names", "var_names", "Accession")


class Screen(NamedTuple):
    """What a file holds; ``var`` may say of what type a feature is, in "feature_types"."""

    X: object  # array or sparse matrix, (n_cells, n_genes)
    obs: pd.DataFrame  # index: names of cells
    var: pd.DataFrame  # index: names of genes


def readers():
    """Modules anndata and h5py, or say how to get them."""
    try:
        import anndata
        import h5py
    except ImportError as error:
        raise ImportError(
            "screens in HDF5 or zarr need anndata: pip install 'skpert[data]'"
        ) from error
    return anndata, h5py


def is_zarr(folder):
    """Whether a folder is a zarr store."""
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs"))


def read_zarr(path, layer, modality):
    """Screen of a zarr store with an AnnData or a MuData."""
    readers()
    try:
        import zarr
    except ImportError as error:
        raise ImportError(f"{path.name} needs zarr: pip install 'skpert[data]'") from error
    with reading(path):
        return _read_group(zarr.open_group(str(path), mode="r"), path, layer, modality)


def read_hdf5(path, layer, modality):
    """Screen of an HDF5 file, and its layout: "loom", "10x" or "anndata"."""
    _, h5py = readers()
    with reading(path), h5py.File(path, "r") as file:
        if "matrix" in file and isinstance(file["matrix"], h5py.Dataset):
            refuse(path, "a .loom file", modality=modality)
            return _read_loom(file, layer, path), "loom"
        groups = {name: part for name, part in file.items() if isinstance(part, h5py.Group)}
        tenx = [name for name, part in groups.items() if "barcodes" in part and "indptr" in part]
        if tenx:
            refuse(path, "a 10x file", modality=modality, layer=layer)
            return _read_10x(groups, tenx, path), "10x"
        return _read_group(file, path, layer, modality), "anndata"


def refuse(path, kind, *, layer=None, modality=None):
    """Raise ValueError if what is asked for is nothing that files of this kind have."""
    for name, value in [("layer", layer), ("modality", modality)]:
        if value is not None:
            raise ValueError(f"{name}={value!r}: {path.name} is {kind} and has no {name}")


def _read_group(group, path, layer, modality):
    """Screen of an AnnData, or of one modality of a MuData."""
    anndata, _ = readers()
    if "mod" in group:
        return _read_mudata(group, path, layer, modality)
    refuse(path, "an AnnData", modality=modality)
    if "obs" not in group or "var" not in group:
        raise ValueError(
            f"{path.name} is neither an AnnData, a MuData, a .loom nor a 10x file; it has: "
            f"{listed(sorted(group), 20)}"
        )
    if not hasattr(group["obs"], "shape"):
        return _read_anndata(group, path, layer)
    data = anndata.read_h5ad(path)  # tables in one piece, as before anndata 0.7
    held = {name: (X, data.var) for name, X in [(None, data.X), *data.layers.items()]}
    if data.raw is not None:
        held.setdefault("raw", (data.raw.X, data.raw.var))
    X, var = _chosen(held, layer, path)
    return Screen(X, data.obs, var)


def _read_mudata(group, path, layer, modality):
    names = sorted(group["mod"])
    chosen = modality or (names[0] if len(names) == 1 else "rna")
    if chosen not in names:
        raise ValueError(
            f"{path.name} has no modality {chosen!r}: choose modality= among {listed(names, 20)}"
        )
    screen = _read_anndata(group["mod"][chosen], path, layer)
    whole = _element(group["obs"])
    new = whole.columns.difference(screen.obs.columns, sort=False)
    if len(new) and whole.index.is_unique:
        screen = screen._replace(obs=screen.obs.join(whole[new]))
    return screen


def _read_anndata(group, path, layer):
    """Only what is asked for, of all that an AnnData may hold."""
    X, var = stored_matrix(group, layer, path)
    if not hasattr(X, "shape"):
        check_is_whole(X)
    return Screen(_element(X), _element(group["obs"]), _element(var))


def stored_matrix(group, layer, path):
    """X, a layer or the raw X of an AnnData, still on disk, and the table of its genes."""
    layers, raw = _part(group, "layers"), _part(group, "raw")
    held = {name: (layers[name], group["var"]) for name in (layers if layers is not None else ())}
    if raw is not None:
        held.setdefault("raw", (raw["X"], raw["var"]))
    held[None] = _part(group, "X"), group["var"]
    return _chosen(held, layer, path)


def _part(group, name):
    """Part of a group; None if it is not there, or says that it is none."""
    found = group[name] if name in group else None
    return None if found is None or found.attrs.get("encoding-type") == "null" else found


def _chosen(held, layer, path):
    """Matrix of the layer, and what goes with it, or say which layers there are."""
    names = listed([name for name in held if name is not None], 20) or "none"
    if layer not in held:
        raise ValueError(f"{path.name} has no layer {layer!r}; it has: {names}")
    if held[layer][0] is None:
        raise ValueError(
            f"{path.name} has no X; name the layer that holds the counts among {names}"
        )
    return held[layer]


def _element(stored):
    return readers()[0].io.read_elem(stored)


def _read_loom(file, layer, path):
    """Screen of a .loom file, which has genes in rows and its tables in attributes."""
    held = {name: (X,) for name, X in [(None, file["matrix"]), *file.get("layers", {}).items()]}
    (stored,) = _chosen(held, layer, path)
    obs = _loom_table(file["col_attrs"], _CELL_NAMES, path)
    var = _loom_table(file["row_attrs"], _GENE_NAMES, path)
    if stored.shape != (len(var), len(obs)):
        raise ValueError(f"{stored.name} has shape {stored.shape}, not {(len(var), len(obs))}")
    blocks = [csr_matrix(stored[:, cells].T) for cells in gen_batches(len(obs), BLOCK)]
    return Screen(vstack(blocks, format="csr"), obs, var)


def _loom_table(attributes, names, path):
    table = pd.DataFrame({k: _values(v) for k, v in attributes.items() if v.ndim == 1})
    found = [name for name in names if name in table]
    if not found:
        raise ValueError(
            f"{path.name} must have one of {', '.join(names)} in {attributes.name}; it has: "
            f"{listed(list(table), 20) or 'nothing'}"
        )
    return table.set_index(table[found[0]].astype(str).rename(None)).drop(columns=found[0])


def _values(stored):
    """Array of an HDF5 data set, text as str; loom escapes what is not ASCII."""
    values = stored[()]
    if values.dtype.kind in "SO":
        text = [html.unescape(v.decode("utf-8") if isinstance(v, bytes) else v) for v in values]
        return np.array(text, dtype=object)
    return values


def _read_10x(groups, names, path):
    """Screen of 10x's HDF5: "matrix" since CellRanger 3, before that a group per genome."""
    if len(names) > 1:
        raise ValueError(
            f"{path.name} holds several genomes, {listed(names, 20)}: choose one by "
            "scanpy.read_10x_h5(genome=)"
        )
    group = groups[names[0]]
    features = group.get("features", group)
    symbols = "name" if "name" in features else "gene_names"
    var = pd.DataFrame(index=pd.Index(_values(features[symbols]), dtype=object))
    if "feature_type" in features:
        var["feature_types"] = _values(features["feature_type"])
    obs = pd.DataFrame(index=pd.Index(_values(group["barcodes"]), dtype=object))
    parts = (group[name][()] for name in ("data", "indices", "indptr"))
    return Screen(_compressed(csr_matrix, *parts, (len(obs), len(var))), obs, var)


def _compressed(kind, data, indices, indptr, shape):
    """Sparse matrix whose structure is valid; ValueError if that of the file is not."""
    if indptr[-1] != len(data):  # which scipy would cut
        raise ValueError(f"{len(data)} values are stored and {indptr[-1]} have a place")
    X = kind((data, indices, indptr), shape=shape)
    X.check_format(full_check=True)
    return X


def canonical(X, path):
    """CSR matrix, float32: indices are checked before use, entries of one place are summed."""
    with reading(path):
        if issparse(X) and X.format in ("csr", "csc"):
            kind = csr_matrix if X.format == "csr" else csc_matrix
            X = _compressed(kind, X.data, X.indices, X.indptr, X.shape)
        elif not issparse(X):
            X = np.asarray(X)
        if X.ndim != 2 or X.dtype.kind not in "biuf":
            raise ValueError(
                f"X is an array of {X.dtype} and shape {X.shape}, not a matrix of numbers"
            )
        X = csr_matrix(X, dtype=np.float32)
        X.sum_duplicates()
    return X
