"""A batch that leaves BatchNorm one value of a channel is refused before training; any other is not."""

import re

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.training.batch_norm import check_batches
from walk import over


def flat() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def pooled() -> nn.Sequential:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3))


def convolutional() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


class Frozen(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


def frozen() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), Frozen(4), nn.Linear(4, 3))


def samples(size: int) -> lb.data.TensorSet:
    return lb.data.TensorSet.of(torch.randn(size, 1, 4, 4), torch.arange(size) % 3, classes=3)


def trained(model: nn.Module, size: int, **settings) -> lb.Result:
    return lb.fit(lb.Distiller(model, None, lb.methods.hard()), samples(size), epochs=1, **settings)


@over(
    ("build", "layer", "size", "settings"),
    [
        (flat, "2", 9, {"batch_size": 4}),
        (flat, "2", 9, {"batch_size": 8}),
        (flat, "2", 1, {"batch_size": 8}),
        (flat, "2", 8, {"batch_size": 1}),
        (flat, "2", 8, {"batch_size": 4, "accumulate": 3}),
        (pooled, "3", 13, {"batch_size": 4}),
    ],
)
def test_it_is_refused_before_a_step_is_done_and_the_mend_does(build, layer, size, settings):
    model = build().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        trained(model, size, **settings)
    line = str(caught.value)
    assert line.startswith(f"batch_size: {settings['batch_size']} leaves a batch of one of {size} samples")
    assert f"BatchNorm '{layer}' needs more than one value of a channel" in line
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training
    named = re.search(r"set it to (\d+), say", line)
    assert (named is None) == (size == 1)
    if named:
        assert trained(model, size, **{**settings, "batch_size": int(named[1])}).steps > 0


@over(
    ("build", "size", "settings"),
    [
        (flat, 10, {"batch_size": 4}),
        (flat, 8, {"batch_size": 4}),
        (flat, 3, {"batch_size": 8}),
        (flat, 8, {"batch_size": 4, "accumulate": 2}),
        (convolutional, 9, {"batch_size": 4}),
        (frozen, 9, {"batch_size": 4}),
    ],
)
def test_what_torch_can_train_is_trained(build, size, settings):
    assert trained(build(), size, **settings).steps > 0


def test_the_processes_that_share_a_batch_count():
    check_batches(flat(), samples(16), lb.Training(batch_size=8), world=4)
    with pytest.raises(InputError, match="shared by 8, and BatchNorm '2'"):
        check_batches(flat(), samples(16), lb.Training(batch_size=8), world=8)
