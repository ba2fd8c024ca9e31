"""How far a command has come over all of its trainings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from limbeck.experiment.agenda import Expected
    from limbeck.training.progress import Progress

__all__ = ["Course", "Overall", "Rows", "duration"]

_ROLE = re.compile(r"(?:search-|budget-)?(teacher|alone_budget|alone)\b(?!_)")


class Overall(Protocol):
    """What knows how far a command has come."""

    def look(self, progress: "Progress", now: float) -> None:
        """Take note of a look at a training.  now: seconds on a clock."""

    def said(self, now: float) -> str:
        """Return how far the command has come; nothing as long as that is not known."""


def duration(seconds: float) -> str:
    """Return a time in words, such as 1 h 02 min.

    >>> duration(3.2), duration(75), duration(3720)
    ('3 s', '1 min 15 s', '1 h 02 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class _Kind:
    """Trainings of one kind: those that are expected, those begun, and what their steps took in this call."""

    steps: float
    runs: int
    begun: int = 0
    made: int = 0
    seconds: float = 0.0


@dataclass
class _Begun:
    """A training that was seen.  latest: the number of the last look at it."""

    kind: _Kind
    step: int
    steps: int
    latest: int


class Course:
    """The trainings of a command, from what is expected and what is seen of each.

    A step that no training of its kind has made yet is taken to last as long as the mean of the others.
    expected: the trainings.  began: seconds on a clock.

    >>> from limbeck.experiment.agenda import Expected
    >>> from limbeck.training.progress import Progress
    >>> course = Course([Expected("teacher", 100, 1), Expected("alone", 50, 1)], began=0.0)
    >>> course.said(0.0)
    ''
    >>> course.look(Progress("teacher", step=50, steps=100, epoch=1, epochs=2, samples_per_second=9.0), now=5.0)
    >>> course.said(5.0)
    'training 1 of 2 · 10 s left in all · 33 %'
    """

    def __init__(self, expected: "Sequence[Expected]", *, began: float) -> None:
        self._kinds: dict[str, _Kind] = {}
        for each in expected:
            known = self._kinds.get(each.role)
            before = (known.steps * known.runs, known.runs) if known else (0.0, 0)
            runs = before[1] + each.runs
            self._kinds[each.role] = _Kind((before[0] + each.steps * each.runs) / max(runs, 1), runs)
        self._trainings: dict[str, _Begun] = {}
        self._began = self._latest = began
        self._looks = self._newest = 0

    def look(self, progress: "Progress", now: float) -> None:
        """Take note of a look at a training; the time since the last look is that of its steps."""
        self._looks += 1
        training = self._trainings.get(progress.label)
        if training is None or progress.resumed or progress.step < training.step:  # teachers of seeds have one name
            kind = self._kind(progress.label)
            kind.begun += 1
            self._newest = self._looks
            done = progress.step if progress.resumed else 0
            training = self._trainings[progress.label] = _Begun(kind, done, progress.steps, self._looks)
        training.latest = self._looks
        training.kind.made += progress.step - training.step
        training.kind.seconds += now - self._latest if progress.step > training.step or progress.epoch_ended else 0.0
        training.step, self._latest = progress.step, now

    def said(self, now: float) -> str:
        """Return which training this is out of how many, and the time and the share of all of them."""
        begun = sum(kind.begun for kind in self._kinds.values())
        total = sum(max(kind.runs, kind.begun) for kind in self._kinds.values())
        if not begun:
            return ""
        left = self._left()
        words = [f"training {begun} of {total}"]
        if left is not None:
            spent = now - self._began
            words += [f"{duration(left)} left in all", f"{100 * spent / max(spent + left, 1e-9):.0f} %"]
        return " · ".join(words)

    def _left(self) -> float | None:
        made = sum(kind.made for kind in self._kinds.values())
        if not made:
            return None
        usual = sum(kind.seconds for kind in self._kinds.values()) / made
        left = 0.0
        for kind in self._kinds.values():
            pace = kind.seconds / kind.made if kind.made else usual
            left += pace * kind.steps * max(kind.runs - kind.begun, 0)
        for each in self._trainings.values():
            if each.latest >= self._newest:  # an earlier one has ended, if before its last step
                left += (each.kind.seconds / each.kind.made if each.kind.made else usual) * (each.steps - each.step)
        return left

    def _kind(self, label: str) -> _Kind:
        found = _ROLE.match(label)
        role = found[1] if found and found[1] in self._kinds else ""
        return self._kinds.setdefault(role, _Kind(0.0, 0))


class Rows:
    """The rows of a table, one after the other, of which each may be many trainings, or be read at once.

    began: seconds on a clock.

    >>> from limbeck.training.progress import Progress
    >>> rows = Rows(began=0.0)
    >>> rows.begin(1, 12, now=0.0)
    >>> rows.look(Progress("teacher", step=1, steps=2, epoch=1, epochs=2), now=30.0)
    >>> rows.begin(2, 12, now=60.0)
    >>> rows.said(60.0)
    'row 2 of 12 · 11 min 00 s left in all'
    """

    def __init__(self, *, began: float) -> None:
        self._latest, self._seconds, self._made = began, 0.0, 0
        self._number = self._total = 0
        self._trained = False

    def begin(self, number: int, total: int, now: float) -> None:
        """Take note that a row begins, from 1, and that the one before has ended; one without a training was read."""
        if self._number and self._trained:
            self._seconds += now - self._latest
            self._made += 1
        self._number, self._total, self._latest, self._trained = number, total, now, False

    def look(self, progress: "Progress", now: float) -> None:
        """Take note that a row trains."""
        self._trained = True

    def said(self, now: float) -> str:
        """Return which row this is out of how many, and the time left for all of them."""
        if not self._number:
            return ""
        if not self._made:
            return f"row {self._number} of {self._total}"
        left = self._seconds / self._made * (self._total - self._number + 1) - (now - self._latest)
        return f"row {self._number} of {self._total} · {duration(max(left, 0.0))} left in all"
