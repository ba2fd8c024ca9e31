"""Mean teacher: the average that teaches, its weight's rise, exact resume, and what it refuses."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import limbeck as lb
from limbeck import methods
from limbeck.batch import UNLABELLED, Batch
from limbeck.data import Loader, TensorSet
from limbeck.errors import InputError, RecipeError
from limbeck.experiment.parts import prepare
from limbeck.features import FeatureTerm
from limbeck.losses import cross_entropy, kl
from limbeck.objective import Objective
from limbeck.randomness import derive_seed
from limbeck.schemes.mean_teacher import MeanTeacherDistiller
from limbeck.training import Training, WeightAverage, fit

SCHEME = {"name": "mean_teacher", "decay": 0.9, "ramp": 1.0}
METHOD = {"name": "kd", "temperature": 1, "hard_weight": 1.0, "soft_weight": 2.0}


def net(norm=False):
    torch.manual_seed(3)
    layers = [nn.Linear(6, 5), nn.BatchNorm1d(5) if norm else nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers)


def samples():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (40,), generator=draw)
    labels[::3] = UNLABELLED
    return TensorSet.of(torch.randn(40, 6, generator=draw), labels, classes=3)


class Nearness(FeatureTerm):
    def compare(self, student, teacher, number):
        return (student - teacher).square().mean(1)


def test_features_are_those_of_the_average():
    student, mean = net(), net()
    distiller = MeanTeacherDistiller(student, Objective([Nearness("near", 1.0, {"1": "1"})]))
    batch = samples().batch(torch.arange(8), augment=None, seed=0, view=0)
    distiller.build(batch)
    assert distiller(batch, 0).total.item() == 0
    with torch.no_grad():
        for weights in student.parameters():
            weights += 0.1
    distiller.average_teacher.average = SimpleNamespace(state=mean.state_dict())
    taught = mean[:2](batch.inputs).detach()
    expected = (student[:2](batch.inputs) - taught).square().mean()
    torch.testing.assert_close(distiller(batch, 0).total, expected)
    assert torch.equal(distiller.average_teacher(batch, {"a": "1"}).features["a"], taught)
    assert not any(module._forward_hooks for module in student.modules())


def test_the_training_is_that_of_a_loop_by_hand():
    data, student = samples(), net()
    distiller = MeanTeacherDistiller(student, methods.kd(temperature=1.0, hard_weight=1.0, soft_weight=2.0))
    fit(distiller, data, epochs=2, batch_size=8, learning_rate=0.1, momentum=0.0, schedule="constant", averaging=0.9)

    own, mean = net(), net()
    step = 0
    for epoch in range(2):
        for batch in Loader(data, 8, seed=derive_seed(0, "data")).epoch(epoch):
            logits = own(batch.inputs)
            with torch.no_grad():
                taught = mean(batch.inputs)
            known = batch.labels != UNLABELLED
            loss = cross_entropy(logits[known], batch.labels[known]) + 2 * kl(logits, taught)
            gradients = torch.autograd.grad(loss, list(own.parameters()))
            step += 1
            with torch.no_grad():
                decay = min(0.9, (1 + step) / (10 + step))
                for weight, gradient, average in zip(own.parameters(), gradients, mean.parameters(), strict=True):
                    weight -= 0.1 * gradient
                    average.mul_(decay).add_(weight, alpha=1 - decay)
    for found, wanted in zip(student.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_the_average_answers_in_eval_mode_and_the_student_trains_on():
    student = net(norm=True)
    distiller = MeanTeacherDistiller(student, methods.kd(temperature=1.0))
    average = WeightAverage(student, 0.9)
    average.state["0.weight"] = average.state["0.weight"] + 1.0
    distiller.follow(average)
    batch = Batch.of(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64))
    distiller.train()
    statistics = student[1].running_mean.clone()
    answer = distiller.teacher(batch).logits
    assert student[1].training
    assert torch.equal(student[1].running_mean, statistics)
    twin = net(norm=True).eval()
    twin.load_state_dict(average.state)
    torch.testing.assert_close(answer, twin(batch.inputs))
    assert not answer.requires_grad
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert set(distiller.state_dict()) == {f"student.{name}" for name in student.state_dict()}


@pytest.mark.miniature(1)
@pytest.mark.parametrize("at", [1, 2, 3, 4, 7])
def test_a_mean_teacher_resumes_bit_for_bit(tmp_path, at):
    def train(folder, watch):
        distiller = MeanTeacherDistiller(net(norm=True), methods.kd(temperature=1.0, alpha=0.5))
        settings = Training(epochs=8, batch_size=8, averaging=0.95, checkpoint_seconds=0.0, precision="fp32")
        fit(distiller, samples(), samples(), training=settings, folder=folder, watch=watch)
        return distiller.student.state_dict()

    def kill(progress):
        if progress.epoch == at and progress.epoch_ended:
            raise KeyboardInterrupt

    whole = train(tmp_path / "whole", lambda progress: None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", kill)
    again = train(tmp_path / "killed", lambda progress: None)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_accumulation_changes_nothing():
    ends = []
    for parts in (1, 4):
        student = net()
        distiller = MeanTeacherDistiller(student, methods.kd(temperature=1.0, alpha=0.5))
        fit(distiller, samples(), epochs=2, batch_size=8, averaging=0.9, accumulate=parts)
        ends.append(student[0].weight.detach().clone())
    torch.testing.assert_close(*ends)


def test_without_an_average_it_is_refused():
    with pytest.raises(InputError, match=r"^averaging: found None"):
        lb.fit(MeanTeacherDistiller(net(), methods.kd()), samples(), epochs=1)


# ------------------------------------------------------------------------------------------------------------- a recipe


@pytest.mark.thorough
def test_a_recipe_keeps_the_average_as_its_student(tiny, carried_out, killed_everywhere, same_weights):
    part = {"kind": "digits", "transfer": {"labelled": 0.2}}
    recipe = tiny(data=part, scheme=SCHEME, method=METHOD)
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "alone", "distilled"]
    parts = prepare(recipe)
    steps = math.ceil(len(parts.transfer) / 128)
    method = methods.kd(temperature=1.0, hard_weight=1.0, soft_weight=1.0)
    method.terms["soft"].weight = lambda step: 2.0 * math.exp(-5 * max(0.0, 1 - step / steps) ** 2)
    from limbeck.experiment.building import build_student

    student = build_student(recipe, parts, 0)
    fit(
        MeanTeacherDistiller(student, method),
        parts.transfer,
        parts.held_out,
        training=Training(epochs=2, batch_size=128, averaging=0.9),
    )
    kept = load_file(path / "distilled-0" / "student.safetensors")
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, kept[name])
    forward = 2 * (64 * 8 + 80)
    found = outcome.roles["distilled"].compute
    assert found["answers"] == forward * len(parts.transfer) * 2
    assert found["teachers"] == 0
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "distilled-0"]
    same_weights(path, killed, trained)


@pytest.mark.thorough
def test_the_teacher_may_see_the_clean_view(tiny, carried_out):
    noisy = {"epochs": 1, "batch_size": 128, "augment": {"shift": 1}}
    same, _ = carried_out(tiny(scheme=SCHEME, method=METHOD, training=noisy))
    clean, _ = carried_out(tiny(scheme={**SCHEME, "clean": True}, method=METHOD, training=noisy))
    file = "distilled-0/student.safetensors"
    assert (same / file).read_bytes() != (clean / file).read_bytes()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"decay": 1.0}, "scheme.decay: found 1, expected a number in [0, 1)"),
        ({"decay": -0.1}, "scheme.decay: found -0.1"),
        ({"ramp": -1.0}, "scheme.ramp: found -1.0"),
    ],
    ids=str,
)
def test_wrong_keys_are_one_line(tiny, keys, said):
    with pytest.raises(RecipeError) as caught:
        tiny(scheme={"name": "mean_teacher", **keys})
    assert str(caught.value).startswith(said)


def test_recipes_that_contradict_it_are_refused(tiny, refusal):
    assert refusal(tiny(scheme=SCHEME, method={"name": "hard"})).startswith("scheme.name: mean_teacher needs a method")
    averaged = tiny(scheme=SCHEME, training={"epochs": 1, "averaging": 0.9})
    assert refusal(averaged).startswith("scheme.decay: found together with training.averaging")
