"""The card of a method or a target: where it comes from and what it computes, for recipes, docs and reports."""

from dataclasses import dataclass

from limbeck.arguments import checked_fields

__all__ = ["Card"]


@checked_fields
@dataclass(frozen=True)
class Card:
    """A paper in short.  `formula` is what the code computes, in the notation of the documentation."""

    name: str
    summary: str
    authors: str
    year: int
    title: str
    source: str
    formula: str
