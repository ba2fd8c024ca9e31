"""Getting a recipe's teacher: from a checkpoint, from the cache, or by training it once for all who want the same."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.config import MemberSpec, Recipe
from limbeck.distiller import Distiller
from limbeck.errors import RunError
from limbeck.evaluation import evaluate
from limbeck.evaluation.figures import figures_of
from limbeck.experiment.cost import Compute, spent
from limbeck.experiment.prepare import Parts, as_teacher, assembled, estimator_of, read_answers, seeded_build
from limbeck.identity import network_digests
from limbeck.locks import exclusive
from limbeck.own import require_own
from limbeck.ranks import first_does, held_by_first, is_first
from limbeck.runs import cache_folder
from limbeck.teacher import Teacher
from limbeck.teachers import store
from limbeck.teachers.estimators import Fitted
from limbeck.training import Observer, fit
from limbeck.training.checkpoints import read_sealed, write_sealed
from limbeck.training.progress import Progress, ignore
from limbeck.training.weights import is_signed, load_signed, save_signed

__all__ = ["TrainedTeacher", "teacher_key", "train_teacher", "trained_teacher", "wrap_teacher"]

_FORMAT = 3
"""Raised whenever the same recipe would train another teacher, so that no older one is reused."""


@dataclass(frozen=True)
class TrainedTeacher:
    """A trained teacher, and what its training took, in this run or before; nothing where it was read from a file.

    first: of the first network, where there are several.
    along: the network as it was after the epochs of its training that the recipe's scheme asks for.
    history: of that training, one entry an epoch.
    """

    model: nn.Module
    compute: Compute
    first: Compute = field(default_factory=Compute)
    along: Mapping[int, nn.Module] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()


def teacher_key(
    recipe: Recipe, parts: Parts, seed: int, member: MemberSpec | None = None, model: nn.Module | None = None
) -> str:
    """Return the address of a trained network: a digest of its part of the recipe, its data, its seed and its code.

    member: the network; by default the teacher's first.  model: what it is built as, before it is trained.
    """
    member = member or recipe.teacher.members[0]
    parts = parts.of_teacher
    model = seeded_build(member.model, parts.train, seed, "teacher") if model is None else model
    content = {
        "format": _FORMAT,
        "teacher": member.keys,
        "network": network_digests(model, "teacher", "keep it out of the network"),
        "samples": parts.train.digest(),
        "held_out": None if parts.held_out is None else parts.held_out.digest(),
        "seed": seed,
        "code": member.model.code(),
    }
    if member.estimator:
        import sklearn

        content["scikit-learn"] = sklearn.__version__
    if recipe.scheme.along:
        content["along"] = list(recipe.scheme.along)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def train_teacher(
    recipe: Recipe,
    parts: Parts,
    seed: int,
    *,
    watch: Observer = ignore,
    say: Callable[[str], None] = lambda line: None,
    cache: Path | None = None,
) -> nn.Module:
    """Return the trained teacher of a recipe.

    A checkpoint in the recipe is loaded.  Otherwise the teacher is trained in the cache under an address made of
    its recipe, data and seed, and found there the next time; a second process that wants the same waits for the first.
    """
    return trained_teacher(recipe, parts, seed, watch=watch, say=say, cache=cache).model


def trained_teacher(
    recipe: Recipe,
    parts: Parts,
    seed: int,
    *,
    watch: Observer = ignore,
    say: Callable[[str], None] = lambda line: None,
    cache: Path | None = None,
) -> TrainedTeacher:
    """Return the trained teacher of a recipe, as `train_teacher` does, and the compute of its training."""
    root = (cache or cache_folder()) / "teachers"
    members = []
    for number, (member, own) in enumerate(zip(recipe.teacher.members, recipe.teacher.seeds(seed), strict=True)):
        label = "teacher" if recipe.teacher.single else f"teacher {number + 1} of {len(recipe.teacher.members)}"
        members.append(_member(recipe, member, parts, own, root, watch, say, label))
    if recipe.teacher.single:
        return members[0]
    model = assembled(recipe, [member.model for member in members])
    return TrainedTeacher(model, sum((member.compute for member in members), Compute()), members[0].compute)


def _member(
    recipe: Recipe,
    member: MemberSpec,
    parts: Parts,
    seed: int,
    root: Path,
    watch: Observer,
    say: Callable[[str], None],
    label: str,
) -> TrainedTeacher:
    taught = parts.of_teacher
    model = seeded_build(member.model, taught.train, seed, "teacher")
    if member.arrays:
        read_answers(model, parts)
        say(f"{label}: its answers were read from {member.keys['arrays']['path']}")
        return TrainedTeacher(parts.serving(model), Compute())
    if member.model.checkpoint is not None:
        say(f"{label}: read from {member.model.checkpoint}")
        return TrainedTeacher(parts.serving(model), Compute())
    folder = root / teacher_key(recipe, parts, seed, member, model)
    if member.estimator:
        require_own(folder, root.parent)
        fitted = estimator_of(model)
        _fit_estimator(fitted, taught, seed, folder, say, label)
        return TrainedTeacher(parts.serving(fitted), Compute())
    require_own(folder, root.parent)
    with held_by_first(folder / ".lock", wait=True, busy=f"{label}: another process trains it in '{folder}'"):
        known = (folder / "result.json").is_file()
        say(f"{label}: {'found in' if known else 'training in'} {folder}")
        objective = member.method.build()
        result = fit(
            Distiller(model, None, objective),
            taught.train,
            taught.held_out,
            training=member.training,
            seed=seed,
            folder=folder,
            watch=_keeping(recipe.scheme.along, model, folder, watch),
            label=label,
        )
    along = {epoch: _along(recipe, parts, seed, folder, epoch) for epoch in recipe.scheme.along}
    compute = spent(model, None, objective, result, taught.train)
    return TrainedTeacher(parts.serving(model), compute, along=along, history=result.history)


def _fit_estimator(
    model: Fitted, parts: Parts, seed: int, folder: Path, say: Callable[[str], None], label: str
) -> None:
    """Fit an estimator in a folder, with its figures beside it, or read it where it lies there finished."""
    weights, result = folder / "estimator.safetensors", folder / "result.json"

    def made() -> str:
        busy = f"{label}: another process fits it in '{folder}'"
        with exclusive(folder / ".lock", wait=True, busy=busy):
            known = result.is_file() and is_signed(weights)
            if known:
                load_signed(model, weights)
            else:
                model.fit(parts.train, seed)
                save_signed(model, weights)
                sets = {"train": parts.train, "held_out": parts.held_out}
                write_sealed(result, {name: evaluate(model, part).as_dict() for name, part in sets.items() if part})
            figures = read_sealed(result)
        part = "held_out" if "held_out" in figures else "train"
        found = f"{figures_of(parts.train.task).accuracy} {figures[part]['accuracy']:.4f}"
        how = "found in" if known else "fitted by scikit-learn in"
        return f"{label}: {how} {folder}, {found} on its {part.replace('_', '-')} part"

    line = first_does(made)
    if not is_first():
        load_signed(model, weights)
    say(line)


def _keeping(epochs: Sequence[int], model: nn.Module, folder: Path, watch: Observer) -> Observer:
    """Return an observer that keeps the model's weights after some epochs."""

    def look(progress: Progress) -> None:
        if progress.epoch_ended and progress.epoch in epochs and is_first():
            save_signed(model, folder / _after(progress.epoch))
        watch(progress)

    return look if epochs else watch


def _along(recipe: Recipe, parts: Parts, seed: int, folder: Path, epoch: int) -> nn.Module:
    """Return the teacher as it was after an epoch."""
    path = folder / _after(epoch)
    if not is_signed(path):
        raise RunError(
            f"teacher: it ended before epoch {epoch}, or '{path}' was taken away; name earlier epochs, or delete "
            f"'{folder}' to train it again"
        )
    model = seeded_build(recipe.teacher.model, parts.of_teacher.train, seed, "teacher")
    load_signed(model, path)
    return parts.serving(model)


def _after(epoch: int) -> str:
    return f"after-epoch-{epoch}.safetensors"


def wrap_teacher(recipe: Recipe, model: nn.Module, parts: Parts) -> Teacher:
    """Make a model the teacher of a recipe's transfer set; its answers are computed once wherever that is exact."""
    teacher = as_teacher(recipe, model)
    clean = recipe.teacher.view == "clean"
    exact = clean or not recipe.training.augment.active
    logits_only = not recipe.objective().taps("teacher")
    if recipe.teacher.store and exact and logits_only:
        return store(teacher, parts.transfer, clean=clean)
    return teacher
