"""Labels, smoothed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.losses import Dense
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs
from limbeck.targets.target import Target, labels_of, two_levels

__all__ = ["CARD", "SmoothedLabels", "smooth_labels"]

CARD = Card(
    name="smoothing",
    summary="labels smoothed by ε, no teacher needed",
    authors="Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens, Zbigniew Wojna",
    year=2016,
    title="Rethinking the Inception Architecture for Computer Vision",
    source="https://arxiv.org/abs/1512.00567",
    formula="y(1-ε) + ε/K",
)


@checked
def smooth_labels(labels: Tensor, classes: int, epsilon: float, *, dtype: torch.dtype = torch.float32) -> Dense:
    """Smooth hard labels: y(1-ε) + ε/K.

    Args:
        labels: (...) int64 in [0, classes), or `UNLABELLED`, whose row is uniform; the caller masks it.
        classes: K, 1 or more.
        epsilon: ε in [0, 1]; 0 gives the labels themselves.
        dtype: of the result; at least float32.

    Returns:
        Log-probabilities (..., classes).

    Raises:
        InputError: if a label or value is out of range.

    Example:
        >>> smooth_labels(torch.tensor([1]), classes=4, epsilon=0.4).log_probs.exp()
        tensor([[0.1000, 0.7000, 0.1000, 0.1000]])

    Reference:
        Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567.
    """
    checks.unit_interval("epsilon", epsilon)
    checks.at_least("classes", classes, 1)
    log_rest = math.log(epsilon / classes) if epsilon / classes > 0 else -math.inf
    return two_levels(labels, classes, math.log(1.0 - epsilon + epsilon / classes), log_rest, dtype)


@checked_fields
@dataclass(frozen=True)
class SmoothedLabels(Target):
    """Match hard labels smoothed by ε, without a teacher.

    The temperature does not change this target.

    Attributes:
        epsilon: ε in [0, 1].

    Raises:
        InputError: if ε is not in [0, 1].

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3), torch.tensor([1]))
        >>> SmoothedLabels(0.4)(Outputs(torch.zeros(1, 4)), batch, temperature=1.0).log_probs.exp()
        tensor([[0.1000, 0.7000, 0.1000, 0.1000]])

    Reference:
        Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567.
    """

    needs_labels = True

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        checks.unit_interval("epsilon", self.epsilon)

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        labels, dtype = labels_of(batch, self.kind), compute_dtype(outputs.logits[:0]).dtype
        return smooth_labels(labels, outputs.logits.shape[-1], self.epsilon, dtype=dtype)
