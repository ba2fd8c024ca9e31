"""The teacher by itself: everything that its answers and its last layer tell, for the report and for programs."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from limbeck.diagnosis.blocks import Blocks, blocks, found_blocks, rand_index
from limbeck.diagnosis.confidence import Confidence, confidence
from limbeck.diagnosis.inputs import TeacherAnswers
from limbeck.diagnosis.relations import OtherClasses, class_correlation, off_diagonal, other_classes
from limbeck.diagnosis.signs import HIGH
from limbeck.errors import InputError
from limbeck.targets import class_cosines

__all__ = ["TeacherFacts", "look_at_teacher"]

_MOST_CLASSES = 200  # whose matrices are kept


Matrix = tuple[tuple[float | None, ...], ...]
"""Row by row; None where a class does not vary."""


@dataclass(frozen=True)
class TeacherFacts:
    """What a teacher is like.

    train, held_out: how sure it is.  beside_the_label: what it says of the other classes, on training data.
    correlation_low, correlation_high: of the classes at temperature 1 and at a high one.  cosines: of its class
    vectors, if it has some.  These matrices are left out above 200 classes.  spread_of_cosines: standard deviation.
    given_blocks: of the known hierarchy, None without one.  found_blocks: that were looked for, None for K < 4.
    stability_of_blocks: adjusted Rand index of those found in two halves of the data; None if none are looked for.
    order: of the classes, group by group, so that blocks stand together.
    """

    train: Confidence
    held_out: Confidence
    beside_the_label: OtherClasses
    correlation_low: Matrix | None
    correlation_high: Matrix | None
    cosines: Matrix | None
    spread_of_cosines: float | None
    given_blocks: Blocks | None
    found_blocks: Blocks | None
    stability_of_blocks: float | None
    order: tuple[int, ...]


def look_at_teacher(answers: TeacherAnswers, groups: Sequence[int] | None) -> TeacherFacts:
    """Read everything off a teacher's answers.  groups: of each class, where a hierarchy is known."""
    probe, labels = answers.on_probe, answers.probe_labels
    high = class_correlation(probe, HIGH)
    found, stability = found_blocks(high), None
    if found is not None:
        halves = [found_blocks(class_correlation(probe[start::2], HIGH), permutations=1) for start in (0, 1)]
        first, second = (half.groups if half is not None else () for half in halves)
        stability = rand_index(first, second)
    given = None if groups is None else _given(high, groups)
    by = given.groups if given is not None else found.groups if found is not None else tuple(range(len(high)))
    cosines = None if answers.vectors is None else class_cosines(answers.vectors.double())
    return TeacherFacts(
        train=confidence(probe, labels),
        held_out=confidence(answers.held_out, answers.held_out_labels),
        beside_the_label=other_classes(probe, labels),
        correlation_low=_rows(class_correlation(probe, 1.0)),
        correlation_high=_rows(high),
        cosines=_rows(cosines),
        spread_of_cosines=None if cosines is None else float(off_diagonal(cosines).std(correction=0)),
        given_blocks=given,
        found_blocks=found,
        stability_of_blocks=stability,
        order=tuple(sorted(range(len(by)), key=lambda label: (by[label], label))),
    )


def _given(matrix: Tensor, groups: Sequence[int]) -> Blocks | None:
    """Score a hierarchy; None where it groups nothing, or everything, together."""
    try:
        return blocks(matrix, groups)
    except InputError:
        if len(set(groups)) in (1, len(groups)):
            return None
        raise


def _rows(matrix: Tensor | None) -> Matrix | None:
    if matrix is None or len(matrix) > _MOST_CLASSES:
        return None
    return tuple(tuple(None if value != value else round(value, 6) for value in row) for row in matrix.tolist())
