"""Reading expression, from whatever holds it, into an array or a canonical CSR matrix."""

from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils import check_array
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _get_feature_names

from .stored import StoredRows, UnreadableError, in_memory, is_path, on_disk, opened_file, streamed
from .values import check_columns, listed

LARGEST = 1e100  # whose squares, and sums of them, float64 can hold
LARGEST_SINGLE = 1e15  # the same for float32
FLOATS = (np.float64, np.float32)  # float32 stays, everything else becomes float64


class Expression(NamedTuple):
    """Expression with the names that its container has."""

    # (n_cells, n_genes) float; rows that stay on disk are not checked yet
    values: np.ndarray | sparse.csr_matrix | sparse.csr_array | StoredRows
    genes: pd.Index | None  # None where the container has no names
    cells: pd.Index | None


def read_expression(
    X, layer=None, *, dtype=FLOATS, least=1, estimator=None, name="X", memory="load"
):
    """Expression of an array, sparse matrix, DataFrame, AnnData or file, with its names.

    Anything with ``X``, ``layers`` and ``var_names`` is read as AnnData is, whether it is in
    memory, backed by a file or a view; ``layer`` chooses one of its layers, "raw" its
    ``raw`` unless a layer has that name. A path is that of an AnnData in HDF5 or zarr. ``memory``
    says what is done with expression on disk, as in the estimators; what stays there is not
    checked. Values are finite, dense or canonical CSR: indices are within bounds and sorted,
    entries of the same place are added up. The caller's object does not
    change. ``least`` is the least number of cells, ``dtype`` as in
    :func:`sklearn.utils.check_array`; ``estimator`` and ``name`` are used in messages.

    Raises
    ------
    ValueError
        If X is not two-dimensional, holds text, NaN or infinity, has a malformed sparse
        structure, masked values, duplicate names of genes, or no such layer.
    TypeError
        If X is not a container of expression, such as MuData or a generator.
    """
    values, genes, cells = _opened(opened_file(X) if is_path(X) else X, layer, name)
    if genes is not None and not genes.is_unique:
        raise ValueError(_repeated_genes(genes, name))
    stored = streamed(values, memory, name)
    if stored is not None:
        return Expression(stored, genes, cells)
    values = read_matrix(
        _loaded(values, name),
        name,
        dtype=dtype,
        accept_sparse=True,
        least=least,
        estimator=estimator,
        largest=LARGEST_SINGLE if dtype is np.float32 else LARGEST,
    )
    return Expression(values, genes, cells)


def read_matrix(
    values,
    name,
    *,
    dtype=np.float64,
    accept_sparse=False,
    least=1,
    estimator=None,
    copy=False,
    ensure_2d=True,
    allow_nd=False,
    largest=None,
):
    """Array or canonical CSR matrix of finite numbers; see ``read_expression``.

    What numpy cannot convert is refused at once: it would iterate over every element of an
    AnnData.
    """
    _refuse_other_containers(values, name)
    try:
        with np.errstate(over="ignore"):  # what is beyond float32 is refused as infinite
            if sparse.issparse(values):
                values = with_valid_structure(values, name, dtype)
            checked = check_array(
                values,
                accept_sparse="csr" if accept_sparse else False,
                dtype=list(dtype) if isinstance(dtype, tuple) else dtype,
                copy=copy,
                ensure_2d=ensure_2d,
                allow_nd=allow_nd,
                ensure_min_samples=least,
                estimator=estimator,
                input_name=name,
            )
    except (ValueError, TypeError):
        raise
    except Exception as error:  # an array of another library that does not become one of numpy
        raise TypeError(
            f"{name} is a {_type_name(values)} and cannot be read as an array ({error}): convert "
            "it to a numpy array or a scipy sparse matrix"
        ) from error
    _check_size(checked.data if sparse.issparse(checked) else checked, largest, name)
    if sparse.issparse(checked):
        return _canonical(checked, values)
    return checked if min(checked.strides, default=0) >= 0 else checked.copy()  # as torch wants


def _check_size(values, largest, name):
    if largest is None:
        return
    size = float(max(values.max(initial=0), -values.min(initial=0)))
    if size > largest:
        raise ValueError(f"{name} holds a value of size {size:g}: look where it comes from")


def by_name(values, genes, wanted, owner, name="X"):
    """Columns of the genes ``wanted``, in their order; ValueError if there are not all of them."""
    columns = genes.get_indexer(wanted)
    missing = np.asarray(wanted)[columns < 0]
    if len(missing):
        raise ValueError(
            f"{name} lacks {len(missing)} of the {len(columns)} genes {owner}: "
            f"{listed(missing, 5)}; its own are {listed(genes, 5)}. Give all of them, in any order"
        )
    if len(columns) == len(genes) and (columns == np.arange(len(genes))).all():
        return values
    if isinstance(values, StoredRows):
        return values.with_columns(columns)
    values = values[:, columns]
    if sparse.issparse(values):
        values.sort_indices()
    return values


def check_same_cells(X, A, names=("X", "A")):
    """Raise ValueError if X and A carry names of cells that differ or are in another order.

    Names are ``obs_names`` of an AnnData and the index of a DataFrame or Series. The default
    index, numbers from 0, is not a name, unless the other side has the same numbers in another
    order. Lengths are not compared here.
    """
    ours, theirs = cell_names(X), cell_names(A)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return
    ours, theirs = ours.map(str), theirs.map(str)
    if ours.equals(theirs):
        return
    x, a = names
    if ours.is_unique and theirs.is_unique and not len(ours.difference(theirs)):
        row = int((ours != theirs).argmax())
        raise ValueError(
            f"{x} and {a} have the same cells in another order: row {row} is {ours[row]!r} in "
            f"{x} and {theirs[row]!r} in {a}. Align them, for example by "
            f"{a} = {a}.loc[{_names_of(X, x)}]; if rows belong together as they stand, give {a} "
            "without its index (.to_numpy())"
        )
    if _is_default(ours) or _is_default(theirs):
        return
    other = theirs[~theirs.isin(ours)]
    what = f"{len(other)} of the {len(theirs)} names in {a}" if len(other) else "names that repeat"
    example = listed(other if len(other) else theirs[theirs.duplicated()], 3)
    raise ValueError(
        f"{x} and {a} have names of different cells: {what}, such as {example}, are not those of "
        f"{x}. Select the cells that both have, in one order; if rows belong together as they "
        f"stand, give {a} without its index (.to_numpy())"
    )


def of_each_cell(values, A, n_cells, name):
    """One value per cell, or those of a column of A, as an array of objects, some of them missing.

    ValueError unless there are ``n_cells`` of them, of the same cells as A.
    """
    if isinstance(values, str):
        if not isinstance(A, pd.DataFrame):
            raise ValueError(f"{name}={values!r} names a column, and A is no DataFrame")
        check_columns(A, [values])
        values = A[values]
    check_same_cells(A, values, ("A", name))
    array = np.asarray(values, dtype=object)
    if array.shape != (n_cells,):
        raise ValueError(
            f"{name} must have one value for each of the {n_cells} cells, got an array of the "
            f"shape {array.shape}"
        )
    return array


def cell_names(data):
    """Names of the rows, a pandas Index, or None."""
    if hasattr(data, "obs_names"):
        return pd.Index(data.obs_names)
    return data.index if isinstance(data, (pd.DataFrame, pd.Series)) else None


def with_cell_names(estimator, values, X):
    """Values, as a DataFrame with ``obs_names`` where ``set_output`` asks for pandas.

    scikit-learn makes the DataFrame otherwise, but knows the index of a DataFrame only.
    """
    wanted = _get_output_config("transform", estimator)["dense"] == "pandas"
    X = opened_file(X) if wanted and is_path(X) else X
    if wanted and hasattr(X, "obs_names") and not sparse.issparse(values):
        return pd.DataFrame(values, index=pd.Index(X.obs_names))
    return values


def _opened(X, layer, name):
    """Values, names of genes and names of cells."""
    _refuse_modalities(X, name)
    if hasattr(X, "var_names") and hasattr(X, "layers"):
        values, genes = _chosen(X, layer, name)
        return values, _as_text(genes), cell_names(X)
    if layer is not None:
        raise ValueError(
            f"layer={layer!r} chooses a layer of an AnnData, but {name} is a {_type_name(X)}: "
            "give the AnnData, or set layer=None"
        )
    if hasattr(X, "var_names") and hasattr(X, "X"):  # adata.raw
        return _held(X, name), _as_text(X.var_names), cell_names(X)
    if on_disk(X) is None:
        _refuse_other_containers(X, name)
    if isinstance(X, pd.DataFrame):
        return X, _column_names(X, name), X.index
    genes = _get_feature_names(X)
    return X, None if genes is None else pd.Index(genes, dtype=object), cell_names(X)


def _column_names(frame, name):
    """Names of genes as text; None for the default numbers of pandas, from 0."""
    columns = frame.columns
    if columns.nlevels > 1 or any(isinstance(column, tuple) for column in columns):
        raise ValueError(
            f"columns of {name} have names of several levels, such as {columns[0]!r}: give each "
            "gene one name"
        )
    numbered = columns.dtype.kind in "iu" and _is_default(columns.map(str))
    return None if numbered else _as_text(columns)


def _as_text(names):
    """Names as text of Python, which is all that scikit-learn takes for names."""
    return pd.Index([str(name) for name in names], dtype=object)


def _chosen(adata, layer, name):
    """Expression of a layer of an AnnData, and the names of its genes."""
    raw = getattr(adata, "raw", None)
    known = [*sorted(adata.layers), *(["raw"] if raw is not None else [])]
    if layer is not None and layer in adata.layers:
        return _held(adata.layers[layer], name), adata.var_names
    if layer == "raw" and raw is not None:
        return _held(raw, name), raw.var_names
    if layer is not None:
        raise ValueError(f"no layer {layer!r} in {name}; its layers are {known}")
    values = _held(adata, name)
    if values is None:
        remedy = f"name one of them, such as layer={known[0]!r}" if known else "it has no layers"
        raise ValueError(f"{name}.X is None; the layers of {name} are {known}: {remedy}")
    return values, adata.var_names


def _held(held, name):
    """The ``X`` of an AnnData or of its raw, or a layer, which may be on disk."""
    with _backed(name):
        return held.X if hasattr(held, "var_names") else held


def _loaded(values, name):
    try:
        with _backed(name):
            return in_memory(values)
    except MemoryError as error:
        raise MemoryError(
            f"{name} of the shape {values.shape} does not fit in memory ({error}): let it stay on "
            "disk, with memory='stream' where a model trains"
        ) from error


@contextmanager
def _backed(name):
    try:
        yield
    except (MemoryError, UnreadableError):
        raise
    except Exception as error:
        raise ValueError(
            f"{name} is backed by a file that cannot be read like this ({error}): read "
            "it whole by adata = adata.to_memory(), then select"
        ) from error


def _refuse_modalities(X, name):
    if hasattr(X, "mod") and hasattr(X, "obs"):
        first = next(iter(X.mod), "rna")
        raise TypeError(
            f"{name} is a {_type_name(X)}: give one modality, such as mdata[{first!r}]"
        )


def _refuse_other_containers(X, name):
    """TypeError for what is neither an array nor can be made one at once."""
    kind = _type_name(X)
    _refuse_modalities(X, name)
    if isinstance(X, bytes) or is_path(X):
        raise TypeError(f"{name} is the text or path {X!r}: read it with datasets.load_screen")
    if hasattr(X, "var_names"):
        raise TypeError(f"{name} must be an array, but is a {kind}: give its .X or a layer of it")
    if not _becomes_an_array(X):
        held = [key for key in ("X", "values", "data") if isinstance(X, dict) and key in X]
        remedy = f"give its {held[0]!r}" if held else "give an array, a sparse matrix or a frame"
        raise TypeError(f"{name} is a {kind} and holds no rows of numbers: {remedy}")
    if np.ma.is_masked(X):
        raise ValueError(
            f"{name} has {int(np.ma.count_masked(X))} masked values: fill them, or leave them out"
        )


def _becomes_an_array(X):
    ways = "__array__", "__array_interface__", "__dataframe__", "__dlpack__"
    if sparse.issparse(X) or X is None:
        return True
    if isinstance(X, (list, tuple, int, float, complex, np.generic)):
        return True
    return not isinstance(X, dict) and any(hasattr(X, way) for way in ways)


def with_valid_structure(X, name, dtype):
    """Sparse matrix whose indices are within bounds, in a dtype in which entries can be summed.

    It is a new object around the caller's arrays, since scipy keeps what it once found of a
    structure, and may put an index array of another dtype into it.
    """
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {name} as a sparse array of shape {X.shape}")
    try:
        if X.format in ("csr", "csc", "bsr"):
            X = type(X)((X.data, X.indices, X.indptr), shape=X.shape)
            X.check_format(full_check=True)
        elif X.format == "coo":
            X = type(X)((X.data, (X.row, X.col)), shape=X.shape)
        kept = dtype if isinstance(dtype, tuple) else (dtype,)
        if X.dtype.kind in "biuf" and X.dtype not in kept:
            X = X.astype(kept[0])
        if X.format not in ("csr", "csc", "bsr", "coo"):
            X = X.tocsr()
            X.check_format(full_check=True)
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{name} is a sparse matrix with a malformed structure ({error}): build it anew"
        ) from error
    return X


def _canonical(X, given):
    """CSR with sorted indices and one entry per place; the given arrays do not change."""
    if X.has_canonical_format:
        return X
    if X is given or np.shares_memory(X.data, given.data):
        X = X.copy()
    X.sum_duplicates()
    return X


def _repeated_genes(genes, name):
    counts = genes[genes.duplicated(keep=False)].value_counts()
    shown = ", ".join(f"{str(gene)!r} ({n} times)" for gene, n in counts[:5].items())
    return (
        f"names of genes in {name} are not unique: {shown}. Make them so, for an AnnData by "
        "adata.var_names_make_unique(), or add up the columns of one gene"
    )


def _is_default(names):
    """Whether names, as text, are the default numbers of pandas and anndata."""
    return len(names) == 0 or (
        names[0] == "0" and names.equals(pd.RangeIndex(len(names)).map(str))
    )


def _names_of(X, name):
    return f"{name}.obs_names" if hasattr(X, "obs_names") else f"{name}.index"


def _type_name(X):
    return type(X).__name__
