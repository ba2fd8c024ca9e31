"""The normalised product of several targets."""

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.losses import Dense, geometric_mean
from limbeck.targets.target import MeanOfTargets

__all__ = ["CARD", "GeometricMean"]

CARD = Card(
    name="geometric",
    summary="the weighted geometric mean of several targets, renormalised",
    authors="Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    year=2015,
    title="Distilling the Knowledge in a Neural Network",
    source="https://arxiv.org/abs/1503.02531",
    formula="Π_m (ρ^m)^λ_m / Σ_k Π_m (ρ^m_k)^λ_m",
)


@checked_fields
@dataclass(frozen=True)
class GeometricMean(MeanOfTargets):
    """The geometric mean of two or more targets, renormalised; of several teachers' answers in Hinton et al. (2015).

    parts: the targets.  weights: λ, 0 or above, adding up to 1; equal ones by default.  An example without a label is
    not counted where one part needs labels.

    >>> import torch
    >>> from limbeck.batch import Batch
    >>> from limbeck.outputs import Outputs
    >>> from limbeck.targets import Softmax, Uniform
    >>> batch, teacher = Batch.of(torch.zeros(1, 3)), Outputs(torch.tensor([[0.9, 0.1]]).log())
    >>> GeometricMean((Softmax(), Uniform()))(teacher, batch, temperature=1.0).log_probs.exp()
    tensor([[0.7500, 0.2500]])
    """

    def mean(self, parts: Sequence[Dense]) -> Dense:
        return geometric_mean(parts, self.weights)
