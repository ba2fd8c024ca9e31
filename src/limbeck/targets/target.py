"""What every target is, and what the formulas of several share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.batch import UNLABELLED, Batch, Legend
from limbeck.devices import on_accelerator
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.losses.reduction import check_labels, compute_dtype, counts_all
from limbeck.outputs import Outputs

__all__ = [
    "MeanOfTargets",
    "Target",
    "at_label",
    "labels_of",
    "normalised",
    "two_levels",
    "uniform_without_label",
    "weighted_parts",
]


@checked_fields
@dataclass(frozen=True)
class Target(ABC):
    """The distribution that a student is asked to match, for each example of a batch.

    A subclass is a frozen dataclass of its settings, lies in a file named after its kind, and defines `__call__`.

    Example:
        >>> from limbeck.targets import TopK
        >>> TopK(k=2).reads_teacher, TopK(k=2).needs_labels
        (True, False)
    """

    @abstractmethod
    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        """Return the target of a batch.

        Args:
            outputs: the teacher's outputs.  A target that reads no teacher takes only the number of classes from them.
            batch: the samples, with labels (...) where the target needs them.
            temperature: T > 0.

        Returns:
            Log-probabilities (..., K).  The row of an `UNLABELLED` example is uniform if the target needs labels; the
            caller masks it.
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
        """The targets that it is made of: `of`, where it has one."""
        of = getattr(self, "of", None)
        return () if of is None else (of,)

    def settled(self, legend: Legend) -> Self:
        """Return the same target with class names turned into numbers, checked against the classes of the data.

        Args:
            legend: the classes of the data.

        Returns:
            The target.

        Raises:
            InputError: if the classes of the data do not allow a setting.
        """
        made_of = self.made_of
        return replace(self, of=made_of[0].settled(legend)) if made_of else self  # type: ignore[call-arg]


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


def labels_of(batch: Batch, kind: str) -> Tensor:
    """Return the labels of a batch; InputError for one that has none, or two for a sample."""
    if batch.labels is None:
        raise InputError(f"target {kind}: found a batch without labels, expected labels")
    if batch.mix is not None:
        raise InputError(f"target {kind}: found mixed samples, which have two classes; use another target")
    return batch.labels


def normalised(scores: Tensor, nothing_left: str) -> Dense:
    """Return scores (..., K) as log-probabilities; InputError with `nothing_left` where all of a row are -inf.

    On an accelerator they are not looked at, since that would wait for the device: such a row is NaN.
    """
    if not on_accelerator(scores) and bool(torch.isneginf(scores).all(-1).any()):
        raise InputError(nothing_left)
    return Dense(F.log_softmax(scores, dim=-1))


def weighted_parts(targets: Sequence[Dense], weights: Sequence[float] | None) -> tuple[list[Tensor], list[float]]:
    """Return the log-probabilities of the targets whose weight is not 0, and the logarithms of their weights."""
    if not targets:
        raise InputError("targets: found none, expected at least one")
    if weights is None:
        weights = [1 / len(targets)] * len(targets)
    checks.shares("weights", weights, count=len(targets))
    for number, target in enumerate(targets[1:], 1):
        checks.shapes_match(
            "the first target", targets[0].log_probs.shape, f"target {number + 1}", target.log_probs.shape
        )
    counted = [(target.log_probs, weight) for target, weight in zip(targets, weights, strict=True) if weight]
    total = math.fsum(weights)
    return [part for part, _ in counted], [math.log(weight / total) for _, weight in counted]


def at_label(labels: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the true class stands: index and whether it is known, both (..., 1); an unknown one has index 0.

    Raises InputError when the labels do not fit (on a GPU, a label out of range is a device-side assertion).
    """
    check_labels(labels, log_probs.shape[:-1])
    _check_range(labels, log_probs.shape[-1])
    return labels.clamp_min(0).unsqueeze(-1), (labels != UNLABELLED).unsqueeze(-1)


def _check_range(labels: Tensor, classes: int) -> None:
    if on_accelerator(labels):
        return
    if bool(((labels >= classes) | ((labels < 0) & (labels != UNLABELLED))).any()):
        known = labels[labels != UNLABELLED]
        raise InputError(
            f"labels: found {int(known.min())} to {int(known.max())}, expected 0 to {classes - 1} (or {UNLABELLED})"
        )


def two_levels(labels: Tensor, classes: int, log_true: float, log_rest: float, dtype: torch.dtype) -> Dense:
    """Return rows with one value at the label and another everywhere else; uniform where there is no label."""
    if labels.dtype != torch.int64:
        raise InputError(f"labels: found {labels.dtype}, expected torch.int64 class indices")
    _check_range(labels, classes)
    log_probs = compute_dtype(torch.full((*labels.shape, classes), log_rest, dtype=dtype, device=labels.device))
    log_probs.scatter_(-1, labels.clamp_min(0).unsqueeze(-1), log_true)
    return Dense(uniform_without_label(log_probs, (labels != UNLABELLED).unsqueeze(-1)))


def uniform_without_label(log_probs: Tensor, labelled: Tensor) -> Tensor:
    """Return rows (..., K) that are uniform where no label (..., 1) is known."""
    if counts_all(labelled):
        return log_probs
    return torch.where(labelled, log_probs, -math.log(log_probs.shape[-1]))
