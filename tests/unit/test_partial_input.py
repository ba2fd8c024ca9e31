"""Privileged information: students that see a part of what their teacher sees, and are blind to the rest."""

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.config import Recipe
from limbeck.data import TensorSet, bundled, digits
from limbeck.errors import InputError, LimbeckError, RecipeError
from limbeck.evaluation import evaluate, predict
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.vetting import vet
from limbeck.models.layers import InputPart, PartialInput
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from walk import over

KEYS = {
    "name": "part",
    "data": {"kind": "bundled", "name": "breast_cancer"},
    "teacher": {"estimator": {"kind": "random_forest", "n_estimators": 5}},
    "student": {"model": {"kind": "mlp", "hidden": [4]}, "sees": {"columns": ["mean_radius", "worst_area"]}},
    "training": {"epochs": 2},
}


@over(
    ("half", "rows", "columns"),
    [("upper", [0, 1], None), ("lower", [2, 3, 4], None), ("left", None, [0]), ("right", None, [1, 2])],
)
def test_a_half_of_an_image_is_what_slicing_gives(half, rows, columns):
    samples = TensorSet.of(torch.rand(4, 2, 5, 3))
    chosen, shape = InputPart(half=half).selection(samples)
    expected = samples.inputs[:, :, rows] if rows else samples.inputs[:, :, :, columns]
    assert shape == tuple(expected.shape[1:])
    network = PartialInput(nn.Identity(), chosen, shape)
    assert torch.equal(network(samples.inputs), expected)


def test_columns_of_a_table_are_found_by_name_with_all_their_categories():
    train = bundled("diabetes").train
    chosen, shape = InputPart(columns=("bmi", "sex")).selection(train)
    assert chosen.tolist() == [3, 1, 2]
    assert shape == (3,)


def test_places_of_a_row():
    samples = TensorSet.of(torch.arange(12.0).view(3, 4))
    network = InputPart(places=(3, 0)).around(lambda shape: nn.Identity(), samples)
    assert network(samples.inputs).tolist() == [[3, 0], [7, 4], [11, 8]]


def test_what_is_not_seen_changes_nothing_and_has_no_gradient():
    data = digits()
    network = InputPart(half="upper").around(lambda shape: nn.Sequential(nn.Flatten(), nn.Linear(32, 10)), data.train)
    inputs = torch.rand(5, 1, 8, 8, requires_grad=True)
    changed = inputs.detach().clone()
    changed[:, :, 4:] = 7.0
    assert torch.equal(network(inputs), network(changed))
    network(inputs).sum().backward()
    assert bool((inputs.grad[:, :, 4:] == 0).all())
    assert bool((inputs.grad[:, :, :4] != 0).all())
    assert sum(parameter.numel() for parameter in network.parameters()) == 330


@pytest.mark.parametrize(
    ("sees", "said"),
    [
        ({}, "found nothing, expected one of"),
        ({"columns": ("a",), "half": "upper"}, "found columns and half, expected one of"),
        ({"places": (1, 1)}, "places: found a value more than once"),
    ],
)
def test_each_misuse_is_one_line(sees, said):
    with pytest.raises(InputError, match=said):
        InputPart(**sees)


def test_each_set_that_does_not_fit_is_one_line():
    images, row = TensorSet.of(torch.rand(2, 1, 4, 4)), TensorSet.of(torch.rand(2, 4))
    for sees, samples, said in (
        (InputPart(half="left"), row, "half: found for inputs that are not images"),
        (InputPart(half="upper"), TensorSet.of(torch.rand(2, 1, 1, 4)), "is empty"),
        (InputPart(places=(0,)), images, "places: found for inputs that are not rows"),
        (InputPart(places=(4,)), row, "expected 0 to 3"),
        (InputPart(places=(-1,)), row, "expected 0 to 3"),
        (InputPart(columns=("a",)), row, "is not a table"),
        (InputPart(columns=("alcohl",)), bundled("wine").train, "did you mean 'alcohol'"),
    ):
        with pytest.raises(InputError, match=said):
            sees.selection(samples)


def test_a_recipe_gives_the_student_a_part_and_the_teacher_all(tmp_path):
    recipe = Recipe.parse(KEYS)
    assert Recipe.parse(recipe.keys).to_yaml() == recipe.to_yaml()
    assert recipe.keys["student"]["sees"]["columns"] == ["mean_radius", "worst_area"]
    folder = RunFolder.create(tmp_path / "runs", "part", recipe.to_yaml(), ["test"])
    outcome = distill(recipe, folder, cache=tmp_path / "cache")
    keep_outcome(folder, outcome)
    run = FinishedRun.read(folder.path)
    for role in ("alone", "distilled"):
        student = run.student(role, 0)
        assert evaluate(student, run.parts.test) == outcome.seeds[0].metrics[role]
        blinded = bundled("breast_cancer").test
        blinded.inputs[:, 1:20] = 0.0
        assert torch.equal(predict(student, blinded), predict(student, run.parts.test))
        assert sum(parameter.numel() for parameter in student.parameters()) == 2 * 4 + 4 + 4 * 2 + 2
    assert not torch.equal(predict(run.teacher(0), blinded), predict(run.teacher(0), run.parts.test))


def test_a_recipe_without_it_is_resolved_as_it_was_before_and_a_teacher_like_the_student_sees_all():
    plain = Recipe.parse({**KEYS, "student": {"model": {"kind": "mlp", "hidden": [4]}}})
    assert "sees" not in plain.keys["student"]
    like = Recipe.parse({key: value for key, value in KEYS.items() if key != "teacher"})
    parts = vet(like)
    assert isinstance(SeedBuilder(like, parts, 0).student(), PartialInput)
    assert like.teacher.model.sees is None


def test_images_of_a_recipe_and_rows_of_an_archive(tmp_path):
    half = {
        **KEYS,
        "data": {"kind": "digits"},
        "student": {"model": {"kind": "cnn", "channels": [4]}, "sees": {"half": "left"}},
    }
    assert len(vet(Recipe.parse(half)).train) > 1000
    np.savez(tmp_path / "set.npz", inputs=np.eye(40, 6, dtype="float32"), labels=np.arange(40) % 2)
    rows = {**KEYS, "data": {"kind": "npz", "path": str(tmp_path / "set.npz")}}
    assert vet(Recipe.parse({**rows, "student": {"model": {"kind": "mlp"}, "sees": {"places": [0, 3]}}}))


@over(
    ("sees", "said"),
    [
        ({"colums": ["a"]}, "student.sees.colums: there is no such key; did you mean 'columns'"),
        ({}, "student.sees: found nothing"),
        ({"half": "top"}, "student.sees.half: found 'top'"),
        ({"columns": ["mean_radios"]}, "student.sees.columns: 'breast_cancer/train' has no column 'mean_radios'; did"),
        ({"places": [30]}, "student.sees.places: found 30, expected 0 to 29"),
        ({"half": "upper"}, "student.sees.half: found for inputs that are not images"),
        (3, "student.sees: found 3"),
    ],
)
def test_each_mistake_in_a_recipe_is_one_line(sees, said):
    with pytest.raises(LimbeckError) as caught:
        vet(Recipe.parse({**KEYS, "student": {**KEYS["student"], "sees": sees}}))
    assert said in str(caught.value)
    assert isinstance(caught.value, RecipeError)
