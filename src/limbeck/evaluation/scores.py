"""What one pass over the logits tells of every example, and the metrics that follow from it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.errors import DataError, InputError
from limbeck.losses.reduction import check_labels

__all__ = ["Scores", "brier", "chunks", "confusion_matrix", "per_class_accuracy", "score", "top_k_accuracy"]

_NUMBERS_A_CHUNK = 2**18  # 2 MiB in float64, which a processor's cache holds


@checked_fields
@dataclass(frozen=True, eq=False)
class Scores:
    """The labelled examples one by one, (n,) each, in order.

    Attributes:
        labels: int64.
        predictions: int64; of equal logits the first class.
        confidence: probability of the prediction.
        nll: in nats.
        brier: Σ over the classes of (p - y)².
        rank: the number of classes ranked above the true one; 0 if the prediction is right.
        classes: K.

    Example:
        >>> score(torch.zeros(1, 2), torch.tensor([1])).rank
        tensor([1])
    """

    labels: Tensor
    predictions: Tensor
    confidence: Tensor
    nll: Tensor
    brier: Tensor
    rank: Tensor
    classes: int

    @property
    def correct(self) -> Tensor:
        """Whether each prediction is right."""
        return self.rank == 0


def chunks(rows: int, classes: int) -> Iterator[slice]:
    """Yield slices of rows whose logits a processor's cache holds in float64."""
    step = max(1, _NUMBERS_A_CHUNK // max(classes, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


@torch.no_grad()
@checked
def score(logits: Tensor, labels: Tensor) -> Scores:
    """Score logits against labels in float64, example by example; unlabelled samples are left out.

    Args:
        logits: (n, K) floating point; for probabilities give their logarithm.
        labels: (n,) int64 in [0, K), or `UNLABELLED` (-100).

    Returns:
        The scores of the labelled samples.

    Raises:
        InputError: if shapes, labels or numbers are wrong; NaN is never scored.
        DataError: if no sample has a label.

    Example:
        >>> score(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])).rank
        tensor([0, 1])
    """
    if logits.dim() != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        raise InputError(f"logits: found {logits.dtype} {tuple(logits.shape)}, expected floating point (n, K)")
    labels = labels.to(logits.device)
    check_labels(labels, logits.shape[:1])
    known = labels != UNLABELLED
    if not bool(known.any()):
        raise DataError("evaluation: the set has no labels, expected at least one labelled sample")
    if not bool(known.all()):
        logits, labels = logits[known], labels[known]
    classes = logits.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(f"labels: found {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}")
    parts = [_score_chunk(logits[rows], labels[rows]) for rows in chunks(len(logits), classes)]
    predictions, confidence, nll, squares, rank = (torch.cat(column) for column in zip(*parts, strict=True))
    if bool(confidence.isnan().any()):
        raise InputError("logits: found NaN or infinity, expected numbers; look at the model or its data")
    return Scores(labels, predictions, confidence, nll, squares, rank, classes)


def _score_chunk(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    highest, predictions = logits.max(1)
    own = logits.gather(1, labels[:, None])
    rank = (logits > own).sum(1)
    tied = torch.where((logits >= own).sum(1) - rank > 1)[0]
    if len(tied):
        before = torch.arange(logits.shape[1], device=logits.device) < labels[tied, None]
        rank[tied] += ((logits[tied] == own[tied]) & before).sum(1)
        predictions[tied] = (logits[tied] == highest[tied, None]).to(torch.uint8).argmax(1)
    distance = own.squeeze(1).double() - highest.double()
    powers = (logits.double() - highest[:, None]).exp_()
    total = powers.sum(1)
    others = powers.scatter_(1, labels[:, None], 0.0)
    squares = others.square().sum(1) / total.square() + (others.sum(1) / total).square()  # Σ_others p² + (1 - p_y)²
    return predictions, 1.0 / total, total.log() - distance, squares, rank


@checked
def brier(logits: Tensor, labels: Tensor) -> float:
    """Return the Brier score: the mean of Σ over all K classes of (p - y)².

    For K = 2 it is twice the score that counts one class only.

    Args:
        logits: (n, K) floating point.
        labels: (n,) int64 in [0, K); `UNLABELLED` (-100) is not counted.

    Returns:
        A number from 0 (best) to 2.

    Raises:
        InputError: if shapes, labels or numbers are wrong.
        DataError: if no sample has a label.

    Example:
        >>> brier(torch.zeros(1, 2), torch.tensor([0]))
        0.5

    Reference:
        Brier (1950), "Verification of Forecasts Expressed in Terms of Probability".
    """
    return float(score(logits, labels).brier.mean())


@checked
def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Return the share of samples whose label is among the k highest logits; of equal logits the first classes count.

    Args:
        logits: (n, K) floating point.
        labels: (n,) int64; `UNLABELLED` (-100) is not counted.
        k: 1 or more.

    Returns:
        A share in [0, 1].

    Raises:
        InputError: if shapes, labels or k are wrong.
        DataError: if no sample has a label.

    Example:
        >>> top_k_accuracy(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]), 2)
        0.5
    """
    checks.at_least("k", k, 1)
    return float((score(logits, labels).rank < k).double().mean())


@checked
def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count the samples of each label and prediction.

    Args:
        predictions: (n,) int64 in [0, K).
        labels: (n,) int64 in [0, K); `UNLABELLED` (-100) is not counted.
        classes: K.

    Returns:
        (K, K) int64, a row for each label and a column for each prediction.

    Raises:
        InputError: if shapes or values are wrong.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), 2)
        tensor([[1, 1],
                [0, 1]])
    """
    checks.at_least("classes", classes, 1)
    checks.shapes_match("predictions", predictions.shape, "labels", labels.shape)
    known = labels != UNLABELLED
    for name, values in (("predictions", predictions[known]), ("labels", labels[known])):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < classes:
            found = f"{int(values.min())} to {int(values.max())}"
            raise InputError(f"{name}: found {found}, expected 0 to {classes - 1}")
    cells = labels[known] * classes + predictions[known]
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


@checked
def per_class_accuracy(confusion: Tensor) -> Tensor:
    """Return the accuracy of each class from a confusion matrix.

    Args:
        confusion: (K, K), a row for each label.

    Returns:
        (K,) float64 in [0, 1]; NaN for a class without samples.

    Example:
        >>> per_class_accuracy(torch.tensor([[1, 1], [0, 1]]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    if confusion.dim() != 2 or confusion.shape[0] != confusion.shape[1]:
        raise InputError(f"confusion: found shape {tuple(confusion.shape)}, expected (K, K)")
    return confusion.diagonal().double() / confusion.sum(1).double()
