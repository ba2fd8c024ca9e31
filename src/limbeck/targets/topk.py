"""KD-topk: the teacher's most probable classes, the others alike."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.devices import on_accelerator
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.outputs import Outputs
from limbeck.targets.softmax import PLAIN
from limbeck.targets.target import Target

__all__ = ["CARD", "TopK", "share_of_classes", "top_k"]

CARD = Card(
    name="topk",
    summary="the k most probable classes of the teacher, the others alike",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="ρ_i = p̃_i for the k largest, (1-Σ_top p̃)/(K-k) for the others",
)

_SHARE = 0.25


@checked
def top_k(target: Dense, k: int) -> Dense:
    """Keep the k largest probabilities and spread the rest evenly over the other classes.

    Of equal probabilities, the class with the lower number is kept.

    Args:
        target: log-probabilities (..., K).
        k: from 1 to K; K returns the target unchanged.

    Returns:
        Log-probabilities (..., K).

    Raises:
        InputError: if k is not in [1, K].

    Example:
        >>> top_k(Dense(torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()), k=2).log_probs.exp()
        tensor([[0.1500, 0.4000, 0.1500, 0.3000]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation" (KD-topk), arXiv:2002.03532.
    """
    log_probs = target.log_probs
    classes = log_probs.shape[-1]
    checks.at_least("k", k, 1)
    if k > classes:
        raise InputError(f"k: found {k}, expected 1 to {classes}, the number of classes")
    if k == classes:
        return target
    largest, kept = log_probs.topk(k, dim=-1, sorted=False)
    tied = (log_probs >= largest.amin(-1, keepdim=True)).sum(-1) > k
    rest = log_probs.scatter(-1, kept, -math.inf).logsumexp(-1, keepdim=True) - math.log(classes - k)
    whole = rest.expand(log_probs.shape).scatter(-1, kept, largest)
    # topk says nothing of which of equal ones it takes
    if on_accelerator(whole):  # to look for ties would wait for the device
        whole = torch.where(tied.unsqueeze(-1), _with_first_of_ties(log_probs, k), whole)
    elif bool(tied.any()):
        whole[tied] = _with_first_of_ties(log_probs[tied], k)
    return Dense(whole)


def _with_first_of_ties(log_probs: Tensor, k: int) -> Tensor:
    """Return rows (n, K) cut to the k largest, the lower numbers first where some are equal."""
    least = log_probs.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above, tied = log_probs > least, log_probs == least
    kept = above | (tied & (tied.cumsum(-1) <= k - above.sum(-1, keepdim=True)))
    rest = torch.where(kept, -math.inf, log_probs).logsumexp(-1, keepdim=True)
    return torch.where(kept, log_probs, rest - math.log(log_probs.shape[-1] - k))


def share_of_classes(share: float, classes: int) -> int:
    """Return how many classes a share of them is, in (0, 1]: the nearest number, halves rounded up, one at least.

    >>> [share_of_classes(0.25, classes) for classes in (2, 6, 10)]
    [1, 2, 3]
    """
    return max(1, math.floor(round(share * classes, 9) + 0.5))


@dataclass(frozen=True)
class TopK(Target):
    """Match the teacher's k largest probabilities, with the rest spread evenly over the other classes.

    Attributes:
        k: the number of classes, 1 to K; K gives the plain target.
        share: the share of the classes instead, in (0, 1], rounded to the nearest number (halves up), at least one.
            The default is 0.25, the paper's best on CIFAR-100.
        of: the target that is cut.

    Raises:
        InputError: if both k and share are given, or one is out of range.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3))
        >>> teacher = Outputs(torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log())
        >>> TopK(k=2)(teacher, batch, temperature=1.0).log_probs.exp()
        tensor([[0.1500, 0.4000, 0.1500, 0.3000]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation" (KD-topk), arXiv:2002.03532.
    """

    k: int | None = None
    share: float | None = None
    of: Target = PLAIN

    def __post_init__(self) -> None:
        if self.k is not None and self.share is not None:
            raise InputError("k: found together with share; give one of them")
        if self.k is not None:
            checks.at_least("k", self.k, 1)
        if self.share is not None:
            checks.positive("share", self.share)
            checks.unit_interval("share", self.share)

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        whole = self.of(outputs, batch, temperature)
        return top_k(whole, self.count(whole.log_probs.shape[-1]))

    def count(self, classes: int) -> int:
        """Return how many of so many classes are kept."""
        return self.k or share_of_classes(self.share or _SHARE, classes)

    def settled(self, legend: Legend) -> Self:
        classes = legend.task.alternatives(len(legend.names))
        if legend.names and self.count(classes) > classes:
            raise InputError(f"k: found {self.k}, expected 1 to {classes}, the number of classes")
        return super().settled(legend)
