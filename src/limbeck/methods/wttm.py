"""Transformed teacher matching: the teacher alone is softened, and unsure examples weigh more."""

from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.losses import Dense, Standardise
from limbeck.objective import Objective, Term
from limbeck.schedules import Schedule
from limbeck.targets import PLAIN, Target
from limbeck.terms import HardLabels, SoftTargets, Transform

__all__ = ["CARD", "TransformedTeacher", "wttm"]

CARD = Card(
    name="wttm",
    summary="the teacher's distribution to a power, which the student gives unsoftened; unsure examples weigh more",
    authors="Kaixiang Zheng, En-Hui Yang",
    year=2024,
    title="Knowledge Distillation Based on Transformed Teacher Matching",
    source="https://arxiv.org/abs/2402.11148",
    formula="hard_weight·H(y, softmax(z)) + weight·(Σ p^γ)·KL(P ‖ softmax(z)), P = p^γ/Σ p^γ",
)


class TransformedTeacher(SoftTargets):
    """(Σ p^γ)·KL(p^γ/Σ p^γ ‖ q), q at temperature 1."""

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        gamma: float = 0.1,
        weighted: bool = True,
        target: Target = PLAIN,
        transform: Transform | None = None,
        name: str = "wttm",
    ) -> None:
        checks.positive("gamma", gamma)
        super().__init__(weight, temperature=1.0 / gamma, target=target, transform=transform, name=name)
        self.gamma = gamma
        self.weighted = weighted

    def compare(
        self, logits: Tensor, target: Dense, batch: Batch, counted: Tensor | None, temperature: float
    ) -> Tensor:
        teacher = target.log_probs / self.gamma  # logits that give the target at temperature 1/γ
        return losses.wttm(logits, teacher, gamma=self.gamma, weighted=self.weighted, mask=counted, reduction="sum")


@checked
def wttm(
    gamma: float = 0.1,
    weight: Schedule = 1.0,
    hard_weight: float = 1.0,
    weighted: bool = True,
    target: Target = PLAIN,
    standardise: bool = False,
) -> Objective:
    """Build weighted transformed teacher matching, with the terms `hard` and `wttm`.

    Args:
        gamma: γ > 0, the power of the teacher's distribution: its temperature is 1/γ.
        weight: of the divergence; a number or schedule, which has to be searched with γ.
        hard_weight: weight of the labels; finite, not negative.
        weighted: give unsure examples more weight; False is TTM.
        target: the distribution to match, from `limbeck.targets`.
        standardise: compare z-scores instead of logits (see `logit_standardisation`).

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(wttm(gamma=0.2).terms)
        ['hard', 'wttm']

    Reference:
        Zheng & Yang (2024), "Knowledge Distillation Based on Transformed Teacher Matching", arXiv:2402.11148.
    """
    checks.non_negative("hard_weight", hard_weight)
    transform = Standardise() if standardise else None
    terms: list[Term] = [TransformedTeacher(weight, gamma=gamma, weighted=weighted, target=target, transform=transform)]
    if hard_weight:
        terms.append(HardLabels(hard_weight))
    return Objective(terms)
