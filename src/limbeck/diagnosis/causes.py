"""What is wrong, if anything: one small rule a cause, each a function of the signs and the thresholds."""

from collections.abc import Callable
from dataclasses import dataclass

from limbeck.diagnosis.signs import Signs
from limbeck.diagnosis.thresholds import THRESHOLDS, Thresholds

__all__ = ["CAUSES", "Finding", "find_causes", "is_witness"]


@dataclass(frozen=True)
class Finding:
    """A cause that was found.

    cause: its name, a key of `CAUSES`.  said: in plain words.  evidence: the numbers that say so.
    """

    cause: str
    said: str
    evidence: str


Rule = Callable[[Signs, Thresholds], str | None]
"""Returns the evidence for a cause, or None."""


def two_classes(signs: Signs, _: Thresholds) -> str | None:
    """There is no class beside the label and the other one, so that soft targets hold a confidence alone."""
    return "there are 2 classes" if signs.classes == 2 else None


def smoothed_teacher(signs: Signs, limits: Thresholds) -> str | None:
    """Its examples reach a confidence below 1, and the other classes are nearly alike (Müller et al. 2019)."""
    smoothed = (
        signs.classes > 2 and signs.epsilon >= limits.smoothing_epsilon and signs.evenness <= limits.smoothing_evenness
    )
    return (
        f"its median margin is the optimum of a label smoothing of {signs.epsilon:.2f}, and the other classes differ by"
        f" {signs.evenness:.0%} of that margin"
        if smoothed
        else None
    )


def overfitted_teacher(signs: Signs, limits: Thresholds) -> str | None:
    """It is far better on what it was trained on than elsewhere, and does not know it."""
    gap = signs.train_accuracy - signs.accuracy
    return (
        f"it is right on {signs.train_accuracy:.1%} of the training examples and on {signs.accuracy:.1%} of the"
        f" held-out ones, where its confidence is {100 * signs.overconfidence:.1f} points too high"
        if gap >= limits.overfit_gap and signs.overconfidence >= limits.overfit_overconfidence
        else None
    )


def noise_beside_the_label(signs: Signs, limits: Thresholds) -> str | None:
    """What it says of the other classes is the same neither for one class nor for another network."""
    if signs.seconded is None or signs.reliability is None or not is_witness(signs, limits):
        return None
    if signs.seconded > limits.noise_seconded or signs.reliability > limits.noise_reliability:
        return None
    return (
        f"its order of the other classes correlates by {signs.seconded:+.2f} with that of a student trained on the"
        f" labels alone, and its mean profiles of the classes by {signs.reliability:+.2f} between two halves of the"
        " data"
    )


def unrelated_classes(signs: Signs, limits: Thresholds) -> str | None:
    """No class is nearer to some classes than to others, and nothing else explains it."""
    explained = (smoothed_teacher, overfitted_teacher, noise_beside_the_label)
    if signs.class_share is None or signs.seconded_classes is None or any(rule(signs, limits) for rule in explained):
        return None
    if signs.class_share <= limits.unrelated_share:
        share = max(signs.class_share, 0.0)
        return f"{share:.0%} of what it says beside the label is the same for all examples of a class"
    if signs.seconded_classes <= limits.unrelated_seconded and is_witness(signs, limits):
        return (
            f"which classes it holds alike correlates by {signs.seconded_classes:+.2f} with what a student trained on"
            " the labels alone holds alike"
        )
    return None


def is_witness(signs: Signs, limits: Thresholds) -> bool:
    """Return whether the student that was trained on the labels alone is good enough to second anything."""
    return signs.student_accuracy >= limits.witness_accuracy * signs.accuracy


def teacher_too_large(signs: Signs, _: Thresholds) -> str | None:
    """The student cannot follow it, however long it is trained, and a network of the teacher's kind can."""
    return "see what holds the student back" if signs.limit == "capacity" else None


CAUSES: dict[str, tuple[Rule, str]] = {
    "two_classes": (two_classes, "With two classes only a rescaling of the examples can be distilled."),
    "smoothed_teacher": (smoothed_teacher, "The teacher was trained with label smoothing, or as if it had been."),
    "overfitted_teacher": (overfitted_teacher, "The teacher is over-fitted."),
    "noise_beside_the_label": (
        noise_beside_the_label,
        "What the teacher says of the other classes is noise: its dark knowledge is destroyed.",
    ),
    "teacher_too_large": (teacher_too_large, "The teacher is too large for this student."),
    "unrelated_classes": (unrelated_classes, "The classes have no relations that could be distilled."),
}
"""Each cause by name: its rule, and what it means."""


def find_causes(signs: Signs, thresholds: Thresholds = THRESHOLDS) -> tuple[Finding, ...]:
    """Return every cause that the signs speak for, in the order of `CAUSES`; none where all is well."""
    found = ((cause, said, rule(signs, thresholds)) for cause, (rule, said) in CAUSES.items())
    return tuple(Finding(cause, said, evidence) for cause, said, evidence in found if evidence is not None)
