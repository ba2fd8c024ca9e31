"""The whole diagnosis of a subject, from the teacher's answers to the advice."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck import checks
from limbeck.diagnosis.advice import Advice, Case, advise
from limbeck.diagnosis.arms import Matching, match, objectives
from limbeck.diagnosis.attribution import Attribution, Effect, attribute, effect
from limbeck.diagnosis.capacity import Capacity
from limbeck.diagnosis.causes import Finding, find_causes
from limbeck.diagnosis.classroom import Classroom, Pupil
from limbeck.diagnosis.examining import look_into_capacity
from limbeck.diagnosis.gradient import Rescaling, nearness, rescaling
from limbeck.diagnosis.signs import Signs, read_signs
from limbeck.diagnosis.subject import Answers, Subject, ask
from limbeck.diagnosis.tail import tail_curve, temperature_for
from limbeck.diagnosis.teacher import TeacherFacts, look_at_teacher
from limbeck.diagnosis.thresholds import THRESHOLDS, Thresholds
from limbeck.evaluation import Interval, t_interval
from limbeck.training import Observer
from limbeck.training.progress import ignore

__all__ = ["FORMAT", "Diagnosis", "diagnose"]

FORMAT = 1
"""Of diagnosis.json; raised whenever its keys change their meaning."""

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Everything that was found out.

    rescaling: of the gradient of the distilled student of the first seed, early and late.
    nearness: by arm, how far its students put the wrong classes in the teacher's order (Tang et al. 2020, prop. 1).
    attribution: None for a quick diagnosis.  tail: see `tail_curve`.  seconds: of wall time; trainings: how many.
    """

    name: str
    class_names: tuple[str, ...]
    settings: Mapping[str, Any]
    teacher: TeacherFacts
    signs: Signs
    capacity: Capacity
    rescaling: tuple[Rescaling, ...]
    nearness: Mapping[str, Interval]
    matching: Matching
    attribution: Attribution | None
    tail: Mapping[int, float]
    findings: tuple[Finding, ...]
    advice: tuple[Advice, ...]
    thresholds: Thresholds
    trainings: int
    seconds: float

    def answer(self, question: str) -> Advice:
        """Return the advice on a question."""
        return next(each for each in self.advice if each.question == question)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; what is not finite is None."""
        content: dict[str, Any] = _finite(self._content())
        return content

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "class_names": list(self.class_names),
            "settings": dict(self.settings),
            "findings": [finding.as_dict() for finding in self.findings],
            "advice": [each.as_dict() for each in self.advice],
            "attribution": None if self.attribution is None else self.attribution.as_dict(),
            "matching": self.matching.as_dict(),
            "signs": self.signs.as_dict(),
            "capacity": self.capacity.as_dict(),
            "rescaling": [each.as_dict() for each in self.rescaling],
            "nearness": {name: asdict(value) for name, value in self.nearness.items()},
            "tail": {str(k): value for k, value in self.tail.items()},
            "teacher": self.teacher.as_dict(),
            "thresholds": asdict(self.thresholds),
            "trainings": self.trainings,
            "seconds": self.seconds,
        }


def diagnose(
    subject: Subject,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    quick: bool = False,
    root: Path | None = None,
    thresholds: Thresholds = THRESHOLDS,
    watch: Observer = ignore,
    say: Say = lambda line: None,
) -> Diagnosis:
    """Find out why a distillation helps or fails, and what to do.

    seeds: of the students, the same for every arm.  quick: one seed and no attribution.
    root: folder that trainings are kept in, so that an interrupted diagnosis goes on and a repeated one reads.
    Everything is measured on the subject's held-out data; no test set is read.
    """
    checks.at_least("seeds", len(seeds), 1)
    began = time.perf_counter()
    say("asking the teacher about every sample, once")
    answers = ask(subject)
    classroom = Classroom(subject, answers, root, watch)
    facts = look_at_teacher(answers, subject.groups)
    matching = match(answers, subject.temperature)
    pupils, left_out = _teach(classroom, matching, seeds[:1] if quick else seeds, quick=quick, say=say)
    capacity = look_into_capacity(classroom, seeds[0], thresholds=thresholds, say=say)
    alone = pupils["hard"][0]
    signs = read_signs(answers, alone, capacity)
    findings = find_causes(signs, thresholds)
    right = {name: _right(each, answers) for name, each in pupils.items()}
    attribution = None if quick else attribute(right, left_out=left_out)
    tail = tail_curve(answers.held_out, alone.held_out)
    case = Case(
        signs=signs,
        capacity=capacity,
        findings=findings,
        attribution=attribution,
        temperature=subject.temperature,
        suggested_temperature=temperature_for(answers.on_probe, thresholds.entropy_share),
        tail=tail,
        better=None if quick else _better_than_kd(right),
        thresholds=thresholds,
    )
    return Diagnosis(
        name=subject.name,
        class_names=subject.train.class_names or tuple(str(label) for label in range(subject.classes)),
        settings=_settings(subject, seeds[:1] if quick else seeds, quick=quick),
        teacher=facts,
        signs=signs,
        capacity=capacity,
        rescaling=_rescalings(pupils["kd"][0], answers, subject),
        nearness=_nearness(pupils, answers, subject),
        matching=matching,
        attribution=attribution,
        tail=tail,
        findings=findings,
        advice=advise(case),
        thresholds=thresholds,
        trainings=sum(map(len, pupils.values())) + len(capacity.fits),
        seconds=time.perf_counter() - began,
    )


def _teach(
    classroom: Classroom, matching: Matching, seeds: Sequence[int], *, quick: bool, say: Say
) -> tuple[dict[str, list[Pupil]], dict[str, str]]:
    """Train the students of every arm on the same seeds; of a quick diagnosis, those on hard labels and on KD."""
    makers, left_out = objectives(classroom.subject, matching)
    chosen = {name: make for name, make in makers.items() if not quick or name in ("hard", "kd")}
    say(f"students on {', '.join(chosen)}, for {len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    pupils = {
        name: [classroom.teach(name, make(), seed, early=name == "kd" and seed == seeds[0]) for seed in seeds]
        for name, make in chosen.items()
    }
    return pupils, left_out


def _right(pupils: Sequence[Pupil], answers: Answers) -> torch.Tensor:
    return torch.stack([pupil.held_out.argmax(1) == answers.held_out_labels for pupil in pupils])


def _better_than_kd(right: Mapping[str, torch.Tensor]) -> tuple[str, Effect] | None:
    """Return the best target beside KD if it beats KD; the interval allows for having looked at all of them."""
    others = {name: each for name, each in right.items() if name not in ("kd", "hard")}
    if not others:
        return None
    best = max(others, key=lambda name: float(others[name].double().mean()))
    found = effect(f"{best} - kd", right, {best: 1, "kd": -1}, confidence=1 - 0.05 / len(others))
    return (best, found) if found.found and found.over_seeds.mean > 0 else None


def _rescalings(pupil: Pupil, answers: Answers, subject: Subject) -> tuple[Rescaling, ...]:
    moments = (("early", pupil.early), ("late", pupil.probe))
    return tuple(rescaling(when, logits, answers, subject) for when, logits in moments if logits is not None)


def _nearness(pupils: Mapping[str, Sequence[Pupil]], answers: Answers, subject: Subject) -> dict[str, Interval]:
    found = {}
    for name, each in pupils.items():
        values = [nearness(pupil, answers, subject.held_out) for pupil in each]
        known = [value for value in values if value is not None]
        if known:
            found[name] = t_interval(known)
    return found


def _settings(subject: Subject, seeds: Sequence[int], *, quick: bool) -> dict[str, Any]:
    return {
        "temperature": subject.temperature,
        "hard_weight": subject.hard_weight,
        "soft_weight": subject.soft_weight,
        "epochs": subject.training.epochs,
        "seeds": list(seeds),
        "quick": quick,
        "classes": subject.classes,
        "train": len(subject.train),
        "held_out": len(subject.held_out),
        "hierarchy": subject.groups is not None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
