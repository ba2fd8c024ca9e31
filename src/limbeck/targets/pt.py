"""KD-pt: the teacher's confidence in the true class, and nothing else that it knows."""

from dataclasses import dataclass, replace
from typing import Self

from limbeck.arguments import checked_fields
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.losses import Dense, true_class
from limbeck.outputs import Outputs
from limbeck.targets.softmax import PLAIN
from limbeck.targets.target import Target, labels_of

__all__ = ["CARD", "TrueClass"]

CARD = Card(
    name="pt",
    summary="the teacher's confidence in the true class alone, the other classes alike",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="ρ_t = p̃_t, ρ_i = (1-p̃_t)/(K-1)",
)


@checked_fields
@dataclass(frozen=True)
class TrueClass(Target):
    """p̃_t on the true class, (1-p̃_t)/(K-1) on each other (KD-pt, Tang et al. 2020).

    of: the target whose p̃_t is kept.

    >>> import torch
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
