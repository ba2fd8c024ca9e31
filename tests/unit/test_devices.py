"""Devices without float64: whatever a training computes in it goes through the one place that knows of them."""

import sys

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from limbeck import devices, methods
from limbeck.data import Augment, TensorSet, mixing
from limbeck.distiller import Distiller
from limbeck.randomness import normal
from limbeck.targets import class_cosines, related_classes
from limbeck.teachers import ModelTeacher
from limbeck.training.loop import batches_of
from limbeck.training.loss_sums import LossSums
from limbeck.training.settings import Training
from walk import over


class WithoutFloat64(TorchFunctionMode):
    """Refuses what a device without float64 would, unless `exact` asks, which takes it to the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        wanted = [*args[1:], *(kwargs or {}).values()]
        name = getattr(func, "__name__", "")
        if name == "double" or (name in ("to", "type") and torch.float64 in wanted):
            frame = sys._getframe(1)
            while frame and "torch" in frame.f_code.co_filename.replace(devices.__file__, ""):
                frame = frame.f_back
            if frame is None or frame.f_code is not devices.exact.__code__:
                raise TypeError("the device has no float64")
        return func(*args, **(kwargs or {}))


def a_step():
    """One step of a training with everything that its batches can have."""
    samples = TensorSet.of(torch.rand(16, 1, 4, 4), torch.arange(16) % 4, classes=4)
    augment = Augment(shift=1, noise=0.1, mixup=0.2, cutmix=0.3)
    batch = next(batches_of(samples, Training(batch_size=8, augment=augment), 0).epoch(0))
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(16, 4)) for _ in range(2)]
    distiller = Distiller(networks[0], ModelTeacher(networks[1]), methods.kd(temperature=2.0))
    loss = distiller(batch, 0)
    loss.total.backward()
    loss_sums = LossSums(distiller)
    loss_sums.add(0, loss)
    loss_sums.read("")


INDEX = torch.arange(5)
COMPUTED = {
    "normal": lambda: normal(0, "noise", INDEX, INDEX, 3),
    "partners": lambda: mixing.partners(0, INDEX, INDEX, 7),
    "beta": lambda: mixing.beta(0.2, torch.rand(5, 2)),
    "boxes": lambda: mixing.boxes(torch.rand(5), torch.rand(5, 2), 8, 8),
    "class cosines": lambda: class_cosines(torch.rand(4, 3)),
    "related classes": lambda: related_classes(INDEX[:4], groups=[0, 0, 1, 1], masses=[0.6, 0.3, 0.1]).log_probs,
    "a step": a_step,
}


@over("name", COMPUTED)
def test_float64_is_asked_for_where_the_device_is_known_to_have_it(name):
    with WithoutFloat64():
        COMPUTED[name]()


def test_the_stand_in_refuses_what_such_a_device_refuses():
    for widened in (lambda: torch.ones(2).double(), lambda: torch.ones(2).to(torch.float64)):
        with WithoutFloat64(), pytest.raises(TypeError, match="no float64"):
            widened()


@pytest.mark.parametrize(("load", "said"), [(4.2, True), (2.0, False)])
def test_a_machine_at_other_work_is_told_of(monkeypatch, load, said):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    line = devices.crowded()
    assert (line is not None) is said
    assert not said or line.startswith("times: found 4.2 processes at work on 2 processors")
    monkeypatch.delattr("os.getloadavg")  # as on Windows
    assert devices.crowded() is None
