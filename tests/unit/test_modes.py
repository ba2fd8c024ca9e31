"""What a training or an evaluation leaves as it was: modes, frozen statistics, random numbers; and what it refuses."""

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import limbeck as lb
from limbeck.errors import InputError, ModelError, NonFiniteLossError, RunError
from limbeck.training import constrain_norms
from walk import over, pairs

DATA = lb.data.TensorSet.of(torch.randn(48, 3, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 4)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Sequential(nn.Dropout(0.5), nn.ReLU()), nn.Linear(8, 4))


def modes(module: nn.Module) -> list[tuple[bool, list[bool]]]:
    return [(each.training, [weights.requires_grad for weights in each.parameters()]) for each in module.modules()]


class Raising(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("missing")


def fit(student: nn.Module, teacher: nn.Module | None = None, **settings) -> None:
    method = lb.methods.hard() if teacher is None else lb.methods.kd()
    distiller = lb.Distiller(student, None if teacher is None else lb.ModelTeacher(teacher), method)
    lb.fit(distiller, DATA, validation=DATA, **{"epochs": 1, "batch_size": 16} | settings)


USES = {
    "evaluate": lb.evaluate,
    "predict": lb.evaluation.predict,
    "fit": lambda student, data: fit(student),
    "fit_stages": lambda student, data: lb.fit_stages(
        student, None, [lb.Stage("head", lb.methods.hard(), lb.Training(epochs=1), trainable=["3"])], data
    ),
    "fgsm": lambda student, data: lb.evaluation.fgsm(student, data.inputs, data.labels, 0.1),
    "robustness": lambda student, data: lb.evaluation.robustness(student, data, [0.1]),
    "flops": lambda student, data: lb.evaluation.flops(student, data.inputs),
}


@over("whole, failing, name", pairs([True, False], [False, True], USES))
def test_every_module_keeps_its_mode(name, failing, whole):
    student = network().train(whole)
    student[1].eval() if whole else student[2].train()
    student[0].requires_grad_(False)
    if failing:
        student.append(Raising().eval())
    before = modes(student)
    if failing:
        with pytest.raises((KeyError, ModelError)):
            USES[name](student, DATA)
    else:
        USES[name](student, DATA)
    assert modes(student) == before


def test_a_teacher_keeps_its_modes_and_flags():
    teacher = lb.ModelTeacher(network())
    teacher.model[2].train()
    before = modes(teacher.model)
    lb.fit(lb.Distiller(network(), teacher, lb.methods.kd()), DATA, epochs=1)
    assert modes(teacher.model) == before


def test_statistics_that_were_frozen_by_hand_stay_and_others_move():
    student = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8).eval(), nn.Linear(8, 4), nn.BatchNorm1d(4))
    seen: list[bool] = []
    student[1].register_forward_hook(lambda module, _inputs, _output: seen.append(module.training))
    before = [student[place].running_mean.clone() for place in (1, 3)]
    lb.fit(lb.Distiller(student, None, lb.methods.hard()), DATA.subset(torch.arange(32)), DATA, epochs=2)
    assert seen
    assert not any(seen)
    assert torch.equal(student[1].running_mean, before[0])
    assert not torch.equal(student[3].running_mean, before[1])


def test_a_student_that_stands_in_eval_as_a_whole_is_trained():
    student = network().eval()
    before = student[1].running_mean.clone()
    fit(student)
    assert not torch.equal(student[1].running_mean, before)
    assert not student.training


def test_a_training_beside_another_in_another_thread_is_refused():
    said: list[str] = []

    def other() -> None:
        try:
            fit(network())
        except RunError as error:
            said.append(str(error))

    def watch(_: lb.Progress) -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        fit(network())  # in the same thread it is a training inside of another, which gives the numbers back

    fit(network(), watch=watch)
    assert said
    assert all(line.startswith("fit: another thread of this process is training") for line in said)
    other()
    assert len(said) == 1  # the watch is called once, at the end of the epoch; now nobody trains


@pytest.mark.parametrize("scope", [torch.no_grad, torch.inference_mode])
def test_a_training_without_gradients_is_refused(scope):
    with scope(), pytest.raises(InputError, match=r"^fit: found gradients switched off"):
        fit(network())


# -------------------------------------------------------------------------------------------------------- constraints


def reference(layer: nn.Module, most: float) -> torch.Tensor:
    """Return the constrained weight, unit by unit, in float64; of a transposed convolution by its equations."""
    weight = layer.weight.detach().double().clone()
    if not isinstance(layer, nn.ConvTranspose1d):
        for unit in weight:
            unit *= min(1.0, most / float(unit.norm()))
        return weight
    inputs, outputs = weight.shape[0] // layer.groups, weight.shape[1]
    for group in range(layer.groups):
        for unit in range(outputs):
            part = weight[group * inputs : (group + 1) * inputs, unit]
            part *= min(1.0, most / float(part.norm()))
    return weight


@over(
    "layer",
    [nn.Linear(5, 3), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose1d(4, 6, 3), nn.ConvTranspose1d(4, 6, 3, groups=2)],
    ids=lambda layer: repr(layer).partition(", k")[0],
)
def test_the_constraint_is_on_the_weights_into_each_unit(layer):
    right = reference(layer, 0.3)
    constrain_norms(nn.Sequential(layer), 0.3)
    assert torch.allclose(layer.weight.double(), right, atol=1e-7)
    assert not torch.allclose(layer.weight.double(), right * 1.01, atol=1e-7)


PARAMETRISED = {
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 4)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)),
    "spectral_norm, old": lambda: nn.utils.spectral_norm(nn.Linear(3, 4)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(3, 4), "weight", 0.5),
}


@over("name", PARAMETRISED)
def test_a_constraint_on_a_computed_weight_is_refused_before_anything_is_trained(name):
    student = nn.Sequential(PARAMETRISED[name]())
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with pytest.raises(ModelError, match=r"^max_norm: layer '0' computes its weight"):
        fit(student, max_norm=0.5)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


def test_a_tied_weight_is_constrained_once_and_one_with_other_units_is_refused():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    constrain_norms(tied, 0.1)
    assert torch.allclose(tied[1].weight.norm(dim=1), torch.full((4,), 0.1))
    other = nn.Sequential(nn.Conv1d(4, 4, 3), nn.ConvTranspose1d(4, 4, 3))
    other[1].weight = other[0].weight
    with pytest.raises(ModelError, match="with other units; untie it"):
        constrain_norms(other, 0.1)


# --------------------------------------------------------------------------------------------------- NaN of a teacher


class Spoilt(nn.Linear):
    """Answers NaN after so many calls."""

    calls, most = 0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * (float("nan") if self.calls > self.most else 1.0)


@over("name", ["kd", "dist", "dkd", "logit_matching"])
def test_a_teacher_that_answers_nan_is_named(name):
    with pytest.raises(ModelError, match=r"^teacher: answers NaN or \+inf for 16 of 16"):
        lb.fit(
            lb.Distiller(nn.Linear(3, 4), lb.ModelTeacher(Spoilt(3, 4)), getattr(lb.methods, name)()),
            DATA,
            epochs=1,
            batch_size=16,
        )


def test_a_teacher_that_answers_nan_later_is_named_too():
    teacher = Spoilt(3, 4)
    teacher.most = 4
    with pytest.raises(NonFiniteLossError, match=r"^teacher: by step 4 it answered NaN or \+inf, so that term 'soft'"):
        lb.fit(lb.Distiller(nn.Linear(3, 4), lb.ModelTeacher(teacher), lb.methods.kd()), DATA, epochs=4, batch_size=16)


def test_a_student_that_fails_is_not_blamed_on_the_teacher():
    student = Spoilt(3, 4)
    student.most = 4
    with pytest.raises(NonFiniteLossError, match=r"^step \d+: term "):
        lb.fit(lb.Distiller(student, lb.ModelTeacher(nn.Linear(3, 4)), lb.methods.kd()), DATA, epochs=4, batch_size=16)


# ------------------------------------------------------------------------------------------------------------- seeds


@over("seed", [True, 1.0, "1", None, -1, 2**63, np.float64(1), np.bool_(True), [1]], ids=repr)
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match=r"^seed: found .*, expected a whole number"):
        lb.fit(lb.Distiller(network(), None, lb.methods.hard()), DATA, epochs=1, seed=seed)
    with pytest.raises(InputError, match=r"^seed: found .*, expected a whole number"):
        DATA.split(0.5, seed=seed)


def test_a_seed_of_numpy_is_the_same_seed():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        return lb.fit(lb.Distiller(network(), None, lb.methods.hard()), DATA, epochs=1, seed=seed).student[0].weight

    assert torch.equal(weights(np.int64(3)), weights(3))
    assert not torch.equal(weights(3), weights(2**63 - 1))
    assert torch.equal(DATA.split(0.5, seed=np.int64(3))[0].index, DATA.split(0.5, seed=3)[0].index)
