"""The teacher by itself: everything that its answers and its last layer tell, for the report and for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from limbeck.diagnosis.blocks import Blocks, blocks, found_blocks, rand_index
from limbeck.diagnosis.confidence import Confidence, confidence
from limbeck.diagnosis.relations import OtherClasses, class_correlation, off_diagonal, other_classes
from limbeck.diagnosis.signs import HIGH
from limbeck.diagnosis.subject import Answers
from limbeck.errors import InputError
from limbeck.targets import class_cosines

__all__ = ["TeacherFacts", "look_at_teacher"]

_MOST_CLASSES = 200  # whose matrices are kept


@dataclass(frozen=True, eq=False)
class TeacherFacts:
    """What a teacher is like.

    train, held_out: how sure it is.  beside_the_label: what it says of the other classes, on training data.
    low, high: class correlations at temperature 1 and at a high one.  cosines: of its class vectors, if it has some.
    given: blocks of the known hierarchy, None without one.  found: blocks that were looked for, None for K < 4.
    stability: adjusted Rand index of the blocks found in two halves of the data; None where none are looked for.
    order: of the classes, group by group, so that blocks stand together.
    """

    train: Confidence
    held_out: Confidence
    beside_the_label: OtherClasses
    low: Tensor
    high: Tensor
    cosines: Tensor | None
    given: Blocks | None
    found: Blocks | None
    stability: float | None
    order: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; the matrices only up to 200 classes."""
        matrices = {"correlation_low": self.low, "correlation_high": self.high, "cosines": self.cosines}
        return {
            "train": self.train.as_dict(),
            "held_out": self.held_out.as_dict(),
            "beside_the_label": self.beside_the_label.as_dict(),
            **{name: _rows(matrix) for name, matrix in matrices.items()},
            "spread_of_cosines": None if self.cosines is None else float(off_diagonal(self.cosines).std(correction=0)),
            "given_blocks": None if self.given is None else asdict(self.given),
            "found_blocks": None if self.found is None else asdict(self.found),
            "stability_of_blocks": self.stability,
            "order": list(self.order),
        }


def look_at_teacher(answers: Answers, groups: Sequence[int] | None) -> TeacherFacts:
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
    return TeacherFacts(
        train=confidence(probe, labels),
        held_out=confidence(answers.held_out, answers.held_out_labels),
        beside_the_label=other_classes(probe, labels),
        low=class_correlation(probe, 1.0),
        high=high,
        cosines=None if answers.vectors is None else class_cosines(answers.vectors.double()),
        given=given,
        found=found,
        stability=stability,
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


def _rows(matrix: Tensor | None) -> list[list[float | None]] | None:
    if matrix is None or len(matrix) > _MOST_CLASSES:
        return None
    return [[None if value != value else round(value, 6) for value in row] for row in matrix.tolist()]
