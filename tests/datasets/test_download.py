import hashlib
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from skpert.datasets import _download, get_data_home
from skpert.datasets._download import RemoteFile, download

CONTENT = bytes(range(256)) * 12_000  # 3 MB
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with the fault that the path names; the server notes what was asked for."""

    def do_GET(self):
        asked, n_before = self.headers.get("Range"), len(self.server.asked)
        self.server.asked.append(asked)
        faults = {  # path: status, body, length that is claimed
            "/missing": (404, b"", 0),
            "/empty": (202, b"", 0),
            "/huge": (200, b"", 10**18),
            "/other": (200, CONTENT[::-1], len(CONTENT)),
            "/whole": (200, CONTENT, len(CONTENT)),  # no ranges
            "/hopeless": (200, CONTENT[: 1001 - n_before % 2], len(CONTENT)),
        }
        if n_before == 0:
            faults["/busy"] = (503, b"", 0)
            faults["/broken"] = (200, CONTENT[:1_000_000], len(CONTENT))
        if self.path in faults:
            self.answer(*faults[self.path])
        elif asked is None:
            self.answer(200, CONTENT, len(CONTENT))
        else:
            self.answer_range(int(asked.removeprefix("bytes=").removesuffix("-")))

    def answer_range(self, start):
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        part = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        self.answer(206, CONTENT[start:], len(CONTENT) - start, part)

    def answer(self, status, body, length, content_range=None):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
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
    remote = RemoteFile("data.bin", f"{server.url}/file", checksum)
    path = download(remote, tmp_path)
    assert path == tmp_path / "data.bin"
    assert path.read_bytes() == CONTENT
    assert download(remote, tmp_path) == path
    assert server.asked == [None]  # one request, for all of it
    assert names(tmp_path) == ["data.bin"]


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="skpert"):
        path = download(RemoteFile("data.bin", f"{server.url}/broken", SHA256), tmp_path, delay=0)
    assert server.asked == [None, "bytes=1000000-"]
    assert path.read_bytes() == CONTENT
    assert "broken off after 1,000,000 of 3,072,000 bytes; trying again" in caplog.text


def test_what_an_earlier_call_left_is_gone_on_with(server, tmp_path):
    remote = RemoteFile("data.bin", f"{server.url}/broken", SHA256)
    with pytest.raises(OSError, match=r"broken off after 1,000,000.*kept in .*data.bin.part"):
        download(remote, tmp_path, n_attempts=1)
    assert names(tmp_path) == ["data.bin.part"]
    assert download(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked[1:] == ["bytes=1000000-"]
    assert names(tmp_path) == ["data.bin"]


@pytest.mark.parametrize(
    ("left", "path", "asked"),
    [
        (CONTENT, "/file", ["bytes=3072000-"]),  # all there, only the last step was missing
        (CONTENT[:7], "/whole", ["bytes=7-"]),  # a server without ranges sends all of it
        (CONTENT + b"more", "/file", ["bytes=3072004-", None]),  # left by another, longer file
    ],
)
def test_any_state_of_the_part_ends_in_the_right_file(left, path, asked, server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(left)
    found = download(RemoteFile("data.bin", server.url + path, SHA256), tmp_path)
    assert found.read_bytes() == CONTENT
    assert server.asked == asked


def test_a_busy_server_is_asked_again(server, tmp_path):
    path = download(RemoteFile("data.bin", f"{server.url}/busy", SHA256), tmp_path, delay=0)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, None]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", r"404.*pass url= with that of a mirror, or save the file as .*data\.bin by"),
        ("/empty", "202: no file came"),
        ("/huge", "1,000,000,000,000,000,000 bytes are to come and .* free"),
    ],
)
def test_what_cannot_get_better_is_tried_once(path, message, server, tmp_path):
    with pytest.raises(OSError, match=message):
        download(RemoteFile("data.bin", server.url + path), tmp_path)
    assert server.asked == [None]
    assert names(tmp_path) == []


def test_tries_end_when_they_bring_nothing_new(server, tmp_path):
    with pytest.raises(OSError, match="broken off after 1,000 of 3,072,000 bytes"):
        download(RemoteFile("data.bin", f"{server.url}/hopeless"), tmp_path, n_attempts=4, delay=0)
    assert len(server.asked) == 4


def test_progress_is_logged(server, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(_download, "_LOG_EVERY", 0.0)
    with caplog.at_level(logging.INFO, logger="skpert"):
        download(RemoteFile("data.bin", f"{server.url}/file", SHA256), tmp_path)
    assert f"downloading {server.url}/file to {tmp_path}" in caplog.text
    assert "data.bin.part: 3.1 MB (100.0%)" in caplog.text


def test_no_connection(tmp_path, server):
    server.server_close()
    remote = RemoteFile("data.bin", f"{server.url}/file")
    with pytest.raises(OSError, match="could not download http.*or the network is closed"):
        download(remote, tmp_path, n_attempts=2, delay=0)


def test_wrong_bytes_are_removed(server, tmp_path):
    with pytest.raises(OSError, match=f"not the file that was meant.*published is {SHA256}"):
        download(RemoteFile("data.bin", f"{server.url}/other", SHA256), tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "data.bin").write_bytes(b"damaged on disk")
    with pytest.raises(OSError, match="not the file that was meant"):
        download(RemoteFile("data.bin", f"{server.url}/file", SHA256), tmp_path)
    assert names(tmp_path) == []


def test_without_a_published_checksum_the_first_download_sets_it(server, tmp_path):
    remote = RemoteFile("data.bin", f"{server.url}/file")
    path = download(remote, tmp_path)
    note = tmp_path / "data.bin.sha256"
    assert note.read_text() == f"{SHA256.removeprefix('sha256:')}  data.bin\n"  # as sha256sum -c
    path.unlink()
    with pytest.raises(OSError, match=r"in .*data.bin.sha256, of an earlier download"):
        download(RemoteFile("data.bin", f"{server.url}/other"), tmp_path)
    assert names(tmp_path) == ["data.bin.sha256"]
    assert download(remote, tmp_path).read_bytes() == CONTENT


def test_a_local_mirror(tmp_path):
    source, folder = tmp_path / "mirror.bin", tmp_path / "home"
    source.write_bytes(CONTENT)
    folder.mkdir()
    path = download(RemoteFile("data.bin", source.as_uri(), MD5), folder)
    assert path.read_bytes() == CONTENT
    source.unlink()
    with pytest.raises(OSError, match="No such file"):
        download(RemoteFile("other.bin", source.as_uri()), folder)


def test_a_missing_file_is_not_fetched_when_that_is_forbidden(server, tmp_path):
    remote = RemoteFile("data.bin", f"{server.url}/file")
    with pytest.raises(OSError, match=r"data.bin is not there, and download_if_missing=False"):
        download(remote, tmp_path, download_if_missing=False)
    assert server.asked == []


@pytest.mark.parametrize(
    ("remote", "message"),
    [
        (RemoteFile("data.bin", "s3://bucket/file"), "url must start with https://"),
        (RemoteFile("data.bin", "/data/file"), "url must start with https://"),
        (RemoteFile("data.bin", Path("/data/file")), "url must start with https://"),
        (RemoteFile("data.bin", "https://host/file", "0123"), "checksum must be 'md5:'"),
        (RemoteFile("data.bin", "https://host/file", "md5:0123"), "checksum must be 'md5:'"),
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
        with pytest.raises(ValueError, match="is a file, or in one"):
            get_data_home(data_home)
    for data_home in (3, ["folder"], False):
        with pytest.raises(ValueError, match="must be the path of a folder or None"):
            get_data_home(data_home)
    assert names(tmp_path) == ["file"]
    assert Path(tmp_path / "file").read_bytes() == b""
