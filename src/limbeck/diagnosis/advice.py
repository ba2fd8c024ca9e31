"""What to do: one small rule a question, each with its evidence and how much it can be relied on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from limbeck.diagnosis.attribution import Attribution, Effect
from limbeck.diagnosis.capacity import Capacity
from limbeck.diagnosis.causes import Finding, is_witness
from limbeck.diagnosis.hints import HintSetting
from limbeck.diagnosis.signs import Signs
from limbeck.diagnosis.thresholds import THRESHOLDS, Thresholds

__all__ = ["QUESTIONS", "Advice", "AdviceInput", "advise"]

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


@dataclass(frozen=True)
class AdviceInput:
    """Everything that the rules may look at.

    temperature: that was distilled at.  suggested_temperature: whose soft targets have the entropy aimed at.
    tail: see `tail_curve`.  better: of the arms by target, the one with the best mean if it beats KD, with the effect.
    hints: that students were given; None where there were none.
    """

    signs: Signs
    capacity: Capacity
    findings: tuple[Finding, ...]
    attribution: Attribution | None
    temperature: float
    suggested_temperature: float
    tail: Mapping[int, float]
    better: tuple[str, Effect] | None
    hints: HintSetting | None = None
    thresholds: Thresholds = THRESHOLDS

    def has(self, cause: str) -> bool:
        """Whether a cause was found."""
        return any(finding.cause == cause for finding in self.findings)

    @property
    def against(self) -> bool:
        """Whether the advice is not to distill; what else is advised is then for those who do all the same."""
        return distill(self).value is False

    @property
    def doubted(self) -> bool:
        """Whether what the teacher says beside the label cannot be relied on, or learnt."""
        return self.has("noise_beside_the_label") or self.capacity.limit == "unlearnable"


_ALL_THE_SAME = "If you distill all the same: "


def distill(case: AdviceInput) -> Advice:
    """Answer whether to distill at all: by what was measured, else by whether the teacher knows more."""
    whole = None if case.attribution is None else case.attribution.effect("whole")
    signs = case.signs
    known = (
        f"teacher {signs.accuracy:.1%}, student on hard labels {signs.student_accuracy:.1%} of the held-out examples"
    )
    if whole is not None and whole.found:
        helps = whole.over_seeds.mean > 0
        said = "Distill: it helps this student." if helps else "Do not distill like this: it harms this student."
        return Advice("distill", helps, said, whole.verdict(), "measured")
    evidence = known if whole is None else f"{whole.verdict()}; {known}"
    if signs.accuracy <= signs.student_accuracy:
        said = "There is little to gain: the teacher is no better than the student on hard labels."
        if signs.student_accuracy == 1.0:
            said = "There is nothing to gain: the student on hard labels is right on every held-out example."
        return Advice("distill", False, said, evidence, "indicated")
    said = "Distill: the teacher knows more than the student"
    if case.has("overfitted_teacher") or case.doubted:
        return Advice("distill", None, f"{said}, but mend the teacher first.", evidence, "indicated")
    return Advice("distill", True, f"{said}. More seeds would show how much it helps.", evidence, "rule of thumb")


def target(case: AdviceInput) -> Advice:
    """Answer which part of the teacher's distribution to teach."""
    if case.has("two_classes"):
        said = "Any: with two classes KD, KD-pt and KD-topk are the same, and only rescale the examples."
        return Advice("target", "pt", said, "the class that is not the label is the other one", "measured")
    if case.better is not None:
        name, effect = case.better
        said = _if(case, f"Teach {name} instead of the whole distribution.")
        return Advice("target", name, said, effect.verdict(), "measured")
    for cause in ("noise_beside_the_label", "unrelated_classes", "smoothed_teacher"):
        for finding in case.findings:
            if finding.cause == cause:
                said = "Teach its confidence alone (pt): it says little of the other classes that could be used."
                return Advice("target", "pt", _if(case, said), finding.evidence, "indicated")
    if case.attribution is not None:
        evidence = "no other target that was tried beats it by more than chance"
        return Advice("target", "softmax", _if(case, "Keep the whole distribution."), evidence, "measured")
    k, reason = _kept(case)
    if k < case.signs.classes:
        said = _if(case, f"Teach the {k} most probable of {case.signs.classes} classes (topk).")
        return Advice("target", "topk", said, reason, "indicated")
    evidence = "what the teacher says beside the label is the same for a class and for another network"
    return Advice("target", "softmax", _if(case, "Keep the whole distribution."), evidence, "indicated")


def _if(case: AdviceInput, said: str) -> str:
    """Return advice on how to distill; where it is not to distill at all, as a condition."""
    return f"{_ALL_THE_SAME}{said[:1].lower()}{said[1:]}" if case.against else said


def _kept(case: AdviceInput) -> tuple[int, str]:
    """Return how many of the most probable classes are more than noise, and why; all where that is not known."""
    classes = case.signs.classes
    if not is_witness(case.signs, case.thresholds):
        return classes, "the student on hard labels is too weak to say what of the rest is noise"
    for k, agreement in sorted(case.tail.items()):
        if agreement < case.thresholds.tail_seconded:
            return k, f"beyond them its order correlates by {agreement:+.2f} with a student's on hard labels"
    if not case.tail:
        return classes, "there are too few classes for their order to be compared"
    k, agreement = max(case.tail.items())
    return classes, f"even beyond the {k} most probable its order correlates by {agreement:+.2f} with a student's"


def features(case: AdviceInput) -> Advice:
    """Answer whether the teacher's features add anything to its logits."""
    found = None if case.attribution is None else case.attribution.effect("features")
    if case.attribution is None or found is None:
        reason = "a quick diagnosis trains no student with hints"
        if case.attribution is not None:
            reason = case.attribution.left_out.get("hints", reason)
        return Advice("features", None, "Not answered: no student was given hints.", reason, "rule of thumb")
    evidence = f"{found.verdict()}; {case.hints}"
    if not found.found:
        said = "Leave them out: nothing distinguishable is added to the logits."
        return Advice("features", False, said, evidence, "measured")
    points = f"{100 * abs(found.over_seeds.mean):.2f} points"
    if found.over_seeds.mean > 0:
        said = _if(case, f"Add hints: features add {points} to the logits here.")
        return Advice("features", True, said, evidence, "measured")
    return Advice("features", False, f"Leave them out: hints cost {points} here.", evidence, "measured")


def keep(case: AdviceInput) -> Advice:
    """Answer how many classes of the teacher's distribution to keep; it goes with the target that is advised."""
    classes, taught = case.signs.classes, target(case)
    k, evidence = _kept(case)
    if taught.value not in ("softmax", "topk"):
        evidence = f"the target that is advised ({taught.value}) keeps no chosen number of classes"
        return Advice("k", classes, "Not a question here.", evidence, taught.confidence)
    if taught.value == "softmax":
        known = case.attribution is not None and k < classes
        reason = "no other target that was tried beats the whole distribution" if known else evidence
        sure: Confidence = "indicated" if case.tail and is_witness(case.signs, case.thresholds) else "rule of thumb"
        return Advice("k", classes, _if(case, "Keep all classes."), reason, "measured" if known else sure)
    if k == classes:  # topk was measured to be better, at the k that was tried
        said = _if(case, "Keep as many as in the comparison.")
        return Advice("k", classes, said, taught.evidence, taught.confidence)
    return Advice("k", k, _if(case, f"Keep the {k} most probable of {classes} classes (topk)."), evidence, "indicated")


def temperature(case: AdviceInput) -> Advice:
    """Answer how soft to make the targets; a student that cannot follow is given less to follow."""
    value = case.suggested_temperature
    share = f"{case.thresholds.entropy_share:.0%} of that of a uniform distribution"
    evidence = f"there the mean entropy of the soft targets is nearest to {share}"
    if case.capacity.limit == "capacity":
        value = max(1.0, value / 2)
        evidence += ", halved since the student cannot follow what is said of improbable classes"
    said = f"T = {value:g}" + (", as it is." if value == case.temperature else f" instead of {case.temperature:g}.")
    evidence += "; limbeck tune searches it on held-out data"
    said = f"{_ALL_THE_SAME}{said}" if case.against else said
    return Advice("temperature", value, said, evidence, "rule of thumb")


def alpha(case: AdviceInput) -> Advice:
    """Answer how much weight the hard labels get beside the teacher; more where the teacher is not to be relied on."""
    gap = case.signs.accuracy - case.signs.student_accuracy
    evidence = f"the teacher is {100 * gap:+.1f} points better than the student on hard labels"
    reasons = {
        "distillation is not advised": case.against,
        "what the teacher says cannot be relied on, or not be learnt": case.doubted,
        "": gap <= 0,
    }
    for reason, holds in reasons.items():
        if holds:
            said = "alpha = 0.5: let the labels weigh more than the usual 0.1."
            evidence = f"{evidence}, and {reason}" if reason else evidence
            return Advice("alpha", 0.5, said, evidence, "rule of thumb")
    if case.has("overfitted_teacher"):
        evidence = f"{evidence}, and what it memorised are the labels themselves"
    said = "alpha = 0.1: the soft targets weigh more than the labels."
    return Advice("alpha", 0.1, said, evidence, "rule of thumb")


def teacher(case: AdviceInput) -> Advice:
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
    signs, helps = case.signs, distill(case)
    if case.capacity.limit == "unlearnable":
        said = "Check the teacher's answers: no network that was tried learns them."
        return Advice("teacher", "checked", said, case.capacity.reason, "indicated")
    if signs.accuracy == 1.0:
        evidence = "it is right on every held-out example"
        return Advice("teacher", "keep", "Keep this teacher: there is no better one.", evidence, "indicated")
    if case.against and signs.accuracy <= signs.student_accuracy:
        said = "A better teacher is needed: this one is no better than the student on hard labels."
        return Advice("teacher", "better", said, helps.evidence, "indicated")
    if case.capacity.limit == "teacher" and not case.against:
        said = "Keep it, or take a better one: the student has learnt this one."
        return Advice("teacher", "keep", said, case.capacity.reason, "indicated")
    return Advice("teacher", "keep", "Keep this teacher.", "nothing was found to be wrong with it", "indicated")


def training(case: AdviceInput) -> Advice:
    """Answer whether the student should be trained otherwise."""
    answers = {
        "optimisation": ("longer", "Train the student for longer: it can follow the teacher."),
        "data": ("more data", "Give the student more samples, labelled or not: it follows the teacher only on these."),
        "capacity": ("keep", "Longer training will not help."),
        "unlearnable": ("keep", "Longer training will not help: nobody can learn what this teacher says."),
        "teacher": ("keep", "Longer training will not help: the student has learnt its teacher."),
    }
    value, said = answers[case.capacity.limit]
    return Advice("training", value, _if(case, said), case.capacity.reason, "indicated")


QUESTIONS: Mapping[str, Callable[[AdviceInput], Advice]] = {
    "distill": distill,
    "teacher": teacher,
    "target": target,
    "k": keep,
    "features": features,
    "temperature": temperature,
    "alpha": alpha,
    "training": training,
}
"""Each question by name, with the rule that answers it."""


def advise(case: AdviceInput) -> tuple[Advice, ...]:
    """Answer every question about a case."""
    return tuple(rule(case) for rule in QUESTIONS.values())
