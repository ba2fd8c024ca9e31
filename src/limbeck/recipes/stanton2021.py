"""Stanton et al. (2021): does a student say what its teacher says, and is it the better for it?

A teacher that learnt from 200 images of MNIST teaches a network of its own kind, on those images, on more, and on moved
ones; and on Fashion-MNIST one teacher, or the mean of three, teaches a network of the same kind.  Fidelity is measured
on what the student learnt from and on the test set.  A student learns from the teacher alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import methods
from limbeck.data import Augment, SampleSet
from limbeck.evaluation import fidelity, predict
from limbeck.randomness import derive_seed
from limbeck.recipes.parts import crossed, fewest_errors, image_sets, percent_wrong
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.teacher import Teacher
from limbeck.teachers import EnsembleTeacher, ModelTeacher, StoredTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

_KINDS = {"few": "mnist", "many": "fashion_mnist"}
_MEMBERS = 3

_REDUCED: dict[str, Any] = {
    "train": 20000,
    "held_out": 10000,
    "few": 200,
    "some": 2000,
    "many": 10000,
    "model": {"kind": "mlp", "hidden": [200, 200]},
    "teacher_rate": 0.1,
    "few_teacher_steps": 1000,
    "many_teacher_steps": 2000,
    "steps": 2000,
    "longer": 4,
    "batch_size": 100,
    "temperature": 4.0,
    "shift": 2,
    "search": crossed({"learning_rate": [0.03, 0.1, 0.3]}),
}
_FULL = {
    **_REDUCED,
    "train": 50000,
    "many": 25000,
    "model": {"kind": "cnn", "channels": [16, 32, 64]},
    "few_teacher_steps": 2000,
    "many_teacher_steps": 10000,
    "steps": 10000,
}


def _load(folder: Path | None, budget: Mapping[str, Any]) -> dict[str, SampleSet]:
    sets: dict[str, SampleSet] = {}
    for name, kind in _KINDS.items():
        found = image_sets(kind, folder, train=budget["train"], held_out=budget["held_out"])
        sets |= {f"{name} {part}": samples for part, samples in found.items()}
    return sets


@dataclass(frozen=True)
class _Lesson:
    """What a student learns, and from whom.

    what: "few" (the teacher has seen 200 images) or "many".  images: the key of the budget that says how many the
    student sees.  moved: by how many pixels they are moved, anew in each epoch, and shown to the teacher so.
    longer: times as many steps.  members: of the teacher.
    """

    what: str
    images: str
    moved: bool = False
    longer: bool = False
    members: int = 1

    @property
    def name(self) -> str:
        """A name that no other lesson has."""
        extra = ["moved"] * self.moved + ["longer"] * self.longer + ["ensemble"] * (self.members > 1)
        return "-".join([self.what, self.images, *extra])


def _training(lab: Lab, samples: SampleSet, steps: int, rate: float, *, moved: bool = False) -> Training:
    """Return a training of so many steps, whatever the size of the set."""
    batch = lab.budget["batch_size"]
    return Training(
        epochs=max(1, round(steps * batch / len(samples))),
        batch_size=batch,
        learning_rate=rate,
        clip=1.0,
        augment=Augment(shift=lab.budget["shift"] if moved else 0),
    )


def _teacher_model(lab: Lab, seed: int, what: str, member: int = 0) -> nn.Module:
    samples = _images(lab, what, what)
    training = _training(lab, samples, lab.budget[f"{what}_teacher_steps"], lab.budget["teacher_rate"])
    own = derive_seed(seed, "teacher", member)
    return lab.train(f"{what} teacher", lab.budget["model"], methods.hard(), samples, training, own).student


def _images(lab: Lab, what: str, size: str) -> SampleSet:
    """Return the first images of the training set."""
    return lab.sets[f"{what} train"].subset(torch.arange(lab.budget[size]))


def _teacher(lab: Lab, seed: int, lesson: _Lesson) -> Teacher:
    members = [ModelTeacher(_teacher_model(lab, seed, lesson.what, number)) for number in range(lesson.members)]
    return members[0] if lesson.members == 1 else EnsembleTeacher(members)


def _answers(lab: Lab, seed: int, lesson: _Lesson) -> Teacher:
    """Return the teacher of a lesson; what it says is computed once where the images stay as they are."""

    def stored() -> StoredTeacher:
        return store(_teacher(lab, seed, lesson), _images(lab, lesson.what, lesson.images))

    if lesson.moved:
        return _teacher(lab, seed, lesson)
    answers: StoredTeacher = lab.remember(f"{lesson.what} {lesson.images} {lesson.members} {seed}", stored)
    return answers


def _fitted(lab: Lab, seed: int, lesson: _Lesson, settings: Mapping[str, Any]) -> nn.Module:
    samples = _images(lab, lesson.what, lesson.images)
    steps = lab.budget["steps"] * (lab.budget["longer"] if lesson.longer else 1)
    return lab.train(
        lesson.name,
        lab.budget["model"],
        methods.kd(temperature=lab.budget["temperature"], hard_weight=0.0, soft_weight=1.0),
        samples,
        _training(lab, samples, steps, settings["learning_rate"], moved=lesson.moved),
        seed,
        teacher=_answers(lab, seed, lesson),
    ).student


def _student(lab: Lab, seed: int, lesson: _Lesson) -> nn.Module:
    """Train a student at the learning rate that makes the fewest held-out errors at seed 0."""

    def search() -> dict[str, Any]:
        fit = partial(_fitted, lab, 0, lesson)
        return fewest_errors(lab.budget["search"], fit, lab.sets[f"{lesson.what} held_out"])

    return _fitted(lab, seed, lesson, lab.choose(f"settings-{lesson.name}", search))


# -- the figures -------------------------------------------------------------------------------------------------------

_ALIKE = ("agreement, learnt from, %", "agreement, test, %", "KL, learnt from", "KL, test")


def _compared(student: torch.Tensor, teacher: torch.Tensor) -> tuple[float, float]:
    found = fidelity(student, teacher)
    return 100.0 * found.agreement, found.kl


def _said(lab: Lab, seed: int, lesson: _Lesson, samples: SampleSet) -> torch.Tensor:
    """Return the teacher's logits on the unmoved samples."""
    return store(_teacher(lab, seed, lesson), samples).logits


def _figures(lab: Lab, seed: int, lesson: _Lesson, student: nn.Module) -> dict[str, float]:
    """Measure a student against its teacher, on the unmoved images that it learnt from and on the test set."""
    learnt, test = _images(lab, lesson.what, lesson.images), lab.sets[f"{lesson.what} test"]
    on_learnt = _compared(predict(student, learnt), _said(lab, seed, lesson, learnt))
    said = _said(lab, seed, lesson, test)
    on_test = _compared(predict(student, test), said)
    accuracy = 100.0 - percent_wrong(student, test)
    taught = 100.0 * float((said.argmax(1) == test.labels).double().mean())
    found = {"accuracy, %": accuracy, "above its teacher": accuracy - taught}
    return found | dict(zip(_ALIKE, (on_learnt[0], on_test[0], on_learnt[1], on_test[1]), strict=True))


def _run_teacher(lab: Lab, seed: int, *, what: str) -> dict[str, float]:
    """Measure the teacher, and how far a second network, trained as it was from another seed, agrees with it."""
    lesson = _Lesson(what, what)
    found = _figures(lab, seed, lesson, _teacher_model(lab, seed, what, 1))
    first = 100.0 - percent_wrong(_teacher_model(lab, seed, what), lab.sets[f"{what} test"])
    return {"accuracy, %": first} | {f"a second one: {name}": found[name] for name in _ALIKE}


def _run_ensemble(lab: Lab, seed: int) -> dict[str, float]:
    test = lab.sets["many test"]
    said = _said(lab, seed, _Lesson("many", "many", members=_MEMBERS), test)
    return {"accuracy, %": 100.0 * float((said.argmax(1) == test.labels).double().mean())}


def _run_student(
    lab: Lab, seed: int, *, lesson: _Lesson, differences: Mapping[str, tuple[_Lesson, str]]
) -> dict[str, float]:
    """Measure a student, and by how much a figure of it lies above another's of the same seed."""

    def measured(which: _Lesson) -> dict[str, float]:
        figures: dict[str, float] = lab.remember(
            f"figures {which} {seed}", lambda: _figures(lab, seed, which, _student(lab, seed, which))
        )
        return figures

    found = measured(lesson)
    return found | {name: found[of] - measured(other)[of] for name, (other, of) in differences.items()}


_SELF = _Lesson("few", "few")
_MORE = _Lesson("few", "train")
_ALONE = _Lesson("many", "many")
_TOGETHER = _Lesson("many", "many", members=_MEMBERS)
_LAST = _Lesson("many", "train", members=_MEMBERS)


def _row(lesson: _Lesson, title: str, aims: Mapping[str, tuple[_Lesson, str]]) -> Row:
    """Return a student's row.  aims: differences that the paper says are above 0."""
    aimed = {"above its teacher"} if lesson == _SELF else set()
    names = ("accuracy, %", "above its teacher", *_ALIKE)
    figures = [Figure(name, None, "at least", 0.0) if name in aimed else Figure(name) for name in names]
    figures += [Figure(name, None, "at least", 0.0) for name in aims]
    run: Callable[[Lab, int], dict[str, float]] = partial(_run_student, lesson=lesson, differences=aims)
    return Row(lesson.name, title, tuple(figures), run)


def _rows() -> tuple[Row, ...]:
    teacher = (Figure("accuracy, %"), *(Figure(f"a second one: {name}") for name in _ALIKE))
    agreement, accuracy = "agreement, test, %", "accuracy, %"
    few = "MNIST, teacher of 200 images: "
    many = "Fashion-MNIST: "
    more_than_self = {"agreement on test above that on 200 images": (_SELF, agreement)}
    ensemble = {
        "agreement on test above that on half the images": (_TOGETHER, agreement),
        "accuracy above that on half the images": (_TOGETHER, accuracy),
    }
    return (
        Row("few-teacher", few + "itself", teacher, partial(_run_teacher, what="few")),
        _row(_SELF, few + "student on its 200 images", {}),
        _row(_Lesson("few", "some"), few + "student on 2,000 images", more_than_self),
        _row(_MORE, few + "student on all images", more_than_self),
        _row(_Lesson("few", "few", moved=True), few + "student on its 200 images, moved", more_than_self),
        _row(_Lesson("few", "few", longer=True), few + "student on its 200 images, four times the steps", {}),
        Row("many-teacher", many + "one teacher", teacher, partial(_run_teacher, what="many")),
        Row("many-ensemble", many + "mean of three teachers", (Figure("accuracy, %"),), _run_ensemble),
        _row(_ALONE, many + "student of one teacher, on its images", {}),
        _row(
            _Lesson("many", "train"),
            many + "student of one teacher, on twice the images",
            {"agreement on test above that on half the images": (_ALONE, agreement)},
        ),
        _row(_TOGETHER, many + "student of three teachers, on their images", {}),
        _row(
            _Lesson("many", "train", members=_MEMBERS),
            many + "student of three teachers, on twice the images",
            ensemble,
        ),
    )


REPRODUCTION = Reproduction(
    name="stanton2021",
    title="Stanton et al. (2021), Does Knowledge Distillation Really Work?: fidelity beside accuracy",
    rows=_rows(),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2, 3, 4), "full": (0, 1, 2, 3, 4)},
    load=_load,
)
