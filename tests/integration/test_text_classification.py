"""A small fine-tuned encoder of the Transformers library into a transformer a third of its size, by a recipe."""

import shutil

import pytest
import torch

import limbeck as lb
from limbeck import models
from limbeck.config import Recipe
from limbeck.errors import ModelError, RecipeError
from limbeck.evaluation import evaluate, parameters, predict
from limbeck.experiment.check import rehearse
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder

pytest.importorskip("transformers", reason="the teacher is of the Transformers library")

BERT = {
    "model_type": "bert",
    "vocab_size": 80,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    torch.manual_seed(0)
    models.builder("config")((16,), 2, config=BERT, head="none").save_pretrained(folder / "encoder")
    return folder


def recipe(place, teacher=None, **more):
    keys = {
        "name": "text",
        "data": {"kind": "synthetic_sentences", "lines": 500, "words": 8},
        "teacher": {
            "model": {"kind": "pretrained", "folder": "encoder"},
            "training": {"epochs": 6, "learning_rate": 3e-3, "optimizer": "adamw", "batch_size": 32},
        }
        | (teacher or {}),
        "student": {"model": {"kind": "transformer", "layers": 1, "width": 16, "heads": 2, "positions": 32}},
        "method": {"name": "tinybert", "temperature": 1},
        "scheme": {"name": "hints", "epochs": 2},
        "training": {"epochs": 6, "batch_size": 32, "learning_rate": 1e-2, "optimizer": "adamw"},
        "validation": 80,
    }
    return Recipe.parse(keys | more, place)


@pytest.mark.thorough
def test_a_student_learns_what_a_pretrained_teacher_was_fine_tuned_to_and_needs_its_folder_no_more(place, tmp_path):
    run = RunFolder.create(tmp_path, "text", recipe(place).to_yaml(), ["test"])
    outcome = distill(recipe(place), run, cache=tmp_path / "cache")
    keep_outcome(run, outcome)
    finished = FinishedRun.read(run.path)
    teacher, test = finished.teacher(0), finished.parts.test
    right = {role: evaluate(finished.model(role, 0), test).accuracy for role in ("teacher", "distilled")}
    assert min(right.values()) > 0.75, right
    answers = predict(teacher, test)
    assert outcome.roles["teacher"].parameters == parameters(teacher) > 3 * outcome.roles["distilled"].parameters
    shutil.move(place / "encoder", place / "gone")
    try:
        again = FinishedRun.read(run.path)
        torch.testing.assert_close(predict(again.teacher(0), test), answers, rtol=0, atol=0)
        assert set(lb.load(run.path).predict(test.texts(range(4)))) <= {"good", "bad"}
        with pytest.raises(RecipeError, match=r"^teacher.model.folder: found no folder"):
            recipe(place)
    finally:
        shutil.move(place / "gone", place / "encoder")


def test_a_teacher_whose_head_would_be_random_has_to_be_trained(place, tmp_path):
    for training in ({}, "none"):
        given = recipe(place, {"training": training})
        assert given.teacher.members[0].given
        run = RunFolder.create(tmp_path, "text", given.to_yaml(), ["test"])
        for call in (lambda: rehearse(given), lambda: distill(given, run, cache=tmp_path / "cache")):  # noqa: B023
            with pytest.raises(ModelError, match=r"^teacher.model: found no weights .* so that its head is random"):
                call()
