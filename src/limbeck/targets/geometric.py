"""The normalised product of several targets."""

from dataclasses import dataclass, replace
from typing import Self

from limbeck import checks
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import Dense, geometric_mean
from limbeck.outputs import Outputs
from limbeck.targets.target import Target

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


@dataclass(frozen=True)
class GeometricMean(Target):
    """The geometric mean of two or more targets, renormalised; of several teachers' answers in Hinton et al. (2015).

    parts: the targets.  weights: λ, 0 or above, adding up to 1; equal ones by default.  An example without a label is
    not counted where one part needs labels.

    >>> import torch
    >>> from limbeck.targets import Softmax, Uniform
    >>> batch, teacher = Batch.of(torch.zeros(1, 3)), Outputs(torch.tensor([[0.9, 0.1]]).log())
    >>> GeometricMean((Softmax(), Uniform()))(teacher, batch, temperature=1.0).log_probs.exp()
    tensor([[0.7500, 0.2500]])
    """

    parts: tuple[Target, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise InputError(f"parts: found {len(self.parts)}, expected two targets or more")
        if self.weights is not None:
            checks.shares("weights", self.weights, count=len(self.parts))

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return geometric_mean([part(outputs, batch, temperature) for part in self.parts], self.weights)

    @property
    def made_of(self) -> tuple[Target, ...]:
        return self.parts

    def settled(self, legend: Legend) -> Self:
        return replace(self, parts=tuple(part.settled(legend) for part in self.parts))
