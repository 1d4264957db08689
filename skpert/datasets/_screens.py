"""Real screens from the files they are shared in."""

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from .._input.files import existing, first_bytes, is_gzip
from .._input.values import listed
from ..exceptions import warn_of_data
from ._containers import Screen, canonical, is_zarr, read_hdf5, read_zarr, refuse
from ._tables import is_table, read_delimited, read_mtx, require_column, table_of_cells

_KINDS = (
    "an .h5ad, .h5mu, .loom or 10x .h5 file; a .zarr folder; an .mtx file or a folder with one; "
    "a .csv, .tsv or .txt file; text also as .gz"
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_EXPRESSION = "Gene Expression"  # 10x's type of features that are genes


def load_screen(
    path,
    *,
    perturbation: str = "perturbation",
    layer: str | None = None,
    modality: str | None = None,
    transpose: bool | None = None,
) -> Bunch:
    """Read counts and perturbation labels of a screen, ready for ``fit(screen.X, screen.A)``.

    What a file is, is seen from its content, where that can be seen, else from its name.

    Parameters
    ----------
    path : str or path-like
        One of

        * an AnnData in an ``.h5ad`` file or a ``.zarr`` folder, or a MuData in an ``.h5mu`` file
          or a ``.zarr`` folder (these need anndata), labels in a column of its ``obs``;
        * a ``.loom`` file (needs anndata, for h5py), labels in an attribute of its columns;
        * 10x's HDF5 (``filtered_feature_bc_matrix.h5``, of any CellRanger; needs anndata), beside
          which is a table of the cells: barcodes in its first column, labels in another;
        * a 10x-style ``.mtx`` or ``.mtx.gz`` file, or a folder with one, beside which are
          ``features.tsv`` or ``genes.tsv``, ``barcodes.tsv``, and a table of the cells. All may
          be gzipped and may share the matrix's prefix (``run1_matrix.mtx``, ``run1_genes.tsv``);
        * a ``.csv``, ``.tsv`` or ``.txt`` file, plain or gzipped, separated by commas, tabs,
          semicolons or spaces. Cells in rows: their names in the first column, one column of
          labels, and every other column a gene. Or genes in rows: cells in columns, and labels in
          a row or in a table of the cells beside the file.
    perturbation : str, default="perturbation"
        Column that holds the labels.
    layer : str or None, default=None
        Layer that holds the counts; None means ``X``, "raw" the matrix that was set aside as
        ``raw``, unless a layer has that name.
    modality : str or None, default=None
        Modality of a MuData; None means its only one, or else "rna".
    transpose : bool or None, default=None
        Whether genes are in rows. None: where the labels are decides (or, of an ``.mtx`` file, its
        shape), and ``DESCR`` says so. The formats ``.loom`` and 10x's HDF5 fix it: leave it None.

    Returns
    -------
    screen : Bunch
        X : csr_matrix of shape (n_cells, n_genes), float32
            Expression as stored, counts or otherwise, without repeated entries. Of features of
            several types only those of type "Gene Expression" are read; ``DESCR`` counts others.
        A : ndarray of shape (n_cells,), object
            Label of each cell. Cells without one keep a missing value, and a warning counts them.
        obs : DataFrame of shape (n_cells, n_columns)
            All that the file says of the cells, the labels included; index: names of the cells.
        feature_names : ndarray of shape (n_genes,), object
            Names of the genes, in the order of the columns of ``X``.
        DESCR : str
            What was read, and what was left out.

    Raises
    ------
    ValueError
        If the file is not there (:class:`~skpert.exceptions.FileUnavailableError`, which is a
        ``FileNotFoundError`` as well), is damaged, truncated or of an unknown kind, or has no such
        column, layer or modality.
    TypeError
        If ``path`` is not a path, or ``perturbation`` not a string.

    Warns
    -----
    DataWarning
        For cells without label, names of cells or genes that repeat, values that are missing,
        infinite or negative, and text that is not UTF-8.

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
    path = existing(path)
    _check(perturbation, layer, modality, transpose)
    screen, transposed = _read(path, perturbation, layer, modality, transpose)
    screen = screen._replace(X=canonical(screen.X, path))
    _check_shape(screen, path)
    screen, left_out = _genes_of(screen)
    A = _labels(screen.obs, perturbation, path)
    _warn_of_values(screen, path)
    _warn_of_names(screen, path)
    n_labels = len(pd.unique(A[pd.notna(A)]))
    n_cells, n_genes = screen.X.shape
    return Bunch(
        X=screen.X,
        A=A,
        obs=screen.obs,
        feature_names=screen.var.index.to_numpy(dtype=object),
        DESCR=f"{path.name}: {n_cells} cells, {n_genes} genes, {n_labels} labels."
        + transposed * " Genes were rows of the file."
        + left_out,
    )


def _check(perturbation, layer, modality, transpose):
    for name, value in [("layer", layer), ("modality", modality)]:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a name or None, got {value!r}")
    if not isinstance(perturbation, str):
        raise TypeError(f"perturbation must be the name of one column, got {perturbation!r}")
    if transpose is not None and not isinstance(transpose, (bool, np.bool_)):
        raise TypeError(f"transpose must be True, False or None, got {transpose!r}")


def _read(path, perturbation, layer, modality, transpose):
    """Screen of a file of any kind, and whether it was transposed to have cells in rows."""
    kind = _kind(path)
    if kind == "zarr":
        return _transposed(read_zarr(path, layer, modality), perturbation, transpose)
    if kind == "hdf5":
        return _read_hdf5(path, perturbation, layer, modality, transpose)
    refuse(path, "text", layer=layer, modality=modality)
    if kind == "mtx":
        return read_mtx(path, perturbation, transpose)
    return read_delimited(path, perturbation, transpose)


def _read_hdf5(path, perturbation, layer, modality, transpose):
    screen, layout = read_hdf5(path, layer, modality)
    if layout == "anndata":
        return _transposed(screen, perturbation, transpose)
    if transpose is not None:
        raise ValueError(f"transpose={transpose}: the {layout} format fixes what rows are")
    if layout == "10x":
        screen = screen._replace(obs=table_of_cells(path, screen.obs.index, perturbation))
    return screen, False


def _kind(path):
    """What a path leads to: "zarr", "mtx", "hdf5" or "text"."""
    if path.is_dir():
        return "zarr" if is_zarr(path) else "mtx"
    head, name = first_bytes(path), path.name.lower().removesuffix(".gz")
    if any(head.startswith(_HDF5, start) for start in (0, 512, 1024, 2048)):  # MuData: after 512
        if is_gzip(path):
            raise ValueError(f"{path.name} is gzipped HDF5: unpack it first, by gunzip")
        return "hdf5"
    if head.startswith(b"%%MatrixMarket") or name.endswith(".mtx"):
        return "mtx"
    if is_table(path):
        return "text"
    what = "is empty" if not head else "is of no known kind, or damaged at its start"
    raise ValueError(f"{path.name} {what}; give {_KINDS}")


def _transposed(screen, perturbation, transpose):
    """Screen with cells in rows: those that have labels."""
    if transpose is None:
        transpose = perturbation in screen.var and perturbation not in screen.obs
    return (Screen(screen.X.T, screen.var, screen.obs) if transpose else screen), bool(transpose)


def _check_shape(screen, path):
    names = len(screen.obs), len(screen.var)
    if screen.X.shape != names or not all(names):
        raise ValueError(
            f"{path.name} must hold at least one cell and one gene, and a value for each, but has "
            f"{names[0]} cells, {names[1]} genes and a matrix of shape {screen.X.shape}"
        )


def _genes_of(screen):
    """Screen without guides and antibodies, and a sentence on what these were."""
    types = screen.var.get("feature_types")
    if types is None or not (types == _EXPRESSION).any() or (types == _EXPRESSION).all():
        return screen, ""
    genes = np.flatnonzero(types == _EXPRESSION)
    counts = types[types != _EXPRESSION].astype(str).value_counts()
    kinds = ", ".join(f"{n} of type {kind}" for kind, n in counts.items())
    kept = Screen(screen.X[:, genes], screen.obs, screen.var.iloc[genes])
    return kept, f" Features left out: {kinds}."


def _labels(obs, perturbation, path):
    """Labels of the cells as an object array, or say which columns there are."""
    require_column(obs, perturbation, path)
    labels = obs[perturbation]
    n_missing = labels.isna().sum()
    if n_missing:
        warn_of_data(
            f"{n_missing} of {len(labels)} cells have no label in {perturbation!r}, the first is "
            f"{labels.index[labels.isna()][0]!r}; select the others with pandas.notna(screen.A)"
        )
    return labels.astype(object).to_numpy()


def _warn_of_values(screen, path):
    """Warn of what no likelihood takes, or only that of real values does."""
    values = screen.X.data
    for odd, what, remedy in [
        (~np.isfinite(values), "missing or infinite", "fill them, or leave out what has them"),
        (values < 0, "negative", "these are not counts: look for a layer that holds them, or raw"),
    ]:
        if odd.any():
            at = np.flatnonzero(odd)[0]
            cell = screen.obs.index[np.searchsorted(screen.X.indptr, at, side="right") - 1]
            gene = screen.var.index[screen.X.indices[at]]
            warn_of_data(
                f"{path.name} has values that are {what} ({odd.sum()}), the first for gene "
                f"{gene!r} in cell {cell!r}; {remedy}"
            )


def _warn_of_names(screen, path):
    """Warn of cells and of genes that are there twice."""
    for what, names in [("cells", screen.obs.index), ("genes", screen.var.index)]:
        repeated = names[names.duplicated()].unique()
        if len(repeated):
            warn_of_data(
                f"{path.name} has names of {what} more than once ({len(repeated)}): "
                f"{listed(list(repeated), 5)}; all are read, and names stay as they are"
            )
