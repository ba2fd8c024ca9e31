"""Tasks: what a label is, and how a model's answer becomes logits whose class axis is last.

Everything else works on such logits: (..., K), with a label for each leading place.  A binary task with one logit z is
the task of two classes with logits (0, z); a multi-label one is as many of these as it has classes, whose losses add up
to that of the example; a dense one has a label for each pixel; a ranking has items for classes, several of which are to
be found.  Only a regression has no classes.

A new task is a class here and one in `limbeck.evaluation.figures`, which measures it and names its figures.  Other code
asks the task for a shape, a count or a requirement, and does not ask which task it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor

from limbeck.errors import DataError, InputError, LimbeckError, ModelError, one_of

__all__ = [
    "BINARY",
    "CLASSIFICATION",
    "DENSE",
    "FIRST_ITEMS",
    "MULTILABEL",
    "RANKING",
    "REGRESSION",
    "TASKS",
    "UNLABELLED",
    "Need",
    "Task",
    "task_named",
]

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
    `DENSE`, `RANKING` and `REGRESSION` are its instances.

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

        >>> REGRESSION.lacks(Need.ONE_LABEL)
        'one label an example, and the labels are numbers to predict for each example (task regression)'
        """
        if self.meets.intersection(needs):
            return None
        return f"{' or '.join(need.value for need in needs)}, and the labels are {self.labels} (task {self.name})"

    def require(self, *needs: Need, what: str, mend: str, error: type[LimbeckError] = InputError) -> None:
        """Require that the labels meet one of some needs.  what: needs them, for the error line.

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

        >>> MULTILABEL.classes(MULTILABEL.logits(torch.zeros(8, 5)))
        5
        """
        return logits.shape[-1]

    def alternatives(self, classes: int) -> int:
        """Return how many classes each distribution is over, where the set has so many."""
        return classes

    def predictions(self, logits: Tensor) -> Tensor:
        """Return what logits say, shaped as labels: class numbers, 0 or 1 for each class, or the numbers themselves.

        >>> MULTILABEL.predictions(MULTILABEL.logits(torch.tensor([[2.0, -1.0, 3.0]])))
        tensor([[1, 0, 1]])
        """
        return logits.argmax(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class as float32: (..., K), or (n, C) where each class is 0 or 1.

        >>> MULTILABEL.probabilities(MULTILABEL.logits(torch.zeros(1, 3)))
        tensor([[0.5000, 0.5000, 0.5000]])
        """
        return logits.double().softmax(-1).float()

    def named(self, predictions: Tensor, class_names: Sequence[str]) -> Any:
        """Return predictions as a user reads them: names, tuples of names, or the tensor (class maps, numbers).

        >>> BINARY.named(torch.tensor([1, 0]), ["no", "yes"])
        ['yes', 'no']
        >>> MULTILABEL.named(torch.tensor([[1, 0, 1]]), ["cat", "dog", "hat"])
        [('cat', 'hat')]
        """
        return predictions


class _Classification(Task):
    name = "classification"
    labels = "the number of a class for each example"
    shape = "(n,)"
    dims = (1,)
    meets = frozenset(Need) - {Need.NUMBERS}

    def no_labels(self, name: str, size: int) -> Tensor:
        return torch.full((size,), UNLABELLED)

    def strata(self, labels: Tensor) -> Tensor:
        return labels.cpu()

    def named(self, predictions: Tensor, class_names: Sequence[str]) -> list[str]:
        return [class_names[label] for label in predictions.tolist()]


class _Binary(_Classification):
    name = "binary"
    labels = "0 or 1 for each example"
    array_kinds = "uifb"
    meets = frozenset({Need.CLASSES, Need.ONE_CLASS, Need.ONE_LABEL, Need.EACH_LABELLED})

    def logits(self, answer: Tensor) -> Tensor:
        if answer.dim() == 2 and answer.shape[1] == 1:
            answer = answer.squeeze(1)
        if answer.dim() != 1:
            raise _wrong(self, answer, "one logit an example, (N, 1)")
        return _against_zero(answer)

    def kept(self, name: str, labels: Tensor) -> Tensor:
        return super().kept(name, _whole(labels))

    def count_classes(self, labels: Tensor) -> int:
        return 2

    def check_classes(self, name: str, classes: int, labels: Tensor | None = None) -> None:
        if classes != 2:
            raise DataError(f"{name}: {classes} classes, but task {self.name} has 2")

    def outputs(self, classes: int) -> int:
        return 1

    def alternatives(self, classes: int) -> int:
        return 2


class _Multilabel(Task):
    name = "multilabel"
    labels = "0 or 1 for each class of an example"
    shape = "(n, classes)"
    dims = (2,)
    array_kinds = "uifb"
    meets = frozenset({Need.CLASSES, Need.EACH_LABELLED})

    def logits(self, answer: Tensor) -> Tensor:
        if answer.dim() != 2:
            raise _wrong(self, answer, "one logit for each class, (N, C)")
        return _against_zero(answer)

    def kept(self, name: str, labels: Tensor) -> Tensor:
        return super().kept(name, _whole(labels))

    def count_classes(self, labels: Tensor) -> int:
        return labels.shape[1]

    def check_classes(self, name: str, classes: int, labels: Tensor | None = None) -> None:
        _check_columns(name, classes, labels)

    def classes(self, logits: Tensor) -> int:
        return logits.shape[-2]

    def alternatives(self, classes: int) -> int:
        return 2

    def size(self, places: torch.Size) -> int:
        return places[0]

    def count(self, places: Tensor) -> Tensor:
        return places.any(-1).sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        return super().probabilities(logits)[..., 1]

    def named(self, predictions: Tensor, class_names: Sequence[str]) -> list[tuple[str, ...]]:
        return [
            tuple(name for name, given in zip(class_names, row, strict=True) if given) for row in predictions.tolist()
        ]


class _Dense(Task):
    name = "dense"
    labels = "the number of a class for each place of an example"
    shape = "(n, height, width)"
    dims = (2, 3, 4)
    meets = frozenset({Need.CLASSES, Need.SEVERAL_CLASSES, Need.ONE_CLASS, Need.EACH_LABELLED, Need.ITEMS})

    def logits(self, answer: Tensor) -> Tensor:
        if answer.dim() < 3:
            raise _wrong(self, answer, "logits of the classes at each place, (N, K, H, W)")
        return answer.movedim(1, -1)

    def check_augment(self, *, moves: bool, mixes: bool) -> None:
        if moves:
            raise DataError(
                "augment: shift, pad_crop, flip and randaugment would move images but not their labels; use only noise"
            )
        super().check_augment(moves=moves, mixes=mixes)


class _Ranking(Task):
    """Labels (n, 2, L): in row 0 the items to be found, in row 1 those that are known and left out of the ranking."""

    name = "ranking"
    labels = "the items to be found, and those that are known, for each example"
    shape = "(n, 2, items)"
    dims = (3,)
    outputs_are = ("item", "items")
    loss = "positives_log_loss"
    meets = frozenset({Need.CLASSES, Need.ITEMS})
    parts_held_out = True

    def kept(self, name: str, labels: Tensor) -> Tensor:
        labels = super().kept(name, labels)
        if labels.shape[1] != 2:
            raise DataError(
                f"{name}: found labels of shape {tuple(labels.shape)}; expected (n, 2, items), a row of items to be "
                "found and a row of known ones. Fill both up with -100"
            )
        ordered = labels.flatten(1).sort(1).values
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != UNLABELLED)
        if bool(twice.any()):
            sample, place = twice.nonzero()[0].tolist()
            raise DataError(
                f"{name}: sample {sample} names item {int(ordered[sample, place])} twice; expected each item once, to "
                "be found or known"
            )
        return labels

    def labelled(self, labels: Tensor) -> Tensor:
        return (self.positives(labels) != UNLABELLED).any(-1)

    def places(self, labels: Tensor) -> torch.Size:
        return labels.shape[:1]

    def rows(self, labels: Tensor) -> Tensor:
        return labels

    def positives(self, labels: Tensor) -> Tensor:
        return labels[:, 0]

    def known(self, labels: Tensor) -> Tensor:
        return labels[:, 1]

    def logits(self, answer: Tensor) -> Tensor:
        if answer.dim() != 2:
            raise _wrong(self, answer, "a score for each item, (N, K)")
        return answer

    def label_shape(self, logits: Tensor, labels: Tensor) -> torch.Size:
        return torch.Size((len(logits), 2, *labels.shape[2:]))

    def predictions(self, logits: Tensor) -> Tensor:
        return logits.argsort(dim=-1, descending=True, stable=True)[:, :FIRST_ITEMS]

    def probabilities(self, logits: Tensor) -> Tensor:
        raise InputError("predict_proba: scores of items order them and are no probabilities; use predict or logits")

    def named(self, predictions: Tensor, class_names: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(class_names[item] for item in row) for row in predictions.tolist()]


class _Regression(Task):
    name = "regression"
    labels = "numbers to predict for each example"
    shape = "(n,) or (n, numbers)"
    dims = (1, 2)
    outputs_are = ("number to predict", "numbers to predict")
    array_kinds = "uifb"
    loss = "squared_error"
    meets = frozenset({Need.NUMBERS})

    def logits(self, answer: Tensor) -> Tensor:
        if answer.dim() == 1:
            answer = answer.unsqueeze(1)
        if answer.dim() != 2:
            raise _wrong(self, answer, "the numbers to predict, (N, D)")
        return answer

    def kept(self, name: str, labels: Tensor) -> Tensor:
        if labels.is_complex():
            raise DataError(f"{name}: labels are {labels.dtype}, expected real numbers")
        if not labels.is_floating_point():
            labels = labels.to(torch.float64)
        return labels.unsqueeze(1) if labels.dim() == 1 else labels

    def count_classes(self, labels: Tensor) -> int:
        return labels.shape[1]

    def check_classes(self, name: str, classes: int, labels: Tensor | None = None) -> None:
        _check_columns(name, classes, labels)

    def labelled(self, labels: Tensor) -> Tensor:
        return ~labels.isnan().any(-1)

    def without_labels(self, labels: Tensor) -> Tensor:
        return torch.full_like(labels, torch.nan)

    def places(self, labels: Tensor) -> torch.Size:
        return labels.shape[:1]

    def rows(self, labels: Tensor) -> Tensor:
        return labels

    def label_shape(self, logits: Tensor, labels: Tensor) -> torch.Size:
        return logits.shape

    def predictions(self, logits: Tensor) -> Tensor:
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        raise InputError("predict_proba: a regression predicts numbers, which have no probabilities; use predict")

    def named(self, predictions: Tensor, class_names: Sequence[str]) -> Tensor:
        return predictions.squeeze(1) if predictions.shape[1] == 1 else predictions


def task_named(name: str) -> Task:
    """Return a task by the name that recipes use.

    Args:
        name: "classification", "binary", "multilabel", "dense", "ranking" or "regression".

    Returns:
        The task.

    Raises:
        InputError: if there is no such task.

    Example:
        >>> task_named("multi-label")
        Traceback (most recent call last):
        limbeck.errors.InputError: task: found 'multi-label'; did you mean 'multilabel'?
    """
    if not isinstance(name, str) or name not in TASKS:
        raise InputError(f"task: found {name!r}; {one_of(str(name), TASKS)}")
    return TASKS[name]


def _against_zero(answer: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(answer), answer], -1)


def _whole(labels: Tensor) -> Tensor:
    """Return truth values, and floating-point numbers that are whole or NaN (for no label), as int64."""
    whole = labels.is_floating_point() and bool((labels.isnan() | (labels == labels.round())).all())
    return labels.nan_to_num(UNLABELLED).to(torch.int64) if whole or labels.dtype == torch.bool else labels


def _check_columns(name: str, classes: int, labels: Tensor | None) -> None:
    if labels is not None and classes != labels.shape[1]:
        raise DataError(f"{name}: {classes} classes but labels of shape {tuple(labels.shape)}; give one for each")


def _wrong(task: Task, answer: Tensor, expected: str) -> ModelError:
    return ModelError(f"task {task.name}: the model answers {tuple(answer.shape)}, expected {expected}")


CLASSIFICATION: Task = _Classification()
BINARY: Task = _Binary()
MULTILABEL: Task = _Multilabel()
DENSE: Task = _Dense()
RANKING: Task = _Ranking()
REGRESSION: Task = _Regression()

TASKS: Mapping[str, Task] = {
    task.name: task for task in (CLASSIFICATION, BINARY, MULTILABEL, DENSE, RANKING, REGRESSION)
}
"""All tasks by their names."""
