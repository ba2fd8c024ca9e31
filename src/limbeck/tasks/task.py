"""What a task is: the shape of labels and answers, what is counted, and the loss on labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor

from limbeck.errors import DataError, InputError, LimbeckError, ModelError

__all__ = ["FIRST_ITEMS", "UNLABELLED", "Need", "Task", "check_columns", "whole", "wrong_shape"]

UNLABELLED = -100
"""The label of a sample that has none; no loss ever counts it.  In a regression NaN stands in its place."""

FIRST_ITEMS = 10
"""How many items a ranking names, and of how many its figures are."""


class Need(Enum):
    """What a method, a teacher or an option needs of the labels; the value is its name in error messages.

    Attributes:
        CLASSES: labels are classes.
        SEVERAL_CLASSES: the classes exclude each other.
        ONE_CLASS: an example, or a place of it, has one class.
        ONE_LABEL: an example has one label.
        ONE_OF_SEVERAL: an example has one label of several classes.
        EACH_LABELLED: each distribution over classes has a label.
        ITEMS: classes can be ranked as items.
        NUMBERS: labels are numbers to predict.

    Example:
        >>> from limbeck.tasks import REGRESSION
        >>> Need.NUMBERS in REGRESSION.meets
        True
    """

    CLASSES = "classes"
    SEVERAL_CLASSES = "several classes"
    ONE_CLASS = "examples of one class"
    ONE_LABEL = "one label an example"
    ONE_OF_SEVERAL = "one label of several classes"
    EACH_LABELLED = "a label for each distribution over classes"
    ITEMS = "classes that can be ranked"
    NUMBERS = "numbers to predict"


@dataclass(frozen=True)
class Task:
    """What the labels of a set are: the shape of labels and answers, what is counted, and the loss on labels.

    The base class implements what holds for labels that are class numbers; `CLASSIFICATION`, `BINARY`, `MULTILABEL`,
    `DENSE`, `TOKENS`, `RANKING` and `REGRESSION` of `limbeck.tasks` are its instances.

    Attributes:
        name: as recipes give it.
        labels: what a label is, in words, for error messages.
        shape: the shape of the labels of n examples, in words.
        dims: the allowed numbers of axes of labels.
        outputs_are: what a model answers for, in words: one of them, and many.
        array_kinds: the kinds of NumPy arrays that labels may have.
        loss: the loss on labels, a name in `limbeck.losses`.
        meets: the needs that the labels meet.
        parts_held_out: whether a part of each example's labels is held out for choices, and no whole examples.

    Example:
        >>> from limbeck.tasks import REGRESSION
        >>> REGRESSION.name, REGRESSION.loss
        ('regression', 'squared_error')
    """

    name: ClassVar[str]
    labels: ClassVar[str]
    shape: ClassVar[str]
    dims: ClassVar[tuple[int, ...]]
    outputs_are: ClassVar[tuple[str, str]] = ("class", "classes")
    array_kinds: ClassVar[str] = "ui"
    loss: ClassVar[str] = "cross_entropy"
    meets: ClassVar[frozenset[Need]]
    parts_held_out: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.name

    # ------------------------------------------------------------------------------------------------- what it refuses

    def lacks(self, *needs: Need) -> str | None:
        """Return the clause that says the labels meet none of some needs; None if they meet one.

        >>> from limbeck.tasks import REGRESSION
        >>> REGRESSION.lacks(Need.ONE_LABEL)
        'one label an example, and the labels are numbers to predict for each example (task regression)'
        """
        if self.meets.intersection(needs):
            return None
        return f"{' or '.join(need.value for need in needs)}, and the labels are {self.labels} (task {self.name})"

    def require(self, *needs: Need, what: str, mend: str, error: type[LimbeckError] = InputError) -> None:
        """Require that the labels meet one of some needs.  what: needs them, for the error line.

        >>> from limbeck.tasks import MULTILABEL
        >>> MULTILABEL.require(Need.ONE_LABEL, what="mixup needs", mend="leave it out")
        Traceback (most recent call last):
        limbeck.errors.InputError: mixup needs one label an example, and the labels are 0 or 1 for each class of an ...
        """
        if (lack := self.lacks(*needs)) is not None:
            raise error(f"{what} {lack}; {mend}")

    @property
    def has_classes(self) -> bool:
        """Whether answers are logits of classes; otherwise they are numbers to predict."""
        return Need.CLASSES in self.meets

    @property
    def has_probabilities(self) -> bool:
        """Whether the softmax of an answer is a probability of each class; scores of items only order them."""
        return self.has_classes and Need.EACH_LABELLED in self.meets

    def check_augment(self, *, moves: bool, mixes: bool) -> None:
        """Require that labels still fit inputs that an augmentation moves, or mixes with others; DataError if not."""
        if mixes:
            self.require(Need.ONE_LABEL, what="augment: mixup and cutmix need", mend="leave them out", error=DataError)

    # --------------------------------------------------------------------------------------------------------- labels

    def no_labels(self, name: str, size: int) -> Tensor:
        """Return the labels of a set that is given without any; DataError where that does not say their shape."""
        raise DataError(f"{name}: task {self.name} needs labels, {self.labels}")

    def kept(self, name: str, labels: Tensor) -> Tensor:
        """Return labels in the shape and kind of number that a set keeps: int64, here.  DataError for others."""
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise DataError(f"{name}: labels are {labels.dtype}, expected whole numbers (int64)")
        return labels.to(torch.int64)

    def count_classes(self, labels: Tensor) -> int:
        """Return how many classes labels are of, where that is not said: the largest number plus one."""
        return max(int(labels.max()) + 1, 0)

    def check_classes(self, name: str, classes: int, labels: Tensor | None = None) -> None:
        """Require as many classes as the task has, or as labels have columns; DataError otherwise."""

    def labelled(self, labels: Tensor) -> Tensor:
        """Return which places have a label: bool, shaped as the labels; (N,) of a regression."""
        return labels != UNLABELLED

    def without_labels(self, labels: Tensor) -> Tensor:
        """Return labels of the same shape that say nothing."""
        return torch.full_like(labels, UNLABELLED)

    def strata(self, labels: Tensor) -> Tensor:
        """Return the class of each example, (n,), by which a set is divided: one for all, unless each has one label."""
        return torch.zeros(len(labels), dtype=torch.int64)

    # ------------------------------------------------------------------------------------------------- what it counts

    def places(self, labels: Tensor) -> torch.Size:
        """Return the shape of what is counted in a batch: of the labels; (N,) of a regression."""
        return labels.shape

    def size(self, places: torch.Size) -> int:
        """Return how many examples, tokens or pixels places of that shape come to, if all count."""
        return places.numel()

    def count(self, places: Tensor) -> Tensor:
        """Return how many examples, tokens or pixels some places (bool, shaped as `labelled`) come to.

        >>> from limbeck.tasks import MULTILABEL
        >>> MULTILABEL.count(torch.tensor([[True, True], [False, False], [True, False]]))
        tensor(2)
        """
        return places.sum()

    def rows(self, labels: Tensor) -> Tensor:
        """Return labels with one for each row of logits (rows, K): (rows,); (n, D) of a regression."""
        return labels.flatten()

    def positives(self, labels: Tensor) -> Tensor:
        """Return the classes or items that are right for each row of logits: (rows, P), `UNLABELLED` for none."""
        return labels.reshape(-1, 1)

    def known(self, labels: Tensor) -> Tensor:
        """Return the items that are not to be found for each row of logits: (rows, H), `UNLABELLED` for none."""
        return labels.new_empty(labels.numel(), 0)

    # --------------------------------------------------------------------------------------------------------- answers

    def logits(self, answer: Tensor) -> Tensor:
        """Return a model's answer as logits (..., K), or as numbers (N, D); ModelError for a wrong shape."""
        return answer

    def label_shape(self, logits: Tensor, labels: Tensor) -> torch.Size:
        """Return the shape of the labels that belong to logits; labels: whose width counts where any will do."""
        return logits.shape[:-1]

    def outputs(self, classes: int) -> int:
        """Return how many numbers a model answers with, for so many classes (of a regression, numbers to predict)."""
        return classes

    def classes(self, logits: Tensor) -> int:
        """Return how many classes logits are for.

        >>> from limbeck.tasks import MULTILABEL
        >>> MULTILABEL.classes(MULTILABEL.logits(torch.zeros(8, 5)))
        5
        """
        return logits.shape[-1]

    def alternatives(self, classes: int) -> int:
        """Return how many classes each distribution is over, where the set has so many."""
        return classes

    def predictions(self, logits: Tensor) -> Tensor:
        """Return what logits say, shaped as labels: class numbers, 0 or 1 for each class, or the numbers themselves.

        >>> from limbeck.tasks import MULTILABEL
        >>> MULTILABEL.predictions(MULTILABEL.logits(torch.tensor([[2.0, -1.0, 3.0]])))
        tensor([[1, 0, 1]])
        """
        return logits.argmax(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class as float32: (..., K), or (n, C) where each class is 0 or 1.

        >>> from limbeck.tasks import MULTILABEL
        >>> MULTILABEL.probabilities(MULTILABEL.logits(torch.zeros(1, 3)))
        tensor([[0.5000, 0.5000, 0.5000]])
        """
        return logits.double().softmax(-1).float()

    def named(self, predictions: Tensor, class_names: Sequence[str]) -> Any:
        """Return predictions as a user reads them: names, tuples of names, or the tensor (class maps, numbers).

        >>> from limbeck.tasks import BINARY
        >>> BINARY.named(torch.tensor([1, 0]), ["no", "yes"])
        ['yes', 'no']
        >>> from limbeck.tasks import MULTILABEL
        >>> MULTILABEL.named(torch.tensor([[1, 0, 1]]), ["cat", "dog", "hat"])
        [('cat', 'hat')]
        """
        return predictions


def whole(labels: Tensor) -> Tensor:
    """Return truth values, and floating-point numbers that are whole or NaN (for no label), as int64."""
    whole = labels.is_floating_point() and bool((labels.isnan() | (labels == labels.round())).all())
    return labels.nan_to_num(UNLABELLED).to(torch.int64) if whole or labels.dtype == torch.bool else labels


def check_columns(name: str, classes: int, labels: Tensor | None) -> None:
    """Require a column of labels for each class, or number to predict."""
    if labels is not None and classes != labels.shape[1]:
        raise DataError(f"{name}: {classes} classes but labels of shape {tuple(labels.shape)}; give one for each")


def wrong_shape(task: Task, answer: Tensor, expected: str) -> ModelError:
    """Return the error of a model whose answers have another shape."""
    return ModelError(f"task {task.name}: the model answers {tuple(answer.shape)}, expected {expected}")
