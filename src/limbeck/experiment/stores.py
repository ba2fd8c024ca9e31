"""The stores of a recipe's teacher: what is to be stored, where, and the teacher that reads it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from limbeck import schemes
from limbeck.cache import CachedTeacher, Order, build_store, keys_of
from limbeck.cache.plan import key_of, refuse_unstorable
from limbeck.cache.reader import feature_name
from limbeck.config import Recipe
from limbeck.config.stores import StoreSpec
from limbeck.data import SampleSet
from limbeck.errors import InputError, RecipeError
from limbeck.experiment.parts import Parts
from limbeck.objective import Objective
from limbeck.own import cache_folder, require_own
from limbeck.randomness import derive_seed
from limbeck.teacher import Teacher
from limbeck.teachers import StoredTeacher

__all__ = ["STORED", "folder_of_store", "order_of", "require_storable", "spec_of", "stored_on_disk"]

STORED = (StoredTeacher, CachedTeacher)
"""Teachers whose answers were computed once."""


def order_of(recipe: Recipe, samples: SampleSet, seed: int, objective: Objective | None = None) -> Order:
    """Return what is asked of a recipe's teacher for the student of a seed.

    objective: what reads it, by default the recipe's.  Raises RecipeError for what cannot be stored.
    """
    objective, training, spec = objective or recipe.inspected, recipe.training, spec_of(recipe)
    encoding = spec.encoding_for(objective)
    if objective.needs_network:
        raise RecipeError(
            "teacher.store: the method differentiates the teacher, or asks it about other inputs, which no stored"
            " answers can do; expected false. Set teacher.store: false"
        )
    clean = recipe.teacher.view == "clean"
    random_views = training.augment.active and not clean
    shown = training.epochs if training.views is None else min(training.views, training.epochs)
    if spec.views is not None and not random_views:
        raise RecipeError(
            f"teacher.store.views: found {spec.views}, but the teacher sees each sample as it is; expected none. Leave"
            " views out"
        )
    if spec.views is not None and spec.views < shown:
        raise RecipeError(
            f"teacher.store.views: found {spec.views}, but the training shows {shown}; expected at least {shown}. Set"
            f" training.views: {spec.views}, so that it shows these in turn"
        )
    try:
        refuse_unstorable(samples, training.augment if random_views else None)
    except InputError as error:
        raise RecipeError(f"teacher.store: {error}") from None
    return Order(
        samples,
        encoding,
        augment=training.augment if random_views else None,
        seed=derive_seed(seed, "data"),
        views=tuple(range(1, (spec.views or shown) + 1)) if random_views else (0,),
        clean=clean,
        taps=objective.taps("teacher") or None,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


def require_storable(recipe: Recipe, samples: SampleSet) -> None:
    """Raise RecipeError if the recipe stores its teacher on disk in a way that its method or data does not allow."""
    if not isinstance(recipe.teacher.store, StoreSpec) or "teacher" not in recipe.inspected.reads():
        return
    order = order_of(recipe, samples, recipe.seeds[0])
    if order.augment is not None and not recipe.scheme.single:
        raise RecipeError(
            f"teacher.store: the scheme {schemes.name_of(recipe.scheme)} has several trainings, which show views of"
            " their own; expected one training, or answers to the samples as they are. Set teacher.view: clean, leave"
            " augment out, or set store: false"
        )


def folder_of_store(
    recipe: Recipe, teacher: Teacher, order: Order, parts: Parts, seed: int, *, own: bool = True
) -> Path:
    """Return the folder of a store: the one that the recipe names, or one in the cache by what decides its answers.

    In the folder that a recipe names, seeds that need stores of their own, a refit on all of the training data and
    teachers that a scheme makes have folders of theirs.
    """
    spec = spec_of(recipe)
    if spec.path is not None:
        apart = len(recipe.seeds) > 1 and (recipe.teacher.seed is None or order.augment is not None)
        parts_of_path = [f"seed-{seed}"] if apart else []
        parts_of_path += ["refit"] if recipe.refit and parts.held_out is None else []
        parts_of_path += [] if own else [f"teacher-{teacher.fingerprint()[:12]}"]
        return spec.path.joinpath(*parts_of_path)
    taps = sorted(feature_name(tap) for tap in (order.taps or {}).values())
    content = [asdict(key_of(teacher, order)), keys_of(order.encoding), order.samples.digest(), taps]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "stores" / digest[:24]


def spec_of(recipe: Recipe) -> StoreSpec:
    """Return how a recipe's teacher is stored on disk, dense where it does not say."""
    store = recipe.teacher.store
    return store if isinstance(store, StoreSpec) else StoreSpec("dense", {})


def stored_on_disk(
    recipe: Recipe,
    teacher: Teacher,
    parts: Parts,
    seed: int,
    objective: Objective | None = None,
    *,
    own: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CachedTeacher:
    """Return the teacher that reads a recipe's store, which is built as far as it is missing."""
    order = order_of(recipe, parts.transfer, seed, objective)
    folder = folder_of_store(recipe, teacher, order, parts, seed, own=own)
    if spec_of(recipe).path is None:
        require_own(folder, cache_folder())
    found = build_store(teacher, folder, order, progress=progress)
    teacher.to("cpu")
    return found
