"""The mean of weights from when validation stalls: its trigger, what is averaged, validated and kept, and resumed."""

import math

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.evaluation import evaluate
from limbeck.methods import kd
from limbeck.schemes.mean_teacher import MeanTeacherDistiller
from limbeck.training import Averaging, Mean, MeanOfWeights, fit, improves_no_more
from limbeck.training.loop import Moment, steps
from small_resume import Crash, crash, ended, once, run
from small_training import HELD_OUT, SAMPLES, distiller_of, network, settings_of, train, weights
from walk import over

EXAMPLE = [100, 90, 85, 84, 83, 83.5, 83.2, 83.6, 83.4, 83.1, 83.05]
STALLING = {"learning_rate": 2.0, "momentum": 0.0, "epochs": 7, "averaging": Averaging(Mean(patience=1))}
"""Settings with which validation stalls after the third epoch."""


def test_the_trigger_fires_at_the_epoch_of_the_example_and_stays_fired():
    assert [improves_no_more(EXAMPLE[:epochs]) for epochs in range(12)] == [False] * 11 + [True]
    assert improves_no_more([*EXAMPLE, 1.0, 0.5])


def test_the_trigger_is_the_rule_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    for patience in (1, 2, 5):
        for _ in range(20):
            losses = torch.rand(12, generator=generator).tolist()
            fired, seen = False, []  # as in the paper: compared before the loss is noted
            for loss in losses:
                fired = fired or (len(seen) > patience and loss > min(seen[:-patience]))
                seen.append(loss)
                assert improves_no_more(seen, patience) is fired
    assert not improves_no_more([3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2], 1)
    assert not improves_no_more([1.0, math.nan, math.nan, math.nan], 1)


def along(folder=None, **changes):
    """Train step by step; return the result, the student's own weights after every step, and the steps of an epoch."""
    settings = settings_of(**STALLING | changes)
    turns = steps(distiller_of(), SAMPLES, HELD_OUT, training=settings, folder=folder)
    own = []
    while True:
        try:
            moment, run = next(turns)
        except StopIteration as end:
            return end.value, own
        if moment is Moment.UPDATED:
            own.append({name: each.detach().clone() for name, each in run.distiller.student.state_dict().items()})


def fired_after(history, patience=1):
    losses = [entry["validation"]["nll"] for entry in history]
    return next(epoch for epoch in range(1, len(losses) + 1) if improves_no_more(losses[:epoch], patience))


def measured(tensors):
    student = network()
    student.load_state_dict(tensors)
    return evaluate(student, HELD_OUT).as_dict()


def test_the_mean_is_uniform_over_the_steps_since_and_the_weights_that_are_validated_are_those_that_are_kept():
    for keep in ("last", "best"):
        result, own = along(keep=keep)
        fired = fired_after(result.history)
        assert 2 < fired < 6
        per_epoch = len(own) // len(result.history)
        for epoch, entry in enumerate(result.history, start=1):  # each epoch measures what it would keep
            since = own[fired * per_epoch : epoch * per_epoch]
            kept = own[epoch * per_epoch - 1]
            if since:
                kept = {name: torch.stack([each[name] for each in since]).mean(0) for name in kept}
            assert entry["validation"]["nll"] == pytest.approx(measured(kept)["nll"], rel=1e-5)
            if epoch == result.epoch:
                torch.testing.assert_close(dict(result.student.state_dict()), kept, rtol=1e-5, atol=1e-6)
        assert result.metrics == result.history[result.epoch - 1]["validation"]
        assert result.metrics == evaluate(result.student, HELD_OUT).as_dict()  # the very weights, bit for bit
    plain, _ = along(averaging=None)
    assert plain.history[: fired_after(result.history)] == result.history[: fired_after(result.history)]
    assert plain.history[-1]["train"] == result.history[-1]["train"]  # the steps go on from the student's own
    assert not torch.equal(weights(plain.student), weights(result.student))


def test_a_training_that_ends_as_the_trigger_fires_keeps_its_own_weights():
    fired = fired_after(along()[0].history)
    result, own = along(epochs=fired)
    assert torch.equal(weights(result.student), torch.cat([each.double().flatten() for each in own[-1].values()]))
    assert result.metrics == evaluate(result.student, HELD_OUT).as_dict()


def test_an_interrupted_training_comes_to_the_same_mean_bit_for_bit(tmp_path):
    changes = STALLING | {"epochs": 6, "optimizer": "adam", "learning_rate": 0.3, "betas": (0.8, 0.9), "eps": 1e-6}
    changes |= {"no_decay": ("bias", "norm"), "rates": {"2.*": 0.5}, "weight_decay": 0.01}
    changes |= {"schedule": "linear", "milestones": (), "warmup_share": 0.1}
    result = run(tmp_path / "whole", "plain", **changes)
    fired = fired_after(result.history)
    assert fired < 5
    for step in (1, 3 * fired - 1, 3 * fired + 1, 3 * fired + 5):
        with pytest.raises(Crash):
            run(tmp_path / str(step), "plain", once(step, crash), **changes)
        run(tmp_path / str(step), "plain", **changes)
        assert ended(tmp_path / str(step)) == ended(tmp_path / "whole"), step


def test_counts_are_copied_and_nothing_is_shared_with_the_model():
    model, average = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), MeanOfWeights(1)
    average.observe([1.0, 2.0, 3.0])
    for _ in range(3):
        model(torch.randn(5, 3))
        average.update(model)
    assert average.state["1.num_batches_tracked"] == 3
    assert average.updates == 3
    own = average.swap(model)
    assert own["1.num_batches_tracked"] == 3
    pointers = {each.data_ptr() for each in model.state_dict().values()}
    assert not pointers & {each.data_ptr() for each in average.state.values()}


@over("averaging", [Averaging(), Averaging(Mean(2))])
def test_a_mean_without_validation_is_refused(averaging):
    with pytest.raises(InputError, match="averaging: found mean, which begins when validation stops to improve"):
        train(averaging=averaging)


def test_a_mean_teacher_needs_an_average_from_the_first_step():
    with pytest.raises(InputError, match="averaging: found a mean that begins later"):
        fit(MeanTeacherDistiller(network(), kd()), SAMPLES, HELD_OUT, epochs=1, averaging=Averaging())
