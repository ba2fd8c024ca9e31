"""A bias for classes that the transfer set lacks: fitted on held-out samples, part of the student, kept by a refit."""

import re

import numpy as np
import pytest
import torch

from limbeck.config import Recipe
from limbeck.distiller import Distiller
from limbeck.errors import RecipeError
from limbeck.evaluation import evaluate, fit_bias, predict
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import prepare
from limbeck.experiment.signature import Signature
from limbeck.experiment.teacher import trained_teacher
from limbeck.results.finished import FinishedRun
from limbeck.teachers import ModelTeacher, store
from limbeck.training import fit

SCHEME = {"name": "class_bias"}
WITHOUT = {"kind": "digits", "transfer": {"omit": [3, 8]}}
TEACHER = {"model": {"kind": "mlp", "hidden": [24]}, "training": {"epochs": 4, "batch_size": 32}}
LONGER = {"epochs": 4, "batch_size": 32, "learning_rate": 0.2}


@pytest.fixture
def biased(tiny):
    """A recipe whose transfer set lacks 3s and 8s, with other keys on top."""
    return lambda scheme=SCHEME, **more: tiny(
        **{"data": WITHOUT, "teacher": TEACHER, "scheme": scheme, "training": LONGER, **more}
    )


def by_hand(recipe, parts, cache):
    teacher = trained_teacher(recipe, parts, 0, cache=cache).model
    student = SeedBuilder(recipe, parts, 0).student()
    fit(
        Distiller(student, store(ModelTeacher(teacher), parts.transfer), recipe.objective()),
        parts.transfer,
        training=recipe.training,
        seed=0,
    )
    return student


def fewest(logits, labels, classes):
    """The fewest errors that a bias of some classes makes, of those from -20 to 20 in steps of 0.1."""
    inside = np.isin(np.arange(logits.shape[1]), classes)
    biases = np.arange(-200, 201) / 10
    return min(int(((logits + bias * inside).argmax(1) != labels).sum()) for bias in biases)


def test_the_bias_makes_the_fewest_held_out_errors_and_the_student_has_it(biased, carried_out, tmp_path):
    recipe = biased()
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "alone", "unbiased", "distilled"]
    parts = prepare(recipe)
    student = by_hand(recipe, parts, tmp_path / "cache")
    metrics, bias = outcome.seeds[0].metrics, outcome.decided[0]["bias"]
    assert metrics["unbiased"] == evaluate(student, parts.test)
    shift = torch.zeros(10)
    shift[[3, 8]] = bias
    held_out = predict(student, parts.held_out)
    errors = int(((held_out + shift).argmax(1) != parts.held_out.labels).sum())
    assert errors == fewest(held_out.double().numpy(), parts.held_out.labels.numpy(), [3, 8])
    before = int((held_out.argmax(1) != parts.held_out.labels).sum())
    assert errors < before
    logits = predict(student, parts.test) + shift
    assert metrics["distilled"].errors == int((logits.argmax(1) != parts.test.labels).sum())
    run = FinishedRun(path, recipe, outcome, Signature.of(parts))
    assert torch.equal(predict(run.model("distilled", 0), parts.test), logits)
    assert run.parameters("distilled") == run.parameters("unbiased")


@pytest.mark.thorough
def test_classes_may_be_named_and_get_a_bias_below_zero(biased, carried_out):
    lines = []
    data = {"kind": "digits", "transfer": {"only": [7, 8]}}
    _, outcome = carried_out(biased({**SCHEME, "classes": ["7", 8]}, data=data), say=lines.append)
    bias = outcome.decided[0]["bias"]
    assert bias < 0
    assert f"class_bias: {bias:+g} for 7, 8" in lines


@pytest.mark.thorough
def test_a_refit_and_other_seeds_keep_the_bias_of_the_first_choice(biased, carried_out, tmp_path):
    recipe = biased(refit=True, seeds=[0, 1])
    path, outcome = carried_out(recipe)
    chosen = by_hand(recipe, prepare(recipe), tmp_path / "cache")
    held_out = prepare(recipe).held_out
    expected = fit_bias(predict(chosen, held_out), held_out.labels, [3, 8])
    assert [outcome.decided[seed]["bias"] for seed in (0, 1)] == [expected, expected]
    run = FinishedRun(path, recipe, outcome, Signature.of(prepare(recipe, refit=True)))
    assert [float(run.model("distilled", seed).bias[3]) for seed in (0, 1)] == [np.float32(expected)] * 2


@pytest.mark.thorough
def test_a_search_judges_candidates_with_their_bias(biased, carried_out):
    path, outcome = carried_out(biased(search={"training.learning_rate": [1e-6, 0.1]}))
    assert outcome.chosen["distilled"] == {"training.learning_rate": 0.1}
    assert (path / "search-distilled-0-unbiased").is_dir()


@pytest.mark.thorough
def test_a_run_that_is_killed_goes_on(biased, carried_out, killed_everywhere, same_weights):
    recipe = biased(training={"epochs": 2, "batch_size": 128})
    whole, _ = carried_out(recipe)
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "unbiased-0"]
    same_weights(whole, killed, [*trained, "distilled-0"])


@pytest.mark.parametrize(
    ("scheme", "more", "line"),
    [
        ({}, {"data": {"kind": "digits"}}, "scheme.classes: found none, and the transfer set has samples of every"),
        ({"classes": list(range(10))}, {}, "scheme.classes: found all 10 classes; expected some of them"),
        ({"classes": [10]}, {}, r"scheme.classes: found \[10\]; expected numbers from 0 to 9, each once"),
        ({"classes": [3, "3"]}, {}, r"scheme.classes: found \[3, '3'\]; expected numbers from 0 to 9, each once"),
        ({"classes": ["three"]}, {}, "scheme.classes: 'digits/train' has no class 'three'"),
    ],
)
def test_classes_that_cannot_have_a_bias_are_refused(biased, refusal, scheme, more, line):
    assert re.match(line, refusal(biased(SCHEME | scheme, **more)))


def test_a_recipe_with_the_scheme_resolves_to_itself_and_names_a_wrong_key(biased):
    recipe = biased({**SCHEME, "classes": ["3", 8]})
    assert Recipe.parse(recipe.keys).to_yaml() == recipe.to_yaml()
    with pytest.raises(RecipeError, match=r"^scheme.clases: there is no such key; did you mean 'classes'"):
        biased({**SCHEME, "clases": [3]})
