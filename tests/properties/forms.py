"""Expression and designs in the forms in which users hold them, the same numbers in each.

Plain expression is a float32 array in C order, a plain design an array of text labels with the
control called "control". A form is a function of these; what it returns means the same.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from scipy import sparse

WHOLE = {"int64", "int32", "uint8", "bool", "csr int", "frame Int64", "list of ints", "adata int"}
FOLDER = tempfile.TemporaryDirectory()  # of files that stay open as long as their expression
LARGEST = dict.fromkeys(WHOLE, 2**24) | {"uint8": 255, "bool": 1, "float16": 2048, "csr bool": 1}
UNSIGNED = {"uint8", "bool", "csr bool"}
SPARSE_CLASSES = {
    f"{name} {kind}": getattr(sparse, f"{name}_{kind}")
    for name in ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")
    for kind in ("array", "matrix")
}


def held(X, form):
    """Expression that the form can hold exactly, the nearest to X."""
    largest = np.float32(LARGEST.get(form, np.inf))
    X = np.clip(X, 0 if form in UNSIGNED else -largest, largest)
    if form == "float16":
        return X.astype(np.float16).astype(np.float32)
    return np.rint(X) if form in WHOLE | {"csr bool"} else X


def gene_names(n_genes):
    """Names of genes."""
    return [f"GENE{g}" for g in range(n_genes)]


def cell_names(n_cells):
    """Names of cells."""
    return [f"AAAC{i}-1" for i in range(n_cells)]


def frame(X, **options):
    """Expression as a DataFrame with names of genes."""
    return pd.DataFrame(X, columns=gene_names(X.shape[1]), **options)


def adata(X, *, layers=None, labels=None):
    """Expression as AnnData with names of genes and cells."""
    n_cells, n_genes = X.shape
    obs = pd.DataFrame(index=cell_names(n_cells))
    if labels is not None:
        obs["perturbation"] = labels
    return AnnData(X, obs=obs, var=pd.DataFrame(index=gene_names(n_genes)), layers=layers)


def _strided(X):
    return np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3]


def _backwards(X):
    return X[::-1, ::-1].copy()[::-1, ::-1]


def _read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def _read_only_csr(X):
    X = sparse.csr_array(X)
    for part in (X.data, X.indices, X.indptr):
        part.flags.writeable = False
    return X


def _every_entry(X, cls=sparse.csr_array):
    """Sparse with zeros stored."""
    n_rows, n_columns = X.shape
    indices = np.tile(np.arange(n_columns), n_rows)
    full = sparse.csr_array((X.ravel(), indices, np.arange(n_rows + 1) * n_columns), X.shape)
    return full if cls is sparse.csr_array else cls(full)


def _unsorted(X):
    """CSR whose rows are stored from right to left."""
    n_rows, n_columns = X.shape
    indices = np.tile(np.arange(n_columns)[::-1], n_rows)
    return sparse.csr_array((X[:, ::-1].ravel(), indices, np.arange(n_rows + 1) * n_columns))


def _duplicated(X, name="csr"):
    """Sparse in which every entry is stored as two that sum to it."""
    part = np.where(np.rint(X) == X, np.floor(X / 2), 0).astype(X.dtype)
    row, column = (index.ravel() for index in np.indices(X.shape))
    data = np.concatenate([part.ravel(), (X - part).ravel()])
    places = np.tile(row, 2), np.tile(column, 2)
    if name == "coo":
        return sparse.coo_array((data, places), shape=X.shape)
    minor, major = places[::-1] if name == "csr" else places
    order = np.argsort(major, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(major, minlength=max(major) + 1))])
    cls = sparse.csr_array if name == "csr" else sparse.csc_array
    return cls((data[order], minor[order], start), shape=X.shape)


def _int64_indices(X):
    X = sparse.csr_matrix(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def _view(X):
    """View of an AnnData that holds more cells and genes, in another order."""
    wide = np.pad(X, ((1, 0), (1, 0)), constant_values=1)
    data = adata(wide[:, ::-1])
    data.var_names = ["OTHER", *gene_names(X.shape[1])][::-1]
    data.obs_names = ["other", *cell_names(len(X))]
    return data[cell_names(len(X)), gene_names(X.shape[1])]


def _raw(X):
    """AnnData whose genes were chosen after all of them were kept aside."""
    data = adata(np.log1p(np.abs(X)))
    data.raw = adata(sparse.csr_matrix(X))
    return data[:, : X.shape[1] // 2].copy()


def _without_x(X):
    obs, var = pd.DataFrame(index=cell_names(len(X))), pd.DataFrame(index=gene_names(X.shape[1]))
    return AnnData(obs=obs, var=var, layers={"counts": sparse.csr_matrix(X)})


def _backed(X):
    """AnnData whose expression stays in its file."""
    path = Path(FOLDER.name) / "screen.h5ad"
    path.unlink(missing_ok=True)  # an open file of the same name stays readable
    adata(X).write_h5ad(path)
    return read_h5ad(path, backed="r")


DENSE = {
    "array": lambda X: X,
    "float64": lambda X: X.astype(np.float64),
    "float16": lambda X: X.astype(np.float16),
    "longdouble": lambda X: X.astype(np.longdouble),
    "big endian": lambda X: X.astype(">f4"),
    "int64": lambda X: X.astype(np.int64),
    "int32": lambda X: X.astype(np.int32),
    "uint8": lambda X: X.astype(np.uint8),
    "bool": lambda X: X.astype(bool),
    "object": lambda X: X.astype(object),
    "list": lambda X: X.tolist(),
    "list of ints": lambda X: X.astype(int).tolist(),
    "fortran": np.asfortranarray,
    "strided": _strided,
    "backwards": _backwards,
    "read-only": _read_only,
    "unmasked": lambda X: np.ma.masked_array(X, mask=np.zeros(X.shape, dtype=bool)),
    "frame": frame,
    "frame float64": lambda X: frame(X.astype(np.float64)),
    "frame with cells": lambda X: frame(X, index=cell_names(len(X))),
    "frame Float32": lambda X: frame(X).astype("Float32"),
    "frame Int64": lambda X: frame(X).astype("Int64"),
    "frame sparse": lambda X: frame(X).astype(pd.SparseDtype(np.float32, 0)),
    "frame object": lambda X: frame(X).astype(object),
    "frame without names": pd.DataFrame,
}
SPARSE = {name: lambda X, cls=cls: cls(X) for name, cls in SPARSE_CLASSES.items()} | {
    "csr float64": lambda X: sparse.csr_array(X.astype(np.float64)),
    "csr int": lambda X: sparse.csr_array(X.astype(np.int64)),
    "csr bool": lambda X: sparse.csr_matrix(X.astype(bool)),
    "csr read-only": _read_only_csr,
    "csr int64 indices": _int64_indices,
    "csr unsorted": _unsorted,
    "csr zeros": _every_entry,
    "csc zeros": lambda X: _every_entry(X, sparse.csc_array),
    "csr duplicates": _duplicated,
    "csc duplicates": lambda X: _duplicated(X, "csc"),
    "coo duplicates": lambda X: _duplicated(X, "coo"),
}
ADATA = {
    "adata": adata,
    "adata float64": lambda X: adata(X.astype(np.float64)),
    "adata int": lambda X: adata(X.astype(np.int64)),
    "adata csr": lambda X: adata(sparse.csr_matrix(X)),
    "adata csc": lambda X: adata(sparse.csc_matrix(X)),
    "adata view": _view,
    "adata layer": lambda X: adata(X + 1, layers={"counts": sparse.csr_matrix(X)}),
    "adata raw": _raw,
    "adata without X": _without_x,
    "adata backed": _backed,
    "adata backed csr": lambda X: _backed(sparse.csr_matrix(X)),
}
LAYERS = {"adata layer": "counts", "adata without X": "counts", "adata raw": "raw"}
EXPRESSION = DENSE | SPARSE | ADATA
HAS_CELLS = {form for form in EXPRESSION if form.startswith(("adata", "frame"))}


def expression(X, form):
    """Plain expression in a form, and the parameters that this needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata and scipy, about what is meant here
        given = EXPRESSION[form](X)
    return given, {"layer": LAYERS[form]} if form in LAYERS else {}


def parts(labels):
    """Names of single perturbations, sorted."""
    return sorted({part for label in labels for part in label.split("+")} - {"control"})


def hot(labels):
    """Dosages 0 and 1, (n_cells, n_parts) float64, columns as `parts` names them."""
    names = parts(labels)
    return np.array([[name in label.split("+") for name in names] for label in labels], float)


def _hot_frame(labels, dtype):
    with_names = pd.DataFrame(hot(labels), columns=parts(labels))
    return with_names.astype(dtype)


def _numbers(labels):
    """Labels as numbers, the control 0; their order is that of the text."""
    place = {name: j + 1 for j, name in enumerate(sorted(set(labels) - {"control"}))}
    return np.array([place.get(label, 0) for label in labels])


def design_frame(A, index=None):
    """Labels, and covariates of the cells."""
    rows = np.arange(len(A))
    lanes = np.array(["L1", "L2", "L3"])[rows % 3]
    covariates = {"n_counts": rows, "lane": lanes, "age": rows % 5 + 0.5}
    return pd.DataFrame(covariates | {"perturbation": A}, index=index)


LABELS = {
    "labels": lambda A: A,
    "str array": lambda A: A.astype(str),
    "list": lambda A: A.tolist(),
    "tuple": lambda A: tuple(A),
    "bytes": lambda A: [label.encode() for label in A],
    "series": pd.Series,
    "series backwards index": lambda A: pd.Series(A, index=np.arange(len(A))[::-1]),
    "series string": lambda A: pd.Series(A, dtype="string"),
    "series category": lambda A: pd.Series(A, dtype="category"),
    "series with cells": lambda A: pd.Series(A, index=cell_names(len(A))),
    "categorical": lambda A: pd.Categorical(A, [*sorted(set(A))[::-1], "unused"]),
    "index": pd.Index,
    "read-only labels": _read_only,
    "unmasked labels": lambda A: np.ma.masked_array(A, mask=np.zeros(len(A), dtype=bool)),
}
NUMBERS = {
    "ints": _numbers,
    "floats": lambda A: _numbers(A).astype(float),
    "series Int64": lambda A: pd.Series(_numbers(A), dtype="Int64"),
}
FRAMES = {
    "design frame": lambda A: design_frame(A),
    "design frame with cells": lambda A: design_frame(pd.Categorical(A), cell_names(len(A))),
    "guide frame": lambda A: pd.DataFrame({"guide": A, "perturbation": "none"}),
}
DOSAGES = {
    "hot": hot,
    "hot bool": lambda A: hot(A).astype(bool),
    "hot uint8": lambda A: hot(A).astype(np.uint8),
    "hot fortran": lambda A: np.asfortranarray(hot(A), dtype=np.float32),
    "hot list": lambda A: hot(A).tolist(),
    "hot duplicates": lambda A: _duplicated(2 * hot(A)) * 0.5,
    "hot zeros": lambda A: _every_entry(hot(A)),
    "hot frame": lambda A: _hot_frame(A, float),
    "hot frame bool": lambda A: _hot_frame(A, bool),
    "hot frame Int64": lambda A: _hot_frame(A, "Int64"),
    "hot frame boolean": lambda A: _hot_frame(A, "boolean"),
    "hot frame sparse": lambda A: _hot_frame(A, pd.SparseDtype(float, 0)),
    "hot frame and control": lambda A: _hot_frame(A, int).assign(control=A == "control"),
} | {f"hot {name}": lambda A, cls=cls: cls(hot(A)) for name, cls in SPARSE_CLASSES.items()}
DESIGNS = LABELS | NUMBERS | FRAMES | DOSAGES


def design(labels, form):
    """Plain labels in a form, and the parameters that this needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = DESIGNS[form](np.asarray(labels, dtype=object))
    if form in NUMBERS:
        return given, {"control": given[0].item() * 0}
    return given, {"perturbation": "guide"} if form == "guide frame" else {}
