"""A teacher that is always right and exists nowhere."""

from dataclasses import dataclass

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import Dense, virtual_teacher
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs
from limbeck.targets.target import Target, labels_of

__all__ = ["CARD", "VirtualTeacher"]

CARD = Card(
    name="virtual",
    summary="a virtual teacher that is always right, no network needed",
    authors="Li Yuan, Francis E. H. Tay, Guilin Li, Tao Wang, Jiashi Feng",
    year=2020,
    title="Revisiting Knowledge Distillation via Label Smoothing Regularization",
    source="https://arxiv.org/abs/1909.11723",
    formula="ρ_t ∝ u^(1/T), ρ_i ∝ ((1-u)/(K-1))^(1/T); with a softening s, exp(u/s) and exp((1-u)/(K-1)/s)",
)


@checked_fields
@dataclass(frozen=True)
class VirtualTeacher(Target):
    """Probability u on the true class and (1-u)/(K-1) on each other, softened at the temperature (Yuan 2020).

    confidence: u in [0.9, 1).  As for any teacher, the logits that the temperature divides are the logarithms of the
    probabilities.  softening: s above 0, for what the paper's published code does instead: softmax(ρ/s) of the
    probabilities themselves, while the student, at T=1, is not softened.  At s = 20 that is nearly the uniform target.

    >>> import torch
    >>> batch = Batch.of(torch.zeros(1, 3), torch.tensor([0]))
    >>> VirtualTeacher(0.9)(Outputs(torch.zeros(1, 3)), batch, temperature=1.0).log_probs.exp()
    tensor([[0.9000, 0.0500, 0.0500]])
    >>> VirtualTeacher(0.9, softening=20.0)(Outputs(torch.zeros(1, 3)), batch, temperature=1.0).log_probs.exp()
    tensor([[0.3428, 0.3286, 0.3286]])
    """

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

    @property
    def needs_labels(self) -> bool:
        return True
