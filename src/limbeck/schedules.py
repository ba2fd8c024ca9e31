"""Schedules: a number that may change with the training step.

Wherever limbeck takes a weight, a temperature or a learning-rate factor, it takes a number or a schedule.
"""

import math
from collections.abc import Callable, Sequence

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError, LimbeckError, one_line

__all__ = ["Schedule", "at", "cosine", "linear", "one_cycle", "piecewise", "until", "warmup"]

Schedule = float | Callable[[int], float]
"""A number, or a function from the training step (counted from 0) to a number."""


def at(schedule: Schedule, step: int) -> float:
    """Return the value of a number or schedule at `step`.

    >>> at(0.5, 100), at(linear(1.0, 0.0, steps=10), 5)
    (0.5, 0.5)
    """
    if not callable(schedule):
        return schedule
    try:
        value = schedule(step)
    except LimbeckError:
        raise
    except Exception as error:
        raise InputError(
            f"schedule: at step {step} it raised {type(error).__name__}: {one_line(error)}; expected a number"
        ) from error
    return value


@checked
def linear(start: float, end: float, *, steps: int) -> Callable[[int], float]:
    """Go from `start` to `end` in a straight line over `steps`, then stay."""
    checks.finite("start", start)
    checks.finite("end", end)
    checks.at_least("steps", steps, 1)
    return lambda step: start + (end - start) * min(step, steps) / steps


@checked
def cosine(start: float, end: float, *, steps: int) -> Callable[[int], float]:
    """Go from `start` to `end` along half a cosine over `steps`, then stay (Loshchilov & Hutter 2017).

    >>> [round(cosine(1.0, 0.0, steps=4)(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    checks.finite("start", start)
    checks.finite("end", end)
    checks.at_least("steps", steps, 1)
    return lambda step: end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps))


@checked
def piecewise(values: Sequence[float], *, boundaries: Sequence[int]) -> Callable[[int], float]:
    """Hold `values[i]` until step `boundaries[i]`, and the last value from there on.

    >>> rate = piecewise([1.0, 0.1], boundaries=[100])
    >>> rate(99), rate(100)
    (1.0, 0.1)
    """
    if len(values) != len(boundaries) + 1:
        raise InputError(
            f"values: found {len(values)} for {len(boundaries)} boundaries, expected one more than boundaries"
        )
    if list(boundaries) != sorted(boundaries):
        raise InputError(f"boundaries: found {list(boundaries)}, expected rising steps")
    for value in values:
        checks.finite("values", value)
    return lambda step: values[sum(step >= boundary for boundary in boundaries)]


@checked
def until(step: int, value: float, *, after: float = 0.0) -> Callable[[int], float]:
    """Hold `value` before `step` and `after` from it on: a term that ends (Cho & Hariharan 2019)."""
    return piecewise([value, after], boundaries=[step])


@checked
def warmup(schedule: Schedule, *, steps: int) -> Callable[[int], float]:
    """Rise in a straight line to `schedule` over the first `steps`; step 0 already has 1/steps of it.

    >>> [warmup(1.0, steps=4)(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    checks.at_least("steps", steps, 0)
    return lambda step: at(schedule, step) * (min(1.0, (step + 1) / steps) if steps else 1.0)


@checked
def one_cycle(*, steps: int, rise: float = 0.3, start: float = 1 / 25, end: float = 1e-4) -> Callable[[int], float]:
    """Rise from `start` to 1 over the share `rise` of the steps and fall to `end`, both along cosines (Smith 2018)."""
    checks.at_least("steps", steps, 1)
    checks.unit_interval("rise", rise)
    top = max(1, round(rise * steps))
    up = cosine(start, 1.0, steps=top)
    down = cosine(1.0, end, steps=max(1, steps - top))
    return lambda step: up(step) if step < top else down(step - top)
