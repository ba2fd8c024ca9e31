"""Channels last: the same training to rounding, exactly resumed, and nothing of it is left behind."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck import methods, models
from limbeck.batch import Batch
from limbeck.config import Recipe
from limbeck.data import Augment, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, RunError
from limbeck.experiment.check import rehearse
from limbeck.objective import Objective, Term
from limbeck.teachers import ModelTeacher
from limbeck.teachers.model import state_digest
from limbeck.terms import SoftTargets
from limbeck.training import Training, fit
from limbeck.training.engine import laid_out

SAMPLES = TensorSet.of(
    torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(40) % 4,
    classes=4,
)


WIRE = logging.getLogger("memory format")  # of which a training knows the name alone


class Watch(Term):
    """Zero; looks at the student, the batch and its gradients at every step."""

    def __init__(self, look=lambda student, batch: None):
        super().__init__("watch")
        WIRE.look, WIRE.seen = look, []  # not attributes: what a term holds is part of what a training is known by

    def sum(self, outputs, batch, step):
        WIRE.look(*WIRE.seen, batch)
        return outputs["student"].logits.sum() * 0


def network(seed=0):
    torch.manual_seed(seed)
    return models.resnet((3, 8, 8), 4, depth=8, widths=(8, 8, 8, 8))


def train(folder=None, *, look=lambda student, batch: None, student=None, **settings):
    student = network() if student is None else student
    watch = Watch(look)
    WIRE.seen.append(student)
    distiller = Distiller(
        student, ModelTeacher(network(1)), Objective([*methods.hard().terms.values(), SoftTargets(), watch])
    )
    keys = {
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.05,
        "checkpoint_seconds": 0.0,
        "memory_format": "channels_last",
    }
    augment = Augment(pad_crop=1, flip=0.5)
    return fit(distiller, SAMPLES, SAMPLES, training=Training(**keys | {"augment": augment} | settings), folder=folder)


def is_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_images_weights_and_gradients_are_laid_out_as_asked(memory_format):
    seen = []

    def look(student, batch):
        weight = student.stage1[0].conv1.weight
        seen.append([is_last(each) for each in (weight, batch.inputs, batch.views["clean"])])
        if len(seen) > 1 and weight.grad is not None:
            seen.append([is_last(weight.grad)])

    train(look=look, memory_format=memory_format)
    assert len(seen) == 6
    assert {flag for flags in seen for flag in flags} == {memory_format == "channels_last"}


@pytest.mark.miniature(2)
@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "learning_rate": 0.001}, {"momentum": 0.0}])
def test_the_student_is_the_same_to_rounding(settings):
    plain, last = train(memory_format="contiguous", **settings), train(**settings)
    for (name, one), other in zip(plain.student.state_dict().items(), last.student.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one, rtol=2e-3, atol=2e-4, msg=name)
    assert plain.history[-1]["train"]["hard"] == pytest.approx(last.history[-1]["train"]["hard"], rel=1e-3)


def test_the_student_comes_back_contiguous_and_can_be_saved(tmp_path):
    student = network()
    places = dict(student.named_parameters())
    result = train(student=student)
    assert result.student is student
    assert all(parameter is places[name] for name, parameter in student.named_parameters())
    assert all(tensor.is_contiguous() for tensor in student.state_dict().values())
    save_file(student.state_dict(), tmp_path / "student.safetensors")


def test_a_training_that_breaks_leaves_the_student_contiguous():
    class Broken(Exception):
        pass

    def look(student, batch):
        raise Broken

    student = network()
    with pytest.raises(Broken):
        train(student=student, look=look)
    assert all(tensor.is_contiguous() for tensor in student.state_dict().values())


class Crash(Exception):
    pass


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9, "nesterov": True},
        {"optimizer": "adamw", "learning_rate": 0.001},
        {"averaging": 0.9, "keep": "best", "clip": 1.0, "max_norm": 1.0},
    ],
    ids=["sgd", "adamw", "averaging"],
)
def test_an_interrupted_training_goes_on_to_the_same_weights_bit_for_bit(tmp_path, settings):
    steps = []

    def look(student, batch):
        steps.append(1)
        if len(steps) == 5:
            raise Crash

    with pytest.raises(Crash):
        train(tmp_path / "broken", look=look, **settings)
    resumed = train(tmp_path / "broken", **settings)
    assert state_digest(resumed.student) == state_digest(train(**settings).student)
    assert state_digest(resumed.student) == state_digest(train(tmp_path / "whole", **settings).student)
    assert state_digest(train(tmp_path / "whole", **settings).student) == state_digest(resumed.student)  # read


def test_a_training_in_another_format_is_another_training(tmp_path):
    train(tmp_path)
    with pytest.raises(RunError, match=r"training.memory_format was \"channels_last\", is \"contiguous\""):
        train(tmp_path, memory_format="contiguous")


def test_a_students_own_format_is_left_alone_unless_asked():
    student = network().to(memory_format=torch.channels_last)
    train(student=student, memory_format="contiguous")
    assert is_last(student.stage1[0].conv1.weight)


def test_batches_of_other_shapes_are_left_as_they_are():
    flat, volume = torch.rand(5, 3), torch.rand(5, 2, 3, 4, 5)
    batch = Batch.of({"flat": flat, "image": torch.rand(5, 3, 4, 4), "volume": volume}).channels_last()
    assert batch.inputs["flat"] is flat
    assert batch.inputs["volume"] is volume
    assert is_last(batch.inputs["image"])


def test_networks_without_images_train_as_ever():
    samples = TensorSet.of(torch.rand(16, 5), torch.arange(16) % 3, classes=3)
    results = []
    for memory_format in ("contiguous", "channels_last"):
        torch.manual_seed(0)
        distiller = Distiller(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), None, methods.hard())
        results.append(fit(distiller, samples, epochs=1, batch_size=8, memory_format=memory_format))
    assert state_digest(results[0].student) == state_digest(results[1].student)


def test_an_unknown_format_is_refused():
    with pytest.raises(InputError, match="memory_format: found 'channels_first'; did you mean 'channels_last'"):
        Training(memory_format="channels_first")


def strided(channels=4, stride=2, kernel=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.Conv2d(channels, 8, kernel, stride, groups=groups),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


@pytest.mark.parametrize("keys", [{}, {"channels": 2}, {"channels": 7}, {"stride": (1, 2)}])
def test_convolutions_with_which_torch_crashes_are_refused_in_one_line(keys):
    """The refusal comes before any step: without it, this process may end."""
    with pytest.raises(InputError) as caught, laid_out(strided(**keys), "channels_last"):
        pass
    channels = keys.get("channels", 4)
    assert f"memory_format: found channels_last with {channels} channels before '1', a 1x1 conv" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^memory_format: found channels_last with"):
        train(student=strided(**keys))


@pytest.mark.parametrize("keys", [{"channels": 8}, {"stride": 1}, {"kernel": 3}, {"channels": 4, "groups": 4}])
def test_other_convolutions_train_with_channels_last(keys):
    train(student=strided(**keys))


@pytest.mark.thorough
def test_a_rehearsal_runs_in_the_precision_and_the_format_asked_for(monkeypatch, tmp_path):
    seen = []

    class Spy(nn.Conv2d):
        def forward(self, images):
            answer = super().forward(images)
            seen.append((answer.dtype, is_last(self.weight), self.training))
            return answer

    monkeypatch.setattr(models.builder("cnn").__globals__["nn"], "Conv2d", Spy)
    keys = {
        "name": "small",
        "data": {"kind": "digits"},
        "teacher": {"model": {"kind": "cnn", "channels": [4, 4]}},
        "student": {"model": {"kind": "cnn", "channels": [4, 4]}},
        "training": {"epochs": 1, "precision": "bf16", "memory_format": "channels_last"},
    }
    found = rehearse(Recipe.parse(keys, tmp_path))
    assert all(value == value for value in found.losses.values())
    assert (torch.bfloat16, True, True) in seen
