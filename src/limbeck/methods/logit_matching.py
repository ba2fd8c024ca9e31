"""Regression of the teacher's logits."""

from limbeck import checks
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.objective import Objective, Term
from limbeck.terms import HardLabels, LogitMatching

__all__ = ["CARD", "logit_matching"]

CARD = Card(
    name="logit_matching",
    summary="squared distance to the teacher's logits, no temperature",
    authors="Lei Jimmy Ba, Rich Caruana",
    year=2014,
    title="Do Deep Nets Really Need to be Deep?",
    source="https://arxiv.org/abs/1312.6184",
    formula="hard_weight·H(y, softmax(z)) + soft_weight·½·Σ_i (z_i - v_i)²/K",
)


@checked
def logit_matching(zero_mean: bool = False, hard_weight: float = 0.0, soft_weight: float = 1.0) -> Objective:
    """Build the regression of the teacher's logits, with the term `logits` and, if it has a weight, `hard`.

    Args:
        zero_mean: subtract the mean over the classes from both logits first.
        hard_weight: weight of the labels; finite, not negative.
        soft_weight: weight of the logits; finite, above 0.

    Returns:
        The objective.

    Raises:
        InputError: if a weight is out of range.

    Example:
        >>> sorted(logit_matching().terms)
        ['logits']

    Reference:
        Ba & Caruana (2014), "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184.
    """
    checks.non_negative("hard_weight", hard_weight)
    checks.positive("soft_weight", soft_weight)
    terms: list[Term] = [LogitMatching(soft_weight, zero_mean=zero_mean)]
    if hard_weight:
        terms.append(HardLabels(hard_weight))
    return Objective(terms)
