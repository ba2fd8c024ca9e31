"""How much of a teacher's distribution is worth teaching: how soft to make it, and how many classes to keep."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck import checks
from limbeck.diagnosis.confidence import entropy
from limbeck.diagnosis.correlation import spearman_rows
from limbeck.targets.topk import share_of_classes

__all__ = ["tail_curve", "temperature_for"]

_SHARES = (0.05, 0.1, 0.25, 0.5)
_FEWEST = 3  # classes whose order can be compared
_TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 20.0)


def tail_curve(teacher_logits: Tensor, other_logits: Tensor, shares: Sequence[float] = _SHARES) -> dict[int, float]:
    """Return how far another network seconds the teacher beyond its k most probable classes, by k.

    For each k the mean over the examples of Spearman's rank correlation between both models' logits (n, K) among the
    classes that the teacher puts below its k-th.  k: the shares of K, rounded, that leave 3 classes or more.

    >>> logits = torch.tensor([[9.0, 5.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0]])
    >>> tail_curve(logits, logits)
    {1: 1.0, 2: 1.0, 4: 1.0}
    """
    checks.shapes_match("teacher_logits", teacher_logits.shape, "other_logits", other_logits.shape)
    for name, logits in (("teacher_logits", teacher_logits), ("other_logits", other_logits)):
        checks.logits(name, logits)
    classes = teacher_logits.shape[1]
    order = teacher_logits.argsort(dim=1, descending=True, stable=True)
    sorted_teacher, sorted_other = teacher_logits.gather(1, order), other_logits.gather(1, order)
    counts = sorted({share_of_classes(share, classes) for share in shares})
    found = {}
    for k in counts:
        if classes - k >= _FEWEST:
            value = float(spearman_rows(sorted_teacher[:, k:], sorted_other[:, k:]).nanmean())
            if value == value:
                found[k] = round(value, 12)
    return found


def temperature_for(logits: Tensor, share: float) -> float:
    """Return the temperature of a few (1 to 20) whose mean entropy is nearest to a share of log K.

    >>> temperature_for(torch.tensor([[8.0, 0.0, 1.0, 2.0]]), share=0.5)
    3.0
    """
    checks.unit_interval("share", share)
    aim = share * float(torch.tensor(float(logits.shape[1])).log())
    return min(_TEMPERATURES, key=lambda t: abs(float(entropy(logits, t).mean()) - aim))
