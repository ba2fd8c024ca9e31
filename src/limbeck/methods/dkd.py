"""Distillation of the true class and of the rest apart from each other."""

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import Dense, Standardise
from limbeck.losses import dkd as dkd_loss
from limbeck.objective import Objective, Term
from limbeck.schedules import Schedule
from limbeck.targets import PLAIN, Target
from limbeck.targets.target import labels_of
from limbeck.terms import HardLabels, SoftTargets, Transform

__all__ = ["CARD", "Decoupled", "dkd"]

CARD = Card(
    name="dkd",
    summary="the teacher's confidence in the true class, and its other classes among themselves, weighted apart",
    authors="Borui Zhao, Quan Cui, Renjie Song, Yiyu Qiu, Jiajun Liang",
    year=2022,
    title="Decoupled Knowledge Distillation",
    source="https://arxiv.org/abs/2203.08679",
    formula="hard_weight·H(y, softmax(z)) + soft_weight·T²·(α·KL(b^p ‖ b^q) + β·KL(p̂ ‖ q̂)), b = (p̃_t, 1-p̃_t), "
    "p̂ = p̃_{i≠t}/(1-p̃_t)",
)


class Decoupled(SoftTargets):
    """T²·(α·KL of the true class against the rest + β·KL of the rest among itself); counts labelled examples."""

    needs_labels = True

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        temperature: Schedule = 4.0,
        target: Target = PLAIN,
        transform: Transform | None = None,
        alpha: float = 1.0,
        beta: float = 8.0,
        name: str = "dkd",
    ) -> None:
        super().__init__(weight, temperature=temperature, target=target, transform=transform, name=name)
        checks.non_negative("alpha", alpha)
        checks.non_negative("beta", beta)
        checks.some_weight({"alpha": alpha, "beta": beta})
        self.alpha = alpha
        self.beta = beta

    def settle(self, legend: Legend) -> None:
        if not legend.labelled:
            raise InputError(f"term '{self.name}' needs the true class, but no sample has a label")
        super().settle(legend)

    def compare(
        self, logits: Tensor, target: Dense, batch: Batch, counted: Tensor | None, temperature: float
    ) -> Tensor:
        return dkd_loss(
            logits,
            temperature * target.log_probs,  # logits that give the target at this temperature
            labels_of(batch, self.name),
            alpha=self.alpha,
            beta=self.beta,
            temperature=temperature,
            mask=counted,
            reduction="sum",
        )


@checked
def dkd(
    temperature: Schedule = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    hard_weight: float = 1.0,
    soft_weight: Schedule = 1.0,
    target: Target = PLAIN,
    standardise: bool = False,
) -> Objective:
    """Build decoupled distillation, with the terms `hard` and `dkd`.

    It needs labels; unlabelled examples are not counted.

    Args:
        temperature: T > 0, a number or schedule.
        alpha: α, weight of the true class against the rest; finite, not negative.  The paper uses 1.
        beta: β, weight of the other classes; finite, not negative.  The paper uses 0.5 to 10, by the pair of networks.
        hard_weight: weight of the labels; finite, not negative.
        soft_weight: weight of `dkd`, a number or schedule.  The published recipe raises it over the first 20 epochs:
            `{kind: linear, start: 0, end: 1, steps: ...}`.
        target: the distribution to match, from `limbeck.targets`.
        standardise: compare z-scores instead of logits (see `logit_standardisation`).

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range, or both alpha and beta are 0.

    Example:
        >>> sorted(dkd(beta=2.0).terms)
        ['dkd', 'hard']

    Reference:
        Zhao et al. (2022), "Decoupled Knowledge Distillation", arXiv:2203.08679.
    """
    checks.non_negative("hard_weight", hard_weight)
    transform = Standardise() if standardise else None
    terms: list[Term] = [
        Decoupled(soft_weight, temperature=temperature, target=target, transform=transform, alpha=alpha, beta=beta)
    ]
    if hard_weight:
        terms.append(HardLabels(hard_weight))
    return Objective(terms)
