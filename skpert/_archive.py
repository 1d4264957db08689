"""Zip archives of one JSON document and of arrays, replaced as a whole and read without trust.

Every entry is stored as it is, so that nothing can unpack to more than the file holds.
"""

import hashlib
import io
import json
import math
import os
import stat
import sys
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np

DOCUMENT = "estimator.json"
LARGEST_LISTING = 2**23  # bytes of the zip's list of entries, 60 to 80 each
LARGEST_DOCUMENT = 2**25  # bytes of JSON
MOST_VALUES = 2**22  # of the document
MOST_CONTAINERS = 2**19  # lists and objects among them, each of some hundred bytes in memory
LONGEST_HEADER = 1000  # characters that say dtype and shape of an array
STORABLE = "biufcSUmM"  # kinds of dtype whose arrays are plain bytes


def file_name(path):
    """Path as text; TypeError says what it is instead."""
    try:
        return os.fsdecode(path)
    except TypeError as error:
        raise TypeError(
            f"path must be the name of a file, str or path-like, got {type(path).__name__}"
        ) from error


def encoded(document):
    """JSON of a document, bytes; ValueError if it is larger than what is read."""
    content = json.dumps(document, allow_nan=False).encode()
    _check_document(content)
    return content


def digest(document, arrays):
    """SHA-256 of a document and of arrays by their names; it tells damage, not who wrote them."""
    found = hashlib.sha256(encoded(document))
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found.hexdigest()


def write(path, document, arrays):
    """Write an archive in the place of a file; ValueError as of ``replaced``."""
    with replaced(path) as file:
        _write_entries(file, document, arrays)


@contextmanager
def replaced(path):
    """Binary file beside its destination, moved there once all is written; links are followed.

    Raises
    ------
    ValueError
        If the destination is no regular file or cannot be written; it is then as it was.
    """
    with _as_value_error(path, "written"):
        target = _target(path)
        partial = target.with_name(f".{uuid4().hex}.partial")  # is short where the name is long
        try:
            with open(partial, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
            os.replace(partial, target)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        _sync_folder(target.parent)


def _target(path):
    """File that the path leads to, which need not exist."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is no regular file, and nothing else is replaced")
    target = Path(os.path.realpath(path))
    if not os.access(target, os.W_OK):
        raise PermissionError("it is read-only")
    return target


def _write_entries(file, document, arrays):
    with zipfile.ZipFile(file, "w") as archive:
        # no time of writing: the same content gives the same file
        archive.writestr(zipfile.ZipInfo(DOCUMENT), encoded(document))
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _sync_folder(folder):
    """Make the new name last, where a folder can be flushed."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def _as_value_error(path, done):
    """Errors of the operating system, with the path and the reason."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{path} cannot be {done}: {reason}") from error


class _Unlisted(io.FileIO):
    """File from which no long piece is read until ``limit`` is lifted."""

    limit = LARGEST_LISTING

    def read(self, size=-1, /):
        if size > self.limit:
            raise zipfile.BadZipFile("its list of entries is too long")
        return super().read(size)


def read(path):
    """Document and arrays of an archive, nothing of which has been interpreted yet.

    Raises
    ------
    ValueError
        If the file cannot be read, is damaged, or is anything but what ``write`` makes.
    """
    with _as_value_error(path, "read"):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its other end
            raise ValueError(f"{path} is no regular file")
        file = _Unlisted(path)
    with file:
        try:
            return _read_entries(file)
        except Exception as error:  # of zipfile, json and numpy, which promise no kind of error
            raise ValueError(
                f"{path} is not a skpert file, or is corrupt: {error!s:.500}"
            ) from error


def _read_entries(file):
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        file.limit = sys.maxsize
        entries = {entry.filename: entry for entry in archive.infolist()}
        _check_entries(archive.infolist(), size)
        document = _document(archive, entries.pop(DOCUMENT))
        return document, {name: _array(archive, entry) for name, entry in entries.items()}


def _check_entries(entries, size):
    """Raise ValueError for entries that ``write`` does not make, or larger than the file."""
    expected = {DOCUMENT, *(f"arrays/{i}.npy" for i in range(len(entries) - 1))}
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names) or set(names) != expected:
        raise ValueError("its entries are not a document and numbered arrays, each once")
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"entry {entry.filename} is compressed or encrypted")
        if kind not in (0, stat.S_IFREG):
            raise ValueError(f"entry {entry.filename} is no regular file")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries claim more bytes than it has")


def _check_document(content):
    n_containers = content.count(b"[") + content.count(b"{")
    n_values = n_containers + content.count(b",")
    if len(content) > LARGEST_DOCUMENT or n_values > MOST_VALUES or n_containers > MOST_CONTAINERS:
        raise ValueError(
            f"the document has {len(content)} bytes, {n_values} values and {n_containers} lists; "
            f"at most {LARGEST_DOCUMENT}, {MOST_VALUES} and {MOST_CONTAINERS} are read"
        )


def _document(archive, entry):
    if entry.file_size > LARGEST_DOCUMENT:
        raise ValueError(f"its document has {entry.file_size} bytes")
    content = archive.read(entry)
    _check_document(content)
    document = json.loads(content, parse_constant=_refuse_constant)
    if not isinstance(document, dict) or document.get("format") != "skpert":
        raise ValueError("its document is not ours")
    return document


def _refuse_constant(text):
    raise ValueError(f"{text} is not JSON")


def _array(archive, entry):
    """Array of an entry whose header agrees with its size."""
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{entry.filename} is of version {version} of numpy's format")
        header = np.lib.format.read_array_header_1_0(stream, max_header_size=LONGEST_HEADER)
        shape, _, dtype = header
        if dtype.kind not in STORABLE or dtype.itemsize == 0:
            raise ValueError(f"{entry.filename} has the dtype {dtype}")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or stream.tell() + size != entry.file_size:
            raise ValueError(f"{entry.filename} has not the size of its shape {shape}")
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False, max_header_size=LONGEST_HEADER)
