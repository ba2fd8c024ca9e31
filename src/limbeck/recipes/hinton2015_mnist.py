"""The MNIST experiments of Hinton, Vinyals & Dean (2015), section 3, and of Ba & Caruana (2014) on the same data.

Choices (learning rates, biases) are made on 10,000 held-out training images, with a teacher that has not seen them;
then teacher and students are trained on all 60,000 for the fixed budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import data, methods
from limbeck.data import Augment, SampleSet
from limbeck.errors import NonFiniteLossError
from limbeck.evaluation import fit_bias, measure, predict, with_bias
from limbeck.objective import Objective
from limbeck.randomness import uniform
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.teacher import Teacher
from limbeck.teachers import ModelTeacher, StoredTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

_TEMPERATURE = 20.0
_NOISE = 0.2

_FULL = {
    "train": 60000,
    "held_out": 10000,
    "teacher_hidden": [1200, 1200],
    "teacher_dropout": 0.3,
    "teacher_batch_size": 128,
    "teacher_epochs": 60,
    "teacher_precision": "bf16",
    "student_epochs": 30,
    "student_clip": 1.0,  # without it, a learning rate of 0.1 at T = 20 kills the student in its first epoch
    "learning_rates": [0.03, 0.1, 0.3],
    "small_epochs": 400,
    "batch_size": 256,
    "student": [800, 800],
    "widths": [300, 30],
    "shallow": [1200],
}
_REDUCED = {
    **_FULL,
    "train": 12000,
    "held_out": 2000,
    "teacher_hidden": [600, 600],
    "teacher_epochs": 20,
    "teacher_precision": "fp32",
    "student_epochs": 15,
    "small_epochs": 100,
    "batch_size": 128,
}


def _load(folder: Path | None, budget: Mapping[str, Any]) -> dict[str, SampleSet]:
    splits = data.mnist(folder=_images(folder))
    train = splits.train.subset(torch.arange(budget["train"]))
    chosen, held_out = train.split(budget["held_out"], seed=0)
    return {"train": train, "chosen": chosen, "held_out": held_out, "test": splits.test}


def _images(folder: Path | None) -> str | None:
    """Return where MNIST is: the folder itself, or the one named mnist in it."""
    if folder is None:
        return None
    return str(folder / "mnist" if (folder / "mnist").is_dir() else folder)


def _training(lab: Lab, **changes: Any) -> Training:
    base = Training(epochs=lab.budget["student_epochs"], batch_size=lab.budget["batch_size"], learning_rate=0.1)
    return replace(base, **changes)


def _mlp(hidden: Sequence[int], **keys: Any) -> dict[str, Any]:
    return {"kind": "mlp", "hidden": list(hidden), **keys}


# -- the teacher -------------------------------------------------------------------------------------------------------


def _teacher_model(lab: Lab, seed: int, *, refit: bool, samples: SampleSet | None = None) -> nn.Module:
    """Return the teacher: dropout, max-norm and jitter of two pixels, as in the paper."""
    settings = _training(
        lab,
        epochs=lab.budget["teacher_epochs"],
        batch_size=lab.budget["teacher_batch_size"],
        precision=lab.budget["teacher_precision"],
        max_norm=3.0,
        warmup=1.0,
        augment=Augment(shift=2),
    )
    model = _mlp(lab.budget["teacher_hidden"], dropout=lab.budget["teacher_dropout"])
    chosen = lab.sets["train"] if refit else lab.sets["chosen"]
    held_out = None if refit else lab.sets["held_out"]
    return lab.train(
        "teacher", model, methods.hard(), samples or chosen, settings, seed, held_out=held_out if not samples else None
    ).student


def _teacher(lab: Lab, seed: int, *, refit: bool) -> StoredTeacher:
    """Return the teacher's answers to the whole training set, computed once."""

    def answers() -> StoredTeacher:
        model = _teacher_model(lab, seed if refit else 0, refit=refit)
        return store(ModelTeacher(model), lab.sets["train"])

    stored: StoredTeacher = lab.remember(f"teacher {seed if refit else 0} {refit}", answers)
    return stored


def _run_teacher(lab: Lab, seed: int) -> dict[str, float]:
    return {"errors": _errors(lab, _teacher_model(lab, seed, refit=True))}


# -- students ----------------------------------------------------------------------------------------------------------


def _soft(temperature: float = _TEMPERATURE) -> Objective:
    return methods.kd(temperature=temperature, hard_weight=0.0, soft_weight=1.0)


def _student(
    lab: Lab,
    seed: int,
    label: str,
    objective: Callable[[], Objective],
    *,
    hidden: Sequence[int] | None = None,
    transfer: Callable[[SampleSet], SampleSet] = lambda samples: samples,
    refit: bool = True,
    **settings: Any,
) -> nn.Module:
    """Train a student of the paper: without dropout, without jitter."""
    samples = transfer(lab.sets["train"] if refit else lab.sets["chosen"])
    built = objective()
    return lab.train(
        label,
        _mlp(hidden or lab.budget["student"]),
        built,
        samples,
        _training(lab, clip=lab.budget["student_clip"], **settings),
        seed,
        teacher=_teacher(lab, seed, refit=refit) if "teacher" in built.reads() else None,
        held_out=None if refit else lab.sets["held_out"],
        called=label,
    ).student


def _learning_rate(lab: Lab, label: str, objective: Callable[[], Objective], **how: Any) -> float:
    """Return the learning rate that makes the fewest held-out errors at seed 0, out of the same three for every row."""

    def search() -> float:
        scores: list[tuple[float, float, float]] = []
        for rate in lab.budget["learning_rates"]:
            try:
                model = _student(lab, 0, label, objective, refit=False, learning_rate=rate, **how)
                metrics = measure(predict(model, lab.sets["held_out"]), lab.sets["held_out"].labels)
                scores.append((metrics.errors, metrics.nll, rate))
            except NonFiniteLossError:
                continue
        return min(scores)[2]

    rate: float = lab.choose(f"learning rate of {label}".replace(" ", "-"), search)
    return rate


def _run_student(
    lab: Lab,
    seed: int,
    *,
    label: str,
    objective: Callable[[], Objective],
    searched_as: str | None = None,
    searched_with: Callable[[], Objective] | None = None,
    **how: Any,
) -> dict[str, float]:
    """Train a student at the learning rate that its kind was given by the search, and count its test errors."""
    rate = _learning_rate(lab, searched_as or label, searched_with or objective, **how)
    return {"errors": _errors(lab, _student(lab, seed, label, objective, learning_rate=rate, **how))}


def _errors(lab: Lab, model: nn.Module) -> float:
    return float(measure(predict(model, lab.sets["test"]), lab.sets["test"].labels).errors)


# -- transfer sets with classes left out -------------------------------------------------------------------------------


def _run_omitted(
    lab: Lab, seed: int, *, name: str, transfer: Callable[[SampleSet], SampleSet], classes: Sequence[int], share: bool
) -> dict[str, float]:
    """Distill without some classes, then add to `classes` the bias that was fitted on held-out images of all."""
    rate = _learning_rate(lab, "student distilled", _soft)
    train = partial(_student, lab, label=name, objective=_soft, transfer=transfer, learning_rate=rate)

    def bias() -> float:
        held_out = lab.sets["held_out"]
        return fit_bias(predict(train(0, refit=False), held_out), held_out.labels, classes)

    chosen = lab.choose(f"bias {name}".replace(" ", "-"), bias)
    test = lab.sets["test"]
    logits = predict(train(seed), test)
    figures = {}
    for when, answered in (("before", logits), ("after", with_bias(logits, classes, chosen))):
        wrong = answered.argmax(-1) != test.labels
        if share:
            figures[f"error {when}, %"] = 100.0 * float(wrong.double().mean())
        else:
            of_class = test.labels == classes[0]
            figures[f"errors {when}"] = float(wrong.sum())
            figures[f"errors on {classes[0]}s {when}"] = float((wrong & of_class).sum())
    figures["bias"] = float(chosen)
    return figures


# -- a small part of the data ------------------------------------------------------------------------------------------


def _run_small(lab: Lab, seed: int, *, label: str, objective: Callable[[], Objective]) -> dict[str, float]:
    """Train on 3 % of the data and report the errors on it and on the test set; and how a high learning rate fares."""

    def part(samples: SampleSet) -> SampleSet:
        return samples.fraction(0.03, seed=0)

    how = {"transfer": part, "epochs": lab.budget["small_epochs"]}
    rate = _learning_rate(lab, label, objective, **how)
    model = _student(lab, seed, label, objective, learning_rate=rate, **how)
    seen = part(lab.sets["train"])
    on_train = measure(predict(model, seen), seen.labels)
    try:
        high = _errors(lab, _student(lab, seed, label, objective, learning_rate=1.0, **how))
    except NonFiniteLossError:
        high = float(len(lab.sets["test"]))
    test = len(lab.sets["test"])
    return {
        "train accuracy, %": 100 * on_train.accuracy,
        "test accuracy, %": 100 * (1 - _errors(lab, model) / test),
        "test accuracy at learning rate 1, %": 100 * (1 - high / test),
    }


# -- matching logits, and two of the reasons why it helps --------------------------------------------------------------


def _matched() -> Objective:
    return methods.logit_matching()


def _noisy(samples: SampleSet) -> SampleSet:
    """Replace a share of the labels by a class drawn at random: a function of the sample alone."""
    zero = torch.zeros_like(samples.index)
    draws = uniform(0, "label noise", zero, samples.index, 2)
    drawn = (draws[:, 1] * samples.classes).long().clamp_max(samples.classes - 1)
    return replace(samples, labels=torch.where(draws[:, 0] < _NOISE, drawn, samples.labels))


def _noisy_teacher(lab: Lab, seed: int) -> Teacher:
    """Return a teacher that learnt from the noisy labels too."""
    samples = _noisy(lab.sets["train"])

    def answers() -> StoredTeacher:
        return store(ModelTeacher(_teacher_model(lab, seed, refit=True, samples=samples)), samples)

    stored: StoredTeacher = lab.remember(f"noisy teacher {seed}", answers)
    return stored


class _UpperHalf(nn.Module):
    """A student that is shown only the upper half of the image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        visible = torch.zeros_like(images)
        half = images.shape[-2] // 2
        visible[..., :half, :] = images[..., :half, :]
        answer: Tensor = self.inner(visible)
        return answer


def _run_planted(
    lab: Lab,
    seed: int,
    *,
    label: str,
    objective: Callable[[], Objective],
    samples: Callable[[SampleSet], SampleSet] = lambda samples: samples,
    teach: Callable[[Lab, int], Teacher] | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> dict[str, float]:
    """Train a student at the usual learning rate, where the teacher has an advantage that was put there."""
    built = objective()
    teacher = None
    if "teacher" in built.reads():
        teacher = _teacher(lab, seed, refit=True) if teach is None else teach(lab, seed)
    model = lab.train(
        label,
        _mlp(lab.budget["student"]),
        built,
        samples(lab.sets["train"]),
        _training(lab, clip=lab.budget["student_clip"]),
        seed,
        teacher=teacher,
        wrap=wrap,
        called=label,
    ).student
    return {"errors": _errors(lab, model)}


# -- the table ---------------------------------------------------------------------------------------------------------


def _rows() -> tuple[Row, ...]:
    errors = (Figure("errors"),)
    hard = methods.hard
    rows = [
        Row("teacher", "teacher 1200-1200, dropout, jitter", (Figure("errors", 67, "at most", 75),), _run_teacher),
        Row(
            "alone",
            "student 800-800 alone",
            (Figure("errors", 146),),
            partial(_run_student, label="student alone", objective=hard),
        ),
    ]
    for temperature in (1, 2, 4, 8, 20):
        paper = 74 if temperature == 20 else None
        rows.append(
            Row(
                f"distilled-T{temperature}",
                f"student 800-800 distilled at T={temperature}",
                (Figure("errors", paper),),
                partial(
                    _run_student,
                    label=f"distilled T={temperature}",
                    objective=partial(_soft, float(temperature)),
                    searched_as="student distilled",
                    searched_with=_soft,
                ),
            )
        )
    rows.append(
        Row(
            "unlabelled",
            "student 800-800, transfer set without labels, T=20",
            errors,
            partial(
                _run_student,
                label="distilled unlabelled",
                objective=_soft,
                searched_as="student distilled",
                transfer=SampleSet.without_labels,
            ),
        )
    )
    for width, temperatures in ((300, (1.0, 2.0, 4.0, 8.0, 12.0, 20.0)), (30, (1.0, 2.0, 2.5, 3.0, 4.0, 8.0, 20.0))):
        rows += _narrow(width, temperatures)
    rows += [
        Row(
            "omit-3",
            "transfer set without 3s, T=20; bias of class 3 fitted on held-out images",
            (
                Figure("errors before", 206),
                Figure("errors on 3s before", 133),
                Figure("errors after", 109, "at most", 125),
                Figure("errors on 3s after", 14, "at most", 20),
                Figure("bias", 3.5),
            ),
            partial(
                _run_omitted, name="without 3s", transfer=partial(_without, classes=(3,)), classes=(3,), share=False
            ),
        ),
        Row(
            "only-7-8",
            "transfer set of 7s and 8s alone, T=20; biases of 7 and 8 fitted on held-out images",
            (Figure("error before, %", 47.3), Figure("error after, %", 13.2), Figure("bias", -7.6)),
            partial(
                _run_omitted, name="only 7s and 8s", transfer=partial(_only, classes=(7, 8)), classes=(7, 8), share=True
            ),
        ),
    ]
    small = (
        Figure("train accuracy, %"),
        Figure("test accuracy, %"),
        Figure("test accuracy at learning rate 1, %"),
    )
    rows += [
        Row("small-hard", "3 % of the data, hard labels", small, partial(_run_small, label="3 % hard", objective=hard)),
        Row(
            "small-soft", "3 % of the data, soft targets", small, partial(_run_small, label="3 % soft", objective=_soft)
        ),
        Row(
            "logits",
            "student 800-800, logit matching",
            errors,
            partial(_run_student, label="logit matching", objective=_matched),
        ),
    ]
    shallow: dict[str, Any] = {"hidden": _FULL["shallow"]}
    noisy = partial(_run_planted, samples=_noisy, teach=_noisy_teacher)
    for name, title, run in (
        ("shallow", "one wide hidden layer (1200)", partial(_run_student, **shallow)),
        ("noisy", "student 800-800, a fifth of the labels redrawn, teacher's too", noisy),
        ("half", "student 800-800 sees half of each image, teacher all", partial(_run_planted, wrap=_UpperHalf)),
    ):
        rows += [
            Row(f"{name}-hard", f"{title}: hard labels", errors, partial(run, label=f"{name} hard", objective=hard)),
            Row(f"{name}-logits", f"{title}: logits", errors, partial(run, label=f"{name} logits", objective=_matched)),
        ]
    return tuple(rows)


def _narrow(width: int, temperatures: Sequence[float]) -> list[Row]:
    """Return the rows of a student with two layers of `width` units: alone, and distilled over temperatures."""
    name, errors = f"student {width}-{width}", (Figure("errors"),)
    hidden = (width, width)
    alone = partial(_run_student, label=f"{name} alone", objective=methods.hard, hidden=hidden)
    return [
        Row(f"alone-{width}", f"{name} alone", errors, alone),
        *(
            Row(
                f"distilled-{width}-T{temperature:g}",
                f"{name} distilled at T={temperature:g}",
                errors,
                partial(
                    _run_student,
                    label=f"{name} distilled T={temperature:g}",
                    objective=partial(_soft, temperature),
                    searched_as=f"{name} distilled",
                    searched_with=partial(_soft, 4.0),
                    hidden=hidden,
                ),
            )
            for temperature in temperatures
        ),
    ]


def _without(samples: SampleSet, *, classes: tuple[int, ...]) -> SampleSet:
    return samples.without_classes(classes)


def _only(samples: SampleSet, *, classes: tuple[int, ...]) -> SampleSet:
    return samples.only_classes(classes)


REPRODUCTION = Reproduction(
    name="hinton2015-mnist",
    title="Hinton, Vinyals & Dean (2015), Distilling the Knowledge in a Neural Network, section 3: MNIST",
    rows=_rows(),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0,), "full": (0, 1, 2, 3, 4)},
    load=_load,
)
