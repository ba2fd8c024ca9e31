"""Distillation of relations: correlations over classes and over examples instead of probabilities."""

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from limbeck import checks, ranks
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.losses import Dense, Standardise, correlation
from limbeck.losses.correlation import column_loss
from limbeck.losses.reduction import compute_dtype
from limbeck.objective import Objective, Term
from limbeck.schedules import Schedule
from limbeck.targets import PLAIN, Target
from limbeck.terms import HardLabels, SoftTargets, Transform, require_classes

__all__ = ["CARD", "IntraClass", "dist"]

CARD = Card(
    name="dist",
    summary="correlation with the teacher, over the classes of an example and over the examples of a class",
    authors="Tao Huang, Shan You, Fei Wang, Chen Qian, Chang Xu",
    year=2022,
    title="Knowledge Distillation from A Stronger Teacher",
    source="https://arxiv.org/abs/2205.10536",
    formula="hard_weight·H(y, softmax(z)) + inter_weight·(1 - corr over classes(p̃, q̃)) + "
    "intra_weight·mean_i(1 - corr over the batch(p̃_i, q̃_i))",
)


class IntraClass(SoftTargets):
    """1 - Pearson's correlation over the batch of each class's probabilities, mean over classes (Huang et al. 2022).

    It relates the examples of a batch to each other.  The batch is that of all ranks together; where gradients are
    accumulated, it is each part.  Its mean over a batch counts as many times as the batch has examples.
    """

    relates_examples = True

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        temperature: Schedule = 4.0,
        target: Target = PLAIN,
        transform: Transform | None = None,
        tau_squared: bool = False,
        name: str = "intra",
    ) -> None:
        made = replace(correlation(tau_squared), least_classes=1)  # over examples, not over classes
        super().__init__(
            weight, temperature=temperature, target=target, divergence=made, transform=transform, name=name
        )

    def settle(self, legend: Legend) -> None:
        require_classes(legend.task, f"term '{self.name}' relates", alone=True)
        super().settle(legend)

    def compare(
        self, logits: Tensor, target: Dense, batch: Batch, counted: Tensor | None, temperature: float
    ) -> Tensor:
        log_q, log_p = F.log_softmax(compute_dtype(logits) / temperature, -1), target.log_probs
        log_q, log_p = (rows.flatten(0, -2) if counted is None else rows[counted] for rows in (log_q, log_p))
        everyone = ranks.all_rows(log_q)
        loss = column_loss(everyone, ranks.all_rows(log_p))
        # The value counts the examples of this rank; the gradient is that of the whole batch with respect to them.
        value = loss.detach() * len(log_q) + (loss - loss.detach()) * len(everyone)
        return self.divergence.factor(temperature) * value


@checked
def dist(
    temperature: Schedule = 4.0,
    inter_weight: float = 2.0,
    intra_weight: float = 2.0,
    hard_weight: float = 1.0,
    tau_squared: bool = False,
    target: Target = PLAIN,
    standardise: bool = False,
) -> Objective:
    """Build DIST, with the terms `hard`, `inter` and `intra`; a term of weight 0 is left out.

    Args:
        temperature: T > 0, a number or schedule.  The paper uses 4 on CIFAR-100 and 1 on ImageNet.
        inter_weight: β of the paper; finite, not negative.
        intra_weight: γ of the paper; finite, not negative.
        hard_weight: α of the paper; finite, not negative.
        tau_squared: multiply both correlations by T², as the published code does.
        target: the distribution to match, from `limbeck.targets`.
        standardise: compare z-scores instead of logits (see `logit_standardisation`).

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range, or all weights are 0.

    Example:
        >>> sorted(dist(hard_weight=0.0).terms)
        ['inter', 'intra']

    Reference:
        Huang et al. (2022), "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536.
    """
    for name, weight in (("inter_weight", inter_weight), ("intra_weight", intra_weight), ("hard_weight", hard_weight)):
        checks.non_negative(name, weight)
    terms: list[Term] = []
    if hard_weight:
        terms.append(HardLabels(hard_weight))
    common: dict[str, Any] = {"temperature": temperature, "target": target}
    common["transform"] = Standardise() if standardise else None
    if inter_weight:
        terms.append(SoftTargets(inter_weight, divergence=correlation(tau_squared), name="inter", **common))
    if intra_weight:
        terms.append(IntraClass(intra_weight, tau_squared=tau_squared, **common))
    return Objective(terms)
