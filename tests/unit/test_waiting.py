"""The loop reads nothing back from a device within a step, whatever its settings."""

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.training import loop
from waits import WouldWaitError, no_waiting


@pytest.fixture
def watched(monkeypatch):
    """Refuse to wait from when a step's batch is on the device until the next one is made."""
    original, steps = loop._placed, []

    def placed(*arguments):
        for micros in original(*arguments):
            with no_waiting(monkeypatch):
                steps.append(len(micros))
                yield micros

    monkeypatch.setattr(loop, "_placed", placed)
    return steps


def train(student=None, teacher=None, **settings):
    data = lb.data.TensorSet.of(torch.randn(40, 3), torch.randint(4, (40,)), classes=4)
    student = student or nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    return lb.fit(student, data, teacher=teacher or nn.Linear(3, 4), epochs=2, batch_size=16, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adamw", "clip": 1.0, "schedule": "one_cycle"},
        {"optimizer": "adam", "averaging": 0.9},
        {"max_norm": 2.0, "accumulate": 2},
        {"precision": "bf16", "weight_decay": 0.1, "no_decay": ("bias", "norm")},
        {"augment": lb.data.Augment(noise=0.1)},
    ],
    ids=lambda settings: " ".join(map(str, settings)) or "defaults",
)
def test_no_step_of_the_loop_waits(watched, settings):
    train(**settings)
    assert watched == [settings.get("accumulate", 1)] * 6


def test_a_model_that_looks_at_its_values_is_noticed(watched):
    class Looking(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * (2 if inputs.sum() > 0 else 1)

    with pytest.raises((WouldWaitError, lb.LimbeckError), match="waits"):
        train(student=Looking(3, 4))


def test_counts_of_parts_are_added_up_where_they_are():
    data = lb.data.TensorSet.of(torch.randn(40, 3), torch.tensor([0, 1, -100, 2] * 10), classes=4)
    results = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        student, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
        results.append(lb.fit(student, data, teacher=teacher, epochs=2, batch_size=16, accumulate=accumulate))
    for one, other in zip(*(result.student.parameters() for result in results), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
