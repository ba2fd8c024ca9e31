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
    """A model in a comparison of accuracy and cost.

    Attributes:
        name: of the model.
        accuracy: more is better.
        cost: in any unit; less is better.

    Example:
        >>> Point("small", accuracy=0.8, cost=1.0).name
        'small'
    """

    name: str
    accuracy: float
    cost: float


@checked
def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the models that no other model beats, the cheapest first.

    A model is beaten by one that is at least as accurate and at least as cheap, and better in one of the two.  Equal
    models are both returned.

    Args:
        points: the models.

    Returns:
        The models on the front.

    Raises:
        InputError: if a number is not finite.

    Example:
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
