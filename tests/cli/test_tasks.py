"""Recipes of every task, from an archive of arrays to the table and the page; and what refuses them."""

import json

import numpy as np
import pytest
import torch
import yaml

import limbeck as lb
from limbeck.config import load_recipe
from limbeck.evaluation import Nearness, predict
from limbeck.results.assessment import nearness

TASKS = ["binary", "multilabel", "dense", "regression"]
MODELS = {"dense": {"kind": "fcn", "channels": [4], "batch_norm": False}}
COLUMNS = {
    "binary": ["test errors", "accuracy"],
    "multilabel": ["wrong label", "exact matches", "label", "map"],
    "dense": ["test wrong places", "accuracy of places", "miou"],
    "regression": ["mean", "squared error", "R²", "mae"],
}


def archive(path, task, size=120):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(size, 1, 4, 4)).astype("float32")
    scores = inputs.reshape(size, -1) @ np.random.default_rng(1).normal(size=(16, 3))
    labels = {
        "binary": (scores[:, 0] > 0).astype("uint8"),
        "multilabel": scores > 0,
        "dense": (inputs[:, 0] > 0).astype("int16") + (inputs[:, 0] > 1),
        "regression": scores / 4,
    }[task]
    np.savez(path, inputs=inputs, labels=labels)


@pytest.fixture
def recipe(tmp_path):
    """Write an archive and a recipe of a task; return the recipe's path."""

    def write(task, **more):
        archive(tmp_path / f"{task}.npz", task)
        model = MODELS.get(task, {"kind": "mlp", "hidden": [8]})
        keys = {
            "name": task,
            "data": {"kind": "npz", "path": f"{task}.npz", "task": task},
            "teacher": {"model": model, "training": {"epochs": 4, "batch_size": 16}},
            "student": {"model": model},
            "method": {"name": "bounded_regression"} if task == "regression" else {"name": "kd", "temperature": 2.0},
            "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.05, "keep": "best"},
            "seeds": [0, 1],
        }
        path = tmp_path / f"{task}.yaml"
        path.write_text(yaml.safe_dump({**keys, **more}))
        return path

    return write


@pytest.mark.miniature(1)
@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_of_every_task_ends_with_a_table_and_a_page(limbeck, recipe, tmp_path, task):
    answer = limbeck("distill", recipe(task))
    assert answer.code == 0, answer.err
    for column in COLUMNS[task]:
        assert column in answer.out
    (run,) = (tmp_path / "runs").glob("*/*")
    outcome = json.loads((run / "outcome.json").read_text())
    assert outcome["task"] == task
    for role in ("teacher", "alone", "distilled"):
        found = outcome["seeds"][0][role]
        assert found["examples"] == (24 if task != "dense" else 24 * 16)
        assert 0 <= found["errors"]
    page = (run / "report.html").read_text()
    assert "Did it work?" in page
    for question in ("What did the teacher give?", "Where does the student differ?", "Can it be trusted?"):
        assert question in page
    assert ("There is no temperature here" in page) == (task == "regression")


@pytest.mark.thorough
@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_of_every_task_can_be_checked(limbeck, recipe, task):
    answer = limbeck("check", recipe(task))
    assert answer.code == 0, answer.err
    said = " ".join(answer.out.split())  # a long path breaks the line
    assert {"regression": "3 numbers to predict", "binary": "2 classes"}.get(task, "3 classes") in said


def test_the_resolved_recipe_names_the_task(recipe):
    path = recipe("multilabel")
    for task, overrides in {"multilabel": [], "classification": ["data.task=classification"]}.items():
        assert load_recipe(path, overrides).keys["data"]["task"] == task


@pytest.mark.thorough
def test_a_search_chooses_by_the_figure_of_the_task(limbeck, recipe, tmp_path):
    path = recipe("regression", search={"training.learning_rate": [0.000001, 0.05]}, seeds=[0])
    answer = limbeck("distill", path, "--no-report")
    assert answer.code == 0, answer.err
    (run,) = (tmp_path / "runs").glob("*/*")
    outcome = json.loads((run / "outcome.json").read_text())
    assert outcome["chosen"]["distilled"] == {"training.learning_rate": 0.05}
    assert outcome["seeds"][0]["distilled"]["errors"] < 1.0


@pytest.mark.miniature(4)
@pytest.mark.parametrize(
    ("task", "overrides", "line"),
    [
        (
            "regression",
            ["method={name: kd}"],
            "method: term 'soft' compares distributions over classes, and the labels",
        ),
        ("binary", ["method={name: dist}"], "method: divergence correlation(tau_squared=False): found 2 classes"),
        ("multilabel", ["data.task=multi"], "data.task: found 'multi', expected 'classification', 'binary', "),
        ("multilabel", ["data.transfer.omit=[1]"], "data.transfer: classes: samples are chosen by one label"),
        (
            "dense",
            ["training.augment.shift=1"],
            "training.augment: shift, pad_crop, flip and randaugment would move images",
        ),
        ("dense", ["student.model={kind: mlp}"], "student: task dense: the model answers (2, 3), expected logits of"),
        ("binary", ["data.task=regression"], "method: term 'soft' compares distributions over classes, and"),
        ("regression", ["data.task=binary"], "data: "),
        ("multilabel", ["scheme={name: early_stopping}"], "scheme.name: 'early_stopping' is for one label of several"),
    ],
    ids=str,
)
def test_what_does_not_suit_a_task_is_refused_in_one_line_before_anything_is_trained(
    limbeck, recipe, tmp_path, task, overrides, line
):
    answer = limbeck("distill", recipe(task), *overrides)
    assert answer.code == 2
    assert len(answer.lines) == 1
    assert answer.lines[0].removeprefix("limbeck: ").removeprefix("error: ").startswith(line)
    assert not (tmp_path / "runs").exists()


def test_diagnose_refuses_a_task_that_it_does_not_look_into_before_a_teacher_is_trained(limbeck, recipe, tmp_path):
    answer = limbeck("diagnose", recipe("multilabel"))
    assert answer.code == 2
    assert len(answer.lines) == 1
    assert "diagnose: it looks into one label an example, and the labels are " in answer.lines[0]
    assert not list(tmp_path.rglob("*.safetensors"))


ROWS = {
    "multilabel": ["examples with a wrong label", "exact matches", "labels that are right", "labels as the teacher"],
    "dense": ["wrong places", "mean intersection over union", "KL(teacher ‖ student) of a label"],
    "regression": ["mean squared error", "R²", "mean absolute error", "mean squared distance to the teacher"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("task", ROWS)
def test_a_run_of_every_task_is_evaluated_with_the_figures_of_its_outcome(limbeck, recipe, tmp_path, task):
    assert limbeck("distill", recipe(task), "--no-report", "-q").code == 0
    (run,) = (tmp_path / "runs").glob("*/*")
    outcome = json.loads((run / "outcome.json").read_text())
    answer = limbeck("evaluate", run)
    assert answer.code == 0, answer.err
    for row in ROWS[task]:
        assert row in answer.out
    assert ("places of test examples" in answer.out) == (task == "dense")
    assert ("McNemar's exact test" in answer.out) == (task == "multilabel")
    found = json.loads((run / "evaluation.json").read_text())
    assert found["task"] == task
    assert found["test"]["examples"] == outcome["seeds"][0]["teacher"]["examples"]
    for model in found["models"]:
        for seed in outcome["seeds"]:
            if model["role"] != "teacher" and seed["seed"] == model["seed"]:
                assert model["sets"]["test"] == pytest.approx(seed[model["role"]])
        assert ("test_errors" in model) == (task == "multilabel")
        if task == "multilabel":
            assert len(model["test_errors"]) == model["sets"]["test"]["errors"]
    assert set(found["cost"]) == {"teacher", "student"}
    assert [entry["for"] for entry in json.loads((run / "manifest.json").read_text())["test_reads"]][-1].startswith(
        "evaluation of teacher, student alone and student distilled"
    )


@pytest.mark.parametrize("task", ROWS)
def test_how_near_a_student_is_to_its_teacher_does_not_depend_on_the_parts(recipe, monkeypatch, task):
    samples = load_recipe(recipe(task)).load_data().train
    outputs = samples.task.outputs(samples.classes)
    shape = (outputs, 1) if task == "dense" else (16, outputs)
    student, teacher = (torch.nn.Conv2d(1, *shape) if task == "dense" else flat(*shape) for _ in range(2))
    whole = nearness(student, teacher, samples)
    monkeypatch.setattr("limbeck.results.assessment._AT_ONCE", 7)
    parts = nearness(student, teacher, samples)
    assert vars(parts) == pytest.approx(vars(whole))
    own, taught = (predict(model, samples).double() for model in (student, teacher))
    if task == "regression":
        assert whole == Nearness(distance=pytest.approx(float(((own - taught) ** 2).mean())))
        return
    assert whole.agreement == pytest.approx(float((own.argmax(-1) == taught.argmax(-1)).double().mean()))
    p, q = taught.softmax(-1), own.softmax(-1)
    assert whole.kl == pytest.approx(float((p * (p.log() - q.log())).sum(-1).mean()), rel=1e-6)
    assert vars(nearness(teacher, teacher, samples)) == pytest.approx({"agreement": 1.0, "kl": 0.0, "distance": None})


def flat(*shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(*shape))


@pytest.mark.thorough
@pytest.mark.parametrize("task", ROWS)
def test_runs_of_a_task_are_compared(limbeck, recipe, tmp_path, task):
    path = recipe(task, seeds=[0])
    for rate in (0.05, 0.1):
        assert limbeck("distill", path, f"training.learning_rate={rate}", "--no-report", "-q").code == 0
    answer = limbeck("compare", "runs")
    assert answer.code == 0, answer.err
    assert {"regression": "mean squared error", "dense": "wrong places"}.get(task, "wrong label") in answer.out
    assert "training.learning_rate" in answer.out
    assert ("McNemar's exact test" in answer.out) == (task == "multilabel")
    assert "its ECE" not in answer.out
    folders = [str(folder) for folder in (tmp_path / "runs").glob("*/*")]
    assert len(json.loads(limbeck("compare", *folders, "--json").out)["pairs"]) == (task == "multilabel")


@pytest.mark.thorough
def test_runs_of_two_tasks_stand_side_by_side(limbeck, recipe):
    for task in ("regression", "binary"):
        assert limbeck("distill", recipe(task, seeds=[0]), "--no-report", "-q").code == 0
    answer = limbeck("compare", "runs")
    assert answer.code == 0, answer.err
    assert "errors, as each task counts them, of teacher" in " ".join(answer.out.split())
    assert "Runs with other test samples are not paired" in answer.out


@pytest.mark.thorough
def test_a_recommender_is_distilled_measured_and_compared(limbeck, tmp_path):
    keys = {
        "name": "items",
        "data": {"kind": "synthetic_interactions", "users": 40, "items": 30, "each": 8, "sharpness": 3.0},
        "teacher": {"model": {"kind": "two_tower", "width": 6}, "training": {"epochs": 4, "batch_size": 10}},
        "student": {"model": {"kind": "two_tower", "width": 3}},
        "method": {"name": "ranking_distillation", "samples": 10, "start": 4},
        "training": {"epochs": 3, "batch_size": 10, "keep": "best"},
        "validation": {"last": 1},
    }
    (tmp_path / "items.yaml").write_text(yaml.safe_dump(keys))
    for more in ((), ("method.samples=0",)):
        answer = limbeck("distill", "items.yaml", *more, "--no-report")
        assert answer.code == 0, answer.err
    for column in ("users", "without a hit", "recall@10", "mrr", "ndcg"):
        assert column in answer.out
    runs = sorted((tmp_path / "runs" / "items").iterdir())
    for run in runs:
        answer = limbeck("evaluate", run, "--no-cost")
        assert answer.code == 0, answer.err
        assert "mean reciprocal rank" in answer.out
        assert "items of the teacher's top 10 among the student's" in " ".join(answer.out.split())
    found = json.loads((runs[0] / "evaluation.json").read_text())["summary"]["distilled"]
    splits = load_recipe(runs[0] / "recipe.yaml").load_data()
    scores = lb.load(runs[0]).logits([str(user) for user in range(40)])
    positives, known = splits.test.labels.unbind(1)
    assert found["mrr"]["mean"] == pytest.approx(lb.evaluation.mean_reciprocal_rank(scores, positives, known), abs=1e-6)
    assert found["accuracy"]["mean"] == pytest.approx(lb.evaluation.recall_at_k(scores, positives, 10, known))
    assert found["errors"]["mean"] == 40 - 40 * found["accuracy"]["mean"]  # one item a user is tested
    answer = limbeck("compare", *runs)
    assert answer.code == 0, answer.err
    assert "its recall@10" in " ".join(answer.out.split())
    assert "method.samples" in answer.out
    answer = limbeck("diagnose", runs[0])
    assert answer.code == 2
    assert "diagnose: it looks into one label an example" in answer.err
