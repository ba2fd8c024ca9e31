"""The card of a method: where it comes from and what it computes, shown by recipes, docs and reports."""

from dataclasses import dataclass

__all__ = ["Card"]


@dataclass(frozen=True)
class Card:
    """A method's paper in short.  `formula` is what the code computes, in the notation of the documentation."""

    name: str
    summary: str
    authors: str
    year: int
    title: str
    source: str
    formula: str
