"""Schedules: a number that may change with the training step.

Wherever limbeck takes a weight, a temperature or a learning-rate factor, it takes a number or a schedule.  A schedule
is a frozen dataclass, written as a function is; its `repr` is what tells it from another one.  A function of your own
from the step to a number is a schedule too, and is known by its code.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError, LimbeckError, one_line

__all__ = ["Schedule", "at", "cosine", "linear", "one_cycle", "piecewise", "step_of", "until", "warmup"]

Schedule = float | Callable[[int], float]
"""A number, or a function from the training step (counted from 0) to a number."""


def at(schedule: Schedule, step: int | None) -> float:
    """Return the value of a number or schedule at a step.

    Args:
        schedule: a number, or a function of the step.
        step: optimizer steps done so far, from 0; None if the caller does not know, which only a number allows.

    Returns:
        The value.

    Raises:
        InputError: if the schedule raises, or needs a step and there is none.

    Example:
        >>> at(0.5, None), at(linear(1.0, 0.0, steps=10), 5)
        (0.5, 0.5)
        >>> at(linear(1.0, 0.0, steps=10), None)
        Traceback (most recent call last):
        limbeck.errors.InputError: step: found None, but linear(start=1.0, end=0.0, steps=10) changes with it; ...
    """
    if not callable(schedule):
        return schedule
    step = step_of(step, getattr(schedule, "__qualname__", None) or repr(schedule))
    try:
        value = schedule(step)
    except LimbeckError:
        raise
    except Exception as error:
        raise InputError(
            f"schedule: at step {step} it raised {type(error).__name__}: {one_line(error)}; expected a number"
        ) from error
    return value


def step_of(step: int | None, what: str) -> int:
    """Return the step, or raise if there is none.

    Args:
        step: optimizer steps done so far, or None.
        what: what needs the step, for the error message.

    Returns:
        The step.

    Raises:
        InputError: if the step is None.

    Example:
        >>> step_of(5, "linear(start=1.0, end=0.0, steps=10)")
        5
    """
    if step is None:
        raise InputError(
            f"step: found None, but {what} changes with it; expected the number of optimizer steps done. Call"
            " distiller(batch, step), or set distiller.step; give the Transformers Trainer callbacks=[model.callback()]"
        )
    return step


@checked_fields
@dataclass(frozen=True)
class linear:
    """Change linearly from `start` to `end` over `steps`, then stay at `end`.

    Attributes:
        start: the value at step 0; finite.
        end: the value from step `steps` on; finite.
        steps: optimizer steps, 1 or more.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> linear(4.0, 1.0, steps=10)(5)
        2.5
    """

    start: float
    end: float
    steps: int = field(kw_only=True)

    def __post_init__(self) -> None:
        _hold_numbers(self, "start", "end")
        checks.at_least("steps", self.steps, 1)

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step, self.steps) / self.steps


@checked_fields
@dataclass(frozen=True)
class cosine:
    """Change from `start` to `end` along half a cosine over `steps`, then stay at `end`.

    Attributes:
        start: the value at step 0; finite.
        end: the value from step `steps` on; finite.
        steps: optimizer steps, 1 or more.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> [round(cosine(1.0, 0.0, steps=4)(step), 3) for step in range(6)]
        [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]

    Reference:
        Loshchilov & Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv:1608.03983.
    """

    start: float
    end: float
    steps: int = field(kw_only=True)

    def __post_init__(self) -> None:
        _hold_numbers(self, "start", "end")
        checks.at_least("steps", self.steps, 1)

    def __call__(self, step: int) -> float:
        return _half_cosine(self.start, self.end, self.steps, step)


@checked_fields
@dataclass(frozen=True)
class piecewise:
    """Hold `values[i]` until step `boundaries[i]`, and the last value after the last boundary.

    Attributes:
        values: finite numbers, one more than boundaries.
        boundaries: rising steps.

    Raises:
        InputError: if the lengths do not fit, or the boundaries do not rise.

    Example:
        >>> rate = piecewise([1.0, 0.1], boundaries=[100])
        >>> rate(99), rate(100)
        (1.0, 0.1)
    """

    values: Sequence[float]
    boundaries: Sequence[int] = field(kw_only=True)

    def __post_init__(self) -> None:
        values, boundaries = tuple(self.values), tuple(self.boundaries)
        if len(values) != len(boundaries) + 1:
            raise InputError(
                f"values: found {len(values)} for {len(boundaries)} boundaries, expected one more than boundaries"
            )
        if list(boundaries) != sorted(boundaries):
            raise InputError(f"boundaries: found {list(boundaries)}, expected rising steps")
        for value in values:
            checks.finite("values", value)
        object.__setattr__(self, "values", tuple(map(float, values)))
        object.__setattr__(self, "boundaries", boundaries)

    def __call__(self, step: int) -> float:
        return self.values[sum(step >= boundary for boundary in self.boundaries)]


@checked
def until(step: int, value: float, *, after: float = 0.0) -> piecewise:
    """Hold one value before a step and another from that step on, so that a term ends.

    Args:
        step: the first step with the second value.
        value: before `step`.
        after: from `step` on.

    Returns:
        The schedule.

    Raises:
        InputError: if a value is not finite.

    Example:
        >>> until(100, 0.9)
        piecewise(values=(0.9, 0.0), boundaries=(100,))

    Reference:
        Cho & Hariharan (2019), "On the Efficacy of Knowledge Distillation", arXiv:1910.01348.
    """
    return piecewise([value, after], boundaries=[step])


@checked_fields
@dataclass(frozen=True)
class warmup:
    """Rise linearly to another schedule over the first `steps`; step 0 has 1/steps of it.

    Attributes:
        schedule: a number, or a function of the step.
        steps: optimizer steps, 0 or more; 0 for none.

    Raises:
        InputError: if the steps are negative.

    Example:
        >>> [warmup(1.0, steps=4)(step) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    schedule: Schedule
    steps: int = field(kw_only=True)

    def __post_init__(self) -> None:
        checks.at_least("steps", self.steps, 0)

    def __call__(self, step: int) -> float:
        return at(self.schedule, step) * (min(1.0, (step + 1) / self.steps) if self.steps else 1.0)


@checked_fields
@dataclass(frozen=True)
class one_cycle:
    """Rise from `start` to 1 over the share `rise` of the steps and fall to `end`, both along half cosines.

    Attributes:
        steps: optimizer steps of the whole cycle, 1 or more.
        rise: share of the steps in [0, 1] before the peak.
        start: the value at step 0; finite.
        end: the value at the last step; finite.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> [round(one_cycle(steps=10)(step), 2) for step in (0, 3, 10)]
        [0.04, 1.0, 0.0]

    Reference:
        Smith & Topin (2018), "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
        arXiv:1708.07120.
    """

    steps: int = field(kw_only=True)
    rise: float = field(default=0.3, kw_only=True)
    start: float = field(default=1 / 25, kw_only=True)
    end: float = field(default=1e-4, kw_only=True)

    def __post_init__(self) -> None:
        _hold_numbers(self, "start", "end")
        checks.at_least("steps", self.steps, 1)
        checks.unit_interval("rise", self.rise)

    def __call__(self, step: int) -> float:
        top = max(1, round(self.rise * self.steps))
        if step < top:
            return _half_cosine(self.start, 1.0, top, step)
        return _half_cosine(1.0, self.end, max(1, self.steps - top), step - top)


def _half_cosine(start: float, end: float, steps: int, step: int) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps))


def _hold_numbers(schedule: object, *names: str) -> None:
    """Require finite numbers, and hold them as floats: schedules of the same values have the same `repr`."""
    for name in names:
        value = getattr(schedule, name)
        checks.finite(name, value)
        object.__setattr__(schedule, name, float(value))
