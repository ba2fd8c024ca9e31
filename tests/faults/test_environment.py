"""What happens to real runs: a full disk, a folder that vanishes, a second process, a clock that jumps, damage.

Each command runs in a process of its own, in which a fault strikes at a chosen one of all its changes to files: every
file opened for writing, renamed or folder made counts. Whatever strikes, the command ends with one line, and the same
command once more comes to the very same weights.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import SafetensorError

from limbeck.cli import main
from limbeck.runs import RunFolder
from limbeck.training import checkpoints

# Python 3.12 warns of any fork in a process with threads; these children only compute and end.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

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


# --------------------------------------------------------------------------------------------- a command and its faults


@dataclass(frozen=True)
class Answer:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
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

        def save(tensors, path):  # what safetensors does is no event of Python's
            try:
                sys.audit("open", str(path), "w", os.O_CREAT)
            except OSError as error:
                Path(path).write_bytes(b"half") if self.once else None
                raise SafetensorError(str(error)) from None
            real(tensors, path)

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
        return str(path).startswith(self.folder) and "matplotlib" not in path.parts  # its list of fonts


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


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a recipe and its data."""
    return furnished(tmp_path)


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
    outcome = {"outcome": json.loads((run / "outcome.json").read_text())}
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = furnished(tmp_path_factory.mktemp("whole"))
    counts = {}

    def counted(name: str, *arguments: object) -> None:
        def prepare() -> None:
            changes = Changes(folder, 10**9, full, once=True)
            changes.watch()
            real_exit = os._exit

            def exit_(code: int) -> None:
                print(f"\nchanges {changes.seen}")
                sys.stdout.flush()
                real_exit(code)

            os._exit = exit_

        answer = command(folder, *arguments, prepare=prepare)
        assert answer.code == 0, answer.err
        counts[name] = int(answer.out.rsplit("changes ", 1)[1])

    warm(folder)
    counted("distill", *DISTILL)
    run = run_of(folder)
    counted("report", "report", run)
    counted("evaluate", "evaluate", run, "--no-cost", "-q")
    (run / "evaluation.json").rename(folder / "evaluation.json")
    shutil.rmtree(run / "figures")
    (run / "report.html").unlink()
    return Whole(folder, bits(run), counts)


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


# -------------------------------------------------------------------------------------------------------- the disk full


@pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
@pytest.mark.parametrize("share", moments(4, 40))
def test_a_disk_that_is_full_at_any_write_of_a_run(place, whole, share, once):
    changes = Changes(place, at(whole, "distill", share), full, once=once)
    line = command(place, *DISTILL, prepare=changes.watch).refused("No space left on device")
    assert str(place) in line or "runs/" in line
    assert all((path / "manifest.json").is_file() for path in place.glob("runs/small/*"))  # no ruin without a mend
    goes_on(place, whole)


@pytest.mark.parametrize("size", [0, 300, 1500, pytest.param(600, marks=pytest.mark.slow)])
def test_the_system_refuses_files_above_a_size(place, whole, size):
    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    line = command(place, *DISTILL, prepare=prepare).refused("File too large")
    assert "recipe.yaml" in line or "--runs" in line or "same command again" in line
    goes_on(place, whole)


@pytest.fixture
def small_disk(place: Path) -> Iterator[Callable[[str], None]]:
    """Mount a file system in memory over the folder of the runs; the size can be changed."""
    runs = place / "runs"
    runs.mkdir()
    made = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "limbeck-test", str(runs)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(runs)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True)


@pytest.mark.parametrize("size", ["16k", pytest.param("28k", marks=pytest.mark.slow), "48k"])
def test_a_small_file_system_fills_up(place, whole, small_disk, size):
    small_disk(size)
    command(place, *DISTILL).refused("No space left on device")
    small_disk("8m")
    goes_on(place, whole)


@pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
@pytest.mark.parametrize("name", ["evaluate", "report"])
@pytest.mark.parametrize("share", moments(2, 12))
def test_a_disk_that_is_full_while_a_run_is_judged(place, whole, share, name, once):
    shutil.copytree(whole.folder / "runs", place / "runs")
    run, arguments = run_of(place), {"evaluate": ["--no-cost", "-q"], "report": []}[name]
    changes = Changes(place, at(whole, name, share), full, once=once)
    answer = command(place, name, run, *arguments, prepare=changes.watch)
    if name == "report" and answer.code == 0:  # the page is worth more than a note of the reading
        assert "cannot be written" in (run / "report.html").read_text()
    else:
        answer.refused("No space left on device")
    assert bits(run) == whole.bits
    assert json.loads((run / "manifest.json").read_text())["test_reads"]
    again = command(place, name, run, *arguments)
    assert again.code == 0, again.err
    assert bits(run) == whole.bits
    if name == "evaluate":
        found, known = (json.loads((path / "evaluation.json").read_text()) for path in (run, whole.folder))
        assert found == known


@pytest.mark.parametrize("after", [0, 1], ids=["page", "log"])
def test_a_disk_that_is_full_when_the_page_of_a_new_run_is_written(place, whole, after):
    changes = Changes(place, whole.changes["distill"] + 2 + after, full, once=False)
    answer = command(place, *(part for part in DISTILL if part != "--no-report"), prepare=changes.watch)
    assert answer.code == 0, answer.err
    assert "Traceback" not in answer.err
    assert bits(run_of(place)) == whole.bits


# ---------------------------------------------------------------------------------------------------- killed at a write


@pytest.mark.parametrize("share", moments(3, 40))
def test_killed_at_any_write_of_a_run(place, whole, share):
    changes = Changes(place, at(whole, "distill", share), kill, once=True)
    assert command(place, *DISTILL, prepare=changes.watch).code == -signal.SIGKILL
    goes_on(place, whole)


@pytest.mark.parametrize("share", moments(2, 6))
def test_killed_while_a_run_is_judged(place, whole, share):
    shutil.copytree(whole.folder / "runs", place / "runs")
    run = run_of(place)
    changes = Changes(place, at(whole, "evaluate", share), kill, once=True)
    killed = command(place, "evaluate", run, "--no-cost", "-q", prepare=changes.watch)
    assert killed.code == -signal.SIGKILL
    assert command(place, "evaluate", run, "--no-cost", "-q").code == 0
    found, known = (json.loads((path / "evaluation.json").read_text()) for path in (run, whole.folder))
    assert found == known


# ------------------------------------------------------------------------------------------------------ the folder gone


@pytest.mark.parametrize("share", moments(4, 25))
def test_a_run_folder_that_vanishes_is_one_line_and_no_ruin_is_left(place, whole, share):
    def vanish(path: str) -> None:
        for run in (place / "runs").glob("small/*"):
            shutil.rmtree(run)

    changes = Changes(place, max(6, at(whole, "distill", share)), vanish, once=True)
    answer = command(place, *DISTILL, prepare=changes.watch)
    line = answer.refused()
    assert "is gone" in line or "No such file or directory" in line
    assert any(mend in line for mend in ("start a new run", "name another folder", "name a folder"))
    assert not any((path / "outcome.json").exists() for path in (place / "runs").glob("small/*"))
    assert command(place, *DISTILL).code == 0
    assert any((path / "outcome.json").exists() and bits(path) == whole.bits for path in place.glob("runs/small/*"))


# ----------------------------------------------------------------------------------------------- two on the same folder


def test_a_second_process_on_a_run_folder_refuses_at_once(place, whole):
    def wait(path: str) -> None:
        (place / "waiting").touch()
        time.sleep(120)

    changes = Changes(place / "runs", whole.changes["distill"] // 2, wait, once=True)
    first, pipes = started(place, *DISTILL, prepare=changes.watch)
    try:
        while not (place / "waiting").exists():
            time.sleep(0.01)
        run, began = run_of(place), time.monotonic()
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
        second = command(place, *DISTILL, "--resume", run)
        assert time.monotonic() - began < 20
        second.refused(f"run folder: '{run}' is in use by another process; wait for it")
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    finally:
        os.kill(first, signal.SIGKILL)
        ended(first, pipes)
    goes_on(place, whole)


# --------------------------------------------------------------------------------------------------------------- clocks


def jumping(seed: int) -> Callable[[], float]:
    """A clock that jumps by up to a day, to and fro, and sometimes stands still."""
    draw = random.Random(seed)
    now = [1.7e9]

    def read() -> float:
        now[0] += draw.choice([0.0, 0.0, 0.01, 86400.0, -86400.0, -3600.0])
        return now[0]

    return read


class JumpingDate(datetime.datetime):
    read = staticmethod(jumping(9))

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(cls.read(), tz)


def jump(seed: int) -> None:
    import limbeck.runs

    for name in ("time", "monotonic", "perf_counter"):
        setattr(time, name, jumping(seed))
    limbeck.runs.datetime = types.SimpleNamespace(datetime=JumpingDate, UTC=datetime.UTC)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_a_clock_that_jumps_changes_nothing(place, seed):
    loud = [
        "distill",
        "recipe.yaml",
        "training.epochs=5",
        "training.batch_size=8",
        "--no-report",
    ]  # some progress lines
    assert command(place, *loud).code == 0
    steady = bits(run_of(place))
    shutil.rmtree(place / "runs")
    shutil.rmtree(place / "cache")
    answer = command(place, *loud, prepare=lambda: jump(seed))
    assert answer.code == 0, answer.err
    run = run_of(place)
    assert bits(run) == steady
    judged = command(place, "evaluate", run, prepare=lambda: jump(seed))
    assert judged.code == 0, judged.err
    assert command(place, "report", run, "--no-figures", prepare=lambda: jump(seed)).code == 0


@pytest.mark.parametrize("shift", [0, -3600, 86400 * 365], ids=["still", "back", "on"])
def test_runs_have_folders_of_their_own_whatever_the_clock_says(tmp_path, monkeypatch, shift):
    moment = [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)]

    class Date(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            moment[0] += datetime.timedelta(seconds=shift)
            return moment[0]

    shim = types.SimpleNamespace(datetime=Date, UTC=datetime.UTC)
    monkeypatch.setattr("limbeck.runs.datetime", shim)
    made = [RunFolder.create(tmp_path, "name", "a: 1\n", []).path for _ in range(5)]
    assert len(set(made)) == 5
    assert all((path / "manifest.json").is_file() for path in made)


# ------------------------------------------------------------------------------------------------- homes of no use


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_a_cache_that_cannot_be_written_is_one_line_that_names_its_variable(place, whole, variable):
    (place / "file").write_text("")  # root may write anywhere, but not below a file

    def prepare() -> None:
        os.environ.pop("XDG_CACHE_HOME")
        os.environ[variable] = str(place / "file" / "below")

    command(place, *DISTILL, prepare=prepare).refused("XDG_CACHE_HOME", "file/below", "Not a directory")
    goes_on(place, whole)


def test_without_a_home_the_line_names_the_variable(monkeypatch):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    from limbeck.errors import RunError
    from limbeck.runs import cache_folder

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(RunError, match=r"^cache: there is no home folder .*; set XDG_CACHE_HOME$"):
        cache_folder()


@pytest.mark.slow
def test_a_finished_run_is_judged_without_any_home(place, whole):
    shutil.copytree(whole.folder / "runs", place / "runs")
    (place / "file").write_text("")
    below = str(place / "file" / "below")
    for arguments in (["report"], ["evaluate", "--no-cost", "-q"]):
        done = subprocess.run(
            [sys.executable, "-c", "from limbeck.cli import main; main()", *arguments, str(run_of(place))],
            env={**os.environ, "HOME": below, "XDG_CACHE_HOME": below, "XDG_CONFIG_HOME": below},
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert bits(run_of(place)) == whole.bits


def test_a_place_for_runs_that_cannot_be_written_is_one_line(place):
    (place / "file").write_text("")
    command(place, *DISTILL, "--runs", "file/runs").refused("--runs", "Not a directory")


# --------------------------------------------------------------------------------------------------------------- damage


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of a run that was killed when its distilled student began to write its third checkpoint."""
    folder = furnished(tmp_path_factory.mktemp("broken"))

    def third(path: str) -> None:
        if len(list(folder.glob("runs/small/*/distilled-0/checkpoints/step-*"))) == 2:
            kill(path)

    changes = Changes(folder, 1, third, once=False)
    assert command(folder, *DISTILL, prepare=changes.watch).code == -signal.SIGKILL
    (folder / "runs").rename(folder / "kept")
    return folder


@pytest.fixture
def broken(killed: Path) -> Path:
    """The folder with the killed run put back."""
    shutil.rmtree(killed / "runs", ignore_errors=True)
    shutil.copytree(killed / "kept", killed / "runs")
    return killed


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [truncated, flipped])
def test_a_damaged_checkpoint_in_a_run_is_named_and_the_one_before_is_good(whole, broken, file, damage):
    run = run_of(broken)
    older, newest = sorted((run / "distilled-0" / "checkpoints").glob("step-*"))
    damage(newest / file)
    line = command(broken, *DISTILL, "--resume", run).refused(str(newest), "is damaged")
    assert line.endswith(f"delete it to go on from '{older.name}'")
    assert newest.is_dir()
    shutil.rmtree(newest)
    goes_on(broken, whole)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("result.json", truncated), ("student.safetensors", truncated), ("student.safetensors", flipped)],
)
def test_a_damaged_end_of_a_training_is_named_with_what_to_delete(whole, broken, name, damage):
    run = run_of(broken)
    damage(run / "alone-0" / name)
    command(broken, *DISTILL, "--resume", run).refused(str(run / "alone-0" / name), "is damaged", "delete")
    (run / "alone-0" / "result.json").unlink()
    goes_on(broken, whole)
