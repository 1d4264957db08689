"""Large public files to a local folder: resumed when broken off, checked, never half there."""

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes
_SCHEMES = ("http", "https", "file")
_TIMEOUT = 60.0  # seconds without a byte
_LOG_EVERY = 10.0  # seconds
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers that may be other next time
_LASTING = {errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS}


class RemoteFile(NamedTuple):
    """A public file: its name in the data folder, its address, and what its bytes must hash to."""

    name: str
    url: str
    checksum: str | None = None  # "md5:..." or "sha256:..."; None: not published


def get_data_home(data_home=None):
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
    folder = Path(data_home).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"data_home={str(folder)!r} is a file, or in one; name a folder"
        ) from error
    return folder


def download(remote, folder, *, download_if_missing=True, n_attempts=5, delay=1.0):
    """Path of a public file in ``folder``, fetched if it is not there and checked in any case.

    A transfer that breaks off leaves a ``.part`` file and goes on where it stopped, in this call
    or a later one. A file without a published checksum has its SHA-256 written beside it
    (``NAME.sha256``) at the first download, and must agree with that from then on.

    Parameters
    ----------
    remote : RemoteFile
        What to fetch; its address may start with ``http://``, ``https://`` or ``file://``.
    folder : Path
        Where to, an existing folder.
    download_if_missing : bool, default=True
        If False, a file that is not there is an error.
    n_attempts : int, default=5
        Tries in a row that bring no new byte before giving up.
    delay : float, default=1.0
        Seconds before the second try; doubles with each further one.

    Returns
    -------
    path : Path
        The complete, checked file.

    Raises
    ------
    ValueError
        If the address or the checksum is of no known kind.
    OSError
        If the file cannot be had, does not fit on the disk, or is not the one that was meant; in
        the last case it is removed.
    """
    _check_remote(remote)
    path = folder / remote.name
    if path.exists():
        _verify(path, path, remote)
        return path
    if not download_if_missing:
        raise OSError(
            f"{path} is not there, and download_if_missing=False: call again with "
            f"download_if_missing=True, or save {remote.url} under that name"
        )
    part = path.with_name(path.name + ".part")
    _fetch(remote.url, part, n_attempts, delay)
    _verify(part, path, remote)
    os.replace(part, path)
    return path


def _check_remote(remote):
    if not isinstance(remote.url, str) or urlparse(remote.url).scheme not in _SCHEMES:
        raise ValueError(f"url must start with https://, http:// or file://, got {remote.url!r}")
    pattern = r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}"
    if remote.checksum is not None and not re.fullmatch(pattern, str(remote.checksum)):
        raise ValueError(
            f"checksum must be 'md5:' or 'sha256:' and that many lower-case hexadecimal digits, "
            f"got {remote.checksum!r}"
        )


def _fetch(url, part, n_attempts, delay):
    """Fill ``part``, trying again as long as tries bring bytes."""
    n_failures, most = 0, _size(part)
    logger.info("downloading %s to %s", url, part.parent)
    while True:
        try:
            return _transfer(url, part)
        except (OSError, HTTPException) as error:
            n_failures = 1 if _size(part) > most else n_failures + 1
            most = max(most, _size(part))
            if n_failures >= n_attempts or _is_lasting(error):
                raise OSError(_advice(url, part, error)) from error
            logger.warning("%s: %s; trying again", url, error)
        time.sleep(delay * 2 ** (n_failures - 1))


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _is_lasting(error):
    """Whether another try would end the same way."""
    if isinstance(error, HTTPError):
        return error.code not in _PASSING
    reason = getattr(error, "reason", error)  # what a URLError wraps
    return getattr(reason, "errno", None) in _LASTING


def _advice(url, part, error):
    kept = f". What has come is kept in {part}: call again to go on from there"
    return (
        f"could not download {url}: {error}{kept if _size(part) else ''}. If the address is no "
        f"longer right or the network is closed, pass url= with that of a mirror, or save the "
        f"file as {part.with_suffix('')} by other means and call again"
    )


def _transfer(url, part):
    """One try: ask for what ``part`` lacks, and write it as it comes."""
    start = _size(part)
    try:
        response = _open(url, start)
    except HTTPError as error:
        if error.code != 416:  # nothing from `start` on
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return  # all was there
        part.unlink()  # of some other, longer file
        response = _open(url, 0)
    with response:
        start, total = _extent(response, _size(part))
        if total is not None:
            _check_space(part, total - start)
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            _copy(response, file, total)
    if total is not None and _size(part) < total:
        raise ConnectionError(f"broken off after {_size(part):,} of {total:,} bytes")


def _open(url, start):
    headers = {"User-Agent": "skpert"}  # some hosts turn urllib's own name away
    if start:
        headers["Range"] = f"bytes={start}-"
    return urlopen(Request(url, headers=headers), timeout=_TIMEOUT)


def _extent(response, size):
    """Where the bytes of a response begin in the file, and how many the file has, if known."""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers["Content-Range"] or "")
        if found and int(found[1]) <= size:  # no gap
            start, total = found.groups()
            return int(start), None if total == "*" else int(total)
    elif response.status in (200, None):  # None: a local file
        length = response.headers["Content-Length"]
        return 0, None if length is None else int(length)
    raise HTTPError(response.url, response.status, "no file came", response.headers, None)


def _check_space(part, n_bytes):
    free = shutil.disk_usage(part.parent).free
    if n_bytes > free:
        raise OSError(
            errno.ENOSPC, f"{n_bytes:,} bytes are to come and {part.parent} has {free:,} free"
        )


def _copy(response, file, total):
    """Write the response to the file, and tell how far it is every few seconds."""
    told = time.monotonic()
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        if time.monotonic() - told > _LOG_EVERY:
            told = time.monotonic()
            share = "" if not total else f" ({file.tell() / total:.1%})"
            logger.info("%s: %.1f MB%s", file.name, file.tell() / 1e6, share)


def _verify(path, final, remote):
    """Check the bytes at ``path``, which are or will be the file ``final``."""
    note = final.with_name(final.name + ".sha256")
    recorded = None
    if note.exists():
        recorded = f"sha256:{note.read_text().split()[0]}"
    expected = remote.checksum or recorded
    found = _hash(path, (expected or "sha256:").split(":")[0])
    if expected is None:
        note.write_text(f"{found.removeprefix('sha256:')}  {final.name}\n")
    elif found != expected:
        path.unlink()
        where = "published" if remote.checksum else f"in {note}, of an earlier download"
        raise OSError(
            f"{final.name} is not the file that was meant and was removed: its checksum is "
            f"{found}, and the one {where} is {expected}. Call again to download it anew; if the "
            f"file was changed on purpose, pass checksum= or delete {note.name}"
        )


def _hash(path, algorithm):
    """Checksum of a file, as "algorithm:digits"."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
    return f"{algorithm}:{digest}"
