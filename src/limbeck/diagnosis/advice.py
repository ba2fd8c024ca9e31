"""What to do: one small rule a question, each with its evidence and how much it can be relied on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from limbeck.diagnosis.attribution import Attribution, Effect
from limbeck.diagnosis.capacity import Capacity
from limbeck.diagnosis.causes import Finding, is_witness
from limbeck.diagnosis.signs import Signs
from limbeck.diagnosis.thresholds import THRESHOLDS, Thresholds

__all__ = ["QUESTIONS", "Advice", "Case", "advise"]

Confidence = Literal["measured", "indicated", "rule of thumb"]
"""Measured: students were trained both ways, and the difference is more than chance.  Indicated: what was measured of
teacher and student speaks for it.  Rule of thumb: no student was trained otherwise to compare."""


@dataclass(frozen=True)
class Advice:
    """An answer.

    question: a key of `QUESTIONS`.  value: for programs, such as a temperature.  said, evidence: in plain words.
    confidence: see `Confidence`.
    """

    question: str
    value: Any
    said: str
    evidence: str
    confidence: Confidence

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """Everything that the rules may look at.

    temperature: that was distilled at.  suggested_temperature: whose soft targets have the entropy aimed at.
    tail: see `tail_curve`.  better: of the arms, the one with the best mean if it beats KD, with the effect.
    """

    signs: Signs
    capacity: Capacity
    findings: tuple[Finding, ...]
    attribution: Attribution | None
    temperature: float
    suggested_temperature: float
    tail: Mapping[int, float]
    better: tuple[str, Effect] | None
    thresholds: Thresholds = THRESHOLDS

    def has(self, cause: str) -> bool:
        """Whether a cause was found."""
        return any(finding.cause == cause for finding in self.findings)


def distil(case: Case) -> Advice:
    """Answer whether to distil at all: by what was measured, else by whether the teacher knows more."""
    whole = None if case.attribution is None else case.attribution.effect("whole")
    signs = case.signs
    known = (
        f"teacher {signs.accuracy:.1%}, student on hard labels {signs.student_accuracy:.1%} of the held-out examples"
    )
    if whole is not None and whole.found:
        helps = whole.over_seeds.mean > 0
        said = "Distil: it helps this student." if helps else "Do not distil like this: it harms this student."
        return Advice("distil", helps, said, whole.verdict(), "measured")
    evidence = known if whole is None else f"{whole.verdict()}; {known}"
    if signs.accuracy <= signs.student_accuracy:
        said = "There is little to gain: the teacher is no better than the student on hard labels."
        return Advice("distil", False, said, evidence, "indicated")
    said = "Distil: the teacher knows more than the student"
    if case.has("overfitted_teacher") or case.has("noise_beside_the_label"):
        return Advice("distil", None, f"{said}, but mend the teacher first.", evidence, "indicated")
    return Advice("distil", True, f"{said}. More seeds would show how much it helps.", evidence, "rule of thumb")


def target(case: Case) -> Advice:
    """Answer which part of the teacher's distribution to teach."""
    if case.has("two_classes"):
        said = "Any: with two classes KD, KD-pt and KD-topk are the same, and only rescale the examples."
        return Advice("target", "pt", said, "the class that is not the label is the other one", "measured")
    if case.better is not None:
        name, effect = case.better
        return Advice("target", name, f"Teach {name} instead of the whole distribution.", effect.verdict(), "measured")
    for cause in ("noise_beside_the_label", "unrelated_classes", "smoothed_teacher"):
        for finding in case.findings:
            if finding.cause == cause:
                said = "Teach its confidence alone (pt): it says little of the other classes that could be used."
                return Advice("target", "pt", said, finding.evidence, "indicated")
    if case.attribution is not None:
        evidence = "no other target that was tried beats it by more than chance"
        return Advice("target", "softmax", "Keep the whole distribution.", evidence, "measured")
    evidence = "what the teacher says beside the label is the same for a class and for another network"
    return Advice("target", "softmax", "Keep the whole distribution.", evidence, "indicated")


def keep(case: Case) -> Advice:
    """Answer how many classes of the teacher's distribution to keep."""
    classes = case.signs.classes
    if not is_witness(case.signs, case.thresholds):
        evidence = "the student on hard labels is too weak to say what of the rest is noise"
        return Advice("k", classes, "Keep all classes.", evidence, "rule of thumb")
    for k, agreement in sorted(case.tail.items()):
        if agreement < case.thresholds.tail_seconded:
            said = f"Keep the {k} most probable of {classes} classes (topk)."
            evidence = f"beyond them its order correlates by {agreement:+.2f} with a student's on hard labels"
            return Advice("k", k, said, evidence, "indicated")
    if not case.tail:
        evidence = "there are too few classes for their order to be compared"
        return Advice("k", classes, "Keep all classes.", evidence, "rule of thumb")
    k, agreement = max(case.tail.items())
    evidence = f"even beyond the {k} most probable its order correlates by {agreement:+.2f} with a student's"
    return Advice("k", classes, "Keep all classes.", evidence, "indicated")


def temperature(case: Case) -> Advice:
    """Answer how soft to make the targets; a student that cannot follow is given less to follow."""
    value = case.suggested_temperature
    share = f"{case.thresholds.entropy_share:.0%} of that of a uniform distribution"
    evidence = f"there the mean entropy of the soft targets is nearest to {share}"
    if case.capacity.limit == "capacity":
        value = max(1.0, value / 2)
        evidence += ", halved since the student cannot follow what is said of improbable classes"
    said = f"T = {value:g}" + (", as it is." if value == case.temperature else f" instead of {case.temperature:g}.")
    evidence += "; limbeck tune searches it on held-out data"
    return Advice("temperature", value, said, evidence, "rule of thumb")


def alpha(case: Case) -> Advice:
    """Answer how much weight the hard labels get beside the teacher."""
    gap = case.signs.accuracy - case.signs.student_accuracy
    evidence = f"the teacher is {100 * gap:+.1f} points better than the student on hard labels"
    if case.has("overfitted_teacher"):
        return Advice(
            "alpha",
            0.1,
            "alpha = 0.1.",
            f"{evidence}, and what it memorised are the labels themselves",
            "rule of thumb",
        )
    if gap <= 0:
        return Advice("alpha", 0.5, "alpha = 0.5: let the labels weigh more.", evidence, "rule of thumb")
    return Advice("alpha", 0.1, "alpha = 0.1: let the teacher speak.", evidence, "rule of thumb")


def teacher(case: Case) -> Advice:
    """Answer whether the teacher should be another one."""
    mended = {
        "smoothed_teacher": ("unsmoothed", "Train the teacher without label smoothing."),
        "overfitted_teacher": ("regularised", "Regularise the teacher or stop it earlier."),
        "noise_beside_the_label": (
            "checked",
            "Check the teacher's answers: noise beside the label is what stored answers in another order look like.",
        ),
        "teacher_too_large": (
            "smaller",
            "Take a smaller teacher, or one in between (a teacher assistant); or a larger student.",
        ),
    }
    for finding in case.findings:
        if finding.cause in mended:
            value, said = mended[finding.cause]
            evidence = case.capacity.reason if finding.cause == "teacher_too_large" else finding.evidence
            return Advice("teacher", value, said, evidence, "indicated")
    return Advice("teacher", "keep", "Keep this teacher.", "nothing speaks against it", "indicated")


def training(case: Case) -> Advice:
    """Answer whether the student should be trained otherwise."""
    answers = {
        "optimisation": ("longer", "Train the student for longer: it can follow the teacher."),
        "data": ("more data", "Give the student more samples, labelled or not: it follows the teacher only on these."),
        "capacity": ("keep", "Longer training will not help."),
        "unlearnable": ("keep", "Longer training will not help: nobody can learn what this teacher says."),
        "teacher": ("keep", "The student has learnt its teacher: only a better teacher would make it better."),
    }
    value, said = answers[case.capacity.limit]
    return Advice("training", value, said, case.capacity.reason, "indicated")


QUESTIONS: Mapping[str, Callable[[Case], Advice]] = {
    "distil": distil,
    "teacher": teacher,
    "target": target,
    "k": keep,
    "temperature": temperature,
    "alpha": alpha,
    "training": training,
}
"""Each question by name, with the rule that answers it."""


def advise(case: Case) -> tuple[Advice, ...]:
    """Answer every question about a case."""
    return tuple(rule(case) for rule in QUESTIONS.values())
