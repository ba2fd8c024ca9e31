"""Getting a recipe's teacher: from a checkpoint, from the cache, or by training it once for all who want the same."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.config import Recipe
from limbeck.distiller import Distiller, Teacher
from limbeck.errors import RunError
from limbeck.runs import cache_folder, exclusive
from limbeck.schemes.costing import Compute, spent
from limbeck.schemes.preparing import Parts, seeded_build
from limbeck.teachers import ModelTeacher, store
from limbeck.training import Observer, fit, load_weights, save_weights
from limbeck.training.progress import Progress, ignore

__all__ = ["TrainedTeacher", "teacher_key", "train_teacher", "trained_teacher", "wrap_teacher"]

_FORMAT = 2
"""Raised whenever the same recipe would train another teacher, so that no older one is reused."""


@dataclass(frozen=True)
class TrainedTeacher:
    """A trained teacher, and what its training took, whoever trained it; nothing where it was read from a file.

    along: the network as it was after the epochs of its training that the recipe's scheme asks for.
    history: of that training, one entry an epoch.
    """

    model: nn.Module
    compute: Compute
    along: Mapping[int, nn.Module] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()


def teacher_key(recipe: Recipe, parts: Parts, seed: int) -> str:
    """Return the address of a trained teacher: a digest of its part of the recipe, its data and its seed."""
    digest = hashlib.sha256(parts.train.index.cpu().numpy().tobytes())
    content = {
        "format": _FORMAT,
        "teacher": {key: recipe.keys["teacher"][key] for key in ("model", "training", "method")},
        "data": parts.train.source,
        "samples": digest.hexdigest(),
        "held_out": parts.held_out is not None,
        "seed": seed,
    }
    if recipe.scheme.along:
        content["along"] = list(recipe.scheme.along)
    if (code := recipe.teacher.model.code()) is not None:
        content["code"] = code
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
    model = seeded_build(recipe.teacher.model, parts.train, seed, "teacher")
    if recipe.teacher.model.checkpoint is not None:
        say(f"teacher: read from {recipe.teacher.model.checkpoint}")
        return TrainedTeacher(model, Compute())
    folder = (cache or cache_folder()) / "teachers" / teacher_key(recipe, parts, seed)
    with exclusive(folder / ".lock", wait=True, busy=""):
        known = (folder / "result.json").is_file()
        say(f"teacher: {'found in' if known else 'training in'} {folder}")
        objective = recipe.teacher.method.build()
        result = fit(
            Distiller(model, None, objective),
            parts.train,
            parts.held_out,
            training=recipe.teacher.training,
            seed=seed,
            folder=folder,
            watch=_keeping(recipe.scheme.along, model, folder, watch),
            label="teacher",
        )
    along = {epoch: _along(recipe, parts, seed, folder, epoch) for epoch in recipe.scheme.along}
    return TrainedTeacher(model, spent(model, None, objective, result, parts.train), along, result.history)


def _keeping(epochs: Sequence[int], model: nn.Module, folder: Path, watch: Observer) -> Observer:
    """Return an observer that keeps the model's weights after some epochs."""

    def look(progress: Progress) -> None:
        if progress.epoch_ended and progress.epoch in epochs:
            aside = folder / f".{_after(progress.epoch)}.tmp"
            save_weights(model, aside)
            aside.replace(folder / _after(progress.epoch))
        watch(progress)

    return look if epochs else watch


def _along(recipe: Recipe, parts: Parts, seed: int, folder: Path, epoch: int) -> nn.Module:
    """Return the teacher as it was after an epoch."""
    path = folder / _after(epoch)
    if not path.is_file():
        raise RunError(
            f"teacher: it ended before epoch {epoch}, or '{path}' was taken away; name earlier epochs, or delete "
            f"'{folder}' to train it again"
        )
    model = seeded_build(recipe.teacher.model, parts.train, seed, "teacher")
    load_weights(model, path)
    return model


def _after(epoch: int) -> str:
    return f"after-epoch-{epoch}.safetensors"


def wrap_teacher(recipe: Recipe, model: nn.Module, parts: Parts) -> Teacher:
    """Make a model the teacher of a recipe's transfer set; its answers are computed once wherever that is exact."""
    clean = recipe.teacher.view == "clean"
    teacher = ModelTeacher(model, view="clean" if clean else None)
    exact = clean or not recipe.training.augment.active
    logits_only = not recipe.objective().taps("teacher")
    if recipe.teacher.store and exact and logits_only:
        return store(teacher, parts.transfer, clean=clean)
    return teacher
