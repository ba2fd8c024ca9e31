"""Similarity-preserving distillation: examples that are alike for the teacher are so for the student."""

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

__all__ = ["CARD", "SimilarityPreserving", "similarity_preserving"]

CARD = Card(
    name="similarity_preserving",
    summary="examples that excite the teacher alike excite the student alike",
    authors="Frederick Tung, Greg Mori",
    year=2019,
    title="Similarity-Preserving Knowledge Distillation",
    source="https://arxiv.org/abs/1907.09682",
    formula="hard_weight·H(y, q) + weight·Σ_layers ‖Q(F) - Q(G)‖²/N², Q the rows of A·Aᵀ over their lengths",
)


class SimilarityPreserving(RelationalTerm):
    """Squared difference of the normalised products of all examples, summed over the layers.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        per: "pair" or "anchor" (see `losses.similarity_preserving`).

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> SimilarityPreserving("stage3").relates_examples
        True

    Reference:
        Tung & Mori (2019), "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682.
    """

    def __init__(
        self, layers: LayerPairs, weight: Schedule = 3000.0, *, per: Literal["pair", "anchor"] = "pair"
    ) -> None:
        super().__init__("similarity_preserving", weight, layers)
        checks.choice("per", per, ("pair", "anchor"))
        self.per: Literal["pair", "anchor"] = per
        self.published = 3000.0 if per == "pair" else None

    def relate(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.similarity_preserving(student, teacher, per=self.per)


@checked
def similarity_preserving(
    layers: LayerPairs,
    weight: Schedule = 3000.0,
    per: Literal["pair", "anchor"] = "pair",
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build similarity-preserving distillation.

    The published layer is the last stage.  It needs no projection: channels and sizes may differ.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, 3000 as published for batches of 64.
        per: "pair" divides by N², as published, so that the value shrinks as batches grow; "anchor" divides by N, and
            3000/64 is then the published weight.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `similarity_preserving`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(similarity_preserving("stage3").terms)
        ['hard', 'similarity_preserving']

    Reference:
        Tung & Mori (2019), "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682.
    """
    return beside_logits([SimilarityPreserving(layers, weight, per=per)], hard_weight, soft_weight, temperature)
