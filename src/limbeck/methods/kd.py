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
    """Build the distillation objective of Hinton, Vinyals & Dean (2015), with the terms `hard` and `soft`.

    temperature: above 0, a number or schedule.  alpha in [0, 1]: hard_weight = alpha, soft_weight = 1 - alpha; the
    default is 0.1.  The two weights may be given freely instead.  A term of weight 0 is left out.
    divergence: of the soft term, which multiplies it with the factor that it declares (T² for KL).
    target: what of the teacher's distribution is taught; the whole of it by default (see `limbeck.targets`).
    standardise: compare z-scores instead of logits (see `logit_standardisation`).

    >>> sorted(kd(temperature=4.0, alpha=0.1).terms)
    ['hard', 'soft']
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
