"""Distillation through a token: one head of a vision transformer learns from labels, the other from the teacher."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError, ModelError
from limbeck.losses import kd_weights
from limbeck.models.vit import CLASS, DISTILLATION
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.targets import PLAIN, Decision
from limbeck.terms import HardLabels, SoftTargets

__all__ = ["CARD", "ClassHead", "DistillationHead", "deit"]

CARD = Card(
    name="deit",
    summary="the class head learns from labels, the head of a distillation token from the teacher",
    authors="Hugo Touvron, Matthieu Cord, Matthijs Douze, Francisco Massa, Alexandre Sablayrolles, Hervé Jégou",
    year=2021,
    title="Training data-efficient image transformers & distillation through attention",
    source="https://arxiv.org/abs/2012.12877",
    formula="hard_weight·H(y, softmax(z_class)) + soft_weight·H(argmax v, softmax(z_dist)); or, not by its decision, "
    "hard_weight·H(y, softmax(z_class)) + soft_weight·T²·KL(softmax(v/T) ‖ softmax(z_dist/T))",
)


class ClassHead(HardLabels):
    """Hard labels at the student's class head."""

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        return super().sum(_at(CLASS, outputs), batch, step)


class DistillationHead(SoftTargets):
    """What the teacher says, at the student's distillation head."""

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        return super().sum(_at(DISTILLATION, outputs), batch, step)


def _at(head: str, outputs: Mapping[str, Outputs]) -> dict[str, Outputs]:
    """Return the outputs with the student's logits replaced by those of one of its heads."""
    student = outputs["student"]
    if head not in student.heads:
        found = ", ".join(student.heads) or "none"
        raise ModelError(
            f"method deit: the student has no head '{head}' (found {found}); give it a distillation token: "
            "model {kind: vit, distillation_token: true}"
        )
    return {**outputs, "student": replace(student, logits=student.heads[head])}


@checked
def deit(
    decision: bool = True,
    temperature: Schedule | None = None,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    label_smoothing: float = 0.0,
) -> Objective:
    """Build the distillation of DeiT, with the terms `hard` and `soft`.

    The student has two heads, "class" and "distillation", as `vit` has with a distillation token.  Its prediction is
    the mean of their probabilities.

    Args:
        decision: teach the teacher's most probable class ("hard distillation", the paper's choice) instead of its
            distribution at `temperature`.
        temperature: T > 0, a number or schedule; 3 by default.  Only without `decision`.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha (the paper's λ is 1 - alpha).  0.5 by default,
            0.9 without `decision`.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.
        label_smoothing: ε in [0, 1] for the labels; the teacher's decision is not smoothed.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range, or two settings exclude each other.

    Example:
        >>> sorted(deit(decision=False, temperature=3.0).terms)
        ['hard', 'soft']

    Reference:
        Touvron et al. (2021), "Training data-efficient image transformers & distillation through attention",
        arXiv:2012.12877.
    """
    if decision and temperature is not None:
        raise InputError(
            "temperature: found together with decision: true, which has no temperature; set decision: false, or"
            " leave it out"
        )
    if alpha is None and hard_weight is None and soft_weight is None:
        alpha = 0.5 if decision else 0.9
    hard, soft = kd_weights(alpha, hard_weight, soft_weight)
    terms: list[Term] = []
    if hard:
        terms.append(ClassHead(hard, label_smoothing=label_smoothing))
    elif label_smoothing:
        raise InputError("label_smoothing: found, but the labels have weight 0; leave it out")
    if soft:
        softness = 1.0 if decision else 3.0 if temperature is None else temperature
        terms.append(DistillationHead(soft, temperature=softness, target=Decision() if decision else PLAIN))
    return Objective(terms)
