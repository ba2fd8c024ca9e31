"""Which models are worth their cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError

__all__ = ["Point", "pareto"]


@checked_fields
@dataclass(frozen=True)
class Point:
    """A model: its accuracy (more is better) and its cost in any unit (less is better)."""

    name: str
    accuracy: float
    cost: float


@checked
def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points that no other beats, the cheapest first.

    A point is beaten by one that is at least as accurate and as cheap, and better in one of the two; equal points stand
    together.

    >>> found = pareto([Point("large", 0.9, 10.0), Point("small", 0.8, 1.0), Point("poor", 0.7, 2.0)])
    >>> [point.name for point in found]
    ['small', 'large']
    """
    for point in points:
        if not (math.isfinite(point.accuracy) and math.isfinite(point.cost)):
            raise InputError(f"point '{point.name}': found {point.accuracy} and {point.cost}, expected finite numbers")
    kept: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.accuracy)):
        last = kept[-1] if kept else None
        if last is None or point.accuracy > last.accuracy or (point.accuracy, point.cost) == (last.accuracy, last.cost):
            kept.append(point)
    return tuple(kept)
