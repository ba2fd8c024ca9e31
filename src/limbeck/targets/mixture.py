"""Several targets mixed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from limbeck.arguments import checked, checked_fields
from limbeck.card import Card
from limbeck.losses import Dense
from limbeck.targets.target import MeanOfTargets, weighted_parts

__all__ = ["CARD", "Mixture", "mixture"]

CARD = Card(
    name="mixture",
    summary="a weighted mean of several targets, such as KD-pt+sim",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="Σ_m λ_m·ρ^m",
)


@checked
def mixture(targets: Sequence[Dense], weights: Sequence[float] | None = None) -> Dense:
    """Return the weighted arithmetic mean of targets: Σ λ_m·ρ^m.

    Args:
        targets: each with log-probabilities (..., K).
        weights: λ, 0 or above, summing to 1; equal by default.

    Returns:
        Log-probabilities (..., K).

    Raises:
        InputError: if shapes or weights are wrong.

    Example:
        >>> certain, unsure = Dense(torch.tensor([1.0, 0.0]).log()), Dense(torch.tensor([0.5, 0.5]).log())
        >>> mixture([certain, unsure], [0.8, 0.2]).log_probs.exp()
        tensor([0.9000, 0.1000])

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531, for several teachers; Tang et al. (2020), arXiv:2002.03532, for
        several targets.
    """
    parts, logs = weighted_parts(targets, weights)
    return Dense(torch.stack([part + log for part, log in zip(parts, logs, strict=True)]).logsumexp(0))


@checked_fields
@dataclass(frozen=True)
class Mixture(MeanOfTargets):
    """Match the weighted arithmetic mean of two or more targets, such as KD-pt+sim.

    If one part needs labels, unlabelled examples are not counted.

    Attributes:
        parts: the targets.
        weights: λ, 0 or above, summing to 1; equal by default.

    Raises:
        InputError: if there are fewer than two parts, or the weights do not fit them.

    Example:
        >>> from limbeck.batch import Batch
        >>> from limbeck.outputs import Outputs
        >>> from limbeck.targets import Softmax, Uniform
        >>> batch, teacher = Batch.of(torch.zeros(1, 3)), Outputs(torch.tensor([[0.9, 0.1]]).log())
        >>> Mixture((Softmax(), Uniform()), (0.75, 0.25))(teacher, batch, temperature=1.0).log_probs.exp()
        tensor([[0.8000, 0.2000]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation", arXiv:2002.03532.
    """

    def mean(self, parts: Sequence[Dense]) -> Dense:
        return mixture(parts, self.weights)
