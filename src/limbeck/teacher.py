"""What a teacher is: whatever answers a batch."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.carry import Carry
from limbeck.errors import InputError
from limbeck.outputs import Outputs, Tap

__all__ = ["Carrying", "ClassVectors", "Teacher", "asked", "refuse_taps", "teacher_weights"]


@runtime_checkable
class Teacher(Protocol):
    """The protocol of a teacher: it answers a batch without gradient and in eval mode.

    The answer for a sample must not depend on how samples are cut into batches.

    Example:
        >>> import limbeck as lb
        >>> from torch import nn
        >>> isinstance(lb.ModelTeacher(nn.Linear(3, 4)), lb.Teacher)
        True
    """

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the outputs for a batch, cut off from any graph, with the features that `taps` name.

        `taps` is handed over only when the objective reads features of the teacher.
        """

    def to(self, device: torch.device | str) -> "Teacher":
        """Place the teacher on a device and return it."""

    def fingerprint(self) -> str:
        """Return a digest of everything that decides the answers."""


@runtime_checkable
class ClassVectors(Protocol):
    """A teacher that can also say by which vectors it tells the classes apart."""

    def class_vectors(self, classes: int | None = None) -> Tensor:
        """Return the rows of the last linear layer, (K, d); ModelError where there is none, or none of `classes`."""


@runtime_checkable
class Carrying(Protocol):
    """A teacher that can continue a stream: it also takes a recurrent state, and gives the next in its outputs."""

    @property
    def state_axis(self) -> int:
        """The batch axis of its state."""

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None, state: Any = None) -> Outputs:
        """Return the outputs for a batch that continues from a state; None to begin anew."""


@runtime_checkable
class Weighted(Protocol):
    """A teacher that can also tell its weights, which no training may change, from its traces of being asked."""

    def weights_digest(self) -> str | None:
        """Return a digest of the weights."""


def refuse_taps(taps: Mapping[str, str | Tap] | None, teacher: str, has: str, mend: str) -> None:
    """Refuse to tap a teacher that has no features."""
    if taps:
        raise InputError(f"{teacher}: it has only {has}, but the objective reads the features {sorted(taps)}; {mend}")


def teacher_weights(teacher: Teacher | None) -> str | None:
    """Return a digest of a teacher's weights, or of all that decides its answers where it does not offer one."""
    if teacher is None or isinstance(teacher, Weighted):
        return None if teacher is None else teacher.weights_digest()
    return teacher.fingerprint()


def asked(teacher: Teacher, batch: Batch, taps: Mapping[str, str | Tap] | None, carry: Carry) -> Outputs:
    """Return a teacher's outputs for a batch, continued from the state that it ended the batch before with.

    carry: keeps its state, under "teacher"; a teacher without one gives each batch the answer that it would give alone.
    """
    if batch.lanes is None or not isinstance(teacher, Carrying):
        return teacher(batch, taps) if taps else teacher(batch)
    state = carry.state("teacher", batch, teacher.state_axis)
    answer = teacher(batch, taps, state) if taps else teacher(batch, state=state)
    carry.keep("teacher", batch, answer.state, teacher.state_axis)
    return answer
