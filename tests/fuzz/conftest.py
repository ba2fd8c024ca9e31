"""Every test here works in a folder of its own, offline; nothing is written elsewhere, left behind or run."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from limbeck.losses.fused import native


class Watch:
    """Notes what this process writes outside a folder, and what it runs."""

    folder: str | None = None
    found: ClassVar[list[str]] = []

    @classmethod
    def hook(cls, event: str, arguments: tuple) -> None:
        if cls.folder is None:
            return
        if event in ("os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "subprocess.Popen"):
            if not (event == "subprocess.Popen" and list(arguments[1])[:2] == ["git", "rev-parse"]):
                cls.found.append(f"{event} {arguments}")
        elif event in ("open", "os.rename", "os.mkdir", "os.remove", "shutil.rmtree", "os.symlink", "os.truncate"):
            mode = arguments[1] if event == "open" else "w"
            flags = arguments[2] if event == "open" else 0
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            if writes and isinstance(arguments[0], str | os.PathLike):
                path = str(Path(os.fspath(arguments[0])).absolute())
                if not path.startswith((cls.folder, "/dev/null")):
                    cls.found.append(f"{event} {path}")


sys.addaudithook(Watch.hook)


@pytest.fixture(autouse=True)
def confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of the test's own, without a network, and let nothing be written elsewhere or run."""

    def offline(address: str) -> bytes:
        raise OSError("no network in a test")

    native.why_not_native()  # the kernel of large losses is compiled once for a machine: here, if not before
    temporary = tmp_path.parent / f"{tmp_path.name} temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{temporary} of torch")  # or it takes the temporary one
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of modules that are imported for the first time here
    monkeypatch.setattr("limbeck.data.download._fetched", offline)
    Watch.folder, Watch.found = str(tmp_path.parent.parent), []
    yield
    Watch.folder = None
    assert not Watch.found
    assert not list(temporary.iterdir())
