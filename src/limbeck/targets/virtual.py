"""A teacher that is always right and exists nowhere."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs
from limbeck.targets.target import Target, labels_of, two_levels

__all__ = ["CARD", "VirtualTeacher", "virtual_teacher"]

CARD = Card(
    name="virtual",
    summary="a virtual teacher that is always right, no network needed",
    authors="Li Yuan, Francis E. H. Tay, Guilin Li, Tao Wang, Jiashi Feng",
    year=2020,
    title="Revisiting Knowledge Distillation via Label Smoothing Regularization",
    source="https://arxiv.org/abs/1909.11723",
    formula="ρ_t ∝ u^(1/T), ρ_i ∝ ((1-u)/(K-1))^(1/T); with a softening s, exp(u/s) and exp((1-u)/(K-1)/s)",
)


@checked
def virtual_teacher(
    labels: Tensor,
    classes: int,
    confidence: float = 0.99,
    temperature: float = 1.0,
    *,
    softening: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dense:
    """Return the answer of an always right virtual teacher: u on the true class, (1-u)/(K-1) on each other class.

    Args:
        labels: (...) int64 in [0, classes), or `UNLABELLED`, whose row is uniform; the caller masks it.
        classes: K, 2 or more.
        confidence: u in [0.9, 1).
        temperature: T > 0.  The logits are the logarithms of the probabilities, as for any teacher: ρ_t ∝ u^(1/T).
        softening: s > 0 reproduces the paper's published code, softmax(ρ/s) of the probabilities themselves; the
            temperature is then not used.  At s = 20 the result is nearly uniform.
        dtype: of the result; at least float32.

    Returns:
        Log-probabilities (..., classes).

    Raises:
        InputError: if a label or value is out of range.

    Example:
        >>> virtual_teacher(torch.tensor([0]), classes=3, confidence=0.9).log_probs.exp()
        tensor([[0.9000, 0.0500, 0.0500]])
        >>> virtual_teacher(torch.tensor([0]), classes=3, confidence=0.9, temperature=20.0).log_probs.exp()
        tensor([[0.3662, 0.3169, 0.3169]])
        >>> virtual_teacher(torch.tensor([0]), classes=3, confidence=0.9, softening=20.0).log_probs.exp()
        tensor([[0.3428, 0.3286, 0.3286]])

    Reference:
        Yuan et al. (2020), "Revisiting Knowledge Distillation via Label Smoothing Regularization", arXiv:1909.11723.
    """
    checks.finite("confidence", confidence)
    checks.positive("temperature", temperature)
    if softening is not None:
        checks.positive("softening", softening)
    checks.at_least("classes", classes, 2)
    if not 0.9 <= confidence < 1:
        raise InputError(f"confidence: found {confidence}, expected at least 0.9 and less than 1")
    rest = (1 - confidence) / (classes - 1)
    margin = math.log(confidence / rest) / temperature if softening is None else (confidence - rest) / softening
    log_rest = -margin - math.log1p((classes - 1) * math.exp(-margin))
    return two_levels(labels, classes, margin + log_rest, log_rest, dtype)


@checked_fields
@dataclass(frozen=True)
class VirtualTeacher(Target):
    """Match a virtual teacher that is always right, softened at the temperature; it needs labels and no network.

    Attributes:
        confidence: u in [0.9, 1), the probability of the true class; each other class has (1-u)/(K-1).
        softening: s > 0 reproduces the paper's published code: softmax(ρ/s) of the probabilities themselves, while the
            student, at T=1, is not softened.  At s = 20 the target is nearly uniform.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3), torch.tensor([0]))
        >>> VirtualTeacher(0.9)(Outputs(torch.zeros(1, 3)), batch, temperature=1.0).log_probs.exp()
        tensor([[0.9000, 0.0500, 0.0500]])
        >>> VirtualTeacher(0.9, softening=20.0)(Outputs(torch.zeros(1, 3)), batch, temperature=1.0).log_probs.exp()
        tensor([[0.3428, 0.3286, 0.3286]])

    Reference:
        Yuan et al. (2020), "Revisiting Knowledge Distillation via Label Smoothing Regularization", arXiv:1909.11723.
    """

    needs_labels = True

    confidence: float = 0.99
    softening: float | None = None

    def __post_init__(self) -> None:
        checks.finite("confidence", self.confidence)
        if not 0.9 <= self.confidence < 1:
            raise InputError(f"confidence: found {self.confidence}, expected at least 0.9 and less than 1")
        if self.softening is not None:
            checks.positive("softening", self.softening)

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        labels, dtype = labels_of(batch, self.kind), compute_dtype(outputs.logits[:0]).dtype
        classes = outputs.logits.shape[-1]
        return virtual_teacher(labels, classes, self.confidence, temperature, softening=self.softening, dtype=dtype)
