"""What trainings on the same batches need not do each for itself: make a batch, and ask the teacher about it."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch, Mix
from limbeck.data.loader import Batches
from limbeck.errors import ModelError
from limbeck.outputs import Outputs, Tap
from limbeck.teacher import Carrying, ClassVectors, Teacher, teacher_weights
from limbeck.training.engine import placed

__all__ = ["SharedBatches", "SharedTeacher"]


_DECIDING = ("index", "view", "inputs", "labels", "mask", "views", "extras", "mix")


@dataclass
class _Place:
    """Where the batches of a rank are drawn from, and the one that was drawn last."""

    epoch: int
    position: int
    batches: Iterator[Batch]
    last: Batch


class SharedBatches:
    """Batches that are made once for all trainings that stand at the same place, and placed where they are computed.

    A training that stands elsewhere gets the batches of its own place, and the others theirs, at the cost of making
    them anew; so let those that are behind catch up first.
    """

    def __init__(self, batches: Batches, device: torch.device, memory_format: str) -> None:
        self._batches, self._device, self._memory_format = batches, device, memory_format
        self._places: dict[tuple[int, int], _Place] = {}

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self._batches.steps

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield a rank's part of each batch of an epoch, from batch `start` on: the same objects to everyone."""
        return (self._at(epoch, position, rank, world) for position in range(start, self.steps))

    def _at(self, epoch: int, position: int, rank: int, world: int) -> Batch:
        place = self._places.get((rank, world))
        if place is None or place.epoch != epoch or position not in (place.position, place.position + 1):
            drawn = self._batches.epoch(epoch, start=position, rank=rank, world=world)
            place = self._places[rank, world] = _Place(epoch, position, drawn, self._placed(next(drawn)))
        elif position > place.position:
            place.position, place.last = position, self._placed(next(place.batches))
        return place.last

    def _placed(self, batch: Batch) -> Batch:
        return placed(batch, self._device, self._memory_format)


@dataclass
class _Asked:
    """A batch that the teacher was asked about, and what it said.

    answers: each for the taps and the precision, in which autocast has a say, that it was asked with.
    """

    batch: Batch
    answers: list[tuple[Any, Outputs]] = field(default_factory=list)


class SharedTeacher:
    """A teacher that is asked once about a batch; later callers with the same batch get the same answer.

    last: of how many batches, the latest, the answers are kept.  A batch is known by its tensors being the same
    objects, so that a training that changes its batch asks for itself.
    """

    def __init__(self, teacher: Teacher, last: int = 1) -> None:
        self.teacher = teacher
        self._asked: deque[_Asked] = deque(maxlen=last)

    @property
    def state_axis(self) -> int:
        """The batch axis of the teacher's recurrent state."""
        return self.teacher.state_axis if isinstance(self.teacher, Carrying) else 1

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None, state: Any = None) -> Outputs:
        """Return the teacher's outputs, computed at the first call; of a stream at each, since each carries a state."""
        if batch.lanes is not None and isinstance(self.teacher, Carrying):
            return self.teacher(batch, taps, state)
        wanted = (dict(taps or {}), _precision(batch.index.device))
        asked = next((known for known in self._asked if _alike(known.batch, batch)), None)
        if asked is None:
            asked = _Asked(batch)
            self._asked.append(asked)
        for known, answer in asked.answers:
            if known == wanted:
                return answer
        answer = self.teacher(batch, taps) if taps else self.teacher(batch)
        asked.answers.append((wanted, answer))
        return answer

    def class_vectors(self, classes: int | None = None) -> Tensor:
        """Return the teacher's class vectors; ModelError where it has none."""
        if not isinstance(self.teacher, ClassVectors):
            raise ModelError(
                f"teacher: {type(self.teacher).__name__} has no class vectors; use a network as the teacher"
            )
        return self.teacher.class_vectors(classes)

    def to(self, device: torch.device | str) -> "SharedTeacher":
        """Place the teacher on a device."""
        self.teacher.to(device)
        return self

    def fingerprint(self) -> str:
        """Return the teacher's fingerprint."""
        return self.teacher.fingerprint()

    def weights_digest(self) -> str | None:
        """Return the digest of the teacher's weights."""
        return teacher_weights(self.teacher)


def _precision(device: torch.device) -> torch.dtype | None:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _alike(batch: Batch, other: Batch) -> bool:
    """Return whether two batches have the same tensors, the very objects."""
    return all(_same(getattr(batch, name), getattr(other, name)) for name in _DECIDING)


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(_same(item, other[key]) for key, item in value.items())
    if isinstance(value, Mix) and isinstance(other, Mix):
        return _same(vars(value), vars(other))
    return value is other
