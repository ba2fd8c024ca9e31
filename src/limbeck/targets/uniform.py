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
    """Return the uniform distribution over classes.

    Args:
        like: (..., K) floating point; the result has its shape, device and at least float32.

    Returns:
        Log-probabilities (..., K), all -log K.

    Raises:
        InputError: if `like` is not floating point.

    Example:
        >>> uniform(torch.zeros(1, 4)).log_probs.exp()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])

    Reference:
        Szegedy et al. (2016), arXiv:1512.00567.
    """
    like = compute_dtype(like)
    return Dense(torch.full_like(like, -math.log(like.shape[-1])))


@checked_fields
@dataclass(frozen=True)
class Uniform(Target):
    """Match probability 1/K on every class, without a teacher.

    `kd` with this target, hard_weight 1-ε, soft_weight ε and T=1 is label smoothing.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3))
        >>> Uniform()(Outputs(torch.zeros(1, 4)), batch, temperature=1.0).log_probs.exp()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])

    Reference:
        Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567.
    """

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return uniform(outputs.logits.detach())
