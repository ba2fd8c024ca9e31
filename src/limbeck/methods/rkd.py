"""Relational knowledge distillation: distances and angles between the examples of a batch."""

from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import RelationalTerm
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "RelationalDistances", "rkd"]

CARD = Card(
    name="rkd",
    summary="distances and angles between the examples of a batch",
    authors="Wonpyo Park, Dongju Kim, Yan Lu, Minsu Cho",
    year=2019,
    title="Relational Knowledge Distillation",
    source="https://arxiv.org/abs/1904.05068",
    formula="hard_weight·H(y, q) + weight·Σ_layers (Σ_ij h(ψ(F)_ij - ψ(G)_ij)/N² + angle·Σ_ijk h(cos(F)_ijk - "
    "cos(G)_ijk)/N³), h Huber's",
)


class RelationalDistances(RelationalTerm):
    """Huber's loss of relative distances, and of angles, summed over the layers.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        angle: the weight of the angles, as a multiple of that of the distances; finite, not negative.
        distinct: divide by the numbers of pairs and triples of different examples.
        anchors: angles at the first m examples alone; None takes all.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> RelationalDistances("pool").name
        'rkd'

    Reference:
        Park et al. (2019), "Relational Knowledge Distillation", arXiv:1904.05068.
    """

    def __init__(
        self,
        layers: LayerPairs,
        weight: Schedule = 25.0,
        *,
        angle: float = 2.0,
        distinct: bool = False,
        anchors: int | None = None,
    ) -> None:
        super().__init__("rkd", weight, layers)
        checks.non_negative("angle", angle)
        if anchors is not None:
            checks.at_least("anchors", anchors, 1)
        self.angle = angle
        self.distinct = distinct
        self.anchors = anchors

    def relate(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        value = losses.rkd_distance(student, teacher, distinct=self.distinct)
        if not self.angle:
            return value
        angles = losses.rkd_angle(student, teacher, distinct=self.distinct, anchors=self.anchors)
        return value + self.angle * angles


@checked
def rkd(
    layers: LayerPairs,
    weight: Schedule = 25.0,
    angle: float = 2.0,
    distinct: bool = False,
    anchors: int | None = None,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build relational knowledge distillation.

    The published layer is the pooled vector before the classifier, as it is: nothing is normalised.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: of the distances, a number or schedule; 25 in the literature's tables.
        angle: the weight of the angles, as a multiple of `weight`; finite, not negative.  2 everywhere as published.
        distinct: divide by N(N-1) and N(N-1)(N-2), as in the paper; published code divides by N² and N³.
        anchors: compare the angles at the first m examples of a batch alone: time and memory grow with N³ otherwise.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `rkd`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(rkd("pool", hard_weight=0.0).terms)
        ['rkd']

    Reference:
        Park et al. (2019), "Relational Knowledge Distillation", arXiv:1904.05068.
    """
    term = RelationalDistances(layers, weight, angle=angle, distinct=distinct, anchors=anchors)
    return beside_logits([term], hard_weight, soft_weight, temperature)
