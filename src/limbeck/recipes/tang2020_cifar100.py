"""CIFAR-100 as Tang et al. (2020) have it: a residual network teaches a smaller one each part of what it says.

Every student but that on hard labels has the same temperature, weights and training; only the target differs.  What is
free in a target (the smoothing, KD-sim's τ, KD-rel's masses) is matched to the teacher's answers to the training set:
each target is as sure of the true class, on average, as the teacher is.  So nothing is searched for, and no sample is
held out.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import methods
from limbeck.data import Augment, SampleSet
from limbeck.diagnosis.arms import matched_tau
from limbeck.losses import soften
from limbeck.objective import Objective
from limbeck.recipes.parts import image_sets, percent_wrong
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.targets import (
    Mixture,
    RelatedClasses,
    SimilarClasses,
    SmoothedLabels,
    Softmax,
    Target,
    TopK,
    TrueClass,
)
from limbeck.teacher import Teacher
from limbeck.teachers import ModelTeacher, StoredTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

_POWER = 0.3
_PAPER = {
    "teacher": 75.68,
    "hard": 72.51,
    "ls": 73.87,
    "kd": 75.94,
    "pt": 75.08,
    "sim": 74.30,
    "pt-sim": 75.24,
    "topk": 76.17,
    "rel": 74.14,
    "pt-rel": 75.07,
}
_TITLES = {
    "hard": "student, hard labels",
    "ls": "student, label smoothing",
    "kd": "student, KD",
    "pt": "student, KD-pt",
    "sim": "student, KD-sim",
    "topk": "student, KD-topk, k = 25 % of the classes",
    "pt-sim": "student, KD-pt+sim",
    "rel": "student, KD-rel",
    "pt-rel": "student, KD-pt+rel",
}

_FULL: dict[str, Any] = {
    "train": 50000,
    "groups": 20,
    "teacher": {"kind": "resnet", "depth": 56},
    "student": {"kind": "resnet", "depth": 20},
    "teacher_epochs": 205,
    "epochs": 205,
    "temperature": 4.0,
    "alpha": 0.1,
    "one_teacher": False,
    "stored": False,
    "training": {
        "batch_size": 128,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.001,
        "schedule": "step",
        "milestones": [102.3, 153.5],
        "precision": "bf16",
        "memory_format": "channels_last",
    },
    "augment": {"pad_crop": 4, "flip": 0.5, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
}
_REDUCED = {
    **_FULL,
    "groups": 4,
    "teacher": {"kind": "resnet", "depth": 20},
    "student": {"kind": "resnet", "depth": 8},
    "teacher_epochs": 12,
    "epochs": 10,
    "one_teacher": True,
    "stored": True,
    "training": {**_FULL["training"], "schedule": "cosine", "milestones": []},
    "augment": {"pad_crop": 4, "flip": 0.5},
}


def _load(folder: Path | None, budget: Mapping[str, Any]) -> dict[str, SampleSet]:
    """Return the classes of the first groups, as a set of their own."""
    sets = image_sets("cifar100", folder, train=budget["train"], held_out=0)
    return {part: _of_groups(sets[part], budget["groups"]) for part in ("train", "test")}


def _of_groups(samples: SampleSet, count: int) -> SampleSet:
    if samples.groups is None or count == len(samples.group_names):
        return samples
    classes = [number for number, group in enumerate(samples.groups) if group < count]
    return samples.only_classes(classes).relabelled(classes)


def _training(lab: Lab, epochs: int) -> Training:
    return Training(epochs=epochs, augment=Augment(**lab.budget["augment"]), **lab.budget["training"])


# -- the teacher -------------------------------------------------------------------------------------------------------


def _teacher_model(lab: Lab, seed: int) -> nn.Module:
    """Train a seed's teacher, or the one that all seeds share."""
    own = 0 if lab.budget["one_teacher"] else seed
    training = _training(lab, lab.budget["teacher_epochs"])
    return lab.train("teacher", lab.budget["teacher"], methods.hard(), lab.sets["train"], training, own).student


def _answers(lab: Lab, seed: int) -> StoredTeacher:
    """Return what the teacher says of the training set, computed once on the images as they are."""

    def answers() -> StoredTeacher:
        return store(ModelTeacher(_teacher_model(lab, seed)), lab.sets["train"], clean=True)

    stored: StoredTeacher = lab.remember(f"answers {0 if lab.budget['one_teacher'] else seed}", answers)
    return stored


def _teacher(lab: Lab, seed: int) -> Teacher:
    """Return who teaches: what is stored, or the network itself, which then sees what the student sees."""
    return _answers(lab, seed) if lab.budget["stored"] else ModelTeacher(_teacher_model(lab, seed))


# -- the targets -------------------------------------------------------------------------------------------------------


def _masses(probabilities: Tensor, labels: Tensor, groups: Tensor) -> tuple[float, float, float]:
    """Return the mean mass of rows (n, K) on the true class, on its siblings, and on the rest."""
    true = probabilities.gather(1, labels[:, None]).squeeze(1)
    family = torch.where(groups[labels][:, None] == groups, probabilities, 0.0).sum(1)
    first, second = float(true.mean()), float((family - true).mean())
    return first, second, 1.0 - first - second


def _targets(lab: Lab, seed: int) -> dict[str, Target]:
    """Return the target of each student, those that are free matched to the teacher's mean confidence."""
    answers, samples = _answers(lab, seed), lab.sets["train"]
    if samples.groups is None:
        raise ValueError("CIFAR-100 with its fine labels knows the groups")
    said = soften(answers.logits.double(), lab.budget["temperature"]).log_probs.exp()
    masses = _masses(said, samples.labels, torch.tensor(samples.groups))
    tau = matched_tau(answers.class_vectors(), samples.labels, masses[0])
    smoothing = SmoothedLabels(min(1.0, (1.0 - masses[0]) * samples.classes / (samples.classes - 1)))
    alike, related = SimilarClasses(_POWER, tau), RelatedClasses("coarse", masses)
    return {
        "ls": smoothing,
        "kd": Softmax(),
        "pt": TrueClass(),
        "sim": alike,
        "topk": TopK(share=0.25),
        "pt-sim": Mixture((TrueClass(), alike)),
        "rel": related,
        "pt-rel": Mixture((TrueClass(), related)),
    }


def _objective(lab: Lab, seed: int, name: str) -> Objective:
    if name == "hard":
        return methods.hard()
    return methods.kd(lab.budget["temperature"], lab.budget["alpha"], target=_targets(lab, seed)[name])


# -- the rows ----------------------------------------------------------------------------------------------------------


def _accuracy(lab: Lab, seed: int, name: str) -> float:
    """Return the test accuracy of a student's last weights, in percent."""
    objective = _objective(lab, seed, name)
    training = _training(lab, lab.budget["epochs"])
    teacher = _teacher(lab, seed) if "teacher" in objective.reads() else None
    model = lab.train(
        name, lab.budget["student"], objective, lab.sets["train"], training, seed, teacher=teacher
    ).student
    return 100.0 - percent_wrong(model, lab.sets["test"])


def _run_teacher(lab: Lab, seed: int) -> dict[str, float]:
    return {"accuracy, %": 100.0 - percent_wrong(_teacher_model(lab, seed), lab.sets["test"])}


def _run(lab: Lab, seed: int, *, name: str) -> dict[str, float]:
    accuracy = _accuracy(lab, seed, name)
    found = {"accuracy, %": accuracy}
    if name != "hard":
        found["above hard labels"] = accuracy - _accuracy(lab, seed, "hard")
    return found


def _row(name: str) -> Row:
    figures = [Figure("accuracy, %", _PAPER[name])]
    if name != "hard":
        figures.append(Figure("above hard labels", round(_PAPER[name] - _PAPER["hard"], 2), "at least", 0.0))
    run: Callable[[Lab, int], dict[str, float]] = partial(_run, name=name)
    return Row(name, _TITLES[name], tuple(figures), run)


REPRODUCTION = Reproduction(
    name="tang2020-cifar100",
    title="Tang et al. (2020), Understanding and Improving Knowledge Distillation, CIFAR-100, ResNet-56 into ResNet-20",
    rows=(
        Row("teacher", "teacher", (Figure("accuracy, %", _PAPER["teacher"]),), _run_teacher),
        *(_row(name) for name in _TITLES),
    ),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2), "full": (0, 1, 2)},
    load=_load,
)
