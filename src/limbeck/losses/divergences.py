"""Divergences between a target and the student: one loss per example, and the factor each declares for temperature.

Softening by T shrinks the gradient of KL and cross-entropy with respect to the logits as 1/T², so that their factor T²
keeps the balance with the hard labels when T changes (Hinton, Vinyals & Dean 2015, section 2).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.losses.reduction import compute_dtype
from limbeck.losses.targets import SoftTarget

__all__ = ["CROSS_ENTROPY", "KL", "Divergence"]


@dataclass(frozen=True)
class Divergence:
    """A divergence and its temperature factor.

    per_example(student_logits (..., K), target, temperature) -> (...), without the factor.
    factor(temperature): what a distillation loss multiplies it with, once.

    >>> from limbeck.losses import soften
    >>> target = soften(torch.tensor([[0.0, 4.0]]), temperature=2.0)
    >>> KL.factor(2.0) * KL.per_example(torch.zeros(1, 2), target, 2.0)
    tensor([1.3113])
    """

    name: str
    per_example: Callable[[Tensor, SoftTarget, float], Tensor]
    factor: Callable[[float], float]


def _student_log_probs(student_logits: Tensor, target: SoftTarget, temperature: float) -> Tensor:
    checks.positive("temperature", temperature)
    checks.shapes_match("student_logits", student_logits.shape, "the target", target.log_probs.shape)
    return F.log_softmax(compute_dtype(student_logits) / temperature, dim=-1)


def _kl(student_logits: Tensor, target: SoftTarget, temperature: float) -> Tensor:
    log_q = _student_log_probs(student_logits, target, temperature)
    log_p = target.log_probs
    p = log_p.exp()
    return torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)


def _cross_entropy(student_logits: Tensor, target: SoftTarget, temperature: float) -> Tensor:
    log_q = _student_log_probs(student_logits, target, temperature)
    p = target.log_probs.exp()
    return -torch.where(p == 0, 0.0, p * log_q).sum(-1)


def _square(temperature: float) -> float:
    return temperature * temperature


KL = Divergence("kl", _kl, _square)
"""KL(p̃ ‖ q̃) = Σ p̃ (log p̃ - log q̃): 0 exactly when student and target agree."""

CROSS_ENTROPY = Divergence("cross_entropy", _cross_entropy, _square)
"""H(p̃, q̃) = -Σ p̃ log q̃ = H(p̃) + KL(p̃ ‖ q̃): the same gradients as KL, another value."""
