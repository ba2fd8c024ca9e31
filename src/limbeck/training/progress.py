"""What the loop tells whoever watches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Observer", "Progress", "ignore"]


@dataclass(frozen=True)
class Progress:
    """A look at a running training.

    label: what is being trained.  step of steps, epoch of epochs: counted from 1 as done.  losses: mean of the total
    and of each term since the last epoch.  metrics: of the last validation.  samples_per_second: of this process's
    group.  seconds_left: at that rate, None before it is known.
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


Observer = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Watch nothing."""
