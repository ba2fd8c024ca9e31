"""What happens to real runs: a full disk, a folder that vanishes, a second process, a clock that jumps, damage.

Each command runs in a process of its own, in which a fault strikes at a chosen one of all its changes to files: every
file opened for writing, renamed or folder made counts. Whatever strikes, the command ends with one line, and the same
command once more comes to the very same weights.
"""

import datetime
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults import DISTILL, Changes, at, bits, command, ended, full, furnished, goes_on, kill, moments, run_of, started
from limbeck.runs import RunFolder

# Python 3.12 warns of any fork in a process with threads; these children only compute and end.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


# -------------------------------------------------------------------------------------------------------- the disk full


def in_turn(shares: list) -> list:
    """Every moment with a fault that strikes once or, at the next one, from then on."""
    return [
        pytest.param(*share.values, once, id=f"{share.id}-{'once' if once else 'from then on'}", marks=share.marks)
        for share, once in zip(shares, itertools.cycle([True, False]), strict=False)
    ]


@pytest.mark.thorough
@pytest.mark.parametrize(("share", "once"), in_turn(moments(3, 40)))
def test_a_disk_that_is_full_at_any_write_of_a_run(place, whole, share, once):
    changes = Changes(place, at(whole, "distill", share), full, once=once)
    line = command(place, *DISTILL, prepare=changes.watch).refused("No space left on device")
    assert str(place) in line or "runs/" in line
    assert all((path / "manifest.json").is_file() for path in place.glob("runs/small/*"))  # no ruin without a mend
    goes_on(place, whole)


@pytest.mark.miniature(1)
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


@pytest.mark.miniature(0)
@pytest.mark.parametrize("size", ["16k", pytest.param("28k", marks=pytest.mark.slow), "48k"])
def test_a_small_file_system_fills_up(place, whole, small_disk, size):
    small_disk(size)
    command(place, *DISTILL).refused("No space left on device")
    small_disk("8m")
    goes_on(place, whole)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["evaluate", "report"])
@pytest.mark.parametrize(("share", "once"), in_turn(moments(2, 12)))
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


@pytest.mark.thorough
@pytest.mark.parametrize("after", [0, 1], ids=["page", "log"])
def test_a_disk_that_is_full_when_the_page_of_a_new_run_is_written(place, whole, after):
    changes = Changes(place, whole.changes["distill"] + 2 + after, full, once=False)
    answer = command(place, *(part for part in DISTILL if part != "--no-report"), prepare=changes.watch)
    assert answer.code == 0, answer.err
    assert "Traceback" not in answer.err
    assert bits(run_of(place)) == whole.bits


# ---------------------------------------------------------------------------------------------------- killed at a write


@pytest.mark.thorough
@pytest.mark.parametrize("share", moments(3, 40))
def test_killed_at_any_write_of_a_run(place, whole, share):
    changes = Changes(place, at(whole, "distill", share), kill, once=True)
    assert command(place, *DISTILL, prepare=changes.watch).code == -signal.SIGKILL
    goes_on(place, whole)


@pytest.mark.thorough
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


@pytest.mark.thorough
@pytest.mark.parametrize("share", moments(3, 25))
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


@pytest.mark.thorough
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
        assert time.monotonic() - began < 100  # the first is at its 120 seconds
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


@pytest.mark.miniature(0)
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


@pytest.mark.thorough
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
    from limbeck.own import cache_folder

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


@pytest.mark.thorough
@pytest.mark.parametrize(("file", "damage"), [("tensors.safetensors", flipped), ("state.json", truncated)])
def test_a_damaged_checkpoint_in_a_run_is_named_and_the_one_before_is_good(whole, broken, file, damage):
    run = run_of(broken)
    older, newest = sorted((run / "distilled-0" / "checkpoints").glob("step-*"))
    damage(newest / file)
    line = command(broken, *DISTILL, "--resume", run).refused(str(newest), "is damaged")
    assert line.endswith(f"delete it to go on from '{older.name}'")
    assert newest.is_dir()
    shutil.rmtree(newest)
    goes_on(broken, whole)


@pytest.mark.thorough
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
