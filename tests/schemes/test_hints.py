"""Two stages: which terms each has, what the first leaves alone, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file

from limbeck import methods
from limbeck.errors import LimbeckError
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import prepare
from limbeck.experiment.vetting import vet
from limbeck.models import resnet, vit
from limbeck.schemes.hints import Hints, _reached
from limbeck.training import Training
from walk import over

TEACHER = {"model": {"kind": "cnn", "channels": [8, 8]}, "training": {"epochs": 1, "batch_size": 128}}
STUDENT = {"model": {"kind": "cnn", "channels": [4, 6]}}
METHOD = {"name": "hint", "layers": "stem", "soft_weight": 0.5}
SCHEME = {"name": "hints", "epochs": 1, "learning_rate": 0.02}
KEYS = {"teacher": TEACHER, "student": STUDENT, "method": METHOD, "scheme": SCHEME, "seeds": [0]}


def weights(path, unit):
    return load_file(path / f"{unit}-0" / "student.safetensors")


def test_the_first_stage_trains_the_layers_up_to_the_hint_and_the_second_trains_all(tiny, carried_out):
    recipe = tiny(**KEYS)
    path, _ = carried_out(recipe)
    start = SeedBuilder(recipe, prepare(recipe), 0).student().state_dict()
    first, second = weights(path, "on_layers"), weights(path, "distilled")
    moved = {name for name, tensor in first.items() if not torch.equal(tensor, start[name])}
    assert {name.split(".")[0] for name in moved} == {"stem"}
    assert "stem.1.running_mean" in moved
    assert {name.split(".")[0] for name, tensor in second.items() if not torch.equal(tensor, first[name])} == {
        "stem", "stage1", "fc",
    }  # fmt: skip
    assert set(first) == set(second) == set(start)
    losses = [(path / f"{unit}-0" / "metrics.jsonl").read_text() for unit in ("on_layers", "distilled")]
    assert [len(each.splitlines()) for each in losses] == [1, 2]
    assert '"hint"' in losses[0]
    assert '"hard"' not in losses[0]
    assert '"hint"' not in losses[1]
    assert '"hard"' in losses[1]
    assert '"soft"' in losses[1]


@pytest.mark.thorough
def test_a_run_killed_in_either_stage_ends_as_one_that_was_not(tiny, carried_out, killed_everywhere, same_weights):
    recipe = tiny(**{**KEYS, "method": {"name": "fsp", "layers": ["stem", "stage1"], "projection": "conv_bn"}})
    path, _ = carried_out(recipe)
    again, trained = killed_everywhere(recipe)
    assert trained[-2:] == ["on_layers-0", "distilled-0"]
    same_weights(path, again, ["on_layers-0", "distilled-0"])


@pytest.mark.thorough
@over(
    "change, line",
    [
        ({"method": {"name": "kd"}}, "scheme.name: hints needs a method on layers"),
        (
            {"method": {"name": "hint", "layers": "stem", "hard_weight": 0}},
            "scheme.name: hints has no term",
        ),
        ({"scheme": {**SCHEME, "trainable": ["stage9"]}}, "scheme.trainable: the student has no module 'stage9'"),
        ({"scheme": {**SCHEME, "epochs": 0}}, "scheme.epochs: found 0"),
        ({"scheme": {**SCHEME, "learning_rate": -1.0}}, "scheme.learning_rate: found -1.0"),
        ({"training": {"epochs": 9, "warmup": 2}}, "scheme.epochs: the first stage cannot have the recipe's training"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(tiny, change, line):
    with pytest.raises(LimbeckError) as caught:
        vet(tiny(**{**KEYS, **change}))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_the_default_part_is_what_the_compared_layers_depend_on(tiny):
    samples = prepare(tiny(**KEYS)).train
    objective = methods.hint({"stage1": "stage1"})
    student = resnet((1, 8, 8), 10, depth=8, widths=[4, 4, 4, 4])
    found = _reached(student, objective, samples)
    assert {path.split(".")[0] for path in found} == {"stem", "stage1"}
    assert all(weights.grad is None for weights in student.parameters())
    found = _reached(vit((1, 8, 8), 10, width=8, heads=2, depth=2), methods.hint("blocks.0"), samples)
    assert {"cls_token", "pos_embed", "patch_embed.proj"} <= set(found)
    assert not any(path.startswith(("blocks.1", "head", "norm")) for path in found)


@pytest.mark.thorough
def test_a_named_part_is_trained_instead(tiny, carried_out):
    path, _ = carried_out(tiny(**{**KEYS, "scheme": {**SCHEME, "trainable": ["stem.0"]}}))
    recipe = tiny(**KEYS)
    start = SeedBuilder(recipe, prepare(recipe), 0).student().state_dict()
    first = weights(path, "on_layers")
    assert {name for name in first if not torch.equal(first[name], start[name])} == {"stem.0.weight"}


def test_the_settings_of_the_first_stage():
    training = Training(epochs=9, learning_rate=0.3, patience=2, keep="best", weight_decay=0.1)
    first = Hints(epochs=4)._first(training)
    assert (first.epochs, first.learning_rate, first.patience, first.keep) == (4, 0.3, None, "last")
    assert first.weight_decay == 0.1
    assert Hints(learning_rate=0.01)._first(training).learning_rate == 0.01
