"""Tasks whose labels are no single classes: items to be found, and numbers to predict."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.errors import DataError, InputError
from limbeck.tasks.task import FIRST_ITEMS, UNLABELLED, Need, Task, check_columns, wrong_shape

__all__ = ["RANKING", "REGRESSION"]


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
            raise wrong_shape(self, answer, "a score for each item, (N, K)")
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
            raise wrong_shape(self, answer, "the numbers to predict, (N, D)")
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
        check_columns(name, classes, labels)

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


RANKING: Task = _Ranking()
REGRESSION: Task = _Regression()
