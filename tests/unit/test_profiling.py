"""Where the time of steps goes: every part is timed, and neither results nor steps without a profile change."""

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck import profiling
from limbeck.profiling import PARTS, Profile, timing


def trained(epochs=2, **settings):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    torch.manual_seed(1)
    teacher = nn.Linear(3, 4)
    data = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
    return lb.fit(student, data, data, teacher=teacher, epochs=epochs, batch_size=16, **settings)


class Clock:
    """A clock that stands still but where a test lets time pass."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(profiling, "time", made)
    return made


class Slow(nn.Module):
    """Takes a time in a pass of training, another in one of evaluation."""

    def __init__(self, clock, inner, *, training=0.0, evaluation=0.0):
        super().__init__()
        self.clock, self.inner = clock, inner
        self.seconds = {True: training, False: evaluation}

    def forward(self, inputs):
        self.clock.now += self.seconds[self.training]
        return self.inner(inputs)


def test_a_profile_changes_no_result():
    alone = trained(clip=1.0, averaging=0.9, max_norm=3.0)
    with Profile():
        measured = trained(clip=1.0, averaging=0.9, max_norm=3.0)
    assert alone.history == measured.history
    for name, tensor in alone.student.state_dict().items():
        assert torch.equal(tensor, measured.student.state_dict()[name])


def test_every_part_of_a_step_is_timed_and_the_shares_add_up():
    with Profile() as profile:
        trained()
    assert profile.steps == {"student": 8}
    assert all(profile.seconds["student"][name] > 0 for name in PARTS)
    assert sum(profile.shares("student").values()) == pytest.approx(1)
    row = profile.as_dict()["student"]
    assert sum(row["percent"].values()) == pytest.approx(100)
    assert sum(row["ms"].values()) == pytest.approx(row["ms_a_step"])
    assert "student: 8 steps of" in str(profile)


@pytest.mark.parametrize("slow", ["teacher", "student"])
def test_time_is_attributed_to_the_part_that_took_it_once(clock, slow):
    wrap = {slow: lambda net: Slow(clock, net, training=0.5, evaluation=0.5)}
    student, teacher = (wrap.get(name, lambda net: net)(nn.Linear(3, 4)) for name in ("student", "teacher"))
    data = (torch.randn(32, 3), torch.randint(4, (32,)))
    with Profile() as profile:
        lb.fit(student, data, teacher=teacher, epochs=2, batch_size=16)
    assert {name: seconds for name, seconds in profile.seconds["student"].items() if seconds} == {slow: 2.0}


def test_passes_of_evaluation_are_no_part_of_a_step(clock):
    data = lb.data.TensorSet.of(torch.randn(32, 3), torch.randint(4, (32,)), classes=4)
    student = Slow(clock, nn.Linear(3, 4), training=0.5, evaluation=8.0)
    with Profile() as profile:
        lb.evaluate(student, data)
        assert profile.seconds == {}
        lb.fit(student, data, data, method=lb.methods.hard(), epochs=1, batch_size=16)
    assert sum(profile.seconds["student"].values()) == profile.seconds["student"]["student"] == 1.0
    assert clock.now > 8


def test_without_a_profile_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(profiling, "_Part", None)
    assert timing("student") is timing("data", "student")
    trained(epochs=1)


def test_several_trainings_have_rows_of_their_own():
    data = lb.data.TensorSet.of(torch.randn(32, 3), torch.randint(4, (32,)), classes=4)
    distillers = [lb.Distiller(nn.Linear(3, 4), None, lb.methods.hard()) for _ in range(2)]
    with Profile() as profile:
        lb.fit_many(distillers, data, epochs=1, batch_size=16, labels=["one", "two"])
    assert profile.steps == {"one": 2, "two": 2}
    assert all(set(seconds) <= set(PARTS) for seconds in profile.seconds.values())


def test_an_outer_profile_is_back_after_an_inner_one():
    with Profile() as outer:
        with Profile() as inner:
            trained(epochs=1)
        trained(epochs=1)
    assert inner.steps == outer.steps == {"student": 4}
    trained(epochs=1)
    assert outer.steps == {"student": 4}
