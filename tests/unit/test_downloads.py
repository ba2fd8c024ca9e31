"""Files that are fetched from their publishers, kept and checked, and the real sets they hold."""

import gzip
import hashlib
import inspect
import os
import socket
import threading
import typing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from idx_files import FILES, idx_bytes, idx_content, one_line, written
from limbeck.data import download, fashion_mnist, mnist
from limbeck.errors import DataError

# ------------------------------------------------------------------------------------------------------------ downloads


class Publisher(BaseHTTPRequestHandler):
    """Serves `content` by file name; /broken/ sends half of it, /silent/ nothing in time."""

    content: typing.ClassVar[dict[str, bytes]] = {}
    asked: typing.ClassVar[list[str]] = []
    done: typing.ClassVar[threading.Event] = threading.Event()

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith("/silent/"):
            self.done.wait(5)
            return
        data = self.content.get(Path(self.path).name)
        if data is None or self.path.startswith("/absent/"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.path.startswith("/broken/") else data)

    def log_message(self, *_):
        pass


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """Publish small files as MNIST's on this machine; yield the address."""
    content = {f"{file}.gz": gzip.compress(data, mtime=0) for file, data in idx_content().items()}
    sums = {file: (hashlib.sha256(content[f"{file}.gz"]).hexdigest(), "") for file in FILES}
    monkeypatch.setattr(Publisher, "content", content)
    monkeypatch.setattr(Publisher, "asked", [])
    monkeypatch.setattr(Publisher, "done", threading.Event())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    module = inspect.getmodule(mnist)
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setitem(module._ADDRESSES, "mnist", (f"{address}files/",))
    monkeypatch.setitem(module._CHECKSUMS, "mnist", sums)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("LIMBECK_DATA", raising=False)

    def publish_at(*addresses: str) -> None:
        monkeypatch.setitem(module._ADDRESSES, "mnist", tuple(addresses))

    yield address, publish_at
    Publisher.done.set()
    server.shutdown()
    server.server_close()
    thread.join()


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "limbeck" / "data" / "mnist"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_download_is_kept_and_not_repeated(publisher, tmp_path):
    first = mnist()
    assert len(first.train) == 12
    assert cached(tmp_path) == sorted(f"{file}.gz" for file in FILES)
    assert Publisher.asked == [f"/files/{file}.gz" for file in FILES]
    assert mnist().train.source == first.train.source
    assert len(Publisher.asked) == 4


def test_a_file_that_is_already_there_is_not_fetched(publisher, tmp_path):
    folder = tmp_path / "cache" / "limbeck" / "data" / "mnist"
    written(folder, {FILES[0]: idx_content()[FILES[0]]})
    mnist()
    assert len(Publisher.asked) == 3


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_next_mirror_is_tried(publisher):
    address, publish_at = publisher
    publish_at(f"http://127.0.0.1:{free_port()}/", f"{address}absent/", f"{address}broken/", f"{address}files/")
    assert len(mnist().test) == 5
    assert Publisher.asked[:3] == [f"/{place}/{FILES[0]}.gz" for place in ("absent", "broken", "files")]


def test_unreachable_publishers_are_named_with_the_mend(publisher, tmp_path):
    address, publish_at = publisher
    dead = f"http://127.0.0.1:{free_port()}/"
    publish_at(dead, f"{address}absent/", f"{address}broken/")
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        mnist()
    line = one_line(caught)
    for part in (dead, "absent/", "Not Found", "broken/", "IncompleteRead", f"place the file in {tmp_path}"):
        assert part in line
    assert cached(tmp_path) == []


def test_a_wrong_checksum_is_never_kept(publisher, tmp_path):
    Publisher.content[f"{FILES[1]}.gz"] = gzip.compress(idx_bytes(np.zeros(12)))
    with pytest.raises(DataError, match="wrong checksum") as caught:
        mnist()
    assert FILES[1] in one_line(caught)
    assert cached(tmp_path) == [f"{FILES[0]}.gz"]


def test_a_silent_publisher_is_given_up(publisher, monkeypatch):
    address, publish_at = publisher
    publish_at(f"{address}silent/")
    monkeypatch.setattr(inspect.getmodule(download.download), "_TIMEOUT", 0.2)
    with pytest.raises(DataError, match="timed out") as caught:
        mnist()
    one_line(caught)


def test_a_cache_that_cannot_be_written_is_named(publisher, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written") as caught:
        mnist()
    assert "XDG_CACHE_HOME" in one_line(caught)


def test_a_damaged_file_in_the_cache_is_named(publisher, tmp_path):
    mnist()
    path = tmp_path / "cache" / "limbeck" / "data" / "mnist" / f"{FILES[2]}.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="wrong checksum") as caught:
        mnist()
    assert str(path) in one_line(caught)


def test_folder_comes_before_environment_before_cache(publisher, tmp_path, monkeypatch):
    written(tmp_path / "given", idx_content())
    written(tmp_path / "own" / "mnist", idx_content())
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "own"))
    mnist()
    mnist(str(tmp_path / "given"))
    assert Publisher.asked == []
    with pytest.raises(DataError, match="has no file"):
        mnist(folder=str(tmp_path))
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "other"))
    mnist()
    assert len(Publisher.asked) == 4


def test_files_that_are_not_mnist_are_refused(tmp_path):
    with pytest.raises(DataError, match="wrong checksum") as caught:
        mnist(str(written(tmp_path, idx_content())))
    assert FILES[0] in one_line(caught)


# ------------------------------------------------------------------------------------------------------- the real thing


def real(name: str) -> str:
    folder = Path(os.environ.get("LIMBECK_DATA", "")) / name
    if "LIMBECK_DATA" not in os.environ or not folder.is_dir():
        pytest.skip(f"set LIMBECK_DATA to a folder that holds {name}/ to test against the real files")
    return str(folder)


@pytest.mark.slow
def test_real_mnist():
    data = mnist(real("mnist"))
    assert data.train.inputs.shape == (60000, 1, 28, 28)
    assert torch.bincount(data.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = data.train.inputs.double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3081, abs=1e-4)
    assert len(data.train.fraction(0.01, 0)) == pytest.approx(600, abs=5)


@pytest.mark.slow
def test_real_mnist_may_be_unzipped(tmp_path):
    folder = Path(real("mnist"))
    for file in FILES:
        (tmp_path / file).write_bytes(gzip.decompress((folder / f"{file}.gz").read_bytes()))
    assert mnist(str(tmp_path)).train.source == mnist(str(folder)).train.source


def test_real_fashion_mnist():
    data = fashion_mnist(real("fashion-mnist"))
    assert torch.bincount(data.train.labels).tolist() == [6000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.test.class_names[9] == "Ankle boot"
    assert (data.train.inputs.double() / 255).mean().item() == pytest.approx(0.2860, abs=1e-4)


@pytest.mark.network
@pytest.mark.parametrize("source", [mnist, fashion_mnist])
def test_the_publishers_still_publish(source, tmp_path, monkeypatch):
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(source().train) == 60000
