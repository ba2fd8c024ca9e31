"""Distillation of z-scores: the student need not reach the scale of the teacher's logits."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.losses import KL, Divergence, kd_weights
from limbeck.objective import Objective, Term
from limbeck.schedules import Schedule
from limbeck.targets import PLAIN, Target
from limbeck.terms import HardLabels, SoftTargets

__all__ = ["CARD", "logit_standardisation"]

CARD = Card(
    name="logit_standardisation",
    summary="soft targets of standardised logits, so that student and teacher share no scale",
    authors="Shangquan Sun, Wenqi Ren, Jingzhi Li, Rui Wang, Xiaochun Cao",
    year=2024,
    title="Logit Standardization in Knowledge Distillation",
    source="https://arxiv.org/abs/2403.01427",
    formula="hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(softmax(Z(v)/T) ‖ softmax(Z(z)/T)), Z the z-score over "
    "the classes",
)


@checked
def logit_standardisation(
    temperature: Schedule = 2.0,
    hard_weight: float = 0.1,
    soft_weight: float = 9.0,
    divergence: Divergence = KL,
    target: Target = PLAIN,
) -> Objective:
    """Build distillation of standardised logits with the weights and the base temperature of Sun et al. (2024).

    temperature: of the z-scores, above 0, a number or schedule.  hard_weight, soft_weight: finite, not negative.
    divergence, target: as for `kd`.

    >>> sorted(logit_standardisation().terms)
    ['hard', 'soft']
    """
    hard, soft = kd_weights(None, hard_weight, soft_weight)
    terms: list[Term] = []
    if hard:
        terms.append(HardLabels(hard))
    if soft:
        terms.append(SoftTargets(soft, temperature=temperature, target=target, divergence=divergence, standardise=True))
    return Objective(terms)
