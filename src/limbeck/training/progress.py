"""What the loop reports to its observer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from limbeck.arguments import checked_fields

__all__ = ["Observer", "Pace", "Progress", "ignore"]


@checked_fields
@dataclass(frozen=True)
class Progress:
    """The state of a running training.

    Attributes:
        label: name of the training.
        step: optimizer steps done.
        steps: optimizer steps in all.
        epoch: the current one, from 1.
        epochs: in all.
        losses: mean of the total and of each term since the last epoch.
        metrics: of the last validation.
        samples_per_second: of all processes of the group.
        seconds_left: at that rate; None until it is known.
        epoch_ended: whether an epoch has just ended.
        measured: what the task calls `metrics["errors"]`, such as the perplexity.
        resumed: whether this is where the training stands before its first step of this call; it has no speed.

    Example:
        >>> Progress("student", step=5, steps=10, epoch=1, epochs=2).seconds_left is None
        True
    """

    label: str
    step: int
    steps: int
    epoch: int
    epochs: int
    losses: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples_per_second: float = 0.0
    seconds_left: float | None = None
    epoch_ended: bool = False
    measured: str = "errors"
    resumed: bool = False


Observer = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Watch nothing."""


class Pace:
    """Makes looks at a training: how far it has come, and how fast from the moment on at which this is made.

    steps, epochs: of the whole training.  samples: in a step.  done: steps that had been made before.  measured: what
    the task calls its main figure.
    """

    def __init__(
        self, label: str, *, steps: int, epochs: int, samples: int, done: int, measured: str = "errors"
    ) -> None:
        self._label, self._steps, self._epochs, self._measured = label, steps, epochs, measured
        self._samples, self._done = samples, done
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._began

    def resumed(self, epoch: int, metrics: Mapping[str, float]) -> Progress:
        """Return a look at what was resumed or read, before any step of this call."""
        steps, epochs = self._steps, self._epochs
        return Progress(
            self._label, self._done, steps, epoch, epochs, metrics=metrics, measured=self._measured, resumed=True
        )

    def look(
        self,
        step: int,
        epoch: int,
        losses: Mapping[str, float],
        metrics: Mapping[str, float],
        *,
        epoch_ended: bool = False,
    ) -> Progress:
        """Return a look at a training, with the speed so far."""
        speed = (step - self._done) / max(self.seconds, 1e-9)
        return Progress(
            self._label,
            step,
            self._steps,
            epoch,
            self._epochs,
            losses,
            metrics,
            samples_per_second=speed * self._samples,
            seconds_left=(self._steps - step) / speed if speed else None,
            epoch_ended=epoch_ended,
            measured=self._measured,
        )
