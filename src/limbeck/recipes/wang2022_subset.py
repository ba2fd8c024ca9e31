"""Wang et al. (2022): a student that serves a subset of its teacher's classes, beside one that serves them all.

Where three or four classes that resemble each other are all that is wanted, a student can be taught those alone, by the
teacher's distribution within them (φ(v) = v[S], renormalised) or by their labels.  Or it can be taught all classes and
answer within the subset.  All students have the same hidden layers, take as many steps and are searched for alike.  The
paper's second term, the variance within a class, is not in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import methods
from limbeck.data import Augment, SampleSet
from limbeck.objective import Objective
from limbeck.recipes.parts import crossed, fewest_errors, image_sets, percent_wrong
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.teachers import ModelTeacher, RestrictedModel, StoredTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

_TITLES = {"mnist": "MNIST, 3 5 8", "fashion_mnist": "Fashion-MNIST, what is worn above"}

_REDUCED: dict[str, Any] = {
    "train": 10000,
    "held_out": 10000,
    "subset": {"mnist": [3, 5, 8], "fashion_mnist": [0, 2, 4, 6]},
    "teacher": {"kind": "mlp", "hidden": [400, 400], "dropout": 0.3},
    "teacher_epochs": 20,
    "teacher_shift": {"mnist": 2, "fashion_mnist": 0},
    "student": {"kind": "mlp", "hidden": [30]},
    "steps": 1200,
    "batch_size": 128,
    "search": {
        "labels": crossed({"learning_rate": [0.01, 0.03, 0.06, 0.1, 0.2, 0.3]}),
        "taught": crossed({"temperature": [2.0, 4.0]}, {"learning_rate": [0.03, 0.1, 0.3]}),
    },
}
_FULL = {
    **_REDUCED,
    "train": 50000,
    "teacher": {"kind": "mlp", "hidden": [1200, 1200], "dropout": 0.3},
    "teacher_epochs": 60,
    "steps": 12000,
}


@dataclass(frozen=True)
class _Arm:
    """What a student is taught.

    every_class: it sees samples of all classes, not of the subset alone.  every_output: it has an output for each of
    all classes.  taught: by the teacher, or by labels.
    """

    title: str
    every_class: bool = False
    every_output: bool = False
    taught: bool = True


_ARMS = {
    "all-labels": _Arm("student of all classes, labels", every_class=True, every_output=True, taught=False),
    "all-kd": _Arm("student of all classes, KD", every_class=True, every_output=True),
    "outputs-kd": _Arm("samples of the subset, all outputs, KD", every_output=True),
    "labels": _Arm("specialised student, labels", taught=False),
    "kd": _Arm("specialised student, renormalised KD"),
}


def _load(folder: Path | None, budget: Mapping[str, Any]) -> dict[str, SampleSet]:
    sets: dict[str, SampleSet] = {}
    for kind in _TITLES:
        found = image_sets(kind, folder, train=budget["train"], held_out=budget["held_out"])
        sets |= {f"{kind} {part}": samples for part, samples in found.items()}
    return sets


def _within(lab: Lab, kind: str, part: str) -> SampleSet:
    """Return the samples of the subset, labels being places in it."""
    subset = lab.budget["subset"][kind]
    return lab.sets[f"{kind} {part}"].only_classes(subset).relabelled(subset)


def _samples(lab: Lab, kind: str, arm: _Arm) -> SampleSet:
    """Return what an arm's student learns from."""
    if not arm.every_output:
        return _within(lab, kind, "train")
    samples = lab.sets[f"{kind} train"]
    return samples if arm.every_class else samples.only_classes(lab.budget["subset"][kind])


def _serving(lab: Lab, kind: str, model: nn.Module) -> nn.Module:
    """Return a network of all classes as one that answers within the subset."""
    return RestrictedModel(model, lab.budget["subset"][kind], lab.sets[f"{kind} train"].classes)


def _teacher_model(lab: Lab, seed: int, kind: str) -> nn.Module:
    training = Training(
        epochs=lab.budget["teacher_epochs"],
        batch_size=lab.budget["batch_size"],
        learning_rate=0.1,
        warmup=1.0,
        max_norm=3.0,
        augment=Augment(shift=lab.budget["teacher_shift"][kind]),
    )
    samples = lab.sets[f"{kind} train"]
    return lab.train(f"{kind} teacher", lab.budget["teacher"], methods.hard(), samples, training, seed).student


def _teacher(lab: Lab, seed: int, kind: str) -> StoredTeacher:
    """Return the answers of a seed's teacher to the training set, computed once for all arms."""

    def answers() -> StoredTeacher:
        return store(ModelTeacher(_teacher_model(lab, seed, kind)), lab.sets[f"{kind} train"])

    stored: StoredTeacher = lab.remember(f"teacher {kind} {seed}", answers)
    return stored


def _objective(lab: Lab, kind: str, arm: _Arm, keys: Mapping[str, Any]) -> Objective:
    if not arm.taught:
        return methods.hard()
    if arm.every_output:
        return methods.kd(alpha=0.1, **keys)
    return methods.class_subset(tuple(lab.budget["subset"][kind]), alpha=0.1, **keys)


def _fitted(lab: Lab, seed: int, kind: str, name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Train an arm's student with given settings and return it as it serves the subset."""
    arm, keys = _ARMS[name], dict(settings)
    samples, batch = _samples(lab, kind, arm), lab.budget["batch_size"]
    training = Training(
        epochs=max(1, round(lab.budget["steps"] / -(-len(samples) // batch))),
        batch_size=batch,
        learning_rate=keys.pop("learning_rate"),
        clip=1.0,
    )
    objective = _objective(lab, kind, arm, keys)
    teacher = _teacher(lab, seed, kind) if arm.taught else None
    model = lab.train(
        f"{kind} {name}", lab.budget["student"], objective, samples, training, seed, teacher=teacher, called=name
    ).student
    return _serving(lab, kind, model) if arm.every_output else model


def _student(lab: Lab, seed: int, kind: str, name: str) -> nn.Module:
    """Train an arm's student with what makes the fewest errors on held-out samples of the subset, at seed 0."""
    candidates: Sequence[Mapping[str, Any]] = lab.budget["search"]["taught" if _ARMS[name].taught else "labels"]

    def search() -> dict[str, Any]:
        return fewest_errors(candidates, partial(_fitted, lab, 0, kind, name), _within(lab, kind, "held_out"))

    return _fitted(lab, seed, kind, name, lab.choose(f"settings-{kind}-{name}", search))


# -- the rows ----------------------------------------------------------------------------------------------------------


def _error(lab: Lab, seed: int, kind: str, name: str) -> float:
    """Return the error of an arm's student on test samples of the subset, in percent, predicted once."""

    def measured() -> float:
        return percent_wrong(_student(lab, seed, kind, name), _within(lab, kind, "test"))

    error: float = lab.remember(f"error {kind} {name} {seed}", measured)
    return error


def _run_teacher(lab: Lab, seed: int, *, kind: str) -> dict[str, float]:
    model = _teacher_model(lab, seed, kind)
    return {"error, %": percent_wrong(_serving(lab, kind, model), _within(lab, kind, "test"))}


def _run(lab: Lab, seed: int, *, kind: str, name: str) -> dict[str, float]:
    error = _error(lab, seed, kind, name)
    found = {"error, %": error}
    for other in _compared(name):
        found[f"fewer than {_ARMS[other].title}"] = _error(lab, seed, kind, other) - error
    return found


def _compared(name: str) -> tuple[str, ...]:
    """Return which arms an arm is set against, at the same seed."""
    return {"labels": ("all-labels",), "kd": ("labels", "all-kd", "outputs-kd")}.get(name, ())


def _rows(kind: str) -> list[Row]:
    prefix = kind.replace("_", "-")
    teacher = Row(
        f"{prefix}-teacher",
        f"{_TITLES[kind]}: teacher of all classes",
        (Figure("error, %"),),
        partial(_run_teacher, kind=kind),
    )
    rows = [teacher]
    for name, arm in _ARMS.items():
        figures = [Figure("error, %"), *(Figure(f"fewer than {_ARMS[other].title}") for other in _compared(name))]
        run: Callable[[Lab, int], dict[str, float]] = partial(_run, kind=kind, name=name)
        rows.append(Row(f"{prefix}-{name}", f"{_TITLES[kind]}: {arm.title}", tuple(figures), run))
    return rows


REPRODUCTION = Reproduction(
    name="wang2022-subset",
    title="Wang et al. (2022), Class Specialized Knowledge Distillation: a student for some of the classes",
    rows=tuple(row for kind in _TITLES for row in _rows(kind)),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2, 3, 4), "full": (0, 1, 2, 3, 4)},
    load=_load,
)
