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
    """Mix targets: Σ λ_m·ρ^m, the arithmetic mean of several teachers (Hinton 2015) or of several ideas (Tang 2020).

    targets: each (..., K).  weights: 0 or above, adding up to 1; equal ones by default.

    >>> certain, unsure = Dense(torch.tensor([1.0, 0.0]).log()), Dense(torch.tensor([0.5, 0.5]).log())
    >>> mixture([certain, unsure], [0.8, 0.2]).log_probs.exp()
    tensor([0.9000, 0.1000])
    """
    parts, logs = weighted_parts(targets, weights)
    return Dense(torch.stack([part + log for part, log in zip(parts, logs, strict=True)]).logsumexp(0))


@checked_fields
@dataclass(frozen=True)
class Mixture(MeanOfTargets):
    """Σ λ_m·ρ^m of two or more targets (KD-pt+sim and KD-pt+rel of Tang et al. 2020).

    parts: the targets.  weights: λ, 0 or above, adding up to 1; equal ones by default.  An example without a label is
    not counted where one part needs labels.

    >>> from limbeck.batch import Batch
    >>> from limbeck.outputs import Outputs
    >>> from limbeck.targets import Softmax, Uniform
    >>> batch, teacher = Batch.of(torch.zeros(1, 3)), Outputs(torch.tensor([[0.9, 0.1]]).log())
    >>> Mixture((Softmax(), Uniform()), (0.75, 0.25))(teacher, batch, temperature=1.0).log_probs.exp()
    tensor([[0.8000, 0.2000]])
    """

    def mean(self, parts: Sequence[Dense]) -> Dense:
        return mixture(parts, self.weights)
