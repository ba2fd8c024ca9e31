"""The card of a method or a target: where it comes from and what it computes, for recipes, docs and reports."""

from dataclasses import dataclass

from limbeck.arguments import checked_fields

__all__ = ["Card"]


@checked_fields
@dataclass(frozen=True)
class Card:
    """The paper behind a method or target, and the formula that the code computes.

    Attributes:
        name: as recipes give it.
        summary: one line.
        authors: all authors of the paper.
        year: of publication.
        title: of the paper.
        source: address of the paper.
        formula: what the code computes, in the notation of the documentation.

    Raises:
        InputError: if a field has the wrong type.

    Example:
        >>> from limbeck import methods
        >>> methods.card("kd").title
        'Distilling the Knowledge in a Neural Network'
    """

    name: str
    summary: str
    authors: str
    year: int
    title: str
    source: str
    formula: str
