"""Where the time of training steps goes: parts of a step that are timed while a profile is open, and free otherwise."""

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

import torch

__all__ = ["PARTS", "Profile", "counted", "timed", "timing"]

PARTS = ("data", "teacher", "student", "loss", "backward", "optimizer", "other")
"""What a step consists of, in its order: the parts that the loop and the distiller time."""

_Value = TypeVar("_Value")
_OFF = nullcontext()


class Profile:
    """Time the parts of every training step that runs in this process while the scope is open.

    data: batches made, augmented and placed on the device.  teacher: its answers, stored ones looked up too.
    student: its forward pass.  loss: the terms.  backward: gradients.  optimizer: clipping and the update.
    other: the norm constraint, averages and the sums of the losses.  Evaluation and checkpoints are no part of a step.
    A profile changes no result.  On an accelerator it waits for the device at the end of each part, so that the work is
    attributed to the part that asked for it; steps are slower than without a profile there.

    Attributes:
        seconds: {training: {part: seconds}}; a training goes by the `label` of `fit`.
        steps: {training: optimizer steps}.

    Example:
        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
        >>> with Profile() as profile:
        ...     _ = lb.fit(torch.nn.Linear(3, 4), samples, method=lb.methods.hard(), epochs=1, batch_size=16)
        >>> profile.steps, round(sum(profile.shares("student").values()))
        ({'student': 4}, 1)
    """

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}
        self.steps: dict[str, int] = {}
        self._open: list[_Part] = []
        self._outer: Profile | None = None

    def __enter__(self) -> Self:
        global _current
        self._outer, _current = _current, self
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current, self._outer = self._outer, None

    def shares(self, label: str) -> dict[str, float]:
        """Return the share of each part in the steps of a training, 0 to 1; empty if it made no step."""
        seconds = self.seconds.get(label, {})
        total = sum(seconds.values())
        return {name: seconds.get(name, 0.0) / total for name in PARTS} if total else {}

    def milliseconds(self, label: str) -> dict[str, float]:
        """Return the milliseconds a step of each part of a training; empty if it made no step."""
        steps, seconds = self.steps.get(label, 0), self.seconds.get(label, {})
        return {name: 1000 * seconds.get(name, 0.0) / steps for name in PARTS} if steps else {}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: {training: {"steps", "ms_a_step", "percent": {part: number}, "ms": {part: number}}}."""
        return {
            label: {
                "steps": steps,
                "ms_a_step": sum(self.milliseconds(label).values()),
                "percent": {name: 100 * share for name, share in self.shares(label).items()},
                "ms": self.milliseconds(label),
            }
            for label, steps in self.steps.items()
        }

    def __str__(self) -> str:
        lines = []
        for label, row in self.as_dict().items():
            parts = ", ".join(f"{name} {share:.1f} %" for name, share in row["percent"].items())
            lines.append(f"{label}: {row['steps']:,} steps of {row['ms_a_step']:.2f} ms: {parts}")
        return "\n".join(lines)


class _Part:
    """One part of a step: its time without that of the parts inside it."""

    def __init__(self, profile: Profile, name: str, label: str | None) -> None:
        self.profile, self.name, self.label = profile, name, label
        self.inner = 0.0

    def __enter__(self) -> None:
        around = self.profile._open  # noqa: SLF001
        if self.label is None:
            self.label = around[-1].label if around else ""
        around.append(self)
        _wait()
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        _wait()
        took = time.perf_counter() - self.began
        around = self.profile._open  # noqa: SLF001
        around.pop()
        if around:
            around[-1].inner += took
        if self.label:
            parts = self.profile.seconds.setdefault(self.label, {})
            parts[self.name] = parts.get(self.name, 0.0) + took - self.inner


_current: Profile | None = None


def _wait() -> None:
    """Wait for what the device has been asked to do."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def timing(name: str, label: str | None = None) -> AbstractContextManager[None]:
    """Return a scope whose time counts as a part of a step while a profile is open; otherwise one that does nothing.

    label: of the training; by default that of the part around it, without which nothing is counted (a pass of
    evaluation asks the same networks).

    >>> timing("student") is timing("teacher")
    True
    """
    return _OFF if _current is None else _Part(_current, name, label)


def timed(name: str, label: str, values: Iterable[_Value]) -> Iterator[_Value]:
    """Yield values; the time that it takes to make each counts as a part of a step.

    >>> list(timed("data", "student", [1, 2]))
    [1, 2]
    """
    each = iter(values)
    while True:
        with timing(name, label):
            value = next(each, _END)
        if value is _END:
            return
        yield value


_END: Any = object()


def counted(label: str) -> None:
    """Count a step of a training while a profile is open."""
    if _current is not None:
        _current.steps[label] = _current.steps.get(label, 0) + 1
