"""Real screens from the files they are shared in."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import mmread
from scipy.sparse import csr_matrix
from sklearn.utils import Bunch

from ..exceptions import DataWarning


def load_screen(path, *, perturbation="perturbation", layer=None):
    """Read counts and perturbation labels of a screen, ready for ``fit(screen.X, screen.A)``.

    Parameters
    ----------
    path : str or path-like
        One of

        * an ``.h5ad`` file (needs anndata), labels in a column of its ``obs``;
        * a 10x-style ``.mtx`` or ``.mtx.gz`` file, or a folder with one, beside which stand
          ``features.tsv`` or ``genes.tsv``, ``barcodes.tsv``, and a ``.csv`` table of the cells:
          barcodes in its first column, labels in another. All may be gzipped and may share the
          matrix's prefix (``run1_matrix.mtx``, ``run1_genes.tsv``...). Of features of several
          types only those of type "Gene Expression" are read;
        * a ``.csv`` or ``.csv.gz`` file, cells in rows: names of cells in the first column, one
          column of labels, and every other column a gene.
    perturbation : str, default="perturbation"
        Column that holds the labels.
    layer : str or None, default=None
        Layer of the ``.h5ad`` file that holds the counts; None means its ``X``.

    Returns
    -------
    screen : Bunch
        X : csr_matrix of shape (n_cells, n_genes), float32
            Expression as stored, counts or otherwise.
        A : ndarray of shape (n_cells,), object
            Label of each cell. Cells without one keep a missing value, and a warning counts them.
        obs : DataFrame of shape (n_cells, n_columns)
            All that the file says of the cells, the labels included; index: names of the cells.
        feature_names : ndarray of shape (n_genes,), object
            Names of the genes, in the order of the columns of ``X``.
        DESCR : str
            One sentence on what was read.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from skpert.datasets import load_screen
    >>> table = pd.DataFrame({"perturbation": ["JAK2", "control"], "IRF1": [3, 0], "GBP1": [1, 4]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table.to_csv(f"{folder}/screen.csv")
    ...     screen = load_screen(f"{folder}/screen.csv")
    >>> screen.A
    array(['JAK2', 'control'], dtype=object)
    >>> screen.X.toarray()
    array([[3., 1.],
           [0., 4.]], dtype=float32)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    name = path.name.lower().removesuffix(".gz")
    if path.suffix.lower() == ".h5ad":
        X, obs, feature_names = _read_h5ad(path, layer)
    elif layer is not None:
        raise ValueError(f"layer={layer!r}: only .h5ad files have layers, not {path.name}")
    elif path.is_dir() or name.endswith(".mtx"):
        X, obs, feature_names = _read_mtx(path, perturbation)
    elif name.endswith(".csv"):
        X, obs, feature_names = _read_csv(path, perturbation)
    else:
        raise ValueError(
            f"{path.name} is of no known kind: .h5ad, .mtx, .mtx.gz, .csv, .csv.gz or a folder"
        )
    A = _labels(obs, perturbation, path)
    X = csr_matrix(X, dtype=np.float32)
    n_labels = len(pd.unique(A[pd.notna(A)]))
    return Bunch(
        X=X,
        A=A,
        obs=obs,
        feature_names=np.asarray(feature_names, dtype=object),
        DESCR=f"{path.name}: {X.shape[0]} cells, {X.shape[1]} genes, {n_labels} labels.",
    )


def _labels(obs, perturbation, path):
    """Labels of the cells as an object array, or say which columns there are."""
    _require_column(obs, perturbation, path)
    labels = obs[perturbation]
    n_missing = labels.isna().sum()
    if n_missing:
        warnings.warn(
            f"{n_missing} of {len(labels)} cells have no label in {perturbation!r}, the first is "
            f"{labels.index[labels.isna()][0]!r}; select the others with pandas.notna(screen.A)",
            DataWarning,
            stacklevel=3,
        )
    return labels.astype(object).to_numpy()


def _require_column(table, perturbation, path):
    if perturbation not in table.columns:
        raise ValueError(
            f"{path.name} has no column {perturbation!r} beside the names of its cells; "
            f"it has: {_listed(table.columns)}"
        )


def _listed(names):
    """Return the first names in a sentence."""
    names = [str(name) for name in names]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(names[:20]) or "none") + more


def _read_h5ad(path, layer):
    try:
        import anndata
    except ImportError as error:
        raise ImportError("load_screen needs anndata: pip install 'skpert[data]'") from error
    data = anndata.read_h5ad(path)
    if layer is not None and layer not in data.layers:
        raise ValueError(f"{path.name} has no layer {layer!r}; it has: {_listed(data.layers)}")
    X = data.X if layer is None else data.layers[layer]
    if X is None:
        raise ValueError(f"{path.name} has no X; name the layer that holds the counts")
    return X, data.obs, data.var_names


def _read_mtx(path, perturbation):
    path = _matrix_in(path) if path.is_dir() else path
    features = _read_table(_beside(path, "features.tsv", "genes.tsv"), sep="\t", header=None)
    barcodes = _read_table(_beside(path, "barcodes.tsv"), sep="\t", header=None)[0].astype(str)
    X = mmread(path)
    if X.shape == (len(features), len(barcodes)):
        X = X.T  # 10x stores genes x cells
    elif X.shape != (len(barcodes), len(features)):
        raise ValueError(
            f"{path.name} has shape {X.shape}, which does not fit {len(features)} features and "
            f"{len(barcodes)} barcodes"
        )
    feature_names = features[min(1, features.shape[1] - 1)]  # identifier, symbol, type
    if features.shape[1] > 2 and (features[2] == "Gene Expression").any():
        genes = np.flatnonzero(features[2] == "Gene Expression")  # not guides, not antibodies
        X, feature_names = csr_matrix(X)[:, genes], feature_names[genes]
    return X, _cell_table(path, barcodes, perturbation), feature_names


def _matrix_in(folder):
    """Return the one matrix of a folder."""
    found = sorted([*folder.glob("*.mtx"), *folder.glob("*.mtx.gz")])
    if len(found) != 1:
        names = _listed(file.name for file in found)
        raise ValueError(f"{folder} must hold one .mtx or .mtx.gz file; found: {names}")
    return found[0]


def _prefix(matrix):
    """Return what the names of the files beside a matrix begin with."""
    return matrix.name.removesuffix(".gz").removesuffix(".mtx").removesuffix("matrix")


def _beside(matrix, *names):
    """Return the file of one of these names, with or without prefix, plain or gzipped."""
    for start in (_prefix(matrix), ""):
        for name in names:
            for end in ("", ".gz"):
                path = matrix.with_name(start + name + end)
                if path.exists():
                    return path
    raise FileNotFoundError(f"{matrix} needs {' or '.join(names)} beside it, plain or gzipped")


def _cell_table(matrix, barcodes, perturbation):
    """Rows of the table beside a matrix that has the labels, in the order of the barcodes."""
    paths = sorted([*matrix.parent.glob("*.csv"), *matrix.parent.glob("*.csv.gz")])
    paths = [path for path in paths if path.name.startswith(_prefix(matrix))] or paths
    columns = {path: _read_table(path, index_col=0, n_rows=0).columns for path in paths}
    found = [path for path in columns if perturbation in columns[path]]
    if len(found) != 1:
        seen = "; ".join(f"{path.name} has {_listed(columns[path])}" for path in columns)
        raise ValueError(
            f"one .csv table beside {matrix.name} must have the column {perturbation!r}, but "
            f"{len(found)} have: {seen or 'there are no tables'}"
        )
    table = _read_table(found[0], index_col=0, text=perturbation)
    table.index = table.index.astype(str)
    if table.index.has_duplicates or not table.index.isin(barcodes).any():
        raise ValueError(
            f"the first column of {found[0].name} must hold each barcode once, as in the "
            f"barcodes of {matrix.name} (the first of those is {barcodes[0]!r})"
        )
    return table.reindex(pd.Index(barcodes, name=table.index.name))


def _read_csv(path, perturbation):
    table = _read_table(path, index_col=0, text=perturbation)
    _require_column(table, perturbation, path)
    genes = table.drop(columns=perturbation)
    text = [name for name in genes if not pd.api.types.is_numeric_dtype(genes[name])]
    if text:
        raise ValueError(
            f"in {path.name} every column but {perturbation!r} must hold numbers, one gene each; "
            f"these do not: {_listed(text)}"
        )
    return genes.to_numpy(dtype=np.float32), table[[perturbation]], genes.columns


def _read_table(path, *, sep=",", header="infer", index_col=None, n_rows=None, text=None):
    """Table whose missing values are empty fields only: "NA" and "None" are fair labels.

    The column named ``text`` is read as strings, whatever it looks like.
    """
    return pd.read_csv(
        path,
        sep=sep,
        header=header,
        index_col=index_col,
        nrows=n_rows,
        dtype=None if text is None else {text: str},
        keep_default_na=False,
        na_values=[""],
    )
