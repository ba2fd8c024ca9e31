"""Probabilistic knowledge transfer: whom of a batch each example is near to, as a distribution."""

from typing import Literal

from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import RelationalTerm
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "NeighbourProbabilities", "pkt"]

CARD = Card(
    name="pkt",
    summary="the distribution of each example's neighbours in a batch, by the cosine of their features",
    authors="Nikolaos Passalis, Anastasios Tefas",
    year=2018,
    title="Learning Deep Representations with Probabilistic Knowledge Transfer",
    source="https://arxiv.org/abs/1803.10837",
    formula="hard_weight·H(y, q) + weight·Σ_layers Σ_ij p_ij·ln(p_ij/q_ij)/N², q_ij = c_ij/Σ_k c_ik, "
    "c = (1 + cos(f_i, f_j))/2",
)


class NeighbourProbabilities(RelationalTerm):
    """Divergence of the distributions over neighbours, summed over the layers.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        diagonal: count an example among its own neighbours.
        per: "pair" or "anchor" (see `losses.pkt`).

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> NeighbourProbabilities("pool").name
        'pkt'

    Reference:
        Passalis & Tefas (2018), "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV.
    """

    def __init__(
        self,
        layers: LayerPairs,
        weight: Schedule = 30000.0,
        *,
        diagonal: bool = True,
        per: Literal["pair", "anchor"] = "pair",
    ) -> None:
        super().__init__("pkt", weight, layers)
        checks.choice("per", per, ("pair", "anchor"))
        self.diagonal = diagonal
        self.per: Literal["pair", "anchor"] = per
        self.published = 30000.0 if per == "pair" else None

    def relate(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.pkt(student, teacher, diagonal=self.diagonal, per=self.per)


@checked
def pkt(
    layers: LayerPairs,
    weight: Schedule = 30000.0,
    diagonal: bool = True,
    per: Literal["pair", "anchor"] = "pair",
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build probabilistic knowledge transfer.

    The published layer is the pooled vector before the classifier.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, 30000 as published for batches of 64.
        diagonal: count an example among its own neighbours, as published code does; the paper does not.
        per: "pair" divides by N², as published, so that the value shrinks as batches grow; "anchor" divides by N, and
            30000/64 is then the published weight.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `pkt`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(pkt("pool").terms)
        ['hard', 'pkt']

    Reference:
        Passalis & Tefas (2018), "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV.
    """
    term = NeighbourProbabilities(layers, weight, diagonal=diagonal, per=per)
    return beside_logits([term], hard_weight, soft_weight, temperature)
