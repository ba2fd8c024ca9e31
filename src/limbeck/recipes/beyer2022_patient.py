"""Consistent and patient teaching, after Beyer et al. (2022): what the teacher is shown, and for how long it teaches.

The paper has ImageNet and a BiT-ResNet-152; here are perceptrons on a part of MNIST whose views are shifted.  A fixed
teacher answered once, for the image as it is; an independent one sees another view than its student; a consistent one
sees the same, and with mixup the same mixture.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import data, methods, models
from limbeck.batch import Batch
from limbeck.data import Augment, SampleSet
from limbeck.evaluation import fidelity, measure, predict
from limbeck.experiment.cost import LEARNING, forward_flops
from limbeck.outputs import Outputs, Tap
from limbeck.randomness import derive_seed
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.teacher import Teacher, teacher_weights
from limbeck.teachers import ModelTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION", "OtherViews"]

_REDUCED: dict[str, Any] = {
    "train": 10000,
    "held_out": 2000,
    "teacher": {"kind": "mlp", "hidden": [300, 300], "dropout": 0.2},
    "student": {"kind": "mlp", "hidden": [64, 64]},
    "shift": 2,
    "mixup": 1.0,
    "teacher_epochs": 60,
    "short": 20,
    "long": 160,
    "training": {"batch_size": 128, "clip": 1.0, "learning_rate": 0.1},
    "search": {
        "labels": [{"learning_rate": rate} for rate in (0.03, 0.1, 0.2, 0.4)],
        "teacher": [
            {"temperature": temperature, "learning_rate": rate} for temperature in (1.0, 4.0) for rate in (0.1, 0.3)
        ],
        "long": [0.03, 0.1, 0.3],
    },
}
_FULL = {**_REDUCED, "train": 60000, "held_out": 10000, "long": 600}

_VIEWS = {
    "fixed": "fixed teacher, asked once for the image as it is",
    "independent": "teacher sees another view",
    "same": "teacher sees the same view",
    "mixed": "teacher sees the same view and mixup",
}


class OtherViews:
    """A teacher that sees a view of each sample of its own, drawn as the student's are from another seed."""

    def __init__(self, teacher: ModelTeacher, augment: Augment, seed: int) -> None:
        self.teacher, self.augment, self.seed = teacher, augment, derive_seed(seed, "teacher's views")

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the outputs for another view of the batch's samples, which have no normalisation."""
        seen = self.augment.apply(batch.views["clean"], seed=self.seed, view=batch.view, index=batch.index)
        return self.teacher(Batch(batch.index, batch.view, seen), taps)

    def to(self, device: torch.device | str) -> "OtherViews":
        """Place the teacher on a device."""
        self.teacher.to(device)
        return self

    def fingerprint(self) -> str:
        """Return what decides the answers."""
        return f"{self.teacher.fingerprint()} {self.augment} {self.seed}"

    def weights_digest(self) -> str | None:
        """Return the digest of the teacher's weights."""
        return teacher_weights(self.teacher)


def _load(folder: Path | None, budget: Mapping[str, Any]) -> dict[str, SampleSet]:
    within = None if folder is None else folder / "mnist" if (folder / "mnist").is_dir() else folder
    splits = data.mnist(folder=None if within is None else str(within))
    train, held_out = splits.train.subset(torch.arange(budget["train"])).split(budget["held_out"], seed=0)
    return {"train": train, "held_out": held_out, "test": splits.test}


# -- the networks ------------------------------------------------------------------------------------------------------


def _teacher(lab: Lab, seed: int) -> nn.Module:
    training = Training(
        **lab.budget["training"], epochs=lab.budget["teacher_epochs"], augment=Augment(shift=lab.budget["shift"])
    )
    return lab.train(
        "teacher", lab.budget["teacher"], methods.hard(), lab.sets["train"], training, derive_seed(seed, "teacher")
    ).student


def _asked(lab: Lab, seed: int, views: str) -> Teacher:
    """Return a seed's teacher, who is shown what `views` says."""
    model = ModelTeacher(_teacher(lab, seed))
    if views == "fixed":
        return store(model, lab.sets["train"], clean=True)
    return OtherViews(model, Augment(shift=lab.budget["shift"]), seed) if views == "independent" else model


def _student(lab: Lab, seed: int, views: str, epochs: int, keys: Mapping[str, Any], **changes: Any) -> nn.Module:
    """Train a student on shifted images: with a teacher who sees `views`, or on "labels"."""
    keys, alone = dict(keys), views == "labels"
    training = {**lab.budget["training"], "learning_rate": keys.pop("learning_rate"), "epochs": epochs, **changes}
    mixup = lab.budget["mixup"] if views == "mixed" else 0.0
    return lab.train(
        f"student, {views}",
        lab.budget["student"],
        methods.hard() if alone else methods.kd(hard_weight=0.0, soft_weight=1.0, **keys),
        lab.sets["train"],
        Training(**training, augment=Augment(shift=lab.budget["shift"], mixup=mixup)),
        seed,
        teacher=None if alone else _asked(lab, seed, views),
        held_out=lab.sets["held_out"] if changes else None,
        views=views,
    ).student


def _settings(lab: Lab, views: str, schedule: str = "short") -> dict[str, Any]:
    """Return what makes the fewest held-out errors on a schedule at seed 0; all students have as many candidates.

    The long schedule has a learning rate of its own, and keeps the short one's temperature.
    """

    def search() -> dict[str, Any]:
        held_out, epochs = lab.sets["held_out"], lab.budget[schedule]

        def errors(keys: Mapping[str, Any]) -> float:
            model = _student(lab, 0, views, epochs, keys)
            return measure(predict(model, held_out), held_out.labels).errors

        found: dict[str, Any] = min(_candidates(lab, views, schedule), key=errors)
        return found

    chosen: dict[str, Any] = lab.choose(f"settings-{views}-{schedule}", search)
    return chosen


def _candidates(lab: Lab, views: str, schedule: str) -> list[dict[str, Any]]:
    if schedule == "long":
        short = _settings(lab, views)
        return [{**short, "learning_rate": rate} for rate in lab.budget["search"]["long"]]
    found: list[dict[str, Any]] = lab.budget["search"]["labels" if views == "labels" else "teacher"]
    return found


def _epochs_in_all(lab: Lab) -> int:
    """Return for how many epochs the student alone has the compute of the long schedule with a teacher at its side."""
    student, teacher = (forward_flops(_blank(lab, name), lab.sets["train"]) for name in ("student", "teacher"))
    epochs: int = lab.budget["long"]
    return round(epochs * (1 + teacher / (LEARNING * student)))


def _blank(lab: Lab, name: str) -> nn.Module:
    keys = dict(lab.budget[name])
    samples = lab.sets["train"]
    return models.builder(keys.pop("kind"))(samples.input_shape, samples.classes, **keys)


# -- the rows ----------------------------------------------------------------------------------------------------------


def _errors(lab: Lab, model: nn.Module) -> float:
    return measure(predict(model, lab.sets["test"]), lab.sets["test"].labels).errors


def _run(lab: Lab, seed: int, *, views: str, schedule: str) -> dict[str, float]:
    """Return the test errors, and how often the student says what its teacher says."""
    model = _student(lab, seed, views, lab.budget[schedule], _settings(lab, views, schedule))
    said, taught = (predict(each, lab.sets["test"]) for each in (model, _teacher(lab, seed)))
    agreement = 100.0 * fidelity(said, taught).agreement
    return {"errors": _errors(lab, model), "agreement with the teacher, %": agreement}


def _run_teacher(lab: Lab, seed: int) -> dict[str, float]:
    return {"errors": _errors(lab, _teacher(lab, seed))}


def _run_longer(lab: Lab, seed: int) -> dict[str, float]:
    epochs = _epochs_in_all(lab)
    model = _student(lab, seed, "labels", epochs, _settings(lab, "labels", "long"), keep="best")
    return {"errors": _errors(lab, model), "epochs": float(epochs)}


def _rows() -> Sequence[Row]:
    errors, agreement = Figure("errors"), Figure("agreement with the teacher, %")
    rows = [Row("teacher", "teacher", (errors,), _run_teacher)]
    for schedule, title in (("short", "short schedule"), ("long", "long schedule")):
        for views, what in {"labels": "labels alone", **_VIEWS}.items():
            run = partial(_run, views=views, schedule=schedule)
            rows.append(Row(f"{schedule}-{views}", f"{title}: {what}", (errors, agreement), run))
    longer = "labels alone, for the compute of the long schedule with its teacher"
    return [*rows, Row("longer", longer, (errors, Figure("epochs")), _run_longer)]


REPRODUCTION = Reproduction(
    name="beyer2022-patient",
    title="Beyer et al. (2022), Knowledge distillation: A good teacher is patient and consistent",
    rows=tuple(_rows()),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2), "full": (0, 1, 2)},
    load=_load,
)
