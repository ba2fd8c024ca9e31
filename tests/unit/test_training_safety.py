"""What the loop refuses, what it leaves alone, what it writes down, and what its randomness depends on."""

import copy
import json
import math
import random
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck import methods
from limbeck.data import Augment, LazySet
from limbeck.distiller import Distiller
from limbeck.errors import ModelError, NonFiniteLossError, RunError
from limbeck.evaluation import evaluate
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.randomness import derive_seed
from limbeck.teachers import EnsembleTeacher, ModelTeacher
from limbeck.teachers.model import state_digest
from limbeck.terms import HardLabels
from limbeck.training import Training, checkpoints
from small_training import HELD_OUT, IMAGES, SAMPLES, Spoiling, distiller_of, image_distiller, network, train, weights
from walk import over

# ---------------------------------------------------------------------------------------------------------- bad numbers


@over("value", [math.nan, math.inf, -math.inf])
@over("at", [0, 5, 7])
def test_a_loss_that_is_not_finite_stops_with_step_term_and_last_good_checkpoint(tmp_path, at, value):
    objective = Objective([HardLabels(), Spoiling(at, value)])
    with pytest.raises(NonFiniteLossError) as caught:
        train(distiller_of(objective), folder=tmp_path, checkpoint_seconds=0.0)
    line = str(caught.value)
    assert line.startswith(f"step {at + 1}: term 'spoilt' of the loss is {value}; ")
    assert "lower training.learning_rate or set training.clip" in line
    assert "\n" not in line
    newest = checkpoints.newest(tmp_path / "checkpoints")
    if at == 0:
        assert newest is None
        assert "no checkpoint was written" in line
    else:
        assert newest.name == f"step-{at:09d}"
        assert f"last good checkpoint: {newest};" in line
        tensors, _ = checkpoints.read(newest)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values() if tensor.is_floating_point())
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "student.safetensors").exists()


def test_the_first_of_several_bad_steps_is_named_and_no_folder_is_needed():
    objective = Objective([Spoiling(9, name="later"), Spoiling(2, math.inf, name="earlier")])
    with pytest.raises(
        NonFiniteLossError, match=r"^step 3: term 'earlier' of the loss is inf; no checkpoint was written"
    ):
        train(distiller_of(objective), epochs=4)


def test_a_sum_of_finite_terms_that_overflows_is_named_as_the_total():
    objective = Objective([HardLabels(3e38), HardLabels(3e38, name="again")])
    with pytest.raises(NonFiniteLossError, match=r"^step 1: term 'total' of the loss is inf"):
        train(distiller_of(objective))


class BadGradient(Term):
    """Zero, whose gradient is `value` at one step."""

    def __init__(self, at, value=math.nan):
        super().__init__("quiet")
        self.at, self.value = at, value

    def sum(self, outputs, batch, step):
        zero = (outputs["student"].logits * 0.0).sum()
        if step == self.at and zero.requires_grad:
            outputs["student"].logits.register_hook(lambda gradient: torch.full_like(gradient, self.value))
        return zero


@pytest.mark.thorough
@over("value", [math.nan, math.inf, -math.inf])
@over("at", [0, 5, 7])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_kept_and_names_a_parameter(tmp_path, at, value):
    distiller = distiller_of(Objective([HardLabels(), BadGradient(at, value)]))
    with pytest.raises(NonFiniteLossError) as caught:
        train(distiller, folder=tmp_path, checkpoint_seconds=0.0)
    line = str(caught.value)
    assert line.startswith(
        f"step {at + 1}: parameter 'student.0.weight' is NaN or infinite after it, although each loss"
    )
    assert "\n" not in line
    newest = checkpoints.newest(tmp_path / "checkpoints")
    assert (newest is None) == (at == 0)
    if newest is not None:
        assert newest.name == f"step-{at:09d}"
        tensors, _ = checkpoints.read(newest)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values() if tensor.is_floating_point())
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "student.safetensors").exists()


@pytest.mark.thorough
@over(
    "settings",
    [
        {},
        {"clip": 1.0},
        {"optimizer": "adamw", "learning_rate": 0.01},
        {"max_norm": 1.0},
        {"averaging": 0.9},
        {"accumulate": 2},
        {"validation": HELD_OUT, "keep": "best"},
        {"momentum": 0.0, "learning_rate": 1e-30},
    ],
    ids=str,
)
def test_the_last_gradient_of_a_training_is_looked_at_too(settings):
    objective = Objective([HardLabels(), BadGradient(7, math.inf)])
    with pytest.raises(
        NonFiniteLossError, match=r"^step 8: parameter 'student\.0\.weight' is NaN or infinite after it"
    ):
        train(distiller_of(objective), **settings)


def test_a_loss_that_a_bad_gradient_led_to_is_named_with_the_parameter():
    with pytest.raises(
        NonFiniteLossError, match=r"^step 4: term 'hard' of the loss is nan, and since then parameter 'student\.0"
    ):
        train(distiller_of(Objective([HardLabels(), BadGradient(2)])))


def test_statistics_that_are_not_finite_are_not_kept():
    class Broken(nn.BatchNorm1d):
        def forward(self, inputs):
            answer = super().forward(inputs)
            self.running_var = torch.full_like(self.running_var, math.inf)
            return answer

    distiller = Distiller(nn.Sequential(Broken(3), nn.Linear(3, 4)), None, methods.hard())
    with pytest.raises(
        NonFiniteLossError, match=r"^step 4: running variance of 'student\.0' is NaN or infinite after it"
    ):
        train(distiller, epochs=1)


def test_a_constant_that_is_infinite_is_no_concern():
    student = network()
    student.register_buffer("never", torch.tensor(-math.inf))
    student.register_parameter("frozen", nn.Parameter(torch.tensor(math.nan), requires_grad=False))
    assert train(Distiller(student, None, methods.hard())).steps == 8


# -------------------------------------------------------------------------------------------------- teacher and student


def test_the_teacher_is_untouched():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    teacher = ModelTeacher(model)
    before = teacher.fingerprint()
    train(Distiller(network(), teacher, methods.kd(2.0)), validation=HELD_OUT, weight_decay=0.1, max_norm=0.1)
    assert teacher.fingerprint() == before
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_a_student_that_is_its_own_teacher_is_refused():
    model = network()
    with pytest.raises(ModelError, match="give the student its own modules"):
        train(Distiller(model, ModelTeacher(model), methods.kd()))


@pytest.mark.parametrize("shared", ["statistics", "weights"])
def test_a_student_that_changes_its_teacher_is_found_out_and_nothing_is_kept(tmp_path, shared):
    part = nn.BatchNorm1d(3).requires_grad_(False) if shared == "statistics" else nn.Linear(3, 3)
    student, teacher = nn.Sequential(part, nn.Linear(3, 4)), ModelTeacher(nn.Sequential(part, nn.Linear(3, 4)))
    if shared == "weights":
        student.requires_grad_(True)
    student.train()  # the teacher put the shared part into eval mode, where it would stay
    distiller = Distiller(student, teacher, methods.kd())
    for _ in range(2):  # the second time it must not be read as finished either
        with pytest.raises(
            ModelError, match="teacher: its weights changed during training; give the student its own modules"
        ):
            train(distiller, folder=tmp_path)
        assert not (tmp_path / "result.json").exists()
        assert not (tmp_path / "student.safetensors").exists()


def test_a_part_that_making_the_teacher_froze_is_refused():
    trunk = nn.Linear(3, 8)
    teacher = ModelTeacher(nn.Sequential(trunk, nn.Linear(8, 4)))
    for around in (teacher, EnsembleTeacher([teacher, ModelTeacher(network())])):
        with pytest.raises(ModelError, match=r"^student: its parameter '0.weight' is the teacher's too"):
            Distiller(nn.Sequential(trunk, nn.Linear(8, 4)), around, methods.kd())


def test_a_part_that_was_frozen_before_may_be_shared_with_the_teacher():
    head = nn.Linear(8, 4).requires_grad_(False)
    student, teacher = nn.Sequential(nn.Linear(3, 8), head), ModelTeacher(nn.Sequential(nn.Linear(3, 8), head))
    before, body = weights(head), weights(student[0])
    train(Distiller(student, teacher, methods.kd()))
    assert torch.equal(weights(head), before)
    assert not torch.equal(weights(student[0]), body)


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_another_number_of_classes_is_refused_by_name(which):
    wrong = nn.Linear(3, 5)
    student, teacher = (wrong, network()) if which == "student" else (network(), wrong)
    with pytest.raises(ModelError, match=f"^{which}: answers 5 classes, the data has 4"):
        train(Distiller(student, ModelTeacher(teacher), methods.kd()))


def test_the_result_holds_the_very_student_that_was_given():
    distiller = distiller_of()
    result = train(distiller)
    assert result.student is distiller.student
    assert not torch.equal(weights(result.student), weights(network()))


# -------------------------------------------------------------------------------------------------------------- the log


def test_the_metrics_file_has_one_line_an_epoch_and_is_the_history(tmp_path):
    result = train(validation=HELD_OUT, epochs=3, schedule="cosine", folder=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 12]
    assert set(result.history[0]) == {"epoch", "step", "learning_rate", "train", "validation"}
    assert set(result.history[0]["train"]) == {"hard", "soft", "total"}
    assert result.history[-1]["validation"] == evaluate(result.student, HELD_OUT).as_dict()


# ----------------------------------------------------------------------------------------------------------- randomness


def test_the_callers_generators_are_as_they_were(tmp_path):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(image_distiller(), IMAGES, IMAGES, augment=Augment(shift=1), folder=tmp_path, checkpoint_seconds=0.0)
    with pytest.raises(NonFiniteLossError):
        train(distiller_of(Objective([HardLabels(), Spoiling(1)]), dropout=0.5))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


def test_one_seed_gives_the_same_bits_wherever_the_generator_stood_and_another_seed_does_not():
    torch.manual_seed(1)
    first = weights(train(distiller_of(dropout=0.5), seed=3).student)
    torch.manual_seed(2)
    assert torch.equal(weights(train(distiller_of(dropout=0.5), seed=3).student), first)
    assert not torch.equal(weights(train(distiller_of(dropout=0.5), seed=4).student), first)


def test_an_observer_that_draws_random_numbers_changes_nothing():
    def trained(watch):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 4))
        data = lb.data.TensorSet.of(torch.randn(32, 3), torch.arange(32) % 4)
        return lb.fit(Distiller(student, None, methods.hard()), data, epochs=3, batch_size=8, watch=watch).student

    first = trained(lambda progress: None)
    for watch in (lambda progress: torch.rand(7), lambda progress: torch.manual_seed(3)):
        assert all(map(torch.equal, first.parameters(), trained(watch).parameters()))


def test_dropout_and_order_both_depend_on_the_seed():
    plain = [weights(train(seed=seed).student) for seed in (0, 1)]
    assert not torch.equal(*plain)  # order alone
    whole = [weights(train(distiller_of(dropout=0.5), batch_size=50, epochs=1, seed=s).student) for s in (0, 1)]
    assert (whole[0] - whole[1]).abs().max() > 1e-3  # one batch: no order, only dropout


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_dropout_does_not_depend_on_the_workers_that_read_the_samples():
    lazy = LazySet.of([(SAMPLES.inputs[i], int(SAMPLES.labels[i])) for i in range(50)])
    found = [weights(train(distiller_of(dropout=0.5), lazy, workers=workers).student) for workers in (0, 1)]
    assert torch.equal(*found)


def test_a_seed_is_derived_from_each_name_and_where_it_stands():
    assert derive_seed(0, "order", 1) == 4374215849138048446  # what is kept of older runs rests on these
    assert derive_seed(0, "data") == 5807405673665083786
    assert derive_seed(0, "dropout", 0) == 3176066597680403895
    names = [(), ("a",), ("a", "b"), ("a/b",), ("a%2Fb",), ("a%b",), ("a", ""), ("", "a"), ("/",), ("", "")]
    assert len({derive_seed(0, *name) for name in names}) == len(names)


# -------------------------------------------------------------------------------------------------------------- signals


def test_the_signal_handlers_are_as_they_were(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    inside = []

    def watch(look):
        inside.append([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])

    train(watch=watch)
    assert inside[-1] == before
    train(watch=watch, folder=tmp_path / "kept")
    assert all(mine is not theirs for mine, theirs in zip(inside[-1], before, strict=True))
    with pytest.raises(NonFiniteLossError):
        train(distiller_of(Objective([HardLabels(), Spoiling(1)])), folder=tmp_path / "spoilt")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# ---------------------------------------------------------------------------------------------------------- fingerprint


def test_a_teachers_fingerprint_tells_architectures_views_transforms_and_taps_apart():
    torch.manual_seed(0)
    body, head = nn.Linear(3, 4), nn.Linear(4, 4)

    def halve(inputs):
        return inputs / 2

    def double(inputs):
        return inputs * 2

    teachers = [
        ModelTeacher(nn.Sequential(body, nn.ReLU(), head)),
        ModelTeacher(nn.Sequential(body, nn.Tanh(), head)),
        ModelTeacher(nn.Sequential(body, nn.ReLU(), head), view="clean"),
        ModelTeacher(nn.Sequential(body, nn.ReLU(), head), transform=halve),
        ModelTeacher(nn.Sequential(body, nn.ReLU(), head), transform=double),
        ModelTeacher(nn.Sequential(body, nn.ReLU(), head), transform=nn.BatchNorm1d(3).eval()),
        ModelTeacher(nn.Sequential(body, nn.ReLU(), head), taps={"hidden": "0"}),
        ModelTeacher(nn.Sequential(body, nn.ReLU(), head), taps={"hidden": lb.Tap("0", torch.clone)}),
    ]
    assert len({state_digest(teacher.model) for teacher in teachers}) == 1
    assert len({teacher.fingerprint() for teacher in teachers}) == len(teachers)
    same = ModelTeacher(copy.deepcopy(nn.Sequential(body, nn.ReLU(), head)), transform=lambda inputs: inputs)
    other = ModelTeacher(copy.deepcopy(nn.Sequential(body, nn.ReLU(), head)), transform=lambda inputs: inputs)
    assert same.fingerprint() == other.fingerprint()  # no address is in it


def test_the_settings_are_data():
    assert replace(Training(), epochs=3) == Training(epochs=3)
    with pytest.raises(AttributeError):
        Training().epochs = 3


def test_a_teacher_of_ones_own_needs_no_module():
    class Uniform:
        def __call__(self, batch, taps=None):
            return Outputs(torch.zeros(len(batch), 4))

        def to(self, device):
            return self

        def fingerprint(self):
            return "uniform"

    assert train(Distiller(network(), Uniform(), methods.kd())).steps == 8


@over(
    ("there", "here"),
    [
        (lb.methods.kd(temperature=1.0), lb.methods.kd(temperature=20.0)),
        (lb.methods.kd(alpha=0.1), lb.methods.kd(alpha=0.2)),
        (
            lb.methods.kd(temperature=lb.schedules.linear(4.0, 1.0, steps=8)),
            lb.methods.kd(temperature=lb.schedules.linear(4.0, 1.0, steps=9)),
        ),
        (lb.methods.kd(temperature=lambda step: 4.0 - step), lb.methods.kd(temperature=lambda step: 3.0 - step)),
        (lb.methods.logit_matching(), lb.methods.logit_matching(zero_mean=True)),
    ],
    ids=["temperature", "weights", "schedule", "function", "zero_mean"],
)
def test_a_folder_of_another_objective_is_refused(there, here, tmp_path: Path) -> None:
    samples = lb.data.TensorSet.of(torch.randn(16, 3), torch.arange(16) % 4, classes=4)
    teacher = lb.ModelTeacher(lb.models.mlp(3, 4, hidden=(4,)))

    def run(objective: lb.Objective) -> None:
        torch.manual_seed(0)
        student = lb.models.mlp(3, 4, hidden=(4,))
        lb.fit(lb.Distiller(student, teacher, objective), samples, epochs=1, batch_size=8, folder=tmp_path / "run")

    run(there)
    run(there)
    with pytest.raises(RunError, match=r"belongs to another training: objective(\.content)? was"):
        run(here)


def test_weights_whose_sum_overflows_are_finite():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.offset = nn.Linear(3, 4), nn.Parameter(torch.full((8,), 3e38))

        def forward(self, inputs):
            return self.linear(inputs) + 0 * self.offset.sum().clamp(max=1)

    samples = lb.data.TensorSet.of(torch.randn(16, 3), torch.arange(16) % 4)
    distiller = Distiller(Large(), None, methods.hard())
    assert lb.fit(distiller, samples, epochs=1, batch_size=8, weight_decay=0.0, learning_rate=0.01).steps == 2
