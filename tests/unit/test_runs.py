"""The run folder: what it holds, that nothing in it is overwritten, and who may go on with it."""

import itertools
import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.errors import RecipeError, RunError
from limbeck.locks import exclusive
from limbeck.own import cache_folder
from limbeck.runs import RunFolder, environment
from sealed import contents

RECIPE = "name: own\nseeds:\n- 0\n"


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "runs", "own", RECIPE, ["limbeck", "distill", "own.yaml"])


def manifest(folder):
    return contents(folder.path / "manifest.json")


def as_it_stands(path) -> str:
    return path.read_text(errors="replace")


def refusal(call, *arguments, **more) -> str:
    with pytest.raises(RunError) as caught:
        call(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ a new run


def test_a_new_run_has_its_recipe_and_what_it_takes_to_repeat_it(folder, tmp_path):
    assert folder.path.parent == tmp_path / "runs" / "own"
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", folder.path.name)
    assert (folder.path / "recipe.yaml").read_text() == RECIPE
    found = manifest(folder)
    assert set(found) >= {"command", "working_directory", "started", "environment", "git", "test_reads"}
    assert found["command"] == ["limbeck", "distill", "own.yaml"]
    assert found["working_directory"] == str(Path.cwd())
    assert found["test_reads"] == []
    assert found["environment"] == environment()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])
    assert {path.name for path in folder.path.iterdir()} == {"recipe.yaml", "manifest.json"}


def test_runs_of_one_second_have_folders_of_their_own(tmp_path):
    made = [RunFolder.create(tmp_path, "own", RECIPE, []).path for _ in range(20)]
    assert len(set(made)) == 20


def test_the_commit_is_on_record_inside_a_repository_and_nothing_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert manifest(RunFolder.create(tmp_path / "a", "own", RECIPE, []))["git"] is None
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *command], check=True)
    assert re.fullmatch("[0-9a-f]{40}", manifest(RunFolder.create(tmp_path / "b", "own", RECIPE, []))["git"])
    monkeypatch.setenv("PATH", "")
    assert manifest(RunFolder.create(tmp_path / "c", "own", RECIPE, []))["git"] is None


def test_a_folder_that_cannot_be_made_is_told_with_the_mend(tmp_path):
    (tmp_path / "file").write_text("")
    said = refusal(RunFolder.create, tmp_path / "file", "own", RECIPE, [])
    assert said.startswith(f"run folder: cannot make '{tmp_path}/file/own/")
    assert said.endswith("(Not a directory); name a folder that can be written with --runs")


# -------------------------------------------------------------------------------------------------------- what it notes


def test_notes_are_added_and_replace_those_of_their_name_alone(folder):
    before = manifest(folder)
    folder.note(data={"train": 3}, teacher="abc")
    folder.note(data={"train": 4})
    assert manifest(folder) == {**before, "data": {"train": 4}, "teacher": "abc"}


def test_every_read_of_the_test_set_is_on_record(folder):
    folder.read_test_set("final figures")
    folder.read_test_set("diagnosis")
    reads = manifest(folder)["test_reads"]
    assert [read["for"] for read in reads] == ["final figures", "diagnosis"]
    assert all(read["at"].endswith("+00:00") for read in reads)


def test_the_log_grows_by_a_line_with_its_time(folder):
    folder.log("started")
    folder.log("teacher · 97 %")
    lines = (folder.path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["started", "teacher · 97 %"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 ", line) for line in lines)


def test_a_file_is_whole_or_as_it_was(folder):
    folder.write_json("outcome.json", {"errors": 3})
    with pytest.raises(TypeError):
        folder.write_json("outcome.json", {"errors": object()})
    assert json.loads((folder.path / "outcome.json").read_text()) == {"errors": 3}
    folder.write_json("outcome.json", {"errors": 4})
    assert json.loads((folder.path / "outcome.json").read_text()) == {"errors": 4}
    assert not list(folder.path.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["", "{", None], ids=["empty", "cut", "gone"])
def test_a_damaged_manifest_is_told_of(damage, folder):
    path = folder.path / "manifest.json"
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    for call in (lambda: folder.note(x=1), lambda: folder.read_test_set("x")):
        said = refusal(call)
        assert said.startswith(f"run folder: '{path}' is damaged (")
        assert said.endswith("); start a new run")


# ------------------------------------------------------------------------------------------------------------- going on


def test_a_run_of_the_same_recipe_can_be_opened(folder):
    kept = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    assert RunFolder.open(folder.path, RECIPE, as_it_stands).path == folder.path
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == kept


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("name: own\nseeds:\n- 1\n", "'- 0' there, '- 1' here"),
        ("name: other\nseeds:\n- 0\n", "'name: own' there, 'name: other' here"),
        ("name: own\nseeds:\n- 0\n- 1\n", "'its length' there, 'another' here"),
        ("", "'its length' there, 'another' here"),
    ],
    ids=["seed", "name", "longer", "empty"],
)
def test_a_run_of_another_recipe_is_refused_with_the_first_difference(recipe, said, folder):
    assert refusal(RunFolder.open, folder.path, recipe, as_it_stands) == (
        f"resume: '{folder.path}' is a run of another recipe: {said}; start a new run without --resume"
    )


def test_what_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        assert refusal(RunFolder.open, path, RECIPE, as_it_stands) == (
            f"resume: '{path}' is not a run folder (it has no recipe.yaml); name one below runs/"
        )


def test_a_recipe_of_other_bytes_is_another(folder):
    (folder.path / "recipe.yaml").write_bytes(b"\xff\xfe")
    assert "is a run of another recipe" in refusal(RunFolder.open, folder.path, RECIPE, as_it_stands)


def test_a_recipe_is_the_same_when_it_is_resolved_to_the_same(folder):
    later = RECIPE + "classes: null\n"
    assert RunFolder.open(folder.path, later, lambda kept: kept.read_text() + "classes: null\n").path == folder.path
    line = refusal(RunFolder.open, folder.path, later, lambda kept: kept.read_text() + "classes: 3\n")
    assert "'classes: 3' there, 'classes: null' here" in line


def test_a_recipe_that_cannot_be_read_today_is_another(folder):
    def gone(kept):
        raise RecipeError("smoothing: there is no such key")

    assert "'its length' there, 'another' here" in refusal(RunFolder.open, folder.path, RECIPE + "a: 1\n", gone)


# ---------------------------------------------------------------------------------------------------------------- locks


def test_a_folder_in_use_is_refused_and_free_again_afterwards(folder):
    busy = f"run folder: '{folder.path}' is in use by another process; wait for it"
    with folder.locked():
        assert refusal(RunFolder(folder.path).locked().__enter__) == busy
    with folder.locked():
        pass
    with pytest.raises(ValueError, match="own"), folder.locked():
        raise ValueError("own")
    with folder.locked():
        pass


def test_one_who_waits_goes_on_when_the_other_process_ends(tmp_path):
    lock = tmp_path / "deep" / "lock"
    script = (
        "import filelock, pathlib, sys, time\n"
        "path = pathlib.Path(sys.argv[1])\npath.parent.mkdir()\n"
        "with filelock.FileLock(path):\n    print('held', flush=True)\n    sys.stdin.readline()\n"
        "    time.sleep(0.2)\n    (path.parent / 'done').touch()\n"
    )
    command = [sys.executable, "-c", script, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert refusal(exclusive(lock, wait=False, busy="busy").__enter__) == "busy"
        other.stdin.write("\n")
        other.stdin.close()
        with exclusive(lock, wait=True, busy="busy"):
            assert (tmp_path / "deep" / "done").exists()


@pytest.fixture
def held_elsewhere(tmp_path):
    """Return a lock file that another process holds."""
    lock = tmp_path / "held"
    script = (
        "import pathlib, sys\nfrom limbeck.locks import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), wait=True, busy=''):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        yield lock
        other.stdin.close()


def test_a_wait_is_told_again_and_again_and_ends_with_a_signal(held_elsewhere, monkeypatch, caplog):
    monkeypatch.setattr("limbeck.locks._SILENT", 0.05)
    monkeypatch.setattr("limbeck.locks._BETWEEN", 0.1)

    class Third(logging.Handler):
        def emit(self, record):
            if len(caplog.records) == 3:
                signal.setitimer(signal.ITIMER_REAL, 0.05)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    logger, third = logging.getLogger("limbeck"), Third()
    logger.addHandler(third)
    try:
        with pytest.raises(KeyboardInterrupt), exclusive(held_elsewhere, wait=True, busy="teacher: it is trained"):
            raise AssertionError("two processes hold it")
    finally:
        logger.removeHandler(third)
        signal.signal(signal.SIGALRM, before)
    records = [record for record in caplog.records if record.name == "limbeck"]
    said = [re.fullmatch(r"teacher: it is trained; waiting for it \((\d+) s so far\)", r.getMessage()) for r in records]
    assert all(said), records
    assert len(records) >= 3
    assert all(b.created - a.created > 0.05 for a, b in itertools.pairwise(records))


@pytest.mark.thorough
def test_without_a_handler_a_wait_is_told_on_stderr_and_sigterm_ends_it(held_elsewhere):
    script = (
        "import pathlib, sys\nimport limbeck.locks as locks\nlocks._SILENT = 0.05\n"
        "with locks.exclusive(pathlib.Path(sys.argv[1]), wait=True, busy='busy'): pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(held_elsewhere)], stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr.readline() == b"busy; waiting for it (0 s so far)\n"
        waiting.terminate()
        assert waiting.wait(timeout=20) == -signal.SIGTERM


def test_a_lock_that_cannot_be_written_is_told_with_the_mend(tmp_path):
    (tmp_path / "file").write_text("")
    said = refusal(exclusive(tmp_path / "file" / "lock", wait=True, busy="").__enter__)
    assert said.startswith(f"cannot write in '{tmp_path}/file' (")
    assert said.endswith("name a folder that can be written (of the cache: set XDG_CACHE_HOME)")


# ---------------------------------------------------------------------------------------------------------- the machine


def test_the_cache_is_where_xdg_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "limbeck"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        assert cache_folder() == tmp_path / "home" / ".cache" / "limbeck"
    assert not (tmp_path / "home").exists()


def test_the_environment_is_what_a_bug_report_needs():
    found = environment()
    assert set(found) == {"python", "platform", "packages", "threads", "devices"}
    assert {"limbeck", "torch", "accelerate", "numpy", "safetensors"} <= set(found["packages"])
    assert "not installed" not in found["packages"].values()
    assert found["devices"]
    assert json.loads(json.dumps(found)) == found
