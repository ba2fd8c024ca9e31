"""A number that changes with the step: its values at the ends, between, and beyond."""

import math

import pytest

from limbeck import schedules
from limbeck.errors import InputError
from walk import over


def values(schedule, *steps):
    return [schedules.at(schedule, step) for step in steps]


@over(
    ("schedule", "expected"),
    [
        (0.5, {0: 0.5, 7: 0.5, 10**9: 0.5}),
        (3, {0: 3, 10: 3}),
        (schedules.linear(1.0, 0.0, steps=4), {0: 1.0, 1: 0.75, 2: 0.5, 4: 0.0, 5: 0.0, 1000: 0.0}),
        (schedules.linear(2.0, 5.0, steps=1), {0: 2.0, 1: 5.0, 2: 5.0}),
        (schedules.linear(-1, 1, steps=2), {0: -1, 1: 0, 2: 1}),
        (schedules.cosine(1.0, 0.0, steps=4), {0: 1.0, 1: (1 + math.sqrt(0.5)) / 2, 2: 0.5, 4: 0.0, 9: 0.0}),
        (schedules.cosine(0.0, 3.0, steps=2), {0: 0.0, 1: 1.5, 2: 3.0, 3: 3.0}),
        (schedules.piecewise([1.0, 0.1, 0.01], boundaries=[3, 5]), {0: 1.0, 2: 1.0, 3: 0.1, 4: 0.1, 5: 0.01, 99: 0.01}),
        (schedules.piecewise([2.0], boundaries=[]), {0: 2.0, 99: 2.0}),
        (schedules.until(3, 0.9), {0: 0.9, 2: 0.9, 3: 0.0, 4: 0.0}),
        (schedules.until(3, 0.9, after=0.2), {2: 0.9, 3: 0.2}),
        (schedules.until(0, 0.9), {0: 0.0}),
        (schedules.warmup(2.0, steps=4), {0: 0.5, 1: 1.0, 3: 2.0, 4: 2.0, 100: 2.0}),
        (schedules.warmup(2.0, steps=0), {0: 2.0}),
        (schedules.warmup(2.0, steps=1), {0: 2.0, 1: 2.0}),
        (schedules.warmup(schedules.linear(1.0, 0.0, steps=4), steps=2), {0: 0.5, 1: 0.75, 2: 0.5, 4: 0.0}),
        (schedules.one_cycle(steps=10, rise=0.5, start=0.1, end=0.01), {0: 0.1, 5: 1.0, 10: 0.01, 11: 0.01}),
        (schedules.one_cycle(steps=10, rise=0.0, start=0.1), {0: 0.1, 1: 1.0, 10: 1e-4}),
        (schedules.one_cycle(steps=10, rise=1.0, start=0.1, end=0.0), {0: 0.1, 5: 0.55, 10: 1.0, 11: 0.0}),
        (schedules.one_cycle(steps=1), {0: 1 / 25}),
    ],
)
def test_a_schedule_has_the_values_of_its_definition(schedule, expected):
    assert values(schedule, *expected) == pytest.approx(list(expected.values()), abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "written"),
    [
        (schedules.linear(1, 0, steps=4), "linear(start=1.0, end=0.0, steps=4)"),
        (schedules.cosine(1, 0, steps=4), "cosine(start=1.0, end=0.0, steps=4)"),
        (schedules.piecewise([1, 2], boundaries=[5]), "piecewise(values=(1.0, 2.0), boundaries=(5,))"),
        (schedules.until(5, 1, after=2), "piecewise(values=(1.0, 2.0), boundaries=(5,))"),
        (schedules.warmup(schedules.linear(1, 0, steps=4), steps=2), None),
        (schedules.one_cycle(steps=10, start=0, end=0), "one_cycle(steps=10, rise=0.3, start=0.0, end=0.0)"),
    ],
    ids=["linear", "cosine", "piecewise", "until", "warmup", "one_cycle"],
)
def test_the_repr_of_a_schedule_is_all_that_it_is(schedule, written):
    assert repr(schedule) == (written or "warmup(schedule=linear(start=1.0, end=0.0, steps=4), steps=2)")
    again = eval(repr(schedule), vars(schedules))  # noqa: S307 - our own text
    assert again == schedule
    assert hash(again) == hash(schedule)
    with pytest.raises(AttributeError):
        schedule.steps = 3


@pytest.mark.parametrize("schedule", [schedules.until(3, 1.0), lambda step: 1.0], ids=["dataclass", "function"])
def test_a_schedule_without_a_step_is_refused_and_a_number_needs_none(schedule):
    assert schedules.at(0.5, None) == 0.5
    with pytest.raises(InputError, match=r"^step: found None, but .*changes with it"):
        schedules.at(schedule, None)


def test_a_schedule_that_falls_never_rises_and_stays_between_its_ends():
    for schedule in (schedules.linear(1, 0.2, steps=50), schedules.cosine(1, 0.2, steps=50)):
        series = values(schedule, *range(60))
        assert series == sorted(series, reverse=True)
        assert series[0] == 1
        assert series[-1] == pytest.approx(0.2)


def test_one_cycle_rises_and_then_falls_over_its_steps():
    series = values(schedules.one_cycle(steps=100), *range(101))
    assert series[:31] == sorted(series[:31])
    assert series[30:] == sorted(series[30:], reverse=True)
    assert (series[0], series[30], series[100]) == pytest.approx((1 / 25, 1.0, 1e-4))


NAN, INF = math.nan, math.inf


@over(
    ("key", "build"),
    [
        ("start", lambda: schedules.linear(NAN, 0.0, steps=2)),
        ("end", lambda: schedules.linear(1.0, INF, steps=2)),
        ("steps", lambda: schedules.linear(1.0, 0.0, steps=0)),
        ("steps", lambda: schedules.linear(1.0, 0.0, steps=2.5)),
        ("steps", lambda: schedules.linear(1.0, 0.0, steps=True)),
        ("start", lambda: schedules.cosine("1", 0.0, steps=2)),
        ("end", lambda: schedules.cosine(1.0, None, steps=2)),
        ("steps", lambda: schedules.cosine(1.0, 0.0, steps=-1)),
        ("values", lambda: schedules.piecewise([1.0], boundaries=[3])),
        ("values", lambda: schedules.piecewise([1.0, NAN], boundaries=[3])),
        ("boundaries", lambda: schedules.piecewise([1.0, 2.0, 3.0], boundaries=[5, 3])),
        ("values", lambda: schedules.until(3, NAN)),
        ("values", lambda: schedules.until(3, 1.0, after=INF)),
        ("steps", lambda: schedules.warmup(1.0, steps=-1)),
        ("steps", lambda: schedules.one_cycle(steps=0)),
        ("rise", lambda: schedules.one_cycle(steps=5, rise=1.5)),
        ("rise", lambda: schedules.one_cycle(steps=5, rise=NAN)),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_the_name_of_what_is_wrong(key, build):
    with pytest.raises(InputError, match=f"^{key}: found") as caught:
        build()
    assert "\n" not in str(caught.value)
