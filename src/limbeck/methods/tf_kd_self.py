"""Teacher-free distillation by self-training: a network of the student's kind, trained before, teaches it."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule

__all__ = ["CARD", "tf_kd_self"]

CARD = Card(
    name="tf_kd_self",
    summary="self-training: the teacher is the student itself, trained before on hard labels",
    authors="Li Yuan, Francis E. H. Tay, Guilin Li, Tao Wang, Jiashi Feng",
    year=2020,
    title="Revisiting Knowledge Distillation via Label Smoothing Regularization",
    source="https://arxiv.org/abs/1909.11723",
    formula=(
        "hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(softmax(v/T) ‖ softmax(z/T)), "
        "v of a trained network of the student's kind"
    ),
)


@checked
def tf_kd_self(
    temperature: Schedule = 20.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
) -> Objective:
    """Build Tf-KD_self (Yuan et al. 2020), with the terms `hard` and `soft`.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.  The objective is that of `kd`: what makes it
    self-training is the teacher, which is a network of the student's kind (a recipe without a `teacher` has that one).

    >>> sorted(tf_kd_self().terms)
    ['hard', 'soft']
    """
    return kd(temperature, alpha, hard_weight, soft_weight)
