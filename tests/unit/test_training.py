"""The one loop: what it computes, what it keeps, what it refuses, and what it leaves alone."""

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
from torch.nn import functional as F

import limbeck as lb
from limbeck import methods, schedules
from limbeck.batch import UNLABELLED
from limbeck.data import Augment, LazySet, Loader, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, NonFiniteLossError, RunError
from limbeck.evaluation import Metrics, evaluate
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.randomness import derive_seed
from limbeck.teachers import ModelTeacher
from limbeck.teachers.model import state_digest
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import Training, WeightAverage, checkpoints, constrain_norms, fit
from limbeck.training.optimisers import learning_rate, optimiser


def samples_of(size=50, *, unlabelled=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (size,), generator=generator)
    labels[:unlabelled] = UNLABELLED
    return TensorSet.of(torch.randn(size, 3, generator=generator), labels, classes=4)


SAMPLES, HELD_OUT = samples_of(), samples_of(40, seed=1)  # 50 samples in batches of 16: the last batch has 2


def network(seed=0, *, dropout=0.0, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 4))


def distiller_of(objective=None, *, seed=0, dropout=0.0):
    return Distiller(network(seed, dropout=dropout), ModelTeacher(network(9, width=16)), objective or methods.kd(2.0))


def weights(module):
    return torch.cat([tensor.detach().double().flatten() for tensor in module.state_dict().values()])


def distance(first, second):
    return float((weights(first) - weights(second)).norm() / weights(second).norm())


def settings_of(**changes):
    return Training(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.1, "schedule": "constant"} | changes)


def train(distiller=None, samples=SAMPLES, validation=None, *, seed=0, folder=None, watch=lambda look: None, **changes):
    distiller = distiller or distiller_of()
    return fit(distiller, samples, validation, training=settings_of(**changes), seed=seed, folder=folder, watch=watch)


class Spoiling(Term):
    """Zero, and `value` at one step."""

    def __init__(self, at, value=math.nan, name="spoilt"):
        super().__init__(name)
        self.at, self.value = at, value

    def sum(self, outputs, batch, step):
        zero = outputs["student"].logits.sum() * 0
        return zero + self.value if step == self.at else zero


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("batch_size", 0),
        ("accumulate", 0),
        ("workers", -1),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", "0.1"),
        ("decay", 0.0),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("warmup", -1.0),
        ("warmup", 30.0),
        ("checkpoint_seconds", -1.0),
        ("clip", 0.0),
        ("max_norm", math.inf),
        ("averaging", 1.5),
        ("optimizer", "adam"),
        ("schedule", "cosinus"),
        ("precision", "fp64"),
        ("keep", "beste"),
        ("milestones", (10.0,)),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=f"^{key}: ") as caught:
        Training(**{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"schedule": "cosinus"}, "did you mean 'cosine'?"),
        ({"optimizer": "adam"}, "did you mean 'adamw'?"),
        ({"momentum": 0.0, "nesterov": True}, "set momentum"),
        ({"schedule": "step"}, "milestones: found none"),
        ({"schedule": "step", "milestones": (20.0, 10.0)}, "expected rising epochs above 0"),
        ({"schedule": "step", "milestones": (0.0, 10.0)}, "expected rising epochs above 0"),
        ({"milestones": (10.0,)}, "expected schedule: step"),
        ({"warmup": 5.0, "epochs": 5}, "expected fewer than epochs"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_mend(given, says):
    with pytest.raises(InputError) as caught:
        Training(**given)
    assert says in str(caught.value)


def test_settings_at_the_edge_of_their_range_are_taken():
    Training(epochs=1, batch_size=1, momentum=0.0, averaging=0.0, patience=1, checkpoint_seconds=0.0, clip=1e-9)


def test_settings_by_name_are_the_same_as_a_training_and_both_at_once_are_refused():
    by_name = fit(distiller_of(), SAMPLES, epochs=2, batch_size=16, learning_rate=0.1, schedule="constant")
    assert torch.equal(weights(by_name.student), weights(train().student))
    with pytest.raises(InputError, match="training: given beside epochs, clip; put them into it"):
        fit(distiller_of(), SAMPLES, training=Training(), epochs=3, clip=1.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 can be had on a GPU")
def test_half_precision_without_a_gpu_is_refused():
    with pytest.raises(InputError, match="precision: fp16 needs a GPU; use fp32 or bf16"):
        train(precision="fp16")


# ------------------------------------------------------------------------------------------- learning rates, optimisers


def rates_of_torch(schedulers, count, rate=0.3, milestones=()):
    parameter = nn.Parameter(torch.zeros(1))
    torch_optimiser = torch.optim.SGD([parameter], lr=rate)
    made = [make(torch_optimiser) for make in schedulers]
    scheduler = (
        made[0]
        if len(made) == 1
        else torch.optim.lr_scheduler.SequentialLR(torch_optimiser, made, milestones=list(milestones))
    )
    rates = []
    for _ in range(count):
        rates.append(torch_optimiser.param_groups[0]["lr"])
        torch_optimiser.step()
        scheduler.step()
    return rates


STEPS = 7  # in an epoch


def rises(steps):
    return lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / steps, total_iters=steps - 1)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR warns of itself
@pytest.mark.parametrize(
    ("given", "schedulers", "milestones"),
    [
        ({"schedule": "constant"}, [lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)], ()),
        ({"schedule": "cosine"}, [lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4 * STEPS)], ()),
        (
            {"schedule": "step", "milestones": (1.0, 2.5), "decay": 0.2},
            [lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones=[STEPS, round(2.5 * STEPS)], gamma=0.2)],
            (),
        ),
        (
            {"schedule": "constant", "warmup": 2.0},
            [rises(2 * STEPS), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)],
            (2 * STEPS,),
        ),
        (
            {"schedule": "cosine", "warmup": 1.0},
            [rises(STEPS), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=3 * STEPS)],
            (STEPS,),
        ),
    ],
    ids=["constant", "cosine", "step", "warmup", "warmup and cosine"],
)
def test_learning_rates_are_those_of_torchs_schedulers(given, schedulers, milestones):
    rate = learning_rate(Training(epochs=4, learning_rate=0.3, **given), STEPS)
    expected = rates_of_torch(schedulers, 4 * STEPS, milestones=milestones)
    assert [rate(step) for step in range(4 * STEPS)] == pytest.approx(expected, rel=1e-9)


def test_one_cycle_rises_over_three_tenths_of_all_steps_and_falls_over_the_rest():
    rate = learning_rate(Training(epochs=10, learning_rate=0.5, schedule="one_cycle"), 10)
    rise = [1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    fall = [1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * step / 70)) / 2 for step in range(70)]
    assert [rate(step) for step in range(100)] == pytest.approx([0.5 * factor for factor in rise + fall])
    assert rate(30) == 0.5


def test_every_step_of_training_has_its_learning_rate():
    seen = {}

    class Looking(Term):
        def sum(self, outputs, batch, step):
            seen[step] = True
            return outputs["student"].logits.sum()  # with plain SGD, the bias moves by -rate times the examples' share

    student = nn.Linear(3, 4)
    start = student.bias.detach().clone()
    settings = settings_of(epochs=3, schedule="cosine", warmup=1.0, momentum=0.0)
    result = fit(Distiller(student, None, Objective([Looking("look")])), SAMPLES, training=settings)
    rate = learning_rate(settings, 4)
    torch.testing.assert_close(student.bias, start - sum(rate(step) for step in range(12)))
    assert sorted(seen) == list(range(12))
    assert [line["learning_rate"] for line in result.history] == [rate(3), rate(7), rate(11)]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_optimiser_has_its_settings_and_only_what_is_trained(kind):
    student = network()
    student[0].weight.requires_grad_(False)
    given = Training(optimizer=kind, learning_rate=0.2, weight_decay=0.01, momentum=0.8, nesterov=True)
    built = optimiser(student.parameters(), given)
    (group,) = built.param_groups
    assert isinstance(built, torch.optim.AdamW if kind == "adamw" else torch.optim.SGD)
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.01)
    if kind == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.8, True)
    assert {id(p) for p in group["params"]} == {id(p) for p in student.parameters() if p.requires_grad}
    assert len(group["params"]) == 3


def test_a_student_that_cannot_learn_is_refused():
    with pytest.raises(ModelError, match="student: no parameter requires a gradient"):
        train(Distiller(network().requires_grad_(False), None, methods.hard()))


# ---------------------------------------------------------------------------------------- max-norm, averaging, clipping


def test_max_norm_scales_down_what_leads_into_each_unit_and_nothing_else():
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    model[4].requires_grad_(False)
    with torch.no_grad():
        model[0].weight[0] *= 10
        model[0].weight[1] = 0
        model[2].weight[3] *= 0.01
        model[2].bias.fill_(100)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    constrain_norms(model, 0.5)
    for name, tensor in model.state_dict().items():
        if name not in ("0.weight", "2.weight"):
            assert torch.equal(tensor, before[name]), name
            continue
        for unit, was in zip(tensor, before[name], strict=True):
            norm = float(was.double().square().sum().sqrt())
            torch.testing.assert_close(unit, was * min(1.0, 0.5 / max(norm, 1e-12)))
            if norm <= 0.5:
                assert torch.equal(unit, was)
            else:
                assert float(unit.norm()) == pytest.approx(0.5, rel=1e-6)


def test_max_norm_holds_after_every_step_of_training():
    student = train(max_norm=0.3, learning_rate=1.0).student
    assert all(norm <= 0.3 * (1 + 1e-6) for layer in (0, 3) for norm in student[layer].weight.norm(dim=1).tolist())
    free = train(learning_rate=1.0).student
    assert max(free[0].weight.norm(dim=1).tolist()) > 0.3


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_of_weights_is_the_recurrence_in_its_docstring(decay):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    average = WeightAverage(model, decay)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for count in range(1, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(5, 3, dtype=torch.float64))
        average.update(model)
        held = min(decay, (1 + count) / (10 + count))
        for name, tensor in model.state_dict().items():
            expected[name] = held * expected[name] + (1 - held) * tensor if tensor.is_floating_point() else tensor
    assert average.state["1.num_batches_tracked"] == 29
    for name, tensor in average.state.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


def test_an_average_is_put_in_and_taken_out_again():
    model = network()
    average = WeightAverage(model, 0.9)
    start = weights(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    moved = weights(model)
    own = average.swap(model)
    assert torch.equal(weights(model), start)
    model.load_state_dict(own)
    assert torch.equal(weights(model), moved)
    assert not any(
        value.data_ptr() == parameter.data_ptr() for value in own.values() for parameter in model.parameters()
    )


def test_averaged_weights_are_what_is_evaluated_and_kept_and_the_steps_go_on_from_the_students_own():
    result = train(validation=HELD_OUT, averaging=0.9)
    reference, *_ = plain_loop(distiller_of(), SAMPLES, settings_of(averaging=0.9))
    assert torch.equal(weights(result.student), weights(reference.student))
    assert result.metrics == evaluate(result.student, HELD_OUT).as_dict()
    assert not torch.equal(weights(result.student), weights(train().student))


# ----------------------------------------------------------------------------------------------- the loop, hand-written


def plain_loop(distiller, samples, settings, seed=0):
    """What `fit` promises, written out: plain PyTorch around a distiller, in the loader's order."""
    loader = Loader(
        samples, settings.batch_size, seed=derive_seed(seed, "data"), augment=settings.augment, clean_view=True
    )
    chosen = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if settings.optimizer == "adamw":
        built = torch.optim.AdamW(chosen, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    else:
        built = torch.optim.SGD(
            chosen,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    rate = learning_rate(settings, loader.steps)
    average = None if settings.averaging is None else WeightAverage(distiller.student, settings.averaging)
    step, epochs = 0, []
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "dropout", 0))
        distiller.train()
        for epoch in range(settings.epochs):
            sums = {}
            for batch in loader.epoch(epoch):
                built.param_groups[0]["lr"] = rate(step)
                loss = distiller(batch, step)
                loss.total.backward()
                if settings.clip is not None:
                    nn.utils.clip_grad_norm_(distiller.parameters(), settings.clip)
                built.step()
                built.zero_grad()
                if settings.max_norm is not None:
                    constrain_norms(distiller.student, settings.max_norm)
                if average is not None:
                    average.update(distiller.student)
                for name, part in loss.parts.items():
                    entry = sums.setdefault(name, [0.0, 0.0, 0.0])
                    entry[0] += float(part.sum)
                    entry[1] += float(part.count)
                    entry[2] += part.weight * float(part.sum)
                step += 1
            epochs.append(sums)
    if average is not None:
        average.swap(distiller.student)
    return distiller, epochs


IMAGES = TensorSet.of(torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(2)), torch.arange(50) % 4)


def image_distiller(dropout=0.3):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 4)
        )
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    return Distiller(student, ModelTeacher(teacher, view="clean"), methods.kd(3.0, alpha=0.3))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.0, "weight_decay": 0.01},
        {"schedule": "cosine", "nesterov": True, "weight_decay": 0.01},
        {"schedule": "step", "milestones": (1.0,), "max_norm": 0.4},
        {"optimizer": "adamw", "schedule": "one_cycle", "learning_rate": 0.01, "weight_decay": 0.1},
        {"clip": 0.1, "warmup": 1.0},
        {"averaging": 0.9, "batch_size": 8},
    ],
    ids=lambda changes: " ".join(changes) or "momentum",
)
def test_fit_is_the_plain_loop_bit_for_bit(changes):
    settings = settings_of(augment=Augment(shift=1, noise=0.1), epochs=3, **changes)
    result = fit(image_distiller(), IMAGES, training=settings, seed=5)
    reference, epochs = plain_loop(image_distiller(), IMAGES, settings, seed=5)
    assert torch.equal(weights(result.student), weights(reference.student))
    assert result.steps == 3 * math.ceil(50 / settings.batch_size)
    for line, sums in zip(result.history, epochs, strict=True):
        assert line["train"] == {
            **{name: total / count for name, (total, count, _) in sums.items()},
            "total": sum(weighted / count for _, count, weighted in sums.values()),
        }


def test_fit_is_distillation_as_anyone_would_write_it():
    student, teacher = network(), network(9, width=16)
    sgd = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    order = Loader(SAMPLES, 16, seed=derive_seed(0, "data"))
    for epoch in range(2):
        for batch in order.epoch(epoch):
            x, y = SAMPLES.inputs[batch.index], SAMPLES.labels[batch.index]
            z = student(x)
            with torch.no_grad():
                v = teacher.eval()(x)
            soft = F.kl_div(F.log_softmax(z / 2, -1), F.log_softmax(v / 2, -1), log_target=True, reduction="batchmean")
            loss = 0.1 * F.cross_entropy(z, y) + 0.9 * 4.0 * soft
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    assert distance(train().student, student) < 1e-6


def test_the_means_of_an_epoch_are_over_what_each_term_counted():
    samples = samples_of(50, unlabelled=20)
    objective = Objective([HardLabels(schedules.until(2, 0.5)), SoftTargets(schedules.linear(1.0, 0.0, steps=16))])
    settings = settings_of(epochs=3, momentum=0.0)
    result = fit(distiller_of(objective), samples, training=settings)
    reference = distiller_of(objective)
    _, epochs = plain_loop(reference, samples, settings)
    for number, (line, sums) in enumerate(zip(result.history, epochs, strict=True)):
        assert set(line["train"]) == ({"hard", "soft", "total"} if number == 0 else {"soft", "total"})
        for name, (total, count, _) in sums.items():
            assert line["train"][name] == pytest.approx(total / count, rel=1e-12)
        assert line["train"]["total"] == pytest.approx(sum(w / count for _, count, w in sums.values()), rel=1e-12)
    first = Loader(samples, 16, seed=derive_seed(0, "data"))
    labelled = [int((batch.labels != UNLABELLED).sum()) for batch in first.epoch(0)]
    assert epochs[0]["hard"][1] == sum(labelled[:2])
    assert [sums["soft"][1] for sums in epochs] == [50, 50, 50]


# --------------------------------------------------------------------------------------------------------- accumulation


class Double(nn.Module):
    """A student that computes in float64."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.double()

    def forward(self, inputs):
        return self.inner(inputs.double())


@pytest.mark.parametrize("unlabelled", [0, 31])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_nothing_but_rounding(accumulate, kind, unlabelled):
    samples = samples_of(50, unlabelled=unlabelled)  # of the last batch of 2, some of the 4 parts have no sample

    def trained(parts, double):
        student, teacher = network(), network(9)
        if double:
            student, teacher = Double(student), Double(teacher)
        distiller = Distiller(student, ModelTeacher(teacher), methods.kd(2.0, alpha=0.5))
        return train(distiller, samples, accumulate=parts, optimizer=kind, epochs=3, learning_rate=0.05, clip=1.0)

    for double, tolerance in ((False, 1e-6), (True, 1e-12)):
        whole, parts = trained(1, double), trained(accumulate, double)
        assert distance(parts.student, whole.student) < tolerance
        assert not torch.equal(weights(whole.student), weights(network()))
        for line, expected in zip(parts.history, whole.history, strict=True):
            assert line["train"] == pytest.approx(expected["train"], rel=10 * tolerance)


# ------------------------------------------------------------------------------------------------------------ precision


def test_bf16_trains_to_about_the_same_weights_in_float32():
    single, half = train().student, train(precision="bf16").student
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())
    assert 0 < distance(half, single) < 0.05


def test_a_distiller_can_be_trained_again_in_another_precision():
    again = distiller_of()
    train(again)
    again.student.load_state_dict(network().state_dict())
    train(again, precision="bf16")
    assert torch.equal(weights(again.student), weights(train(precision="bf16").student))


def test_a_distiller_that_was_prepared_for_another_precision_is_trained_in_the_one_asked_for():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    distiller = distiller_of()
    AcceleratorState._reset_state()
    Accelerator(cpu=True, mixed_precision="no").prepare(distiller)
    marks = dict(vars(distiller))
    train(distiller, precision="bf16")
    assert torch.equal(weights(distiller.student), weights(train(precision="bf16").student))
    assert vars(distiller).keys() == marks.keys()


@pytest.mark.parametrize("spoilt", [False, True])
def test_nothing_of_the_engine_stays_on_the_distiller(spoilt):
    distiller = distiller_of(Objective([HardLabels(), Spoiling(3 if spoilt else -1)]))
    before = set(vars(distiller))
    try:
        train(distiller, precision="bf16")
    except NonFiniteLossError:
        assert spoilt
    assert set(vars(distiller)) == before
    copy.deepcopy(distiller)(Loader(SAMPLES, 4, seed=0).samples.batch(torch.arange(4), augment=None, seed=0, view=0))


# ----------------------------------------------------------------------------------------- validation: stop, keep, best


def scripted(monkeypatch, scores):
    """Let the validation of each epoch come to the given (errors, nll), and return the weights at each."""
    seen = []

    def judge(student, samples):
        errors, nll = scores[len(seen)]
        seen.append(weights(student))
        return Metrics(examples=100, errors=errors, accuracy=1 - errors / 100, nll=nll)

    monkeypatch.setattr("limbeck.training.loop.evaluate", judge)
    return seen


@pytest.mark.parametrize(
    ("scores", "patience", "epochs", "best"),
    [
        ([(9, 1.0), (5, 1.0), (6, 1.0), (7, 1.0), (4, 1.0)], 2, 4, 2),
        ([(9, 1.0), (5, 1.0), (6, 1.0), (4, 1.0), (5, 1.0)], 2, 5, 4),
        ([(9, 1.0), (9, 0.9), (9, 0.95), (8, 3.0), (8, 3.0)], 1, 3, 2),  # errors first, then the loss
        ([(5, 1.0), (5, 1.0), (5, 1.0), (5, 1.0), (5, 1.0)], 3, 4, 1),  # as good is not better
        ([(5, math.inf), (5, 2.0), (5, math.nan), (6, 0.1), (7, 0.1)], 5, 5, 2),
    ],
)
@pytest.mark.parametrize("keep", ["best", "last"])
def test_patience_counts_epochs_without_a_better_one_and_keep_chooses_the_weights(
    monkeypatch, scores, patience, epochs, best, keep
):
    seen = scripted(monkeypatch, scores)
    result = train(validation=HELD_OUT, epochs=5, patience=patience, keep=keep)
    kept = best if keep == "best" else epochs
    assert len(result.history) == len(seen) == epochs
    assert result.epoch == kept
    assert (result.metrics["errors"], result.metrics["nll"]) == scores[kept - 1]
    assert torch.equal(weights(result.student), seen[kept - 1])
    assert result.steps == 4 * epochs


def test_the_best_of_averaged_weights_are_averages(monkeypatch):
    seen = scripted(monkeypatch, [(9, 1.0), (3, 1.0), (5, 1.0)])
    result = train(validation=HELD_OUT, epochs=3, averaging=0.8, keep="best")
    assert torch.equal(weights(result.student), seen[1])
    assert torch.equal(seen[1], weights(train(epochs=2, averaging=0.8).student))


def test_without_validation_the_last_weights_are_the_best_and_nothing_stops():
    result = train(epochs=4, patience=1, keep="best")
    assert (result.epoch, result.metrics, len(result.history)) == (4, {}, 4)
    assert torch.equal(weights(result.student), weights(train(epochs=4).student))


def test_the_metrics_of_the_kept_weights_are_those_of_the_student():
    result = train(validation=HELD_OUT, epochs=6, learning_rate=1.0, keep="best")
    assert result.metrics == evaluate(result.student, HELD_OUT).as_dict()
    errors = [(line["validation"]["errors"], line["validation"]["nll"]) for line in result.history]
    assert min(errors) == errors[result.epoch - 1]


# ------------------------------------------------------------------------------------------------------------- watching


def test_the_watcher_sees_every_epoch_and_every_twentieth_step():
    looks = []
    result = fit(
        distiller_of(),
        SAMPLES,
        HELD_OUT,
        training=settings_of(batch_size=2),
        watch=looks.append,
        label="pupil",
    )
    assert {look.label for look in looks} == {"pupil"}
    assert {(look.steps, look.epochs) for look in looks} == {(50, 2)}
    ends = [look for look in looks if look.epoch_ended]
    assert [(look.epoch, look.step) for look in ends] == [(1, 25), (2, 50)]
    assert [(look.losses, look.metrics) for look in ends] == [
        (line["train"], line["validation"]) for line in result.history
    ]
    between = [look for look in looks if not look.epoch_ended]
    assert [(look.epoch, look.step) for look in between] == [(1, 20), (2, 45)]
    assert [dict(look.metrics) for look in between] == [{}, result.history[0]["validation"]]
    assert all(look.samples_per_second > 0 and look.seconds_left > 0 for look in between)
    assert all(set(look.losses) == {"hard", "soft", "total"} for look in looks)


def test_an_error_of_the_watcher_is_not_swallowed():
    def watch(look):
        raise KeyError("watcher")

    with pytest.raises(KeyError, match="watcher"):
        train(watch=watch)


# ---------------------------------------------------------------------------------------------------------- bad numbers


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 5, 7])
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
    with pytest.raises(ModelError, match="give the student modules of its own"):
        train(Distiller(model, ModelTeacher(model), methods.kd()))


@pytest.mark.parametrize("shared", ["statistics", "weights"])
def test_a_student_that_changes_its_teacher_is_found_out_and_nothing_is_kept(tmp_path, shared):
    part = nn.BatchNorm1d(3) if shared == "statistics" else nn.Linear(3, 3)
    student, teacher = nn.Sequential(part, nn.Linear(3, 4)), ModelTeacher(nn.Sequential(part, nn.Linear(3, 4)))
    if shared == "weights":
        student.requires_grad_(True)
    distiller = Distiller(student, teacher, methods.kd())
    for _ in range(2):  # the second time it must not be read as finished either
        with pytest.raises(ModelError, match="teacher: its weights changed during training; give the student modules"):
            train(distiller, folder=tmp_path)
        assert not (tmp_path / "result.json").exists()
        assert not (tmp_path / "student.safetensors").exists()


def test_a_frozen_part_may_be_shared_with_the_teacher():
    head = nn.Linear(8, 4)
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


def test_dropout_and_order_both_depend_on_the_seed():
    plain = [weights(train(seed=seed).student) for seed in (0, 1)]
    assert not torch.equal(*plain)  # order alone
    whole = [weights(train(distiller_of(dropout=0.5), batch_size=50, epochs=1, seed=s).student) for s in (0, 1)]
    assert (whole[0] - whole[1]).abs().max() > 1e-3  # one batch: no order, only dropout


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


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (lb.methods.kd(temperature=1.0), lb.methods.kd(temperature=20.0)),
        (lb.methods.kd(alpha=0.1), lb.methods.kd(alpha=0.2)),
        (
            lb.methods.kd(temperature=lb.schedules.linear(4.0, 1.0, steps=8)),
            lb.methods.kd(temperature=lb.schedules.linear(4.0, 1.0, steps=9)),
        ),
        (lb.methods.logit_matching(), lb.methods.logit_matching(zero_mean=True)),
    ],
    ids=["temperature", "weights", "schedule", "zero_mean"],
)
def test_a_folder_of_another_objective_is_refused(there, here, tmp_path: Path) -> None:
    samples = lb.data.TensorSet.of(torch.randn(16, 3), torch.arange(16) % 4, classes=4)
    teacher = lb.ModelTeacher(lb.models.mlp(3, 4, hidden=(4,)))

    def run(objective: lb.Objective) -> None:
        student = lb.models.mlp(3, 4, hidden=(4,))
        lb.fit(lb.Distiller(student, teacher, objective), samples, epochs=1, batch_size=8, folder=tmp_path / "run")

    run(there)
    run(there)
    with pytest.raises(RunError, match="is of another training: objective was"):
        run(here)
