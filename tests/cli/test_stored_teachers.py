"""Answers that were imported, as the teacher of a recipe: the student that they teach, and what is refused."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import limbeck as lb
from limbeck.config import Recipe
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import prepare
from limbeck.experiment.vetting import vet
from limbeck.results.finished import FinishedRun
from walk import over

RECIPE = {
    "name": "taught",
    "data": {"kind": "bundled", "name": "wine"},
    "teacher": {"stored": "answers"},
    "student": {"model": {"kind": "mlp", "hidden": [4]}},
    "method": {"name": "kd", "temperature": 1.0},
    "training": {"epochs": 2, "learning_rate": 0.1, "batch_size": 32},
}
LOGITS = torch.randn(178, 3, generator=torch.Generator().manual_seed(0)).numpy()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    np.savez(tmp_path / "all.npz", logits=LOGITS, index=np.arange(178))
    logs = torch.from_numpy(LOGITS).double().log_softmax(1)
    for part in ("transfer", "test"):
        lines = []
        for number in getattr(prepare(Recipe.parse(RECIPE, tmp_path)), part).index.tolist():
            most, ids = logs[number].topk(2)
            lines.append({"index": number, "ids": ids.tolist(), "log_probs": most.tolist()})
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def imported(limbeck, kind, *changes):
    for part, folder in (("transfer", kind), ("test", f"{kind}/test")):
        file = "all.npz" if kind == "dense" else f"{part}.jsonl"
        found = limbeck("cache", "import", file, "recipe.yaml", *changes, "--part", part, "--path", folder)
        assert found.code == 0, found.err
    assert "next: teacher.stored.test: " in found.err


@pytest.mark.thorough
@over("kind", ["dense", "topk"])
def test_a_recipe_learns_from_imported_answers_as_python_does(limbeck, here, kind):
    imported(limbeck, kind)
    run = limbeck("distill", "recipe.yaml", f"teacher.stored={kind}", "--quiet", "--no-report", "--runs", f"of-{kind}")
    assert run.code == 0, run.err
    (folder,) = (here / f"of-{kind}" / "taught").iterdir()
    weights = load_file(folder / "distilled-0" / "student.safetensors")
    recipe = Recipe.parse(RECIPE | {"teacher": {"stored": kind}}, here)
    parts = vet(recipe)
    student, teacher = SeedBuilder(recipe, parts, 0).student(), lb.CachedTeacher(kind)
    how = {"teacher": teacher, "method": lb.methods.kd(1.0), **RECIPE["training"]}
    result = lb.fit(student, parts.transfer, parts.held_out, seed=0, **how)
    for name, each in result.student.state_dict().items():
        assert torch.equal(each, weights[name]), name
    identity = json.loads((folder / "distilled-0" / "result.json").read_text())
    assert teacher.fingerprint() in json.dumps(identity)
    shutil.rmtree(kind)  # the run is read without the store
    for command in ("report", "evaluate"):
        answer = limbeck(command, folder)
        assert answer.code == 0, answer.err
        assert "never answered" not in answer.err
    finished = FinishedRun.read(folder)
    test = parts.test
    wrong = (torch.from_numpy(LOGITS)[test.index].argmax(1) != test.labels).float().mean()
    assert finished.outcome.errors("teacher").mean == pytest.approx(float(wrong) * len(test))
    batch = test.batch(torch.arange(len(test)), augment=None, seed=0, view=0)
    expected = torch.from_numpy(LOGITS)[test.index].softmax(1)  # two of three classes determine the third
    torch.testing.assert_close(finished.teacher(0)(batch.inputs).softmax(1), expected)


def test_stores_that_do_not_fit_are_one_line(limbeck, here):
    imported(limbeck, "topk")
    limbeck("distill", "recipe.yaml", "teacher.stored=nowhere").refused("teacher.stored.path: found no store in '")
    for changes, expected in [
        (["data.name=iris"], "teacher.stored.path: '.*' has answers to another set than 'iris"),
        (["validation=5"], "has 128 answers, but not to all 137 samples of the transfer part"),
        (["refit=true"], "not to all 142 samples of the transfer part"),
        (["method.temperature=4.0"], "top-k answers were stored at 1, and cannot be softened exactly at another"),
        (["method={name: dist}"], "found topk answers of the teacher, expected dense ones"),
        (["training.augment={noise: 0.1}"], "teacher.view: found same, but training.augment shows random views"),
        (["training.augment={noise: 0.1}", "teacher.view=clean"], "teacher.view: found clean, but training.augment"),
        (["teacher.store=false"], "teacher.store: has no effect beside teacher.stored"),
        (["teacher.members=2"], "teacher.members: has no effect beside teacher.stored"),
        (["teacher.training={epochs: 2}"], "teacher.training: is an option of networks and has no effect for stored"),
        (["teacher.stored={path: topk, test: topk}"], "teacher.stored.test: .*not to all 36 samples of the test part"),
        (["scheme={name: early_stopping}"], "early_stopping asks the teacher about the held-out part"),
        (["method={name: rkd, layers: [stage1]}"], "does not hold the feature"),
    ]:
        answer = limbeck("distill", "recipe.yaml", "teacher.stored=topk", *changes, "--runs", "none")
        (line,) = answer.err.splitlines()
        assert answer.code == 2, line
        assert re.search(expected, line), line
    shutil.rmtree(here / "topk" / "test")
    answer = limbeck("distill", "recipe.yaml", "teacher.stored=topk")
    assert "teacher.stored.test: found no store in" in answer.err
    assert "--part test" in answer.err
    assert not (here / "none").exists()


@pytest.mark.thorough
def test_answers_to_samples_as_they_are_serve_random_views(limbeck, here):
    changes = ("teacher.stored=topk", "teacher.view=clean", "training.augment={noise: 0.1}")
    imported(limbeck, "topk", *changes)
    checked = limbeck("check", "recipe.yaml", *changes)
    assert checked.code == 0, checked.err
    run = limbeck("distill", "recipe.yaml", *changes, "--quiet")
    assert run.code == 0, run.err
    assert "the teacher's answers were made elsewhere" in run.out + run.err
    assert "no report" not in run.err
    limbeck("diagnose", "recipe.yaml", *changes).refused("teacher.stored: a diagnosis asks the teacher about the held")
