"""KD-pt: the teacher's confidence in the true class, and nothing else that it knows."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.losses import Dense
from limbeck.outputs import Outputs
from limbeck.targets.softmax import PLAIN
from limbeck.targets.target import Target, at_label, labels_of

__all__ = ["CARD", "TrueClass", "true_class"]

CARD = Card(
    name="pt",
    summary="the teacher's confidence in the true class alone, the other classes alike",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="ρ_t = p̃_t, ρ_i = (1-p̃_t)/(K-1)",
)


@checked
def true_class(target: Dense, labels: Tensor) -> Dense:
    """Keep of a target its confidence alone: p_t on the true class, (1-p_t)/(K-1) on each other (KD-pt, Tang 2020).

    target: (..., K).  labels: (...) int64 in [0, K), or `UNLABELLED`, whose row is uniform and is for the caller to
    mask.  1-p_t is added up over the other classes, so that a p_t that rounds to 1 loses nothing.

    >>> true_class(Dense(torch.tensor([[0.7, 0.2, 0.1]]).log()), torch.tensor([0])).log_probs.exp()
    tensor([[0.7000, 0.1500, 0.1500]])
    """
    log_probs = target.log_probs
    index, labelled = at_label(labels, log_probs)
    others = log_probs.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
    others = others - math.log(max(log_probs.shape[-1] - 1, 1))
    kept = others.expand(log_probs.shape).scatter(-1, index, log_probs.gather(-1, index))
    return Dense(torch.where(labelled, kept, -math.log(log_probs.shape[-1])))


@checked_fields
@dataclass(frozen=True)
class TrueClass(Target):
    """p̃_t on the true class, (1-p̃_t)/(K-1) on each other (KD-pt, Tang et al. 2020).

    of: the target whose p̃_t is kept.

    >>> batch = Batch.of(torch.zeros(1, 3), torch.tensor([0]))
    >>> teacher = Outputs(torch.tensor([[0.7, 0.2, 0.1]]).log())
    >>> TrueClass()(teacher, batch, temperature=1.0).log_probs.exp()
    tensor([[0.7000, 0.1500, 0.1500]])
    """

    of: Target = PLAIN

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return true_class(self.of(outputs, batch, temperature), labels_of(batch, self.kind))

    @property
    def needs_labels(self) -> bool:
        return True

    @property
    def made_of(self) -> tuple[Target, ...]:
        return (self.of,)

    def settled(self, legend: Legend) -> Self:
        return replace(self, of=self.of.settled(legend))
