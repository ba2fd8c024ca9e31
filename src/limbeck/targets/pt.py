"""KD-pt: the teacher's confidence in the true class, and nothing else that it knows."""

import math
from dataclasses import dataclass

from torch import Tensor

from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.losses import Dense
from limbeck.outputs import Outputs
from limbeck.targets.softmax import PLAIN
from limbeck.targets.target import Target, at_label, labels_of, uniform_without_label

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
    """Keep the probability of the true class and spread the rest evenly: ρ_t = p_t, ρ_i = (1-p_t)/(K-1).

    1-p_t is summed over the other classes, so that it stays exact where p_t rounds to 1.

    Args:
        target: log-probabilities (..., K).
        labels: (...) int64 in [0, K), or `UNLABELLED`, whose row is uniform; the caller masks it.

    Returns:
        Log-probabilities (..., K).

    Raises:
        InputError: if shapes disagree or a label is out of range (on a GPU, a device-side assertion).

    Example:
        >>> import torch
        >>> true_class(Dense(torch.tensor([[0.7, 0.2, 0.1]]).log()), torch.tensor([0])).log_probs.exp()
        tensor([[0.7000, 0.1500, 0.1500]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation" (KD-pt), arXiv:2002.03532.
    """
    log_probs = target.log_probs
    index, labelled = at_label(labels, log_probs)
    others = log_probs.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
    others = others - math.log(max(log_probs.shape[-1] - 1, 1))
    kept = others.expand(log_probs.shape).scatter(-1, index, log_probs.gather(-1, index))
    return Dense(uniform_without_label(kept, labelled))


@checked_fields
@dataclass(frozen=True)
class TrueClass(Target):
    """Match the teacher's confidence p̃_t in the true class, and (1-p̃_t)/(K-1) on each other class.

    It needs labels.

    Attributes:
        of: the target that p̃_t is taken from.

    Example:
        >>> import torch
        >>> batch = Batch.of(torch.zeros(1, 3), torch.tensor([0]))
        >>> teacher = Outputs(torch.tensor([[0.7, 0.2, 0.1]]).log())
        >>> TrueClass()(teacher, batch, temperature=1.0).log_probs.exp()
        tensor([[0.7000, 0.1500, 0.1500]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation" (KD-pt), arXiv:2002.03532.
    """

    needs_labels = True

    of: Target = PLAIN

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return true_class(self.of(outputs, batch, temperature), labels_of(batch, self.kind))
