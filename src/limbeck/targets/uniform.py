"""The uniform distribution: a teacher that knows nothing."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.losses import Dense
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs
from limbeck.targets.target import Target

__all__ = ["CARD", "Uniform", "uniform"]

CARD = Card(
    name="uniform",
    summary="every class alike, no teacher needed; beside hard labels at T=1 this is label smoothing",
    authors="Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens, Zbigniew Wojna",
    year=2016,
    title="Rethinking the Inception Architecture for Computer Vision",
    source="https://arxiv.org/abs/1512.00567",
    formula="1/K",
)


@checked
def uniform(like: Tensor) -> Dense:
    """Return the uniform distribution over the classes of `like` (..., K): a teacher that knows nothing.

    >>> uniform(torch.zeros(1, 4)).log_probs.exp()
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    like = compute_dtype(like)
    return Dense(torch.full_like(like, -math.log(like.shape[-1])))


@checked_fields
@dataclass(frozen=True)
class Uniform(Target):
    """1/K on every class, without a teacher (Szegedy et al. 2016).

    With hard_weight 1-ε and soft_weight ε at T=1, `kd` with this target is label smoothing.

    >>> batch = Batch.of(torch.zeros(1, 3))
    >>> Uniform()(Outputs(torch.zeros(1, 4)), batch, temperature=1.0).log_probs.exp()
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return uniform(outputs.logits.detach())
