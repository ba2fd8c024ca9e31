"""The whole diagnosis of a subject, from the teacher's answers to the advice."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from limbeck import checks
from limbeck.diagnosis.advice import Advice, AdviceInput, advise
from limbeck.diagnosis.arms import Matching, match, objectives
from limbeck.diagnosis.attribution import Attribution, Effect, attribute, effect
from limbeck.diagnosis.capacity import Capacity
from limbeck.diagnosis.causes import Finding, find_causes
from limbeck.diagnosis.examining import look_into_capacity
from limbeck.diagnosis.gradient import Rescaling, nearness, rescaling
from limbeck.diagnosis.hints import HintPlaces, hint_places
from limbeck.diagnosis.inputs import DiagnosisInput, TeacherAnswers, ask
from limbeck.diagnosis.searching import CANDIDATES, ChosenSettings, Setting, search_settings, settled
from limbeck.diagnosis.signs import Signs, read_signs
from limbeck.diagnosis.students import StudentTrainer, TrainedStudent
from limbeck.diagnosis.tail import tail_curve, temperature_for
from limbeck.diagnosis.teacher import TeacherFacts, look_at_teacher
from limbeck.diagnosis.thresholds import THRESHOLDS, Thresholds
from limbeck.evaluation import Interval, t_interval
from limbeck.training import Observer
from limbeck.training.progress import ignore

__all__ = ["FORMAT", "Diagnosis", "diagnose"]

FORMAT = 1
"""Of a diagnosis that is written; raised whenever its keys change their meaning."""

Say = Callable[[str], None]

_NO_HINTS = "no student was given hints in this diagnosis"


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found out.

    rescaling: of the gradient of the distilled student of the first seed, early and late.
    nearness: by arm, how far its students put the wrong classes in the teacher's order (Tang et al. 2020, prop. 1).
    chosen: the settings of each arm's students.  attribution: None for a quick diagnosis.  tail: see `tail_curve`.
    seconds: of wall time.  trainings: how many students there are; reused: how many of them are the diagnosed run's.
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
    chosen: Mapping[str, Setting]
    attribution: Attribution | None
    tail: Mapping[int, float]
    findings: tuple[Finding, ...]
    advice: tuple[Advice, ...]
    thresholds: Thresholds
    trainings: int
    reused: int
    seconds: float
    format: int = FORMAT

    def answer(self, question: str) -> Advice:
        """Return the advice on a question."""
        return next(each for each in self.advice if each.question == question)


def diagnose(
    subject: DiagnosisInput,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    quick: bool = False,
    search: bool = True,
    hints: bool = True,
    root: Path | None = None,
    thresholds: Thresholds = THRESHOLDS,
    watch: Observer = ignore,
    say: Say = lambda line: None,
) -> Diagnosis:
    """Find out why a distillation helps or fails, and what to do.

    seeds: of the students, the same for every arm.  quick: one seed, no search and no attribution.
    hints: whether students are given hints as well, so that it is known whether features add anything to the logits.
    search: choose learning rate and temperature for every arm (see `search_settings`); without, all have the subject's.
    root: the cache that trainings are kept in, so that an interrupted diagnosis goes on and a repeated one reads.
    Everything is measured on the subject's held-out data; no test set is read.
    """
    checks.at_least("seeds", len(seeds), 1)
    began = time.perf_counter()
    say("asking the teacher about every sample, once")
    answers = ask(subject)
    trainer = StudentTrainer(subject, answers, root, watch)
    facts = look_at_teacher(answers, subject.groups)
    matching = match(answers, subject.temperature)
    seeds, search = (seeds[:1], False) if quick else (seeds, search)
    makers, left_out = objectives(subject, matching)
    arms = [name for name in makers if not quick or name in ("hard", "kd")]
    places = HintPlaces(reason=_NO_HINTS) if quick or not hints else hint_places(subject)
    if places.scales:
        say(_hints_cost(places, len(seeds), search=search))
        arms.append("hints")
    else:
        left_out["hints"] = places.reason
    settings_found = (
        search_settings(trainer, arms, seeds[0], places=places, early=_looked_at_early, say=say)
        if search
        else settled(trainer, arms, places)
    )
    students = _teach(trainer, settings_found, seeds, say=say)
    if places.scales and "hints" not in students:
        left_out["hints"] = "the loss of a student with hints became infinite"
    capacity = look_into_capacity(trainer, seeds[0], needed=quick, thresholds=thresholds, say=say)
    alone = settings_found.known.get(("hard", settings_found.arms.usual("hard")), students["hard"][0])
    signs = read_signs(answers, alone, capacity)
    findings = find_causes(signs, thresholds)
    right = {name: _right(each, answers) for name, each in students.items()}
    attribution = None if quick else attribute(right, left_out=left_out)
    tail = tail_curve(answers.held_out, alone.held_out)
    taught = {id(student): student for each in students.values() for student in each}
    taught |= {id(student): student for student in settings_found.known.values()}
    case = AdviceInput(
        signs=signs,
        capacity=capacity,
        findings=findings,
        attribution=attribution,
        temperature=subject.temperature,
        suggested_temperature=temperature_for(answers.on_probe, thresholds.entropy_share),
        tail=tail,
        better=None if quick else _better_than_kd(right),
        hints=settings_found.chosen["hints"].hints if "hints" in students else None,
        thresholds=thresholds,
    )
    return Diagnosis(
        name=subject.name,
        class_names=subject.train.class_names or tuple(str(label) for label in range(subject.classes)),
        settings=_settings(subject, seeds, quick=quick, search=search),
        teacher=facts,
        signs=signs,
        capacity=capacity,
        rescaling=_rescalings(students["kd"][0], answers, _at(subject, settings_found.chosen["kd"])),
        nearness=_nearness(students, answers, subject),
        matching=matching,
        chosen=settings_found.chosen,
        attribution=attribution,
        tail=tail,
        findings=findings,
        advice=advise(case),
        thresholds=thresholds,
        trainings=len(taught) + len(capacity.fits),
        reused=sum(student.reused for student in taught.values()),
        seconds=time.perf_counter() - began,
    )


def _hints_cost(places: HintPlaces, seeds: int, *, search: bool) -> str:
    """Say what the arm of hints costs beside the others."""
    count = seeds + CANDIDATES - 1 if search else seeds
    layers = ", ".join(_pair(pair) for pair in places.scales)
    return f"hints: {count} of the trainings compare layers ({layers}); for these the teacher answers at every step"


def _pair(pair: tuple[str, str]) -> str:
    return pair[0] if pair[0] == pair[1] else f"{pair[0]}: {pair[1]}"


def _looked_at_early(arm: str) -> bool:
    return arm == "kd"


def _teach(
    trainer: StudentTrainer, settings_found: ChosenSettings, seeds: Sequence[int], *, say: Say
) -> dict[str, list[TrainedStudent]]:
    """Train the students of every arm on the same seeds, those of a seed together.

    Hints are left out where the loss of a student is not finite; NonFiniteLossError for any other arm.
    """
    arms = settings_found.chosen
    say(f"students on {', '.join(arms)}, for {len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    known = {(arm, seeds[0]): settings_found.known.get((arm, setting)) for arm, setting in arms.items()}
    wanted = [(arm, seed) for seed in seeds for arm in arms if known.get((arm, seed)) is None]
    plans = [
        settings_found.arms.plan(arm, arms[arm], seed, early=_looked_at_early(arm) and seed == seeds[0])
        for arm, seed in wanted
    ]
    taught: dict[tuple[str, int], TrainedStudent] = {}
    failed = set()
    for (arm, seed), outcome in zip(wanted, trainer.attempt_all(plans), strict=True):
        if isinstance(outcome, TrainedStudent):
            taught[arm, seed] = outcome
        elif arm == "hints":
            failed.add(arm)
        else:
            raise outcome
    return {arm: [known.get((arm, seed)) or taught[arm, seed] for seed in seeds] for arm in arms if arm not in failed}


def _at(subject: DiagnosisInput, setting: Setting) -> DiagnosisInput:
    """Return the subject at the temperature of an arm."""
    return subject if setting.temperature is None else replace(subject, temperature=setting.temperature)


def _right(students: Sequence[TrainedStudent], answers: TeacherAnswers) -> torch.Tensor:
    return torch.stack([student.held_out.argmax(1) == answers.held_out_labels for student in students])


def _better_than_kd(right: Mapping[str, torch.Tensor]) -> tuple[str, Effect] | None:
    """Return the best target beside KD if it beats KD; the interval allows for having looked at all of them."""
    others = {name: each for name, each in right.items() if name not in ("kd", "hard", "hints")}
    if not others:
        return None
    best = max(others, key=lambda name: float(others[name].double().mean()))
    found = effect(f"{best} - kd", right, {best: 1, "kd": -1}, confidence=1 - 0.05 / len(others))
    return (best, found) if found.found and found.over_seeds.mean > 0 else None


def _rescalings(student: TrainedStudent, answers: TeacherAnswers, subject: DiagnosisInput) -> tuple[Rescaling, ...]:
    moments = (("early", student.early), ("late", student.probe))
    return tuple(rescaling(when, logits, answers, subject) for when, logits in moments if logits is not None)


def _nearness(
    students: Mapping[str, Sequence[TrainedStudent]], answers: TeacherAnswers, subject: DiagnosisInput
) -> dict[str, Interval]:
    found = {}
    for name, each in students.items():
        values = [nearness(student, answers, subject.held_out) for student in each]
        known = [value for value in values if value is not None]
        if known:
            found[name] = t_interval(known)
    return found


def _settings(subject: DiagnosisInput, seeds: Sequence[int], *, quick: bool, search: bool) -> dict[str, Any]:
    return {
        "temperature": subject.temperature,
        "hard_weight": subject.hard_weight,
        "soft_weight": subject.soft_weight,
        "epochs": subject.training.epochs,
        "seeds": list(seeds),
        "quick": quick,
        "search": search,
        "about": list(subject.about),
        "classes": subject.classes,
        "train": len(subject.train),
        "held_out": len(subject.held_out),
        "hierarchy": subject.groups is not None,
    }
