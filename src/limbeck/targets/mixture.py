"""Several targets mixed."""

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.losses import Dense, mixture
from limbeck.targets.target import MeanOfTargets

__all__ = ["CARD", "Mixture"]

CARD = Card(
    name="mixture",
    summary="a weighted mean of several targets, such as KD-pt+sim",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="Σ_m λ_m·ρ^m",
)


@checked_fields
@dataclass(frozen=True)
class Mixture(MeanOfTargets):
    """Σ λ_m·ρ^m of two or more targets (KD-pt+sim and KD-pt+rel of Tang et al. 2020).

    parts: the targets.  weights: λ, 0 or above, adding up to 1; equal ones by default.  An example without a label is
    not counted where one part needs labels.

    >>> import torch
    >>> from limbeck.batch import Batch
    >>> from limbeck.outputs import Outputs
    >>> from limbeck.targets import Softmax, Uniform
    >>> batch, teacher = Batch.of(torch.zeros(1, 3)), Outputs(torch.tensor([[0.9, 0.1]]).log())
    >>> Mixture((Softmax(), Uniform()), (0.75, 0.25))(teacher, batch, temperature=1.0).log_probs.exp()
    tensor([[0.8000, 0.2000]])
    """

    def mean(self, parts: Sequence[Dense]) -> Dense:
        return mixture(parts, self.weights)
