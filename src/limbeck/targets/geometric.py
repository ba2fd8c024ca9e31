"""The normalised product of several targets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from limbeck.arguments import checked, checked_fields
from limbeck.card import Card
from limbeck.losses import Dense
from limbeck.targets.target import MeanOfTargets, normalised, weighted_parts

__all__ = ["CARD", "GeometricMean", "geometric_mean"]

CARD = Card(
    name="geometric",
    summary="the weighted geometric mean of several targets, renormalised",
    authors="Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    year=2015,
    title="Distilling the Knowledge in a Neural Network",
    source="https://arxiv.org/abs/1503.02531",
    formula="Π_m (ρ^m)^λ_m / Σ_k Π_m (ρ^m_k)^λ_m",
)


@checked
def geometric_mean(targets: Sequence[Dense], weights: Sequence[float] | None = None) -> Dense:
    """Return the renormalised geometric mean of targets: Π (ρ^m)^λ_m / Σ_k Π (ρ^m_k)^λ_m.

    A class that has probability 0 in one target has probability 0 in the mean.

    Args:
        targets: each with log-probabilities (..., K).
        weights: λ, 0 or above, summing to 1; equal by default.

    Returns:
        Log-probabilities (..., K).

    Raises:
        InputError: if shapes or weights are wrong, or no class is left with a probability above 0.

    Example:
        >>> certain, unsure = Dense(torch.tensor([0.9, 0.1]).log()), Dense(torch.tensor([0.5, 0.5]).log())
        >>> geometric_mean([certain, unsure]).log_probs.exp()
        tensor([0.7500, 0.2500])

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """
    parts, logs = weighted_parts(targets, weights)
    total = torch.stack([part * math.exp(log) for part, log in zip(parts, logs, strict=True)]).sum(0)
    return normalised(
        total, "geometric mean: the targets rule out every class between them; take the arithmetic mean of these"
    )


@checked_fields
@dataclass(frozen=True)
class GeometricMean(MeanOfTargets):
    """Match the renormalised geometric mean of two or more targets.

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
        >>> GeometricMean((Softmax(), Uniform()))(teacher, batch, temperature=1.0).log_probs.exp()
        tensor([[0.7500, 0.2500]])

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """

    def mean(self, parts: Sequence[Dense]) -> Dense:
        return geometric_mean(parts, self.weights)
