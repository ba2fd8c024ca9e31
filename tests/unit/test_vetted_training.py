"""Settings of a training that cannot run on the data or the networks are refused before anything is trained."""

import pytest
import torch

import limbeck as lb
from limbeck.config import Recipe
from limbeck.errors import LimbeckError
from limbeck.experiment.vetting import vet
from walk import over

STREAM = {
    "name": "stream",
    "data": {"kind": "synthetic_text", "lines": 60, "words": 4, "lanes": 8, "length": 4},
    "student": {"model": {"kind": "lstm_lm", "embedding": 4, "hidden": 4}},
}
DIGITS = {"name": "digits", "data": {"kind": "digits"}, "student": {"model": {"kind": "mlp", "hidden": [4]}}}
MEAN = {"optimizer": "sgd", "averaging": {"mean": {"patience": 1}}}

REFUSED = {
    "lanes": (STREAM, {"batch_size": 16}, "batch_size: found 16, but .* is a stream in 8 lanes"),
    "the default, where it is given": (STREAM, {"batch_size": 128}, "batch_size: found 128, but .* in 8 lanes"),
    "rates": (DIGITS, {"rates": {"head.*": 0.1}}, r"rates: no parameter of the student matches 'head\.\*'"),
    "rate by length": (DIGITS, {"rate_by_length": True}, "rate_by_length: found a set without sequences"),
    "a mean when refitting": ({**DIGITS, "refit": True}, MEAN, "averaging: found mean, .* and no validation set"),
}


@over("keys, training, said", REFUSED.values(), ids=REFUSED)
def test_a_training_that_cannot_run_is_refused_by_its_place(keys, training, said):
    student = Recipe.parse({**keys, "teacher": {"model": keys["student"]["model"]}, "training": training})
    with pytest.raises(LimbeckError, match=rf"^training\.{said}"):
        vet(student)
    teacher = Recipe.parse({**keys, "teacher": {"model": keys["student"]["model"], "training": training}})
    with pytest.raises(LimbeckError, match=rf"^teacher\.training\.{said}"):
        vet(teacher)


@pytest.mark.thorough
@over("lanes", [8, 5])
def test_a_stream_without_a_batch_size_has_its_lanes_and_its_resolved_recipe_says_so(lanes):
    keys = {**STREAM, "data": {**STREAM["data"], "lanes": lanes}}
    recipe = Recipe.parse(keys)
    assert recipe.training.batch_size == recipe.teacher.training.batch_size == lanes
    assert recipe.keys["training"]["batch_size"] == lanes
    again = Recipe.parse(recipe.keys)
    assert again.keys == recipe.keys
    assert vet(again).train.lanes == lanes
    vet(Recipe.parse({**keys, "training": {"batch_size": lanes}}))
    searched = Recipe.parse({**keys, "search": {"training.batch_size": [lanes, 128]}})
    with pytest.raises(LimbeckError, match=r"training\.batch_size: found 128"):
        vet(searched)


def test_zero_lanes_are_named_as_lanes():
    with pytest.raises(LimbeckError, match=r"data\.lanes: found 0"):
        vet(Recipe.parse({**STREAM, "data": {**STREAM["data"], "lanes": 0}}))


def test_fit_refuses_a_batch_size_that_is_given_and_is_not_the_lanes():
    train = lb.data.synthetic_text(lines=60, words=4, lanes=8, length=4).train
    build = lb.models.builder("lstm_lm")
    model = build(train.input_shape, train.classes, vocabulary=train.classes, embedding=4, hidden=4)
    for size in (16, 128):
        with pytest.raises(LimbeckError, match=f"batch_size: found {size}, but .* is a stream in 8 lanes"):
            lb.fit(model, train, method=lb.methods.hard(), epochs=1, batch_size=size)
    before = torch.cat([each.detach().flatten() for each in model.parameters()])
    lb.fit(model, train, method=lb.methods.hard(), epochs=1)
    assert not torch.equal(before, torch.cat([each.detach().flatten() for each in model.parameters()]))
