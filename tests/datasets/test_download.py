import gzip
import hashlib
import io
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from skpert.datasets import get_data_home
from skpert.datasets._download import RemoteFile, check_unchanged, download, written_whole
from skpert.exceptions import FileUnavailableError


def hdf5(seed):
    with io.BytesIO() as buffer:
        with h5py.File(buffer, "w") as file:
            file["X"] = np.random.default_rng(seed).random(50_000)
        return buffer.getvalue()


CONTENT, OTHER = hdf5(0), hdf5(1)  # 0.4 MB each
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
PAGE = b"<!DOCTYPE html><html>please log in</html>"


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with the fault that the path names; the server notes what was asked for."""

    def do_GET(self):
        first = not self.server.asked
        self.server.asked.append(self.path)
        if self.path == "/moved":
            return self.answer(302, b"", 0, location="/file")
        status, body, length = {
            "/missing": (404, PAGE, len(PAGE)),
            "/empty": (202, b"", 0),
            "/page": (200, PAGE, len(PAGE)),
            "/page.gz": (200, PAGE, len(PAGE)),
            "/other": (200, OTHER, len(OTHER)),
            "/cut": (200, CONTENT[:100_000], len(CONTENT)),
            "/silent": (200, CONTENT[:100_000], None),  # cut, and of no length that is told
            "/tail": (200, CONTENT[100_000:], len(CONTENT) - 100_000),
            "/busy": (503 if first else 200, CONTENT, len(CONTENT)),
            "/broken": (200, CONTENT[:100_000] if first else CONTENT, len(CONTENT)),
            "/zipped.gz": (200, gzip.compress(CONTENT), None),
        }.get(self.path, (200, CONTENT, len(CONTENT)))
        self.answer(status, body, length)

    def answer(self, status, body, length, location=None):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_a_file_comes_once_and_whole(checksum, server, tmp_path):
    remote = RemoteFile("data.h5ad", f"{server.url}/file", checksum)
    path = download(remote, tmp_path)
    assert path == tmp_path / "data.h5ad"
    assert path.read_bytes() == CONTENT
    assert download(remote, tmp_path) == path
    assert server.asked == ["/file"]
    assert names(tmp_path) == ["data.h5ad"]


def test_an_address_that_moved_is_followed(server, tmp_path):
    path = download(RemoteFile("data.h5ad", f"{server.url}/moved", SHA256), tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["busy", "broken"])
def test_what_may_get_better_is_tried_again(fault, server, tmp_path):
    remote = RemoteFile("data.h5ad", f"{server.url}/{fault}", SHA256)
    assert download(remote, tmp_path, n_retries=1).read_bytes() == CONTENT
    assert server.asked == [f"/{fault}"] * 2
    assert names(tmp_path) == ["data.h5ad"]


@pytest.mark.parametrize("checksum", [SHA256, None])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "404"),
        ("empty", "not an HDF5 file, but begins with b''"),
        ("page", "not an HDF5 file, but begins with b'<!DOCTYPE html>"),
        ("cut", "(100000 bytes read|truncated file)"),
        ("silent", "truncated file"),
        ("tail", "not an HDF5 file"),
    ],
)
def test_what_is_not_the_whole_file_is_never_taken_for_it(
    fault, message, checksum, server, tmp_path
):
    remote = RemoteFile("data.h5ad", f"{server.url}/{fault}", checksum)
    with pytest.raises(FileUnavailableError, match=rf"could not get .*{message}.*Pass url="):
        download(remote, tmp_path, n_retries=0)
    assert names(tmp_path) == []


def test_a_page_in_place_of_a_gzip_file(server, tmp_path):
    remote = RemoteFile("data.h5ad.gz", f"{server.url}/page.gz")
    with pytest.raises(OSError, match="not a gzip file, but begins with b'<!DOCTYPE"):
        download(remote, tmp_path, n_retries=0)
    assert names(tmp_path) == []
    packed = download(remote._replace(url=f"{server.url}/zipped.gz"), tmp_path)
    assert gzip.decompress(packed.read_bytes()) == CONTENT  # as it was sent, not unpacked


def test_no_connection(tmp_path, server):
    server.server_close()
    remote = RemoteFile("data.h5ad", f"{server.url}/file")
    with pytest.raises(ValueError, match="could not get http.*connection"):  # and an OSError
        download(remote, tmp_path, n_retries=0)


def test_an_altered_file_is_refused_where_a_checksum_is_known(server, tmp_path):
    with pytest.raises(OSError, match=f"could not get .* checksum is {SHA256}.*does not match"):
        download(RemoteFile("data.h5ad", f"{server.url}/other", SHA256), tmp_path, n_retries=0)
    assert names(tmp_path) == []
    (tmp_path / "data.h5ad").write_bytes(OTHER)  # perhaps put there by the user
    with pytest.raises(OSError, match="data.h5ad is not the expected file.*Delete it"):
        download(RemoteFile("data.h5ad", f"{server.url}/file", SHA256), tmp_path)
    assert (tmp_path / "data.h5ad").read_bytes() == OTHER
    assert server.asked == ["/other"]


def test_without_a_published_checksum_the_first_download_sets_it(server, tmp_path):
    remote = RemoteFile("data.h5ad", f"{server.url}/file")
    path = download(remote, tmp_path)
    note = tmp_path / "data.h5ad.sha256"
    assert note.read_text() == f"{SHA256.removeprefix('sha256:')}  data.h5ad\n"  # as sha256sum -c
    path.unlink()
    with pytest.raises(OSError, match=r"delete data.h5ad.sha256, of the first download"):
        download(RemoteFile("data.h5ad", f"{server.url}/other"), tmp_path, n_retries=0)
    assert names(tmp_path) == ["data.h5ad.sha256"]
    assert download(remote, tmp_path).read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(OSError, match="is not the expected file"):
        download(remote, tmp_path)


def test_a_file_put_there_by_hand_must_be_data(server, tmp_path):
    for bad in (PAGE, CONTENT[:1000]):
        (tmp_path / "data.h5ad").write_bytes(bad)
        with pytest.raises(OSError, match="data.h5ad is not the expected file"):
            download(RemoteFile("data.h5ad", f"{server.url}/file"), tmp_path)
    (tmp_path / "data.h5ad").write_bytes(CONTENT)
    path = download(RemoteFile("data.h5ad", f"{server.url}/missing"), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == []


def test_two_at_once_get_the_same_file(server, tmp_path):
    remote = RemoteFile("data.h5ad", f"{server.url}/file", SHA256)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(download(remote, tmp_path).read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert names(tmp_path) == ["data.h5ad"]


def test_a_local_mirror(tmp_path):
    source, folder = tmp_path / "a mirror.h5ad", tmp_path / "home"  # the space is %20 in the URL
    source.write_bytes(CONTENT)
    folder.mkdir()
    path = download(RemoteFile("data.h5ad", source.as_uri(), MD5), folder)
    assert path.read_bytes() == CONTENT
    source.unlink()
    with pytest.raises(OSError, match="No such file"):
        download(RemoteFile("other.h5ad", source.as_uri()), folder)
    assert names(folder) == ["data.h5ad"]


def test_a_missing_file_is_not_fetched_when_that_is_forbidden(server, tmp_path):
    remote = RemoteFile("data.h5ad", f"{server.url}/file")
    with pytest.raises(OSError, match=r"data.h5ad is not there, and download_if_missing=False"):
        download(remote, tmp_path, download_if_missing=False)
    assert server.asked == []


def test_without_pooch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install 'skpert\[data\]'"):
        download(RemoteFile("data.h5ad", "https://host/file"), tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "part.h5ad"
    with pytest.raises(TypeError), written_whole(path) as unfinished, open(unfinished, "wb") as f:
        f.writelines([CONTENT[:9], None])
    assert names(tmp_path) == []
    with written_whole(path) as unfinished:
        unfinished.write_bytes(CONTENT)
    check_unchanged(path)
    check_unchanged(path)
    path.write_bytes(OTHER)
    with pytest.raises(ValueError, match="was changed since it was written: delete it"):
        check_unchanged(path)


@pytest.mark.parametrize(
    ("remote", "message"),
    [
        (RemoteFile("data.h5ad", "s3://bucket/file"), "url must start with https://"),
        (RemoteFile("data.h5ad", "/data/file"), "url must start with https://"),
        (RemoteFile("data.h5ad", Path("/data/file")), "url must start with https://"),
        (RemoteFile("data.h5ad", "https://host/file", "0123"), "checksum must be 'md5:'"),
        (RemoteFile("data.h5ad", "https://host/file", "md5:0123"), "checksum must be 'md5:'"),
    ],
)
def test_bad_addresses_and_checksums(remote, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        download(remote, tmp_path)


def test_data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SKPERT_DATA_HOME", str(tmp_path / "chosen" / "deep"))
    assert get_data_home() == tmp_path / "chosen" / "deep"
    assert get_data_home().is_dir()
    assert get_data_home(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("SKPERT_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_data_home() == tmp_path / "skpert_data"
    assert get_data_home("~/here") == tmp_path / "here"


def test_a_file_is_no_data_home(tmp_path):
    (tmp_path / "file").touch()
    for data_home in (tmp_path / "file", str(tmp_path / "file" / "below")):
        with pytest.raises(ValueError, match="is a file, or in one, or cannot be made"):
            get_data_home(data_home)
    for data_home in (3, ["folder"], False):
        with pytest.raises(ValueError, match="must be the path of a folder or None"):
            get_data_home(data_home)
    assert names(tmp_path) == ["file"]
    assert Path(tmp_path / "file").read_bytes() == b""
