"""Studies: what may be chosen, what is tried, what is kept, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fuzzing import command
from limbeck.config import Recipe
from limbeck.errors import InputError, LimbeckError, RecipeError, RunError
from limbeck.locks import exclusive
from limbeck.runs import RunFolder
from limbeck.teachers import ModelTeacher
from limbeck.tune import Choices, Range, read_space, tune, usual_space
from limbeck.tune.study import check_study
from walk import over

KEYS: dict[str, Any] = {
    "name": "study",
    "data": {"kind": "digits", "transfer": {"fraction": 0.2}},
    "teacher": {"model": {"kind": "mlp", "hidden": [32]}, "training": {"epochs": 4, "learning_rate": 0.05}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "method": {"name": "kd"},
    "training": {"epochs": 3, "batch_size": 64, "learning_rate": 0.05},
    "seeds": [0, 1],
}
TEMPERATURE = {"method.temperature": Range(1.0, 20.0, log=True)}


def recipe(**changes: Any) -> Recipe:
    return Recipe.parse({**KEYS, **changes})


def folder_of(root: Path, one: Recipe) -> RunFolder:
    return RunFolder.create(root / "runs", one.name, one.to_yaml(), ["test"])


# ---------------------------------------------------------------------------------------------------------------- space


def test_ranges_and_choices_are_read_from_text() -> None:
    space = read_space(
        [
            "method.temperature=1:20:log",
            "method.alpha=0:1.0",
            "training.epochs=2:40",
            "method.target=[softmax, {kind: topk, k: 3}]",
        ]
    )
    assert space["method.temperature"] == Range(1, 20, log=True, whole=True)
    assert space["method.alpha"] == Range(0, 1.0)
    assert space["training.epochs"] == Range(2, 40, whole=True)
    assert space["method.target"] == Choices(("softmax", {"kind": "topk", "k": 3}))


@over(
    ("line", "said"),
    [
        ("temperature=1:2", "expected a key of training, method or scheme"),
        ("method.temperature", "expected a key of training, method or scheme"),
        ("method.temperature=4", "expected LOW:HIGH"),
        ("method.temperature=1:2:3", "expected LOW:HIGH"),
        ("method.temperature=9:2", "expected the lower number first"),
        ("method.temperature=0:2:log", "above 0"),
        ("method.temperature=1:many", "expected a finite number"),
        ("method.temperature=1:.inf", "expected a finite number"),
        ("method.temperature=[]", "expected a list of 1 to"),
        ("method.temperature=[1, 1]", "a value occurs twice"),
    ],
)
def test_a_space_that_cannot_be_read_is_refused_in_one_line(line: str, said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_space([line])
    assert said in str(refused.value)
    assert line in str(refused.value)


def test_a_key_is_given_once() -> None:
    with pytest.raises(RecipeError, match="occurs twice"):
        read_space(["method.alpha=0:1", "method.alpha=0:0.5"])


@over(
    ("space", "said"),
    [
        ({"method.temprature": Range(1.0, 2.0)}, "did you mean 'temperature'"),
        ({"method.temperature": Range(0.0, 2.0)}, "above 0"),
        ({"method.alpha": Range(0.0, 1.5)}, r"\[0, 1\]"),
        ({"method.target": Choices(("softmax", "topp"))}, "did you mean 'topk'"),
        ({}, "nothing to choose"),
    ],
)
def test_both_ends_and_every_choice_are_tried_on_the_recipe_first(space: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        check_study(recipe(), space, trials=1, metric="errors", seeds=1)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"trials": 0}, "trials: found 0"),
        ({"seeds": 3}, "expected at most 2"),
        ({"metric": "error"}, "did you mean 'errors'"),
    ],
)
def test_a_study_that_cannot_be_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_study(recipe(), TEMPERATURE, **{"trials": 1, "metric": "errors", "seeds": 1, **more})


def test_the_usual_space_is_the_recipes_search_or_temperature_and_alpha() -> None:
    assert usual_space(recipe(search={"training.epochs": [2, 3]})) == {"training.epochs": Choices((2, 3))}
    assert sorted(usual_space(recipe())) == ["method.alpha", "method.temperature"]
    weighted = recipe(method={"name": "kd", "soft_weight": 1.0})
    assert sorted(usual_space(weighted)) == ["method.temperature"]
    with pytest.raises(RecipeError, match="neither temperature nor alpha"):
        usual_space(recipe(method={"name": "hard"}))


# ---------------------------------------------------------------------------------------------------------------- study


def test_a_study_finds_the_planted_best_and_makes_its_recipe(tmp_path: Path) -> None:
    """A learning rate of 1e-6 learns nothing, so that the other is the best, whatever the noise."""
    one = recipe()
    folder = folder_of(tmp_path, one)
    space = {"training.learning_rate": Choices((1e-6, 0.1))}
    tuned = tune(one, space, folder, trials=6, cache=tmp_path / "cache")
    assert len(tuned.trials) == 6
    assert tuned.best.values == {"training.learning_rate": 0.1}
    assert tuned.recipe.training.learning_rate == 0.1
    assert Recipe.parse(dict(tuned.recipe.keys)).keys == tuned.recipe.keys
    manifest = json.loads((folder.path / "manifest.json").read_text())
    assert manifest["test_reads"] == []


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each batch had that a live teacher has answered since."""
    sizes: list[int] = []
    plain = ModelTeacher.__call__

    def counted(self: ModelTeacher, batch: Any, taps: Any = None) -> Any:
        sizes.append(len(batch))
        return plain(self, batch, taps)

    monkeypatch.setattr(ModelTeacher, "__call__", counted)
    return sizes


@pytest.mark.thorough
def test_the_same_values_are_trained_once_and_the_teacher_answers_once(tmp_path: Path, answered: list[int]) -> None:
    one = recipe()
    tune(one, {"method.temperature": Choices((2.0,))}, folder_of(tmp_path, one), trials=1, cache=tmp_path / "cache")
    answered.clear()
    folder = folder_of(tmp_path, one)
    space = {"method.temperature": Choices((2.0, 3.0))}
    tuned = tune(one, space, folder, trials=5, cache=tmp_path / "cache")
    vetted = 2 * 8  # what `vet` asks before anything is trained
    assert sum(answered) <= 287 + vetted
    assert len(list(folder.path.glob("trial-*/result.json"))) == len(
        {t.values["method.temperature"] for t in tuned.trials}
    )


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    one = recipe()
    folder = folder_of(tmp_path, one)
    tuned = tune(one, {"method.temperature": Choices((2.0,))}, folder, trials=1, seeds=2, cache=tmp_path / "cache")
    lines = [(place / "metrics.jsonl").read_text().splitlines()[-1] for place in sorted(folder.path.glob("trial-*"))]
    errors = [json.loads(line)["validation"]["errors"] for line in lines if line]
    assert len(errors) == 2
    assert tuned.best.figures["errors"] == pytest.approx(sum(errors) / 2)


@pytest.mark.thorough
def test_a_study_is_gone_on_with_and_one_of_something_else_is_refused(tmp_path: Path) -> None:
    one = recipe()
    folder = folder_of(tmp_path, one)
    first = tune(one, TEMPERATURE, folder, trials=2, cache=tmp_path / "cache")
    again = tune(one, TEMPERATURE, folder, trials=4, cache=tmp_path / "cache")
    assert again.trials[:2] == first.trials
    assert len(again.trials) == 4
    assert len({t.values["method.temperature"] for t in again.trials}) == 4
    with pytest.raises(RunError, match="has another space"):
        tune(one, {"method.alpha": Range(0.0, 1.0)}, folder, trials=5, cache=tmp_path / "cache")
    with pytest.raises(RunError, match="has another metric"):
        tune(one, TEMPERATURE, folder, trials=5, metric="nll", cache=tmp_path / "cache")


@pytest.mark.thorough
def test_a_hopeless_training_is_cut_short(tmp_path: Path) -> None:
    one = recipe(training={"epochs": 8, "batch_size": 64, "learning_rate": 0.1})
    folder = folder_of(tmp_path, one)
    tuned = tune(one, {"training.learning_rate": Range(1e-7, 0.2, log=True)}, folder, trials=14, cache=tmp_path / "c")
    cut = [trial for trial in tuned.trials if trial.state == "cut short"]
    assert cut
    assert min(trial.number for trial in cut) >= 5
    assert all(trial.figures == {} for trial in cut)
    curves = {
        place: [json.loads(line)["validation"]["errors"] for line in (place / "metrics.jsonl").read_text().splitlines()]
        for place in folder.path.glob("trial-*")
    }
    whole = [curve for place, curve in curves.items() if (place / "result.json").is_file()]
    short = [curve for place, curve in curves.items() if not (place / "result.json").is_file()]
    assert len(short) == len(cut)
    for curve in short:
        assert 2 <= len(curve) < 8  # a quarter of the epochs is let pass
        assert min(curve) >= min(min(other[: len(curve)]) for other in whole)


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    one = recipe()
    folder = folder_of(tmp_path, one)
    tune(one, TEMPERATURE, folder, trials=1, cache=tmp_path / "cache")
    (folder.path / "space.json").write_text("{")
    with pytest.raises(RunError, match=r"space\.json' is damaged"):
        tune(one, TEMPERATURE, folder, trials=2, cache=tmp_path / "cache")


@over("content", [b"{\n", b"\x00\xff\n", b'{"op_code": 99}\n', b"[]\n"])
def test_a_damaged_journal_is_named(tmp_path: Path, content: bytes) -> None:
    one = recipe()
    folder = folder_of(tmp_path, one)
    (folder.path / "study.journal").write_bytes(content)
    with pytest.raises(LimbeckError, match=r"study\.journal' is damaged"):
        tune(one, TEMPERATURE, folder, trials=1, cache=tmp_path / "cache")


def test_the_trial_of_a_killed_process_is_gone_on_with_first(tmp_path: Path) -> None:
    import optuna

    from limbeck.tune.study import _Study

    one = recipe()
    folder = folder_of(tmp_path, one)
    study = _Study(one.with_values({"search": {}}), TEMPERATURE, folder, "errors", 1)
    lost = study._study.ask()
    value = lost.suggest_float("method.temperature", 1.0, 20.0, log=True)
    with exclusive(study._held(lost.number), wait=False, busy=""):
        study.clear_stale()  # its process lives: it is left alone
        assert study._study.trials[0].state == optuna.trial.TrialState.RUNNING
    tuned = tune(one, TEMPERATURE, folder, trials=1, cache=tmp_path / "cache")
    assert [trial.state for trial in tuned.trials] == ["failed", "done"]
    assert tuned.best.values["method.temperature"] == value


# ------------------------------------------------------------------------------------------------------------- together

LIVE: dict[str, Any] = {**KEYS, "training": {**KEYS["training"], "epochs": 2, "augment": {"shift": 1}}}


@pytest.mark.thorough
def test_settings_tried_together_come_to_what_they_come_to_apart(tmp_path: Path, answered: list[int]) -> None:
    """Two seeds; the teacher sees other views in every epoch, and answers each batch once for all settings."""
    one = Recipe.parse(LIVE)
    folders, studies, asked = [], [], []
    for together in (3, 1):
        answered.clear()
        folders.append(folder_of(tmp_path, one).path)
        made = RunFolder(folders[-1])
        studies.append(tune(one, TEMPERATURE, made, trials=3, seeds=2, together=together, cache=tmp_path / "cache"))
        asked.append(sum(answered))
    assert studies[0].trials == studies[1].trials
    assert [trial.state for trial in studies[0].trials] == ["done"] * 3
    assert asked[0] < 0.4 * asked[1]
    names = [sorted(place.name for place in folder.glob("trial-*")) for folder in folders]
    assert names[0] == names[1]
    assert len(names[0]) == 6
    for name in names[0]:
        weights = [(folder / name / "student.safetensors").read_bytes() for folder in folders]
        assert weights[0] == weights[1]


def test_a_setting_that_fails_or_is_hopeless_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    one = recipe(training={"epochs": 3, "batch_size": 64, "learning_rate": 0.05})
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.params["training.learning_rate"] == "0.001")
    monkeypatch.setattr(
        optuna.samplers.TPESampler, "sample_independent", lambda self, study, trial, name, range_: rates(trial.number)
    )

    def rates(number: int) -> str:
        return ["0.05", "0.001", "1e+30", "0.1"][number]

    space = {"training.learning_rate": Choices((0.05, 0.001, 1e30, 0.1))}
    said: list[str] = []
    folder = folder_of(tmp_path, one)
    tuned = tune(one, space, folder, trials=4, together=4, cache=tmp_path / "cache", say=said.append)
    assert [trial.state for trial in tuned.trials] == ["done", "cut short", "cut short", "done"]
    assert any("learning_rate 0.001: cut short" in line for line in said)
    assert any("learning_rate 1e+30" in line and "is nan" in line for line in said)
    lengths = [len((place / "metrics.jsonl").read_text().splitlines()) for place in folder.path.glob("trial-*")]
    assert sorted(lengths) in ([0, 1, 3, 3], [1, 1, 3, 3])


def test_a_setting_that_is_proposed_twice_is_trained_once(tmp_path: Path) -> None:
    one = recipe()
    folder = folder_of(tmp_path, one)
    space = {"method.temperature": Choices((2.0,))}
    tuned = tune(one, space, folder, trials=3, together=2, cache=tmp_path / "cache")
    assert [trial.state for trial in tuned.trials] == ["done"] * 3
    assert len({tuple(trial.figures.items()) for trial in tuned.trials}) == 1
    assert len(list(folder.path.glob("trial-*"))) == 1


def test_the_group_of_a_killed_process_is_gone_on_with_first(tmp_path: Path) -> None:
    from limbeck.tune.study import _Study

    one = recipe()
    folder = folder_of(tmp_path, one)
    study = _Study(one.with_values({"search": {}}), TEMPERATURE, folder, "errors", 1)
    lost = [study._study.ask().suggest_float("method.temperature", 1.0, 20.0, log=True) for _ in range(2)]
    tuned = tune(one, TEMPERATURE, folder, trials=3, together=2, cache=tmp_path / "cache")
    assert [trial.state for trial in tuned.trials] == ["failed", "failed", "done", "done", "done"]
    assert [trial.values["method.temperature"] for trial in tuned.trials[2:4]] == lost


@over(
    ("keys", "space", "together", "said"),
    [
        ({}, TEMPERATURE, 0, "together: found 0"),
        ({}, {"training.batch_size": Choices((16, 32))}, 2, "training.batch_size is to be chosen"),
        ({}, {"training.augment.shift": Choices((0, 1))}, 2, "training.augment.shift is to be chosen"),
        (
            {"scheme": {"name": "early_stopping", "share": 0.5}},
            TEMPERATURE,
            2,
            "early_stopping is more than one",
        ),
    ],
)
def test_what_cannot_share_batches_is_refused(keys: Any, space: Any, together: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_study(recipe(**keys), space, trials=4, metric="errors", seeds=1, together=together)


_JOIN = """
import json, sys
from pathlib import Path
from limbeck.config import Recipe
from limbeck.runs import RunFolder
from limbeck.tune import Range, tune

keys, folder, cache = json.loads(sys.argv[1])
space = {"method.temperature": Range(1.0, 20.0, log=True)}
tune(Recipe.parse(keys), space, RunFolder(Path(folder)), trials=6, cache=Path(cache))
"""


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path: Path) -> None:
    one = recipe()
    folder = folder_of(tmp_path, one)
    told = json.dumps([dict(one.keys), str(folder.path), str(tmp_path / "cache")])
    both = [subprocess.Popen([sys.executable, "-c", _JOIN, told], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert [code for _, code in ended] == [0, 0], ended
    tuned = tune(one, TEMPERATURE, folder, trials=6, cache=tmp_path / "cache")
    assert [trial.number for trial in tuned.trials] == list(range(6))
    assert all(trial.state in ("done", "cut short") for trial in tuned.trials)
    assert len({trial.values["method.temperature"] for trial in tuned.trials}) == 6


# ------------------------------------------------------------------------------------------------------------- the verb


def _command(*arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    place = {**os.environ, "XDG_CACHE_HOME": str(where / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    program = [sys.executable, "-c", "from limbeck.cli import main; main()", "tune", *arguments]
    return subprocess.run(program, cwd=where, env=place, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.thorough
def test_the_verb_writes_a_recipe_that_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(KEYS))
    space = "method.temperature=1.0:20.0:log"
    code, out, err = command("tune", "r.yaml", "--trials", "2", "--space", space, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert len(found["trials"]) == 2
    kept = Recipe.parse(yaml.safe_load((tmp_path / found["recipe"]).read_text()))
    assert kept.method.values["temperature"] == found["best"]["values"]["method.temperature"]
    code, out, err = command("tune", "r.yaml", "--study", found["run"], "training.epochs=2")
    assert (code, out) == (2, "")
    assert "is a run of another recipe" in err
    code, out, err = command("tune", "r.yaml", "--space", "method.temperature=0:20")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert len(list((tmp_path / "runs" / "study").iterdir())) == 1  # what is refused leaves no folder


@pytest.mark.slow
def test_an_interrupted_study_is_gone_on_with(tmp_path: Path) -> None:
    import yaml

    keys = {**KEYS, "training": {**KEYS["training"], "epochs": 400}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys))
    program = [sys.executable, "-c", "from limbeck.cli import main; main()", "tune", "r.yaml", "--trials", "2"]
    place = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(program, cwd=tmp_path, env=place, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 100
        while not list(tmp_path.glob("runs/study/*/trial-*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=100)
    assert running.returncode == 143
    folder = next(iter((tmp_path / "runs" / "study").iterdir()))
    assert f"--study runs/study/{folder.name}" in said
    again = _command("r.yaml", "--trials", "2", "--study", str(folder), "--json", where=tmp_path)
    assert again.returncode == 0, again.stderr
    states = [trial["state"] for trial in json.loads(again.stdout)["trials"]]
    assert states[0] == "failed"
    assert states.count("failed") == 1
