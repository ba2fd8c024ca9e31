"""Commands in processes of their own, in which a fault strikes at a chosen one of all their changes to files."""

import contextlib
import errno
import hashlib
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import SafetensorError

from limbeck.cli import main
from limbeck.training import checkpoints

SHORT = {"epochs": 2, "batch_size": 32, "learning_rate": 0.1, "checkpoint_seconds": 0.0}
RECIPE = {
    "name": "small",
    "data": {"kind": "npz", "path": "own.npz"},
    "teacher": {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}, "training": SHORT},
    "student": {"model": {"kind": "mlp", "hidden": [4]}},
    "training": SHORT | {"augment": {"noise": 0.1}, "keep": "best"},
    "validation": 20,
}
DISTILL = ("distill", "recipe.yaml", "--quiet", "--no-report")


@dataclass(frozen=True)
class Answer:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of stderr."""
        return self.err.splitlines()

    def refused(self, *said: str) -> str:
        """Require one line and exit code 2; return the line."""
        assert self.code == 2, self
        assert "Traceback" not in self.err
        assert len(self.lines) == 1, self.err
        assert self.lines[0].startswith("limbeck: ")
        assert len(self.lines[0]) < 700
        for part in said:
            assert part in self.lines[0]
        return self.lines[0]


class Changes:
    """Counts a process's changes to files in a folder, and acts at one of them."""

    def __init__(self, folder: Path, at: int, act: Callable[[str], None], *, once: bool) -> None:
        self.folder, self.at, self.act, self.once = str(folder), at, act, once
        self.seen = 0
        self.acting = False

    def watch(self) -> None:
        """Watch this process until it ends."""
        real = checkpoints.save_file

        def save(tensors, path, metadata=None):  # what safetensors does is no event of Python's
            try:
                sys.audit("open", str(path), "w", os.O_CREAT)
            except OSError as error:
                Path(path).write_bytes(b"half") if self.once else None
                raise SafetensorError(str(error)) from None
            real(tensors, path, metadata)

        checkpoints.save_file = save
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        if self.acting or not self._changes(event, arguments):
            return
        self.seen += 1
        if self.seen == self.at or (self.seen > self.at and not self.once):
            self.acting = True
            try:
                self.act(str(arguments[0]))
            finally:
                self.acting = False

    def _changes(self, event: str, arguments: tuple) -> bool:
        if event not in ("open", "os.rename", "os.mkdir") or not isinstance(arguments[0], str | os.PathLike):
            return False
        path = Path(os.fspath(arguments[0])).absolute()
        if event == "os.mkdir" and path.is_dir():
            return False
        if event == "open":
            _, mode, flags = arguments
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            if not writes:
                return False
        return str(path).startswith(self.folder)


def full(path: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def kill(path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def command(folder: Path, *arguments: object, prepare: Callable[[], None] = lambda: None) -> Answer:
    """Run the command line in a forked process, prepared for what shall happen to it."""
    child, pipes = started(folder, *arguments, prepare=prepare)
    return ended(child, pipes)


def started(folder: Path, *arguments: object, prepare: Callable[[], None] = lambda: None) -> tuple[int, list[int]]:
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    if child:
        for _, write in pipes:
            os.close(write)
        return child, [read for read, _ in pipes]
    code = 99
    try:
        for number, (_, write) in enumerate(pipes, start=1):
            os.dup2(write, number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(folder)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        sys.argv = ["limbeck", *map(str, arguments)]
        prepare()
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as a second pytest
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def ended(child: int, pipes: list[int]) -> Answer:
    err, out = (Path(f"/dev/fd/{pipe}").read_text() for pipe in reversed(pipes))
    for pipe in pipes:
        os.close(pipe)
    return Answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out, err)


def furnished(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    labels = np.arange(96) % 3
    inputs = (draw.random((96, 1, 4, 4)) + labels[:, None, None, None] * 0.2).astype(np.float32)
    np.savez(folder / "own.npz", inputs=inputs, labels=labels, class_names=np.array(["a", "<b>", "c"]))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def run_of(folder: Path) -> Path | None:
    """The one run folder that can be gone on with, if there is one."""
    found = [path for path in (folder / "runs").glob("small/*") if (path / "manifest.json").is_file()]
    return found[-1] if found else None


def bits(run: Path) -> dict[str, str]:
    """Return what must be the same however often a run was broken."""
    names = ["teacher-0.safetensors", "teacher-0.metrics.jsonl"]
    names += [f"{role}-0/{file}" for role in ("alone", "distilled") for file in KEPT]
    outcome = {"outcome": (run / "outcome.json").read_text()}
    return outcome | {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}


KEPT = ("student.safetensors", "metrics.jsonl")


@dataclass(frozen=True)
class Whole:
    """An undisturbed run, and how many changes to files each command makes."""

    folder: Path
    bits: dict[str, str]
    changes: dict[str, int]


def warm(folder: Path) -> None:
    """Run each command once in this process, so that its children need not import what it imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "warm"))
        for arguments in ([*DISTILL, "--runs", "warm"], ["evaluate", None, "--no-cost", "-q"], ["report", None]):
            [*made] = folder.glob("warm/small/*")
            patch.setattr(sys, "argv", ["limbeck", *(str(made[0]) if each is None else each for each in arguments)])
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code
    shutil.rmtree(folder / "warm")


def moments(sample: int, everything: int) -> list:
    """Shares of a command's changes: a few, and under `slow` many."""
    few = [pytest.param(i / (sample - 1), id=f"{i}") for i in range(sample)]
    draw = random.Random(everything)
    return few + [pytest.param(draw.random(), id=f"all-{i}", marks=pytest.mark.slow) for i in range(everything)]


def at(whole: Whole, name: str, share: float) -> int:
    return 1 + round(share * (whole.changes[name] - 1))


def goes_on(place: Path, whole: Whole) -> None:
    """Repeat the command as a user would, and compare everything with the undisturbed run."""
    run = run_of(place)
    answer = command(place, *DISTILL, *([] if run is None else ["--resume", run]))
    assert answer.code == 0, answer.err
    assert bits(run or run_of(place)) == whole.bits
