"""Stores of answers that a recipe names as its teacher: whether they fit its samples, and who reads them."""

from pathlib import Path

import numpy as np
from torch import nn

from limbeck.cache import CachedTeacher, SampledEncoding, TopKEncoding
from limbeck.cache.plan import input_digest
from limbeck.cache.reader import turns_of
from limbeck.config import Recipe
from limbeck.data import SampleSet
from limbeck.errors import InputError, RecipeError
from limbeck.experiment.parts import Parts, prepare
from limbeck.tasks import Need
from limbeck.teachers.answers import answers_of

__all__ = ["fill_from_stores", "require_stored_answers", "stored_answers"]


def stored_answers(recipe: Recipe) -> CachedTeacher | None:
    """Return the teacher that reads the store that a recipe names; None where its teacher is another."""
    member = recipe.teacher.members[0]
    if not member.stored:
        return None
    return CachedTeacher(_folder(member.keys["stored"]["path"], f"{member.model.where}.path", "transfer"))


def require_stored_answers(recipe: Recipe, parts: Parts) -> None:
    """Require that stores answer what a recipe's trainings show, and its test part; RecipeError otherwise.

    Raises CheckpointError for a store that is damaged.
    """
    teacher, member = stored_answers(recipe), recipe.teacher.members[0]
    if teacher is None:
        return
    where = member.model.where
    parts.train.task.require(
        Need.ONE_LABEL,
        what=f"{where}: the figures of a stored teacher are for",
        mend="give limbeck.CachedTeacher to limbeck.fit in Python",
        error=RecipeError,
    )
    if recipe.classes is not None:
        raise RecipeError(f"classes: found beside {where}, whose answers are to all classes; leave one of them out")
    if recipe.inspected.needs_network:
        raise RecipeError(
            f"{where}: the method differentiates the teacher, or asks it about other inputs, which no stored answers"
            " can do; expected a network. Name one under teacher.model, or another method"
        )
    whole = prepare(recipe, refit=True, splits=parts.whole) if recipe.refit else parts
    _require_answers(teacher, whole.transfer, f"{where}.path", "transfer")
    if recipe.training.augment.active and not (teacher.store.header.key.clean and recipe.teacher.view == "clean"):
        raise RecipeError(
            f"teacher.view: found {recipe.teacher.view}, but training.augment shows random views, to which"
            f" '{teacher.store.folder}' has no answers; expected clean, for both the import and the training. Set"
            " teacher.view: clean and import the answers again, or leave augment out"
        )
    test = CachedTeacher(_folder(member.keys["stored"]["test"], f"{where}.test", "test"))
    _require_answers(test, parts.test, f"{where}.test", "test")
    if isinstance(test.encoding, SampledEncoding):
        raise RecipeError(
            f"{where}.test: found sampled answers, by which no teacher is measured; expected dense or topk ones"
        )
    if isinstance(test.encoding, TopKEncoding) and 1.0 not in test.encoding.temperatures:
        raise RecipeError(f"{where}.test: found no answers at temperature 1; expected them. Store them at it as well")


def fill_from_stores(recipe: Recipe, model: nn.Module, parts: Parts) -> None:
    """Let the network of a stored teacher answer the transfer set and the test part, by which it is measured."""
    keys, teacher = recipe.teacher.members[0].keys["stored"], stored_answers(recipe)
    if teacher is None:
        raise ValueError("the recipe's teacher reads no store")
    answers_of(model).fill([(parts.transfer, teacher), (parts.test, CachedTeacher(keys["test"]))])


def _folder(path: str, where: str, part: str) -> Path:
    """Return a store's folder, which must be there."""
    if not (Path(path) / "header.json").is_file():
        raise RecipeError(
            f"{where}: found no store in '{path}'; expected answers to the {part} part. Import them: limbeck cache"
            f" import FILE RECIPE{' --part test' if part == 'test' else ''} --path '{path}'"
        )
    return Path(path)


def _require_answers(teacher: CachedTeacher, samples: SampleSet, where: str, part: str) -> None:
    """Require that a store answers all samples of a part, as they are."""
    header, folder = teacher.store.header, teacher.store.folder
    named = f"'{folder}'"
    mend = "import the answers with this recipe"
    if header.key.source != samples.source:
        raise RecipeError(f"{where}: {named} has answers to another set than '{samples.name}'; {mend}")
    if header.key.input != input_digest(samples) or header.key.lanes != samples.lanes:
        raise RecipeError(
            f"{where}: {named} has answers to '{samples.name}' in another normalisation, size or form; {mend}"
        )
    if header.key.augmentation:
        raise RecipeError(
            f"{where}: {named} has answers to random views; expected answers to samples as they are."
            f" {mend.capitalize()}"
        )
    if header.classes != samples.classes:
        raise RecipeError(
            f"{where}: {named} has answers of {header.classes:,} classes, expected {samples.classes:,}; {mend}"
        )
    try:
        teacher.store.positions(samples.index.numpy().astype(np.int64), turns_of(samples.index).numpy())
    except InputError:
        raise RecipeError(
            f"{where}: {named} has {header.samples:,} answers, but not to all {len(samples):,} samples of the {part}"
            f" part; {mend}"
        ) from None
