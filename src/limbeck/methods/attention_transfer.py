"""Attention transfer: the student is active where the teacher is."""

from typing import Literal

from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "AttentionTransfer", "attention_transfer"]

CARD = Card(
    name="attention_transfer",
    summary="where in its maps the student is active, whatever its channels are, is taught by the teacher",
    authors="Sergey Zagoruyko, Nikos Komodakis",
    year=2017,
    title="Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via "
    "Attention Transfer",
    source="https://arxiv.org/abs/1612.03928",
    formula="hard_weight·H(y, q) + weight·Σ_layers mean (a(F) - a(G))², a(F) = Σ_c |F_c|^p over its length",
)


class AttentionTransfer(FeatureTerm):
    """Distance of attention maps, summed over the layers; of an example, the mean over positions.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        power: p, 1 or above.
        norm: "mean" or "l2" (see `losses.attention_transfer`).

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> AttentionTransfer("stage1").name
        'attention_transfer'

    Reference:
        Zagoruyko & Komodakis (2017), "Paying More Attention to Attention", arXiv:1612.03928.
    """

    axes = frozenset({3, 4})

    def __init__(
        self, layers: LayerPairs, weight: Schedule = 1000.0, *, power: float = 2.0, norm: Literal["mean", "l2"] = "mean"
    ) -> None:
        super().__init__("attention_transfer", weight, layers)
        checks.choice("norm", norm, ("mean", "l2"))
        self.power = power
        self.norm: Literal["mean", "l2"] = norm

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.attention_transfer(student, teacher, power=self.power, norm=self.norm, reduction="none")


@checked
def attention_transfer(
    layers: LayerPairs,
    weight: Schedule = 1000.0,
    power: float = 2.0,
    norm: Literal["mean", "l2"] = "mean",
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build attention transfer.

    The published layers are the outputs of all stages, in WRN those of the groups before BatchNorm and ReLU.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: β, a number or schedule, 1000 in published code.  The paper's β belongs to ``norm="l2"``, as 2·weight.
        power: p of the activations, 1 or above.
        norm: "mean" over positions of the squared difference, as published code computes it; "l2" for the paper's norm.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `attention_transfer`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(attention_transfer(["stage1", "stage2"]).terms)
        ['attention_transfer', 'hard']

    Reference:
        Zagoruyko & Komodakis (2017), "Paying More Attention to Attention", arXiv:1612.03928.
    """
    return beside_logits(
        [AttentionTransfer(layers, weight, power=power, norm=norm)], hard_weight, soft_weight, temperature
    )
