"""Reading files that may be missing, damaged, gzipped, or text in any usual encoding."""

import gzip
import io
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

from ..exceptions import FileUnavailableError, warn_of_data

_GZIP = b"\x1f\x8b"
_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_NO_TEXT = {  # first bytes of what is often given in place of text
    b"PK\x03\x04": "a zip archive, as .xlsx files are: unpack it, or save the sheet as text",
    b"\xd0\xcf\x11\xe0": "an old Excel file: save the sheet as text",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF file",
}


def existing(path, name="path"):
    """Path of a file or folder that is there; ``~`` is the home folder."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be the path of a file, got {type(path).__name__}: {path!r}")
    path = Path(os.path.expanduser(path))
    with reading(path):
        if not path.exists():
            raise FileUnavailableError(f"no such file or folder: {path}")
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is neither a file nor a folder")
    return path


@contextmanager
def reading(path):
    """Whatever stops a library from reading a file becomes one ValueError that names the file.

    The library's own warnings are not shown: they do not know what the file is read for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImportError, FileUnavailableError):
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise FileUnavailableError(f"{path} cannot be opened: {error}") from error
    except Exception as error:  # of any kind: there are many ways to damage a file
        if isinstance(error, ValueError) and path.name in str(error):
            raise
        seen = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"{path} cannot be read: it is damaged, cut off, or not what its name says "
            f"({type(error).__name__}: {seen})"
        ) from error


def first_bytes(path, n_bytes=4096):
    """Beginning of a file, unpacked if it is gzipped, whatever its name says."""
    with reading(path), _unpacked(path) as file:
        return file.read(n_bytes)


def is_gzip(path):
    """Whether a file is gzipped, by its first bytes."""
    with reading(path), open(path, "rb") as file:
        return file.read(2) == _GZIP


def parse_text(path, parse):
    """What ``parse`` makes of the text of a file, plain or gzipped.

    It is UTF-8, or UTF-16 with a byte order mark; else it is read as Windows-1252, and a warning
    says so. ``parse`` gets a stream in which lines end in a newline, and may be called twice.
    """
    with reading(path):
        head = first_bytes(path)
        _refuse_what_is_no_text(path, head)
        marks = [encoding for mark, encoding in _ORDER_MARKS.items() if head.startswith(mark)]
        try:
            return _parse_as(path, parse, marks[0] if marks else "utf-8")
        except UnicodeDecodeError:
            if marks:
                raise
            line = _first_odd_line(path)
        try:
            parsed = _parse_as(path, parse, "cp1252")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"line {line} of {path.name} is neither UTF-8 nor Windows-1252: save the file as "
                "UTF-8"
            ) from error
    warn_of_data(
        f"line {line} of {path.name} is not UTF-8; the file was read as Windows-1252: save it as "
        "UTF-8 if names look wrong"
    )
    return parsed


def _parse_as(path, parse, encoding):
    with _unpacked(path) as file, io.TextIOWrapper(file, encoding=encoding) as text:
        return parse(text)


def _unpacked(path):
    return gzip.open(path) if is_gzip(path) else open(path, "rb")


def _first_odd_line(path):
    """Number of the first line that is not UTF-8."""
    with _unpacked(path) as lines:
        for number, line in enumerate(lines, start=1):
            if "\ufffd" in line.decode("utf-8", errors="replace"):
                return number


def _refuse_what_is_no_text(path, head):
    for start, kind in _NO_TEXT.items():
        if head.startswith(start):
            raise ValueError(f"{path.name} is not text, but {kind}")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(
            f"{path.name} is a web page, not data: open it in a browser to see what it says, and "
            "download the file itself"
        )
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path.name} is not text: it has zero bytes")
    if not head.strip(b"\xef\xbb\xbf \r\n\t"):
        raise ValueError(f"{path.name} is empty")
