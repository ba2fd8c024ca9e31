"""What each command prints, writes and ends with; data on stdout, everything else on stderr."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import limbeck as package
from faults import ended, started
from limbeck import recipes, runs
from limbeck.cli.showing import describe
from limbeck.config import load_recipe
from limbeck.experiment import run as experiment_run
from limbeck.papers import tables
from limbeck.recipes import find, names
from limbeck.runs import RunFolder
from limbeck.training import Progress

VERBS = ("demo", "recipes", "check", "distill", "evaluate", "compare", "report", "reproduce", "env")
TRAINED = ("alone-0", "alone-1", "distilled-0", "distilled-1")

TINY = {
    "name": "tiny",
    "summary": "digits in a second",
    "data": {"kind": "digits"},
    "teacher": {
        "model": {"kind": "mlp", "hidden": [32], "dropout": 0.1},
        "training": {"epochs": 3, "batch_size": 128, "augment": {"shift": 1}},
    },
    "student": {"model": {"kind": "mlp", "hidden": [8], "dropout": 0.1}},
    "method": {"name": "kd", "temperature": 4.0},
    "training": {"epochs": 2, "batch_size": 128},
    "seeds": [0, 1],
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path.name


def only_run(runs: Path) -> Path:
    (folder,) = [path for path in runs.glob("*/*") if path.is_dir()]
    return folder


def figures(folder: Path) -> dict:
    return json.loads((folder / "outcome.json").read_text())


def plain(text: str) -> bool:
    return "\x1b" not in text and "\r" not in text


# ------------------------------------------------------------------------------------------------------------- the demo


def test_the_demo_ends_in_a_table_and_a_run_folder(limbeck, monkeypatch, tmp_path):
    """Its recipe, for fewer epochs: continuous integration runs the command as it is."""
    short = tmp_path / "short.yaml"
    short.write_text(
        load_recipe(find("digits-kd").recipe, ["training.epochs=12", "teacher.training.epochs=10"]).to_yaml()
    )
    monkeypatch.setattr(recipes, "find", lambda name: {"digits-kd": SimpleNamespace(recipe=short)}[name])
    answer = limbeck("demo")
    assert answer.code == 0, answer.err
    assert plain(answer.out)
    assert plain(answer.err)
    for row in ("teacher", "student alone", "student distilled"):
        assert any(f"│ {row} " in line and "%" in line for line in answer.out.splitlines()), row
    assert "359 test examples, mean ± 95 % t-interval over 5 seeds" in answer.out
    assert answer.out.splitlines()[-1].startswith("Share of the gap closed, (alone - distilled)/(alone - teacher): ")
    progress = [line for line in answer.lines if " · epoch " in line]
    assert all(re.match(r"training \d+ of 11 · .+ left in all · \d+ % · ", line) for line in progress)
    assert any(" · teacher · epoch " in line for line in progress)
    assert any(" · distilled (seed 4) · epoch " in line for line in progress)
    assert not any("epoch" in line for line in answer.out.splitlines())

    folder = only_run(tmp_path / "runs")
    assert answer.lines[-1].startswith(f"run folder: {folder.relative_to(tmp_path)} · next: limbeck ")
    for name in ("recipe.yaml", "manifest.json", "log.txt", "outcome.json"):
        assert (folder / name).is_file(), name
    epochs = load_recipe(folder / "recipe.yaml").training.epochs
    for seed in range(5):
        for role in ("alone", "distilled"):
            lines = (folder / f"{role}-{seed}" / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["epoch"] for line in lines] == list(range(1, epochs + 1))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"][-1] == "demo"
    assert manifest["test_reads"][0]["for"].startswith("final figures of teacher, student alone and student distilled")
    assert manifest["environment"]["packages"]["torch"]
    assert "done in " in (folder / "log.txt").read_text()
    errors = figures(folder)["errors"]
    assert errors["teacher"]["mean"] < errors["distilled"]["mean"]


@pytest.mark.thorough
def test_the_command_that_the_demo_names_next_works(limbeck, tmp_path):
    assert limbeck("recipes", "cp", "digits-kd", "my.yaml").code == 0
    assert limbeck("check", "my.yaml", "--json").code == 0
    assert not (tmp_path / "runs").exists()


# -------------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.thorough
def test_recipes_are_listed_with_their_summaries(limbeck):
    answer = limbeck("recipes", "ls")
    assert answer.code == 0
    assert answer.err == ""
    assert [line.split()[0] for line in answer.out.splitlines()] == [*names(), *tables()]
    assert limbeck("recipes").out == answer.out
    listed = json.loads(limbeck("recipes", "ls", "--json").out)
    assert [entry["name"] for entry in listed] == [*names(), *tables()]
    assert all(entry["summary"] in answer.out for entry in listed)


def test_a_recipe_is_shown_with_its_card(limbeck):
    answer = limbeck("recipes", "show", "digits-kd")
    assert (answer.code, answer.err) == (0, "")
    assert "name: digits-kd" in answer.out
    assert "# digits-kd" in answer.out


def test_a_recipe_is_copied_to_a_file_or_into_a_folder(limbeck, tmp_path):
    for target, place in (("own.yaml", "own.yaml"), (".", "digits-kd.yaml")):
        answer = limbeck("recipes", "cp", "digits-kd", target)
        assert (answer.code, answer.out) == (0, "")
        assert answer.lines == [f"copied to {place} · next: edit it, then limbeck check {place}"]
        assert load_recipe(tmp_path / place).name == "digits-kd"
    assert limbeck("recipes", "cp", "digits-kd").code == 2


# ---------------------------------------------------------------------------------------------------------------- check


@pytest.mark.thorough
def test_check_prints_shapes_parameters_memory_and_time_and_writes_nothing(limbeck, recipe, tmp_path):
    before = set(tmp_path.rglob("*"))
    answer = limbeck("check", recipe)
    assert answer.code == 0, answer.err
    for part in (
        "1,294 to train on, 144 held out, 359 to test on",
        "(128, 1, 8, 8)",
        "(128, 10)",
        "2,410",
        " MiB",
        " ms",
    ):
        assert part in answer.out, part
    assert "student distilled" in answer.out
    assert "kd: hard_weight" in answer.out
    assert "losses of the first batch: total " in answer.out
    assert "scheme    offline: " in answer.out
    assert answer.lines == [answer.lines[0]]
    assert answer.lines[0].startswith("5 trainings, about ")
    assert answer.lines[0].endswith(f"next: limbeck distill {recipe}")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.thorough
def test_check_as_json_has_every_figure(limbeck, recipe):
    found = json.loads(limbeck("check", recipe, "student.model.hidden=[5]", "--json").out)
    teacher, alone, distilled = found["models"]
    assert teacher["role"] == "teacher"
    assert (teacher["parameters"], teacher["runs"]) == (64 * 32 + 32 + 32 * 10 + 10, 1)
    assert alone["parameters"] == distilled["parameters"] == 64 * 5 + 5 + 5 * 10 + 10
    assert distilled["inputs"] == [128, 1, 8, 8]
    assert distilled["outputs"] == [128, 10]
    assert (distilled["steps"], distilled["runs"]) == (11 * 2, 2)
    assert distilled["bytes"] > 3 * 4 * distilled["parameters"]
    assert all(model["seconds_a_step"] > 0 for model in found["models"])
    assert found["seconds"] > 0
    assert set(found["losses"]) == {"total", "hard", "soft"}


# -------------------------------------------------------------------------------------------------------------- distill


@pytest.mark.thorough
def test_distill_tells_where_the_time_went(limbeck, recipe, tmp_path):
    answer = limbeck("distill", recipe, "seeds=[0]", "--profile", "--no-report", "--quiet")
    assert "Time of the training steps made in this call" in answer.out
    assert all(name in answer.out for name in ("data %", "teacher %", "student %", "loss %", "optimizer %"))
    folder = only_run(tmp_path / "runs")
    kept = json.loads((folder / "profile.json").read_text())
    assert set(kept) == {"teacher", "student (seed 0)", "distilled (seed 0)"} or len(kept) == 3
    assert all(sum(row["percent"].values()) == pytest.approx(100) for row in kept.values())

    again = limbeck("distill", recipe, "seeds=[0]", "--profile", "--resume", folder, "--no-report", "--json")
    assert json.loads(again.out)["profile"] == {}
    assert json.loads((folder / "profile.json").read_text()) == kept
    assert "profile" not in json.loads(limbeck("distill", recipe, "seeds=[0]", "--json", "--no-report").out)


def test_distill_as_json_obeys_the_overrides(limbeck, recipe, tmp_path):
    answer = limbeck(
        "distill", recipe, "seeds=[3]", "method.temperature=2", "training.learning_rate=1e-1", "--json", "--no-report"
    )
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    folder = only_run(tmp_path / "runs")
    assert found.pop("run") == str(folder.relative_to(tmp_path))
    assert found == figures(folder)
    assert [seed["seed"] for seed in found["seeds"]] == [3]
    assert found["errors"]["alone"]["half_width"] is None
    assert set(found["seeds"][0]["distilled"]) >= {"examples", "errors", "accuracy", "nll"}
    kept = load_recipe(folder / "recipe.yaml")
    assert (kept.keys["method"]["temperature"], kept.training.learning_rate, kept.seeds) == (2.0, 0.1, (3,))


@pytest.mark.thorough
def test_distill_prints_the_table_and_says_how_to_repeat_it(limbeck, recipe, tmp_path):
    answer = limbeck("distill", recipe)
    folder = only_run(tmp_path / "runs").relative_to(tmp_path)
    assert answer.code == 0, answer.err
    assert "tiny: 359 test examples, the values of two seeds" in answer.out
    assert [line.split("┃")[1].strip() for line in answer.out.splitlines() if "┃" in line] == ["model"]
    assert answer.lines[-1].startswith(f"run folder: {folder} · repeat it: limbeck distill {folder}/recipe.yaml")
    assert plain(answer.out + answer.err)
    last = [line for line in answer.lines if " · teacher · epoch 3/3 · held-out errors " in line]
    assert last, answer.lines
    assert " · hard " in last[-1]
    assert last[-1].endswith(" · step 33/33")
    quiet = limbeck("distill", recipe, "--quiet", "--runs", "elsewhere")
    assert quiet.out == answer.out
    assert len(quiet.lines) == 1
    assert quiet.lines[0].startswith("run folder: elsewhere/tiny/")


def test_on_a_terminal_there_are_two_live_lines(limbeck, recipe, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    answer = limbeck("distill", recipe, "seeds=[0]", "--json", "--no-report")
    assert answer.code == 0
    assert "\x1b[2K\x1b[1A\x1b[2Ktraining 2 of 3 · " in answer.err  # both are erased where they stand
    shown, _, after = answer.err.rpartition("\x1b[2K")
    assert "\ndistilled (seed 0) · epoch 2/2" in shown
    assert "epoch" not in after
    assert json.loads(answer.out)


@pytest.mark.thorough
def test_running_the_recipe_of_a_run_repeats_the_run(limbeck, recipe, tmp_path, monkeypatch):
    assert limbeck("distill", recipe, "training.augment.noise=0.1", "--runs", "first", "--no-report").code == 0
    first = only_run(tmp_path / "first")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert limbeck("distill", first / "recipe.yaml", "--runs", "second", "--no-report").code == 0
    second = only_run(tmp_path / "second")
    assert figures(second) == figures(first)
    assert (second / "recipe.yaml").read_bytes() == (first / "recipe.yaml").read_bytes()
    for training in TRAINED:
        weights = f"{training}/student.safetensors"
        assert (second / weights).read_bytes() == (first / weights).read_bytes()


@pytest.mark.thorough
def test_a_run_with_a_model_and_data_of_ones_own_is_repeated_from_its_folder_too(limbeck, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "made.py").write_text(
        "from torch import nn\n\ndef net(classes, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes))\n"
    )
    draw = np.random.default_rng(0)
    np.savez(own / "set.npz", inputs=draw.normal(size=(80, 4)), labels=np.arange(80) % 3)
    model = {"factory": "made:net", "arguments": {"width": 4}}
    keys = {
        **TINY,
        "data": {"kind": "npz", "path": "set.npz"},
        "teacher": {"model": model, "training": {"epochs": 1}},
        "student": {"model": model},
    }
    (own / "recipe.yaml").write_text(yaml.safe_dump(keys))
    first = limbeck("distill", "own/recipe.yaml", "--json", "--quiet", "--no-report")
    assert first.code == 0, first.err
    second = limbeck("distill", only_run(tmp_path / "runs") / "recipe.yaml", "--json", "--runs", "again", "--no-report")
    assert second.code == 0, second.err
    assert "teacher: found in" in second.err
    assert json.loads(second.out)["seeds"] == json.loads(first.out)["seeds"]

    code = (own / "made.py").read_text()
    (own / "made.py").write_text(code.replace("Tanh", "ReLU"))
    assert "teacher: training in" in limbeck("distill", "own/recipe.yaml", "--no-report").err


@pytest.mark.thorough
def test_the_teacher_is_trained_once(limbeck, recipe, tmp_path):
    first = limbeck("distill", recipe, "seeds=[0]", "--no-report")
    second = limbeck("distill", recipe, "seeds=[0]", "method.temperature=1", "student.model.hidden=[4]", "--no-report")
    other = limbeck("distill", recipe, "seeds=[0]", "teacher.training.epochs=1", "--no-report")
    assert "teacher: training in" in first.err
    assert "teacher: found in" in second.err
    assert not any(line.startswith("teacher · epoch") for line in second.lines)
    assert "teacher: training in" in other.err


@pytest.mark.thorough
def test_a_missed_expectation_ends_with_code_3_after_everything_is_written(limbeck, recipe, tmp_path):
    wish = ["expect.gap_closed=5", "expect.distilled_errors=0", "expect.teacher_errors=1"]
    answer = limbeck("distill", recipe, *wish, "--json", "--quiet", "--no-report")
    assert answer.code == 3
    assert json.loads(answer.out)["seeds"]
    missed = [line for line in answer.lines if line.startswith("missed: ")]
    assert [line.split()[1] for line in missed] == ["teacher_errors", "distilled_errors", "gap_closed"]
    assert answer.lines[-1].startswith("run folder: ")
    assert figures(only_run(tmp_path / "runs"))
    met = limbeck(
        "distill", recipe, "expect.distilled_errors=359", "expect.teacher_errors=359", "--quiet", "--no-report"
    )
    assert met.code == 0


# ------------------------------------------------------------------------------------------------ stopping and going on


@pytest.mark.thorough
def test_resume_runs_only_what_is_missing(limbeck, recipe, tmp_path):
    assert limbeck("distill", recipe, "--quiet", "--no-report").code == 0
    folder = only_run(tmp_path / "runs")
    whole = figures(folder)
    kept = {name: (folder / name / "result.json").stat().st_mtime_ns for name in TRAINED}
    (folder / "outcome.json").unlink()
    for file in ("result.json", "student.safetensors"):
        (folder / "distilled-1" / file).unlink()
    answer = limbeck("distill", recipe, "--resume", folder, "--no-report")
    assert answer.code == 0, answer.err
    assert figures(folder) == whole
    now = {name: (folder / name / "result.json").stat().st_mtime_ns for name in TRAINED}
    assert {name for name in TRAINED if now[name] != kept[name]} == {"distilled-1"}
    assert not any(line.startswith("alone (seed 0) · epoch") for line in answer.lines)
    assert (folder / "log.txt").read_text().count("started") == 2


# Python 3.12 warns of any fork in a process with threads; the child only computes and ends.
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_an_interruption_saves_and_the_run_goes_on_to_the_same_end(limbeck, recipe, tmp_path):
    longer = ["training.epochs=15", "training.batch_size=32", "seeds=[0]", "--no-report"]
    assert limbeck("distill", recipe, *longer, "--quiet", "--runs", "whole").code == 0
    whole = only_run(tmp_path / "whole")
    child, pipes = started(tmp_path, "distill", recipe, *longer)
    begun = time.monotonic()
    while not list((tmp_path / "runs").glob("tiny/*/distilled-0/metrics.jsonl")):
        assert time.monotonic() - begun < 120
        time.sleep(0.01)
    os.kill(child, signal.SIGINT)
    answer = ended(child, pipes)
    assert (answer.code, answer.out) == (130, ""), answer.err
    err = answer.err
    assert "Traceback" not in err
    folder = only_run(tmp_path / "runs")
    assert not (folder / "outcome.json").exists()
    assert list((folder / "distilled-0" / "checkpoints").glob("step-*"))
    last = err.splitlines()[-1]
    assert last.startswith("limbeck: interrupted by SIGINT; last good checkpoint: ")
    assert "stopped: interrupted" in (folder / "log.txt").read_text()

    command = shlex.split(last.partition("; go on: ")[2])
    answer = limbeck(*command[1:])
    assert answer.code == 0, answer.err
    assert figures(folder) == figures(whole)
    for file in ("student.safetensors", "metrics.jsonl"):
        assert (folder / "distilled-0" / file).read_bytes() == (whole / "distilled-0" / file).read_bytes()


def test_an_interruption_between_trainings_ends_alike(limbeck, recipe, monkeypatch, tmp_path):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment_run, "evaluate_together", interrupt)
    answer = limbeck("distill", recipe, "--quiet")
    folder = only_run(tmp_path / "runs").relative_to(tmp_path)
    assert (answer.code, answer.out) == (130, "")
    assert answer.lines == [
        f"limbeck: interrupted; go on: limbeck distill {folder}/recipe.yaml --resume {folder}",
    ]
    monkeypatch.undo()


def test_an_interruption_of_any_other_command_ends_alike(limbeck, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "environment", interrupt)
    answer = limbeck("env")
    assert (answer.code, answer.out, answer.err) == (130, "", "limbeck: interrupted\n")


@pytest.mark.thorough
def test_two_processes_do_not_run_in_one_folder(limbeck, recipe, tmp_path):
    assert limbeck("distill", recipe, "--quiet", "--no-report").code == 0
    folder = only_run(tmp_path / "runs")
    with RunFolder(folder).locked():
        answer = limbeck("distill", recipe, "--resume", folder)
    assert answer.code == 2
    assert answer.lines == [f"limbeck: run folder: '{folder}' is in use by another process; wait for it"]


# ------------------------------------------------------------------------------------------------------- the small ones


def test_env_names_versions_devices_and_folders(limbeck, tmp_path):
    found = json.loads(limbeck("env", "--json").out)
    assert found["packages"]["limbeck"] == package.__version__
    assert found["devices"]
    assert found["cache"] == str(tmp_path / "cache" / "limbeck")
    text = limbeck("env")
    assert (text.code, text.err) == (0, "")
    for name in found:
        assert f"{name}: " in text.out


def test_help_lists_the_verbs(limbeck):
    answer = limbeck("--help")
    assert (answer.code, answer.err) == (0, "")
    for verb in VERBS:
        assert answer.out.count(f"\n  {verb} ") == 1
    headings = re.findall(r"^(\w+):$", answer.out, flags=re.MULTILINE)
    assert headings == ["Options", "Start", "Run", "Look", "Ship", "More"]
    assert "..." not in answer.out.partition("Start:")[2]  # no sentence is cut
    for verb in VERBS:
        assert limbeck(verb, "-h").code == 0


def test_a_progress_line_says_first_what_is_wanted_most():
    progress = Progress(
        label="distilled (seed 2)",
        step=1183,
        steps=1300,
        epoch=91,
        epochs=100,
        losses={"hard": 0.0030272, "soft": 0.23941},
        metrics={"errors": 14, "nll": 0.1},
        samples_per_second=20_000.0,
        seconds_left=75.0,
    )
    line = describe(progress)
    assert line.startswith("distilled (seed 2) · epoch 91/100 · held-out errors 14 · 1 min 15 s left · hard 0.00303")
    assert line.endswith("soft 0.239 · 20,000 samples/s · step 1183/1300")


def test_help_is_there_before_torch_is():
    script = "import sys, limbeck.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.thorough
def test_a_closed_pipe_is_no_error_to_tell_of(start):
    with start("recipes", "show", "digits-kd") as running:
        running.stdout.close()
        assert "Traceback" not in running.stderr.read()
