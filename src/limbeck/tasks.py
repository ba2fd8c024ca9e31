"""Tasks: what a label is, and how a model's answer becomes logits whose class axis is last.

Everything else works on such logits: (..., K), with a label for each leading place.  A binary task with one logit z is
the task of two classes with logits (0, z); a multi-label one is as many of these as it has classes, whose losses add up
to that of the example; a dense one has a label for each pixel.  Only a regression has no classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import InputError, ModelError, one_of

__all__ = ["BINARY", "CLASSIFICATION", "DENSE", "MULTILABEL", "REGRESSION", "TASKS", "UNLABELLED", "Task", "task_named"]

UNLABELLED = -100
"""The label of a sample that has none; no loss ever counts it.  In a regression NaN stands in its place."""


@dataclass(frozen=True)
class Task:
    """What the labels of a set are.

    name: as a recipe gives it.  labels: in words, for error lines.
    shape: of the labels of n examples, in words; dims: how many axes that may be.
    logits: a model's answer -> logits (..., K), or the numbers (N, D) of a regression; ModelError for a wrong shape.
    has_classes: whether labels are numbers of classes; otherwise they are numbers to predict.
    one_label: whether an example has one label, the number of its class.
    several: whether an example has several labels that count as one example together: the last axis of the labels.
    two_way: whether each label is 0 or 1, against which a model answers one logit.
    """

    name: str
    labels: str
    shape: str
    dims: tuple[int, ...]
    logits: Callable[[Tensor], Tensor]
    has_classes: bool = True
    one_label: bool = False
    several: bool = False
    two_way: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def of_places(self) -> bool:
        """Whether a label belongs to a place of an example, and would have to move with it."""
        return not (self.one_label or self.several)

    def outputs(self, classes: int) -> int:
        """Return how many numbers a model answers with, for so many classes (of a regression, numbers to predict)."""
        return 1 if self.two_way and not self.several else classes

    def classes(self, logits: Tensor) -> int:
        """Return how many classes logits are for.

        >>> MULTILABEL.classes(MULTILABEL.logits(torch.zeros(8, 5)))
        5
        """
        return logits.shape[-2 if self.two_way and self.several else -1]

    def alternatives(self, classes: int) -> int:
        """Return how many classes each distribution is over, where the set has so many."""
        return 2 if self.two_way else classes

    def labelled(self, labels: Tensor) -> Tensor:
        """Return which places have a label: bool, shaped as the labels; (N,) of a regression."""
        return labels != UNLABELLED if self.has_classes else ~labels.isnan().any(-1)

    def without_labels(self, labels: Tensor) -> Tensor:
        """Return labels of the same shape that say nothing."""
        return torch.full_like(labels, UNLABELLED if self.has_classes else torch.nan)

    def count(self, places: Tensor) -> Tensor:
        """Return how many examples, tokens or pixels some places (bool, shaped as `labelled`) come to.

        >>> MULTILABEL.count(torch.tensor([[True, True], [False, False], [True, False]]))
        tensor(2)
        """
        return (places.any(-1) if self.several and self.has_classes else places).sum()


def task_named(name: str) -> Task:
    """Return the task that a recipe gives a name to.

    >>> task_named("multi-label")
    Traceback (most recent call last):
    limbeck.errors.InputError: task: found 'multi-label'; did you mean 'multilabel'?
    """
    if not isinstance(name, str) or name not in TASKS:
        raise InputError(f"task: found {name!r}; {one_of(str(name), TASKS)}")
    return TASKS[name]


def _as_it_is(answer: Tensor) -> Tensor:
    return answer


def _against_zero(answer: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(answer), answer], -1)


def _binary(answer: Tensor) -> Tensor:
    if answer.dim() == 2 and answer.shape[1] == 1:
        answer = answer.squeeze(1)
    if answer.dim() != 1:
        raise _wrong("binary", answer, "one logit an example, (N, 1)")
    return _against_zero(answer)


def _multilabel(answer: Tensor) -> Tensor:
    if answer.dim() != 2:
        raise _wrong("multilabel", answer, "one logit for each class, (N, C)")
    return _against_zero(answer)


def _dense(answer: Tensor) -> Tensor:
    if answer.dim() < 3:
        raise _wrong("dense", answer, "logits of the classes at each place, (N, K, H, W)")
    return answer.movedim(1, -1)


def _regression(answer: Tensor) -> Tensor:
    if answer.dim() == 1:
        answer = answer.unsqueeze(1)
    if answer.dim() != 2:
        raise _wrong("regression", answer, "the numbers to predict, (N, D)")
    return answer


def _wrong(name: str, answer: Tensor, expected: str) -> ModelError:
    return ModelError(f"task {name}: the model answers {tuple(answer.shape)}, expected {expected}")


CLASSIFICATION = Task(
    "classification", "the number of a class for each example", "(n,)", (1,), _as_it_is, one_label=True
)
BINARY = Task("binary", "0 or 1 for each example", "(n,)", (1,), _binary, one_label=True, two_way=True)
MULTILABEL = Task(
    "multilabel", "0 or 1 for each class of an example", "(n, classes)", (2,), _multilabel, several=True, two_way=True
)
DENSE = Task("dense", "the number of a class for each place of an example", "(n, height, width)", (2, 3, 4), _dense)
REGRESSION = Task(
    "regression",
    "numbers to predict for each example",
    "(n,) or (n, numbers)",
    (1, 2),
    _regression,
    has_classes=False,
    several=True,
)

TASKS: Mapping[str, Task] = {task.name: task for task in (CLASSIFICATION, BINARY, MULTILABEL, DENSE, REGRESSION)}
"""All tasks by their names."""
