"""What every target is, and how a teacher's answer is read at a temperature."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch, Legend
from limbeck.errors import InputError
from limbeck.losses import Dense, geometric_mean, mixture, soften
from limbeck.outputs import Outputs

__all__ = ["MeanOfTargets", "Target", "labels_of", "softened"]

_MEANS: Mapping[str, Callable[[Sequence[Dense], Sequence[float]], Dense]] = {
    "arithmetic": mixture,
    "geometric": geometric_mean,
}


@checked_fields
@dataclass(frozen=True)
class Target(ABC):
    """A distribution for each example, made of what a teacher says of it and of what is known of it.

    A subclass is a frozen dataclass of its settings and defines `__call__`.  It lies in a file named for its kind.
    """

    @abstractmethod
    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        """Return the target of a batch: log-probabilities (..., K).

        outputs: of the teacher.  A target that reads no teacher takes only the number of classes from them.
        Where a target that needs labels finds `UNLABELLED`, its row is uniform and is for the caller to mask.
        """

    @property
    def kind(self) -> str:
        """The name that a recipe gives it."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def needs_labels(self) -> bool:
        """Whether it is made of the true class, so that it says nothing of an unlabelled example."""
        return any(part.needs_labels for part in self.made_of)

    @property
    def reads_teacher(self) -> bool:
        """Whether it is made of a teacher's answers."""
        return any(part.reads_teacher for part in self.made_of)

    @property
    def reads_class_cosines(self) -> bool:
        """Whether it is made of the similarity of the classes in the teacher's last layer."""
        return any(part.reads_class_cosines for part in self.made_of)

    @property
    def changes_classes(self) -> bool:
        """Whether its classes are others than the teacher's."""
        return any(part.changes_classes for part in self.made_of)

    @property
    def made_of(self) -> "tuple[Target, ...]":
        """The targets that it is made of."""
        return ()

    def settled(self, legend: Legend) -> Self:
        """Return the same target for data of a legend: classes by number instead of name, and all that fits checked.

        Raises InputError for a setting that the data's classes do not allow.
        """
        return self


@dataclass(frozen=True)
class MeanOfTargets(Target):
    """One target made of several, by a mean that a subclass computes.

    parts: the targets, two or more.  weights: λ, 0 or above, adding up to 1; equal ones by default.  An example without
    a label is not counted where one part needs labels.
    """

    parts: tuple[Target, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise InputError(f"parts: found {len(self.parts)}, expected two targets or more")
        if self.weights is not None:
            checks.shares("weights", self.weights, count=len(self.parts))

    @abstractmethod
    def mean(self, parts: Sequence[Dense]) -> Dense:
        """Return the mean of the parts' distributions."""

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return self.mean([part(outputs, batch, temperature) for part in self.parts])

    @property
    def made_of(self) -> tuple[Target, ...]:
        return self.parts

    def settled(self, legend: Legend) -> Self:
        return replace(self, parts=tuple(part.settled(legend) for part in self.parts))


@checked
def softened(outputs: Outputs, temperature: float) -> Dense:
    """Return a teacher's distribution at a temperature; of an ensemble, the mean of the members' distributions there.

    >>> import torch
    >>> softened(Outputs(torch.tensor([[0.0, 2.0]])), 2.0).log_probs.exp()
    tensor([[0.2689, 0.7311]])
    """
    if outputs.members is None:
        return soften(outputs.logits, temperature)
    answers = [soften(logits, temperature) for logits in outputs.members.logits]
    return _MEANS[outputs.members.mean](answers, outputs.members.weights)


def labels_of(batch: Batch, kind: str) -> Tensor:
    """Return the labels of a batch; InputError for one that has none, or two for a sample."""
    if batch.labels is None:
        raise InputError(f"target {kind}: the batch has no labels, which it is made of")
    if batch.mix is not None:
        raise InputError(f"target {kind}: it is made of the true class, and mixed samples have two; use another")
    return batch.labels
