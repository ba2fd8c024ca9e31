"""Müller, Kornblith & Hinton (2019), section 4: a teacher trained with label smoothing is better, and teaches worse.

The paper's experiment on MNIST, a fully connected teacher with dropout and jitter of two pixels and a narrower student
without either, and the same on Fashion-MNIST, without jitter.  A student learns from its teacher alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import methods
from limbeck.data import Augment, SampleSet
from limbeck.evaluation import fidelity, predict
from limbeck.recipes.parts import crossed, fewest_errors, image_sets, percent_wrong
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.teachers import ModelTeacher, StoredTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

_KINDS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
_PAPER = {"teacher": 0.67, "smoothed-teacher": 0.59, "taught": 0.74, "smoothed-taught": 0.91}

_FULL: dict[str, Any] = {
    "train": 50000,
    "held_out": 10000,
    "epsilon": 0.1,
    "teacher_shift": {"mnist": 2, "fashion_mnist": 0},
    "teacher": {"kind": "mlp", "hidden": [1200, 1200], "dropout": 0.3},
    "teacher_epochs": 60,
    "student": {"kind": "mlp", "hidden": [800, 800]},
    "student_epochs": 30,
    "batch_size": 128,
    "teacher_rate": 0.1,
    "search": {
        "alone": crossed({"learning_rate": [0.02, 0.05, 0.1, 0.2, 0.3, 0.5]}),
        "taught": crossed({"temperature": [1.0, 4.0, 20.0], "learning_rate": [0.1, 0.3]}),
    },
}
_REDUCED = {
    **_FULL,
    "train": 10000,
    "teacher": {"kind": "mlp", "hidden": [600, 600], "dropout": 0.3},
    "teacher_epochs": 20,
    "student": {"kind": "mlp", "hidden": [400, 400]},
    "student_epochs": 12,
}


def _load(folder: Path | None, budget: Mapping[str, Any]) -> dict[str, SampleSet]:
    sets: dict[str, SampleSet] = {}
    for kind in _KINDS:
        found = image_sets(kind, folder, train=budget["train"], held_out=budget["held_out"])
        sets |= {f"{kind} {part}": samples for part, samples in found.items()}
    return sets


@dataclass(frozen=True)
class _Case:
    """One set, and whether its teacher's labels were smoothed."""

    kind: str
    smoothed: bool = False

    @property
    def teacher(self) -> str:
        return "smoothed teacher" if self.smoothed else "teacher"


def _teacher_model(lab: Lab, seed: int, case: _Case) -> nn.Module:
    """Train a teacher; the smoothed one differs from the other in its labels alone."""
    training = Training(
        epochs=lab.budget["teacher_epochs"],
        batch_size=lab.budget["batch_size"],
        learning_rate=lab.budget["teacher_rate"],
        warmup=1.0,
        max_norm=3.0,
        augment=Augment(shift=lab.budget["teacher_shift"][case.kind]),
    )
    objective = methods.label_smoothing(lab.budget["epsilon"]) if case.smoothed else methods.hard()
    samples = lab.sets[f"{case.kind} train"]
    return lab.train(f"{case.kind} {case.teacher}", lab.budget["teacher"], objective, samples, training, seed).student


def _teacher(lab: Lab, seed: int, case: _Case) -> StoredTeacher:
    """Return a teacher's answers to the training set, computed once."""

    def answers() -> StoredTeacher:
        return store(ModelTeacher(_teacher_model(lab, seed, case)), lab.sets[f"{case.kind} train"])

    stored: StoredTeacher = lab.remember(f"{case} {seed}", answers)
    return stored


def _fitted(lab: Lab, seed: int, case: _Case, settings: Mapping[str, Any], *, alone: bool) -> nn.Module:
    keys = dict(settings)
    training = Training(
        epochs=lab.budget["student_epochs"], batch_size=lab.budget["batch_size"], clip=1.0, learning_rate=0.1
    )
    training = replace(training, learning_rate=keys.pop("learning_rate"))
    objective = methods.hard() if alone else methods.kd(hard_weight=0.0, soft_weight=1.0, **keys)
    return lab.train(
        f"{case.kind} student " + ("alone" if alone else f"of the {case.teacher}"),
        lab.budget["student"],
        objective,
        lab.sets[f"{case.kind} train"],
        training,
        seed,
        teacher=None if alone else _teacher(lab, seed, case),
    ).student


def _student(lab: Lab, seed: int, case: _Case, *, alone: bool = False) -> nn.Module:
    """Train a student with what makes the fewest held-out errors at seed 0; each kind has as many candidates."""
    fit = partial(_fitted, case=case, alone=alone)

    def search() -> dict[str, Any]:
        candidates = lab.budget["search"]["alone" if alone else "taught"]
        return fewest_errors(
            candidates, lambda settings: fit(lab, 0, settings=settings), lab.sets[f"{case.kind} held_out"]
        )

    name = "alone" if alone else case.teacher.replace(" ", "-")
    return fit(lab, seed, settings=lab.choose(f"settings-{case.kind}-{name}", search))


def _run_teacher(lab: Lab, seed: int, *, case: _Case) -> dict[str, float]:
    test = lab.sets[f"{case.kind} test"]
    error = percent_wrong(_teacher_model(lab, seed, case), test)
    found = {"error, %": error}
    if case.smoothed:
        found["above the plain teacher"] = error - percent_wrong(_teacher_model(lab, seed, _Case(case.kind)), test)
    return found


def _run_alone(lab: Lab, seed: int, *, case: _Case) -> dict[str, float]:
    return {"error, %": percent_wrong(_student(lab, seed, case, alone=True), lab.sets[f"{case.kind} test"])}


def _run_taught(lab: Lab, seed: int, *, case: _Case) -> dict[str, float]:
    test, student = lab.sets[f"{case.kind} test"], _student(lab, seed, case)
    error = percent_wrong(student, test)
    alike = fidelity(predict(student, test), predict(_teacher_model(lab, seed, case), test))
    found = {"error, %": error, "agreement with its teacher, %": 100.0 * alike.agreement}
    if case.smoothed:
        plain = _student(lab, seed, _Case(case.kind))
        found["above the plain teacher's student"] = error - percent_wrong(plain, test)
    return found


def _rows(kind: str) -> list[Row]:
    paper = _PAPER if kind == "mnist" else {}
    plain, smoothed, where = _Case(kind), _Case(kind, smoothed=True), _KINDS[kind]
    short = kind.replace("_", "-")

    def above(name: str, first: str, second: str, aim: str) -> Figure:
        printed = round(paper[first] - paper[second], 2) if paper else None
        return Figure(name, printed, aim, 0.0)

    agreement = Figure("agreement with its teacher, %")
    return [
        Row(
            f"{short}-teacher",
            f"{where}: teacher, hard labels",
            (Figure("error, %", paper.get("teacher")),),
            partial(_run_teacher, case=plain),
        ),
        Row(
            f"{short}-smoothed-teacher",
            f"{where}: teacher, smoothed labels",
            (
                Figure("error, %", paper.get("smoothed-teacher")),
                above("above the plain teacher", "smoothed-teacher", "teacher", "at most"),
            ),
            partial(_run_teacher, case=smoothed),
        ),
        Row(
            f"{short}-alone",
            f"{where}: student alone, hard labels",
            (Figure("error, %"),),
            partial(_run_alone, case=plain),
        ),
        Row(
            f"{short}-taught",
            f"{where}: student of the teacher with hard labels",
            (Figure("error, %", paper.get("taught")), agreement),
            partial(_run_taught, case=plain),
        ),
        Row(
            f"{short}-smoothed-taught",
            f"{where}: student of the teacher with smoothed labels",
            (
                Figure("error, %", paper.get("smoothed-taught")),
                agreement,
                above("above the plain teacher's student", "smoothed-taught", "taught", "at least"),
            ),
            partial(_run_taught, case=smoothed),
        ),
    ]


REPRODUCTION = Reproduction(
    name="muller2019",
    title="Müller, Kornblith & Hinton (2019), When Does Label Smoothing Help?, section 4: distillation",
    rows=tuple(row for kind in _KINDS for row in _rows(kind)),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2, 3, 4), "full": (0, 1, 2, 3, 4)},
    load=_load,
)
