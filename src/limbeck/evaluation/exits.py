"""Early exit: a sample leaves where the network is sure enough, and what that costs and saves."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.reduction import check_labels

__all__ = ["EarlyExit", "early_exit", "early_exit_curve"]

_THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.01)


@checked_fields
@dataclass(frozen=True)
class EarlyExit:
    """A network that answers at the first exit whose confidence reaches a threshold.

    Attributes:
        threshold: confidence at which a sample leaves; above 1 every sample goes to the last exit.
        accuracy: over labelled samples, in [0, 1].
        flops: of a sample, on average.
        shares: share of the samples that leave at each exit.

    Example:
        >>> EarlyExit(0.9, accuracy=0.95, flops=1e6, shares=(0.7, 0.3)).shares
        (0.7, 0.3)
    """

    threshold: float
    accuracy: float
    flops: float
    shares: tuple[float, ...]


@checked
def early_exit(logits: Sequence[Tensor], threshold: float) -> tuple[Tensor, Tensor]:
    """Return the prediction of each sample and the exit where it leaves.

    Args:
        logits: (n, K) of each exit, from the first to the last.  All remaining samples leave at the last exit.
        threshold: the probability of the top class at which a sample leaves.

    Returns:
        Classes (n,) and exit numbers (n,), int64.

    Raises:
        InputError: if there is no exit, or the shapes disagree.

    Example:
        >>> first, last = torch.tensor([[2.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 9.0]])
        >>> early_exit([first, last], 0.8)
        (tensor([0, 1]), tensor([0, 1]))
    """
    if not logits:
        raise InputError("logits: found none, expected those of at least one exit")
    checks.non_negative("threshold", threshold)
    if any(each.shape != logits[0].shape or each.dim() != 2 for each in logits):
        raise InputError(f"logits: found {[tuple(each.shape) for each in logits]}, expected (n, K) of each exit")
    stacked = torch.stack([each.double() for each in logits])
    checks.logits("logits", stacked)
    sure, classes = stacked.softmax(-1).max(-1)
    leaves = sure >= threshold
    leaves[-1] = True
    exits = leaves.to(torch.int64).argmax(0)
    return classes.gather(0, exits[None]).squeeze(0), exits


@checked
def early_exit_curve(
    logits: Sequence[Tensor], labels: Tensor, flops: Sequence[int], thresholds: Sequence[float] = _THRESHOLDS
) -> list[EarlyExit]:
    """Return accuracy and cost at each threshold of early exits.

    Args:
        logits: (n, K) of each exit, from the first to the last.
        labels: (n,) int64; `UNLABELLED` (-100) is not counted.
        flops: of a sample up to each exit.
        thresholds: the probabilities of the top class at which a sample leaves.

    Returns:
        One entry for each threshold.

    Raises:
        InputError: if the lengths or shapes disagree.

    Example:
        >>> exits = [torch.tensor([[2.0, 0.0]]), torch.tensor([[9.0, 0.0]])]
        >>> [point.flops for point in early_exit_curve(exits, torch.tensor([0]), [10, 30], thresholds=(0.5, 0.99))]
        [10.0, 30.0]
    """
    if len(flops) != len(logits):
        raise InputError(f"flops: found {len(flops)} for {len(logits)} exits, expected one each")
    check_labels(labels, logits[0].shape[:-1] if len(logits) else ())
    known = labels != UNLABELLED
    if not bool(known.any()):
        raise InputError("labels: found no labelled sample, expected at least one")
    cost = torch.tensor(flops, dtype=torch.float64)
    points = []
    for threshold in thresholds:
        classes, exits = early_exit([each[known] for each in logits], threshold)
        right = (classes == labels[known]).double().mean()
        shares = torch.bincount(exits, minlength=len(logits)).double() / len(exits)
        points.append(EarlyExit(threshold, float(right), float(cost[exits.cpu()].mean()), tuple(shares.tolist())))
    return points
