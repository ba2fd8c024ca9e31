"""Calls from Python that are wrong raise a `LimbeckError` of one line: what was found, and the mend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import LimbeckError
from limbeck.losses import kd, kl
from walk import over


def samples(size: int = 6) -> lb.data.TensorSet:
    return lb.data.TensorSet.of(torch.randn(size, 3), torch.arange(size) % 4, classes=4)


def batch_of(given: lb.data.SampleSet, augment: lb.data.Augment | None = None) -> lb.Batch:
    return given.batch(torch.arange(len(given)), augment=augment, seed=0, view=1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))


def misspelt_capture() -> None:
    with lb.capture(network(), {"hidden": "11"}):
        pass


def changed_training(folder: Path) -> None:
    """Go on in the folder of another training."""
    for rate in (0.1, 0.2):
        distiller = lb.Distiller(network(), None, lb.methods.hard())
        lb.fit(distiller, samples(), folder=folder / "kept", epochs=1, learning_rate=rate)


def a_term_twice() -> None:
    lb.Objective([lb.terms.HardLabels(), lb.terms.HardLabels()])


def call_case(name: str, call: Callable[[Path], Any], key: str, mend: str) -> Any:
    return pytest.param(call, key, mend, id=name)


CALLS = [
    call_case(
        "capture-no-module",
        lambda _: misspelt_capture(),
        "feature 'hidden': the model has no module '11'",
        "did you mean",
    ),
    call_case(
        "tap-no-module",
        lambda _: lb.ModelTeacher(network(), taps={"hint": "layer"})(lb.Batch.of(torch.zeros(2, 3))),
        "feature 'hint': the model has no module 'layer'",
        "one of: 0, 1, 2",
    ),
    call_case(
        "mask-shape",
        lambda _: kl(torch.zeros(4, 3), torch.zeros(4, 3), mask=torch.ones(3) > 0),
        "mask has shape (3,)",
        "must be the same",
    ),
    call_case(
        "mask-type",
        lambda _: kl(torch.zeros(4, 3), torch.zeros(4, 3), mask=torch.ones(4)),
        "mask: found torch.float32",
        "give mask.bool()",
    ),
    call_case("logits-shape", lambda _: kl(torch.zeros(4, 3), torch.zeros(4, 2)), "(4, 3)", "must be the same"),
    call_case(
        "labels-shape",
        lambda _: kd(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64)),
        "labels has shape (3,)",
        "must be the same",
    ),
    call_case(
        "labels-range",
        lambda _: kd(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([3])),
        "labels: found 3",
        "expected 0 to 2",
    ),
    call_case(
        "stored-other-set",
        lambda _: lb.store(lb.ModelTeacher(network()), samples())(batch_of(samples(8))),
        "stored teacher: the batch comes from another set",
        "store them for this set",
    ),
    call_case(
        "stored-augmented",
        lambda _: lb.store(lb.ModelTeacher(network()), given := samples())(batch_of(given, lb.data.Augment(noise=0.1))),
        "stored teacher: the batch is augmented",
        "view: clean",
    ),
    call_case(
        "stored-other-part",
        lambda _: lb.store(lb.ModelTeacher(network()), (given := samples()).subset(torch.tensor([3, 1])))(
            batch_of(given)
        ),
        "samples without a stored answer",
        "store them for the whole set",
    ),
    call_case(
        "own-teacher",
        lambda _: lb.Distiller(net := network(), net),
        "is the teacher's too",
        "copy.deepcopy",
    ),
    call_case(
        "no-teacher", lambda _: lb.Distiller(network(), None, lb.methods.kd()), "teacher: found None", "give one"
    ),
    call_case("term-twice", lambda _: a_term_twice(), "terms: found the names ['hard', 'hard']", "rename one"),
    call_case("fit-other-training", changed_training, "training.learning_rate was 0.1, is 0.2", "name another folder"),
    call_case("fit-setting", lambda _: lb.Training(epochs=0), "epochs: found 0", "1 or above"),
    call_case("method-unknown", lambda _: lb.methods.builder("kdd"), "there is no method 'kdd'", "did you mean 'kd'?"),
]


@over(("call", "key", "mend"), CALLS)
def test_a_mistake_raises_one_line_that_names_it_and_the_mend(call, key, mend, tmp_path):
    with pytest.raises(LimbeckError) as caught:
        call(tmp_path)
    line = str(caught.value)
    assert key in line
    assert mend in line
    assert caught.value.exit_code == 2
    assert "\n" not in line
    assert len(line) < 600
