"""DistilBERT: soft targets, labels, and the direction of the last hidden states."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from limbeck import checks, losses, projections
from limbeck.arguments import checked
from limbeck.blocks import BlockTerm
from limbeck.card import Card
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "Direction", "distilbert"]

CARD = Card(
    name="distilbert",
    summary="soft targets and labels, and the direction of the last hidden states of a transformer",
    authors="Victor Sanh, Lysandre Debut, Julien Chaumond, Thomas Wolf",
    year=2019,
    title="DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
    source="https://arxiv.org/abs/1910.01108",
    formula="soft_weight·T²·KL(p̃ ‖ q̃) + hard_weight·H(y, q) + weight·mean over tokens of 1 - cos(H^S, H^T)",
)


class Direction(BlockTerm):
    """1 - cos of the hidden states of pairs of blocks, the mean over tokens, summed over the pairs.

    Args:
        layers: pairs of blocks by their paths; None for the last of both.
        weight: a number or schedule, finite and not negative.
        projection: "linear", "none", or "auto" for a linear layer where the widths differ.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Direction().name
        'distilbert'

    Reference:
        Sanh et al. (2019), "DistilBERT", arXiv:1910.01108.
    """

    def __init__(
        self,
        layers: LayerPairs | None = None,
        weight: Schedule = 1.0,
        *,
        projection: Literal["auto", "linear", "none"] = "auto",
    ) -> None:
        super().__init__("distilbert", weight, layers)
        checks.choice("projection", projection, ("auto", "linear", "none"))
        self.projection = projection

    def chosen(self, student: int, teacher: int) -> Sequence[int]:
        """Return the teacher's last block for the student's last, none for the others."""
        return [0] * (student - 1) + [teacher]

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module | None:
        if self.projection == "none" or (self.projection == "auto" and student.shape == teacher.shape):
            checks.shapes_match("without a projection, the student", student.shape, "the teacher", teacher.shape)
            return None
        return projections.linear(student.shape, teacher.shape)

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.hidden_cosine(self.projected(student, number), teacher, reduction="none")


@checked
def distilbert(
    layers: LayerPairs | None = None,
    weight: Schedule = 1.0,
    projection: Literal["auto", "linear", "none"] = "auto",
    hard_weight: Schedule = 2.0,
    soft_weight: Schedule = 5.0,
    temperature: Schedule = 2.0,
) -> Objective:
    """Build DistilBERT for a student and a teacher that are transformers; their blocks are found in the networks.

    The paper's labels are the words that a masked language model fills in, and its student begins with every second
    block of the teacher (`student: {copy_blocks: uniform}` in a recipe).  The weights are those of its published code.

    Args:
        layers: pairs of blocks, {student's path: teacher's path}; None for the last of both.
        weight: of the direction of the hidden states, a number or schedule.
        projection: "auto" learns a linear layer where the widths differ; "linear" always, "none" never.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `distilbert`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(distilbert().terms)
        ['distilbert', 'hard', 'soft']

    Reference:
        Sanh et al. (2019), "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        arXiv:1910.01108.
    """
    term = Direction(layers, weight, projection=projection)
    return beside_logits([term], hard_weight, soft_weight, temperature)
