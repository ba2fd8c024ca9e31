"""The stores of a whole recipe, built, found and verified: what `limbeck cache` does."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from limbeck.cache import CachedTeacher, Order, Store
from limbeck.cache.build import build_store
from limbeck.cache.plan import input_digest
from limbeck.cache.verify import Verified, verify_store
from limbeck.config import Recipe
from limbeck.errors import CheckpointError, RecipeError
from limbeck.experiment.building import as_teacher
from limbeck.experiment.parts import Parts, prepare
from limbeck.experiment.stores import folder_of_store, order_of, spec_of
from limbeck.experiment.teacher import trained_teacher
from limbeck.experiment.vetting import vet
from limbeck.own import cache_folder, require_own
from limbeck.teacher import Teacher
from limbeck.training import Observer
from limbeck.training.progress import ignore

__all__ = ["BuiltStore", "build_stores", "stores_like", "verify_stores"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuiltStore:
    """A store of a recipe: the student's seed that it is for, its folder and the teacher that reads it."""

    seed: int
    folder: Path
    teacher: CachedTeacher


def build_stores(
    recipe: Recipe,
    *,
    watch: Observer = ignore,
    say: Say = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[BuiltStore]:
    """Build the stores of a recipe's teacher, as far as they are missing; the teacher is trained, or read, first."""
    found: dict[Path, BuiltStore] = {}
    for seed, teacher, order, parts in _asked(recipe, watch, say):
        folder = folder_of_store(recipe, teacher, order, parts, seed)
        if folder in found:
            continue
        if spec_of(recipe).path is None:
            require_own(folder, cache_folder())
        found[folder] = BuiltStore(seed, folder, build_store(teacher, folder, order, progress=progress))
        teacher.to("cpu")
    return list(found.values())


def verify_stores(
    recipe: Recipe,
    folder: Path,
    *,
    samples: int = 100,
    seed: int = 0,
    watch: Observer = ignore,
    say: Say = lambda line: None,
) -> Verified:
    """Ask a recipe's teacher again about some samples of a store, which is that of one of the recipe's seeds.

    Raises CheckpointError where the store is damaged, or of something else.
    """
    store = Store(folder)
    first: CheckpointError | None = None
    for _, teacher, order, _ in _asked(recipe, watch, say, encoded=False):
        try:
            return verify_store(teacher, store, replace(order, encoding=store.encoding), samples=samples, seed=seed)
        except CheckpointError as error:
            if error.exit_code == 1:  # it is the teacher's store, and wrong
                raise
            first = first or error
    raise first or RecipeError("seeds: found none")


def stores_like(recipe: Recipe) -> list[Path]:
    """Return the folders of the stores that hold answers to a recipe's samples, in its `path` and in the cache."""
    parts = vet(recipe, trains=False)
    samples = parts.transfer
    wanted = {order_of(recipe, samples, seed).augmentation for seed in recipe.seeds}
    path, top = spec_of(recipe).path, cache_folder() / "stores"
    folders = sorted(
        {header.parent for place in (path, top) if place is not None for header in place.rglob("header.json")}
    )
    found = []
    for folder in folders:
        try:
            key = Store(folder).header.key
        except CheckpointError:
            continue
        if key.source == samples.source and key.input == input_digest(samples) and key.augmentation in wanted:
            found.append(folder)
    return found


def _asked(
    recipe: Recipe, watch: Observer, say: Say, *, encoded: bool = True
) -> Iterator[tuple[int, Teacher, Order, Parts]]:
    """Yield for each seed the recipe's teacher and what is asked of it.

    encoded: whether the recipe's own encoding counts; otherwise answers are dense.
    """
    if "teacher" not in recipe.inspected.reads():
        raise RecipeError(f"method.name: '{recipe.method.name}' has no teacher; expected a method that learns from one")
    parts = vet(recipe, trains=False)
    if recipe.refit:
        parts = prepare(recipe, refit=True, splits=parts.of_teacher.whole)
    plain = recipe if encoded else replace(recipe, teacher=replace(recipe.teacher, store=True))
    for seed in recipe.seeds:
        taught = trained_teacher(recipe, parts, recipe.teacher.of(seed), watch=watch, say=say)
        yield seed, as_teacher(recipe, taught.model), order_of(plain, parts.transfer, seed), parts
