"""Large public files in a local folder, fetched and checked by pooch, and the parts used."""

import os
import re
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.utils import gen_batches

from .._input.files import first_bytes, is_gzip, reading
from .._input.values import listed
from ..exceptions import FileUnavailableError
from ._containers import BLOCK, readers, stored_matrix

_SCHEMES = ("http", "https", "file")
CHUNK = 1 << 20  # bytes
_HEADERS = {
    "User-Agent": "skpert",  # some hosts turn the names of libraries away
    "Accept-Encoding": "identity",  # a .gz file comes as it is
}


class RemoteFile(NamedTuple):
    """A public file: its name in the data folder, its address, and what its bytes must hash to."""

    name: str
    url: str
    checksum: str | None = None  # "md5:..." or "sha256:..."; None: not published


def get_data_home(data_home=None) -> Path:
    """Folder of downloaded data, which is created if need be.

    Parameters
    ----------
    data_home : str, path-like or None, default=None
        The folder; None means the environment variable ``SKPERT_DATA_HOME``, or ``~/skpert_data``
        where that is not set. A leading ``~`` is the home folder.

    Returns
    -------
    data_home : Path
        The folder, which exists.

    Raises
    ------
    ValueError
        If ``data_home`` is not a path, or a file is in its place.

    Notes
    -----
    All functions ``fetch_*`` have four parameters that say where files are and come from:

    * ``data_home``: the folder, as here.
    * ``download_if_missing``: if False, a file that is not there is an error.
    * ``url``: address of a mirror or of another release in the same form, ``https://``,
      ``http://`` or ``file://``; None means the public file.
    * ``checksum``: "md5:..." or "sha256:..." of the file. None means the published one. Where none
      is known, that of the first download is written beside it and must be met from then on.

    They return a Bunch with counts ``X`` (CSR of shape (n_cells, n_genes), float32), what the file
    says of the cells, ``obs`` (a DataFrame), names of the genes, ``feature_names`` (an object
    array), and what this is, ``DESCR``.

    The part of a public file that is used is kept in a file of its own, which later calls read
    whatever ``url`` says; the public file can then be deleted. Needs anndata and pooch
    (``pip install 'skpert[data]'``). A file that is not available, or not the expected one,
    is a :class:`~skpert.exceptions.FileUnavailableError`, which is a ValueError and an OSError.

    Examples
    --------
    >>> import tempfile
    >>> from skpert.datasets import get_data_home
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     get_data_home(f"{folder}/screens").is_dir()
    True
    """
    if data_home is None:
        data_home = os.environ.get("SKPERT_DATA_HOME") or "~/skpert_data"
    if not isinstance(data_home, (str, os.PathLike)):
        raise ValueError(f"data_home must be the path of a folder or None, got {data_home!r}")
    folder = Path(os.path.expanduser(data_home))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"data_home={str(folder)!r} is a file, or in one, or cannot be made ({error}); name "
            "another folder"
        ) from error
    return folder


def download(remote, folder, *, download_if_missing=True, n_retries=2):
    """Path of a public file in ``folder``, fetched if it is not there and checked in any case.

    ``remote`` is HDF5 or gzip. Without a published checksum its SHA-256 is written beside it
    (``NAME.sha256``) at the first download. What comes is written beside its place and takes it
    when it is complete and checked, so that two processes can ask for one file.

    Raises
    ------
    ValueError
        If the address or the checksum is of no known kind.
    FileUnavailableError
        If the file is not available, or not the expected one.
    """
    pooch, _ = _pooch(), readers()  # before anything is fetched
    _check_remote(remote)
    path = folder / remote.name
    expected = remote.checksum or _noted(folder / f"{remote.name}.sha256")
    if not download_if_missing and not path.exists():
        raise FileUnavailableError(
            f"{path} is not there, and download_if_missing=False: call again with "
            f"download_if_missing=True, or save {remote.url} under that name"
        )
    fetch = partial(_fetch, gzipped=remote.name.endswith(".gz"))
    files = pooch.create(
        path=folder,
        base_url="",
        registry={remote.name: expected},
        urls={remote.name: remote.url},
        retry_if_failed=0 if remote.url.startswith("file:") else n_retries,
        allow_updates=False,  # a file that is there may be the user's own
    )
    try:
        files.fetch(remote.name, downloader=fetch)
        _check_is_data(path, remote.name.endswith(".gz"))
    except (ValueError, OSError) as error:
        found = path.exists()
        raise FileUnavailableError(
            (f"{path} is not the expected file" if found else f"could not get {remote.url}")
            + f", whose checksum is {expected or 'not known'}: {error}. "
            + ("Delete it and call again" if found else "Pass url= with the address of a mirror")
            + f", or save the file as {path} by other means; for another file pass its checksum=, "
            + f"or delete {path.name}.sha256, of the first download"
        ) from error
    if expected is None:
        check_unchanged(path)
    return path


def check_unchanged(path):
    """Raise ValueError if a file is not what it was at the first call for it."""
    note = path.with_name(f"{path.name}.sha256")
    found, noted = _pooch().file_hash(path), _noted(note)
    if noted is None:
        note.write_text(f"{found}  {path.name}\n")
    elif noted != f"sha256:{found}":
        raise FileUnavailableError(
            f"{path} was changed since it was written: delete it to have it made again; if it was "
            f"changed on purpose, delete {note.name}"
        )


@contextmanager
def written_whole(path):
    """Path to write to, whose file takes the place of ``path`` if nothing goes wrong."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder, path.name)
        yield unfinished
        os.replace(unfinished, path)


def fetch_part(remote, name, read, data_home, download_if_missing, url, checksum):
    """AnnData of the cells and genes of a public file that ``read`` keeps, from path to AnnData.

    They are written to the file ``name``, which later calls read in place of the public one. The
    last four arguments are those of every fetcher; see `get_data_home`.
    """
    folder = get_data_home(data_home)
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


def read_part(path, *, cells=None, genes=None, layer=None):
    """Some rows and columns of an .h5ad file, in memory that grows with those only.

    ``cells`` and ``genes`` make of the table of all cells the positions of those to keep, in
    increasing order, and of the table of all genes a mask; None keeps all. The ``layer`` may be
    "raw", which has genes of its own. X becomes CSR, float32.
    """
    anndata, h5py = readers()
    with h5py.File(path, "r") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.OldFormatWarning)  # files of 2022 have one
        stored, var = stored_matrix(file, layer, path)
        obs, var = anndata.io.read_elem(file["obs"]), anndata.io.read_elem(var)
        rows = np.arange(len(obs)) if cells is None else cells(obs)
        columns = np.arange(len(var)) if genes is None else np.flatnonzero(genes(var))
        matrix = _by_rows(stored)
        blocks = [
            csr_matrix(matrix[_index(rows[batch])][:, columns], dtype=np.float32)
            for batch in gen_batches(len(rows), BLOCK)
        ]
    X = vstack(blocks, format="csr") if blocks else csr_matrix((0, len(columns)), dtype=np.float32)
    return anndata.AnnData(X, obs=obs.iloc[rows], var=var.iloc[columns])


def column(table, name):
    """Column of a table of cells or genes, or say which there are."""
    if name not in table:
        raise ValueError(
            f"the file is not the expected one: its table of cells or genes has no column "
            f"{name!r}, but {listed(list(table.columns), 20)}"
        )
    return table[name]


def _pooch():
    try:
        import pooch
    except ImportError as error:
        raise ImportError("downloads need pooch: pip install 'skpert[data]'") from error
    return pooch


def _check_remote(remote):
    if not isinstance(remote.url, str) or urlparse(remote.url).scheme not in _SCHEMES:
        raise ValueError(f"url must start with https://, http:// or file://, got {remote.url!r}")
    pattern = r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}"
    if remote.checksum is not None and not re.fullmatch(pattern, str(remote.checksum)):
        raise ValueError(
            f"checksum must be 'md5:' or 'sha256:' and that many lower-case hexadecimal digits, "
            f"got {remote.checksum!r}"
        )


def _noted(note):
    """Checksum of an earlier download, if there was one."""
    words = note.read_text().split() if note.exists() else []
    return f"sha256:{words[0]}" if words else None


def _fetch(url, output_file, pooch, *, gzipped):
    """Downloader of pooch, which passes on nothing but data."""
    address = urlparse(url)
    if address.scheme == "file":
        shutil.copyfile(url2pathname(address.path), output_file)
    else:
        download = _pooch().HTTPDownloader(headers=_HEADERS, chunk_size=CHUNK)
        download(url, output_file, pooch)
    _check_is_data(output_file, gzipped)


def _check_is_data(path, gzipped):
    """Raise OSError unless a file is gzip, or HDF5 of the length that it says it has."""
    _, h5py = readers()
    if not (is_gzip(path) if gzipped else h5py.is_hdf5(path)):
        raise OSError(
            f"what came is not {'a gzip' if gzipped else 'an HDF5'} file, but begins with "
            f"{first_bytes(path, 40)!r}"
        )
    if not gzipped:
        h5py.File(path, "r").close()


def _by_rows(stored):
    """Matrix to be indexed by rows; still on disk, unless it is CSC."""
    anndata, h5py = readers()
    if isinstance(stored, h5py.Dataset):
        return stored
    matrix = anndata.io.sparse_dataset(stored)
    return matrix if matrix.format == "csr" else matrix.to_memory().tocsr()


def _index(rows):
    """Rows as a slice where they are neighbours, which is read much faster."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return rows
