"""limbeck diagnose, on recipes of a second."""

import json
from pathlib import Path

import pytest
import yaml

from limbeck.cli.distill import run as distill
from limbeck.config import Recipe
from limbeck.errors import RunError
from limbeck.results.diagnoses import newest
from limbeck.runs import RunFolder
from walk import over

TINY = {
    "name": "tiny",
    "data": {"kind": "digits", "transfer": {"fraction": 0.3}},
    "teacher": {"model": {"kind": "mlp", "hidden": [32]}, "training": {"epochs": 3, "batch_size": 128}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "method": {"name": "kd", "temperature": 4.0},
    "training": {"epochs": 2, "batch_size": 64},
    "validation": 200,
    "seeds": [0],
}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path / "tiny.yaml"


@pytest.fixture
def run(tmp_path):
    """Return the folder of a finished run; it needs the cache of the test, so it is made for each."""
    made = Recipe.parse(TINY)
    folder = RunFolder.create(tmp_path / "runs", made.name, made.to_yaml(), ["limbeck"])
    distill(made, folder, quiet=True)
    return folder.path


def test_a_recipe_is_diagnosed(limbeck, recipe, tmp_path):
    found = limbeck("diagnose", recipe, "--seeds", 2)
    assert found.code == 0, found.err
    assert "search: 5 settings for each of 8 kinds of students" in found.err
    for words in (
        "students by target",
        "chosen on held-out data",
        "smoothing:",
        "what to do",
        "rescaling of the gradient",
    ):
        assert words in found.out
    [path] = (tmp_path / "runs" / "tiny").glob("*/diagnosis.json")
    content = json.loads(path.read_text())
    assert content["attribution"]["seeds"] == 2
    assert str(path.relative_to(tmp_path)) in found.lines[-1]
    assert json.loads((path.parent / "manifest.json").read_text())["test_reads"] == []


@pytest.mark.thorough
def test_asking_again_reads_what_was_trained(limbeck, run):
    first = limbeck("diagnose", run, "--quick", "--json")
    again = limbeck("diagnose", run, "--quick", "--json")
    assert (first.code, again.code) == (0, 0)
    one, two = json.loads(first.out), json.loads(again.out)
    assert one | {"seconds": 0} == two | {"seconds": 0}
    assert one["file"] == str(run / "diagnosis.json")
    assert one["attribution"] is None
    assert not [line for line in again.lines if "epoch" in line]
    assert one["reused"] == 1  # the student alone; the distilled one is looked at early in its training, too
    other = json.loads(limbeck("diagnose", run, "--seeds", 1, "--no-search", "--json").out)
    assert not other["settings"]["search"]
    assert other["file"] == str(run / "diagnosis-2.json")
    assert newest(run).attribution.seeds == 1
    assert json.loads((run / "diagnosis.json").read_text())["attribution"] is None


@pytest.mark.thorough
def test_a_run_is_diagnosed_with_its_own_teacher_and_without_its_test_set(limbeck, run):
    reads = json.loads((run / "manifest.json").read_text())["test_reads"]
    for path in (run.parent.parent.parent / "cache").rglob("student.safetensors"):
        path.unlink()  # the cached teacher: the run has its own
    assert limbeck("diagnose", run, "--quick", "--quiet").code == 0
    assert json.loads((run / "manifest.json").read_text())["test_reads"] == reads


@pytest.mark.thorough
def test_a_method_without_soft_targets_is_diagnosed_at_the_usual_ones(limbeck, recipe):
    found = limbeck("diagnose", recipe, "method={name: hard}", "--quick")
    assert found.code == 0
    assert "method hard has no soft targets: diagnosing at T = 4, alpha = 0.1" in found.err


@pytest.mark.thorough
def test_of_another_scheme_it_is_said_which_student_is_diagnosed(limbeck, recipe):
    arguments = ("diagnose", recipe, "scheme={name: born_again, generations: 1}", "--quick")
    found = limbeck(*arguments)
    assert found.code == 0, found.err
    line = "The student of the scheme born_again is not looked into: diagnosed are students that learn offline"
    assert line in " ".join(found.out.split())
    assert line in found.err
    told = json.loads(limbeck(*arguments, "--json").out)
    assert told["settings"]["about"][0].startswith(line)
    page = next(Path(told["run"]).glob("*.html")).read_text()
    assert line in page


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["missing.yaml"], "there is no file"),
        (["runs"], "is not a run folder"),
        (["tiny.yaml", "trainig.epochs=1"], "trainig: there is no such key; did you mean 'training'?"),
    ],
)
def test_mistakes_end_in_one_line(limbeck, recipe, tmp_path, arguments, line):
    (tmp_path / "runs").mkdir()
    found = limbeck("diagnose", *arguments)
    assert found.code == 2
    assert line in found.lines[-1]
    assert len(found.lines) == 1


@pytest.mark.thorough
def test_a_run_takes_no_overrides(limbeck, run):
    found = limbeck("diagnose", run, "training.epochs=3")
    assert (found.code, len(found.lines)) == (2, 1)
    assert "give its recipe.yaml" in found.err


@over("damage", ["{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_diagnosis_is_named(tmp_path, damage):
    assert newest(tmp_path) is None
    (tmp_path / "diagnosis-7.json").write_text(damage)
    with pytest.raises(RunError, match=r"diagnosis-7.json.*delete it and run limbeck diagnose"):
        newest(tmp_path)
