"""The command line in this process and in one of its own, with a cache that belongs to the test."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import Answer
from limbeck.cli import main


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of the test's own, with an empty cache, and leave no module of a factory behind."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def limbeck(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run the real entry point in this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Answer(ended.value.code or 0, out, err)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command in a process of its own."""
    script = Path(sys.executable).with_name("limbeck")
    entry = [script] if script.is_file() else [sys.executable, "-c", "from limbeck.cli import main; main()"]

    def run(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*map(str, [*entry, *arguments])],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "TERM": "xterm-256color"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def process(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Answer]:
    """Run the command in a process of its own."""

    def run(*arguments: object) -> Answer:
        with start(*arguments) as running:
            out, err = running.communicate(timeout=300)
        return Answer(running.returncode, out, err)

    return run
