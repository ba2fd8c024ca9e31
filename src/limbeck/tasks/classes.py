"""Tasks whose labels are classes: of an example, of each place, or of each token of a text."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.tasks.task import UNLABELLED, Need, Task, check_columns, whole, wrong_shape

__all__ = ["BINARY", "CLASSIFICATION", "DENSE", "MULTILABEL", "TOKENS"]


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
            raise wrong_shape(self, answer, "one logit an example, (N, 1)")
        return _against_zero(answer)

    def kept(self, name: str, labels: Tensor) -> Tensor:
        return super().kept(name, whole(labels))

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
            raise wrong_shape(self, answer, "one logit for each class, (N, C)")
        return _against_zero(answer)

    def kept(self, name: str, labels: Tensor) -> Tensor:
        return super().kept(name, whole(labels))

    def count_classes(self, labels: Tensor) -> int:
        return labels.shape[1]

    def check_classes(self, name: str, classes: int, labels: Tensor | None = None) -> None:
        check_columns(name, classes, labels)

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
            raise wrong_shape(self, answer, "logits of the classes at each place, (N, K, H, W)")
        return answer.movedim(1, -1)

    def check_augment(self, *, moves: bool, mixes: bool) -> None:
        if moves:
            raise DataError(
                "augment: shift, pad_crop, flip and randaugment would move images but not their labels; use only noise"
            )
        super().check_augment(moves=moves, mixes=mixes)


class _Tokens(Task):
    name = "tokens"
    labels = "the number of a token for each place of a text"
    shape = "(n, length)"
    dims = (2,)
    outputs_are = ("token", "tokens")
    meets = frozenset({Need.CLASSES, Need.SEVERAL_CLASSES, Need.ONE_CLASS, Need.EACH_LABELLED, Need.ITEMS})

    def logits(self, answer: Tensor) -> Tensor:
        if answer.dim() != 3:
            raise wrong_shape(self, answer, "logits of the tokens at each place, (N, L, V)")
        return answer

    def check_augment(self, *, moves: bool, mixes: bool) -> None:
        if moves:
            raise DataError("augment: found random views of texts; they are for images and tables. Leave augment out")
        super().check_augment(moves=moves, mixes=mixes)


def _against_zero(answer: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(answer), answer], -1)


CLASSIFICATION: Task = _Classification()
BINARY: Task = _Binary()
MULTILABEL: Task = _Multilabel()
DENSE: Task = _Dense()
TOKENS: Task = _Tokens()
