"""Teacher-free distillation: a virtual teacher that is always right."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.targets import VirtualTeacher

__all__ = ["CARD", "tf_kd"]

CARD = Card(
    name="tf_kd",
    summary="a virtual teacher that is always right, softened; no network teaches",
    authors="Li Yuan, Francis E. H. Tay, Guilin Li, Tao Wang, Jiashi Feng",
    year=2020,
    title="Revisiting Knowledge Distillation via Label Smoothing Regularization",
    source="https://arxiv.org/abs/1909.11723",
    formula=(
        "hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(ρ ‖ softmax(z/T)), ρ_t ∝ u^(1/T), ρ_i ∝ ((1-u)/(K-1))^(1/T)"
    ),
)


@checked
def tf_kd(
    temperature: Schedule = 20.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    confidence: float = 0.99,
    softening: float | None = None,
) -> Objective:
    """Build Tf-KD_reg (Yuan et al. 2020), with the terms `hard` and `soft`; both count labelled examples.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.  confidence: u in [0.9, 1), of the true class.
    softening: None, where the temperature softens virtual teacher and student, as in the paper's text.  Its published
    code softens the probabilities instead of their logarithms, and the student not at all: that is temperature 1,
    softening 20, hard_weight = 1-α and soft_weight = α·m/K with its α and multiplier m (its mean is over the K classes
    too).

    >>> sorted(tf_kd().reads())
    ['student']
    >>> tf_kd(temperature=1.0, softening=20.0).terms["soft"].target
    VirtualTeacher(confidence=0.99, softening=20.0)
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=VirtualTeacher(confidence, softening))
