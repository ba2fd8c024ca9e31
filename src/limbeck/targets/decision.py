"""The teacher's decision: its most probable class, and nothing of how sure it is."""

from dataclasses import dataclass

import torch

from limbeck.arguments import checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.losses import Dense
from limbeck.outputs import Outputs
from limbeck.targets.softmax import softened
from limbeck.targets.target import Target

__all__ = ["CARD", "Decision"]

CARD = Card(
    name="decision",
    summary="the teacher's most probable class with certainty, as if it were the label",
    authors="Hugo Touvron, Matthieu Cord, Matthijs Douze, Francisco Massa, Alexandre Sablayrolles, Hervé Jégou",
    year=2021,
    title="Training data-efficient image transformers & distillation through attention",
    source="https://arxiv.org/abs/2012.12877",
    formula="ρ_i = 1 for i = argmax v, 0 else",
)


@checked_fields
@dataclass(frozen=True)
class Decision(Target):
    """Match the teacher's most probable class with certainty; of equally probable classes the first.

    It is the limit of softmax(v/T) for T → 0.  The temperature of the term then softens the student alone; for an
    ensemble it is also the temperature at which the members' distributions are averaged.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3))
        >>> Decision()(Outputs(torch.tensor([[0.0, 2.0, 1.0]])), batch, temperature=1.0).log_probs.exp()
        tensor([[0., 1., 0.]])

    Reference:
        Touvron et al. (2021), "Training data-efficient image transformers & distillation through attention",
        arXiv:2012.12877.
    """

    reads_teacher = True

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        log_probs = softened(outputs, temperature).log_probs
        decided = log_probs.argmax(-1, keepdim=True)
        certain = 0.0 * log_probs.gather(-1, decided)  # 0, or NaN where the teacher says NaN
        return Dense(torch.full_like(log_probs, -torch.inf).scatter_(-1, decided, certain))
