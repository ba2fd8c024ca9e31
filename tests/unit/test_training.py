"""The one loop: what it computes, when it stops, what it keeps and whom it tells."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck import methods, schedules
from limbeck.batch import UNLABELLED
from limbeck.data import Augment, Loader
from limbeck.distiller import Distiller
from limbeck.errors import NonFiniteLossError
from limbeck.evaluation import Metrics, evaluate
from limbeck.objective import Objective
from limbeck.randomness import derive_seed
from limbeck.teachers import ModelTeacher
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import fit
from small_training import (
    HELD_OUT,
    IMAGES,
    SAMPLES,
    Spoiling,
    distiller_of,
    image_distiller,
    network,
    plain_loop,
    samples_of,
    settings_of,
    train,
    weights,
)
from walk import over


def distance(first, second):
    return float((weights(first) - weights(second)).norm() / weights(second).norm())


# ----------------------------------------------------------------------------------------------- the loop, hand-written


@pytest.mark.miniature(1)
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


@pytest.mark.thorough
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

    monkeypatch.setattr("limbeck.training.loop.evaluate_together", judge)
    return seen


@pytest.mark.thorough
@over(
    ("scores", "patience", "epochs", "best"),
    [
        ([(9, 1.0), (5, 1.0), (6, 1.0), (7, 1.0), (4, 1.0)], 2, 4, 2),
        ([(9, 1.0), (5, 1.0), (6, 1.0), (4, 1.0), (5, 1.0)], 2, 5, 4),
        ([(9, 1.0), (9, 0.9), (9, 0.95), (8, 3.0), (8, 3.0)], 1, 3, 2),  # errors first, then the loss
        ([(5, 1.0), (5, 1.0), (5, 1.0), (5, 1.0), (5, 1.0)], 3, 4, 1),  # as good is not better
        ([(5, math.inf), (5, 2.0), (5, math.nan), (6, 0.1), (7, 0.1)], 5, 5, 2),
    ],
)
@over("keep", ["best", "last"])
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
