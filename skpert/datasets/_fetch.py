"""What the recipes of real screens share: a part of a large .h5ad file, read once and kept."""

import warnings

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.utils import gen_batches

from .._input.files import reading
from .._input.values import listed
from ._containers import readers
from ._download import check_unchanged, download, written_whole

_BLOCK = 512  # cells read at a time


def fetch_part(remote, folder, name, read, *, url, checksum, download_if_missing):
    """Cells and genes that a recipe keeps of a public file, as an AnnData.

    They are written to the file ``name`` in the folder, which later calls read in place of the
    public one.

    Parameters
    ----------
    remote : RemoteFile
        The public file.
    folder : Path
        Where files are kept.
    name : str
        Of the file with the part.
    read : callable
        From the path of the public file to an AnnData.
    url, checksum : str or None
        In place of those of ``remote``.
    download_if_missing : bool
        If False, neither file being there is an error.
    """
    anndata, _ = readers()
    path = folder / name
    if not path.exists():
        remote = remote._replace(url=url or remote.url, checksum=checksum or remote.checksum)
        public = download(remote, folder, download_if_missing=download_if_missing)
        with reading(public):
            data = read(public)
        with written_whole(path) as unfinished:
            data.write_h5ad(unfinished, compression="lzf")
    check_unchanged(path)
    with reading(path):
        return anndata.read_h5ad(path)


def read_part(path, *, cells=None, genes=None, layer=None, raw=False):
    """Some rows and columns of an .h5ad file, in memory that grows with those only.

    Parameters
    ----------
    path : Path
        The file; its matrix may be dense, CSR or CSC.
    cells : callable or None, default=None
        From the table of all cells to the positions of those to keep, in increasing order; None
        keeps all.
    genes : callable or None, default=None
        From the table of all genes to a mask of those to keep; None keeps all.
    layer : str or None, default=None
        Layer to read; None means X.
    raw : bool, default=False
        Read the X and the table of genes that were set aside as ``raw``.

    Returns
    -------
    data : AnnData
        X is CSR, float32.
    """
    anndata, h5py = readers()
    with h5py.File(path, "r") as file, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", anndata.OldFormatWarning
        )  # files of 2022: not to be helped
        part = _raw(file, path.name) if raw else file
        obs, var = anndata.io.read_elem(file["obs"]), anndata.io.read_elem(part["var"])
        rows = np.arange(len(obs)) if cells is None else cells(obs)
        columns = np.arange(len(var)) if genes is None else np.flatnonzero(genes(var))
        matrix = _matrix(part, layer, path.name)
        blocks = [
            csr_matrix(matrix[_index(rows[batch])][:, columns], dtype=np.float32)
            for batch in gen_batches(len(rows), _BLOCK)
        ]
    X = vstack(blocks, format="csr") if blocks else csr_matrix((0, len(columns)), dtype=np.float32)
    return anndata.AnnData(X, obs=obs.iloc[rows], var=var.iloc[columns])


def _raw(file, name):
    if "raw" not in file:
        raise ValueError(f"{name} has no raw counts; it has: {listed(list(file), 20)}")
    return file["raw"]


def _matrix(file, layer, name):
    """Matrix of an open .h5ad file, to be indexed by rows; still on disk, unless it is CSC."""
    anndata, h5py = readers()
    layers = list(file.get("layers", {}))
    if layer is not None and layer not in layers:
        raise ValueError(f"{name} has no layer {layer!r}; it has: {listed(layers, 20) or 'none'}")
    stored = file["X" if layer is None else f"layers/{layer}"]
    if isinstance(stored, h5py.Dataset):
        return stored
    matrix = anndata.io.sparse_dataset(stored)
    return matrix if matrix.format == "csr" else matrix.to_memory().tocsr()


def _index(rows):
    """Rows as a slice where they are neighbours, which is read much faster."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return rows


def column(table, name):
    """Column of a table of cells or genes, or say which there are."""
    if name not in table:
        raise ValueError(
            f"the file is not the one that was meant: its table of cells or genes has no column "
            f"{name!r}, but {listed(list(table.columns), 20)}"
        )
    return table[name]
