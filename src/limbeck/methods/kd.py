"""Distillation with soft targets at a temperature."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.losses import KL, Divergence, Standardise, kd_weights
from limbeck.objective import Objective, Term
from limbeck.schedules import Schedule
from limbeck.targets import PLAIN, Target
from limbeck.terms import HardLabels, SoftTargets

__all__ = ["CARD", "kd"]

CARD = Card(
    name="kd",
    summary="soft targets of the teacher at a temperature, beside the hard labels",
    authors="Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    year=2015,
    title="Distilling the Knowledge in a Neural Network",
    source="https://arxiv.org/abs/1503.02531",
    formula="hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(softmax(v/T) ‖ softmax(z/T))",
)


@checked
def kd(
    temperature: Schedule = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    divergence: Divergence = KL,
    target: Target = PLAIN,
    standardise: bool = False,
) -> Objective:
    """Build distillation with soft targets, with the terms `hard` and `soft`; a term of weight 0 is left out.

    Args:
        temperature: T > 0, a number or schedule.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.
        divergence: between target and student, from `limbeck.losses`.  The soft term multiplies it by the factor that
            it declares (T² for KL).
        target: the distribution to match, from `limbeck.targets`; the teacher's whole distribution by default.
        standardise: compare z-scores instead of logits (see `logit_standardisation`).

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range, or `alpha` is given beside a weight.

    Example:
        >>> sorted(kd(temperature=4.0, alpha=0.1).terms)
        ['hard', 'soft']

    Reference:
        Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    hard, soft = kd_weights(alpha, hard_weight, soft_weight)
    terms: list[Term] = []
    if hard:
        terms.append(HardLabels(hard))
    if soft:
        transform = Standardise() if standardise else None
        terms.append(
            SoftTargets(soft, temperature=temperature, target=target, divergence=divergence, transform=transform)
        )
    return Objective(terms)
