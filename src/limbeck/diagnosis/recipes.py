"""From a recipe or a finished run to the subject of a diagnosis."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import schedules
from limbeck.config import Recipe
from limbeck.diagnosis.inputs import DiagnosisInput, require_one_label
from limbeck.errors import RecipeError
from limbeck.experiment.building import as_teacher, build_student, seeded_build
from limbeck.experiment.parts import Parts, prepare
from limbeck.experiment.teacher import trained_teacher
from limbeck.experiment.vetting import vet
from limbeck.results.finished import FinishedRun
from limbeck.schemes.offline import Offline
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import Observer
from limbeck.training.progress import ignore

__all__ = ["seeds_of", "subject_of_recipe", "subject_of_run"]

Say = Callable[[str], None]


def seeds_of(recipe: Recipe, count: int | None) -> tuple[int, ...]:
    """Return so many seeds, those of the recipe first; without a count the recipe's, but 3 at least and 5 at most.

    >>> from types import SimpleNamespace
    >>> seeds_of(SimpleNamespace(seeds=(7, 0)), None), seeds_of(SimpleNamespace(seeds=(7, 0)), 1)
    ((7, 0, 1), (7,))
    """
    wanted = min(5, max(3, len(recipe.seeds))) if count is None else count
    others = (seed for seed in range(len(recipe.seeds) + wanted) if seed not in recipe.seeds)
    return (*recipe.seeds, *others)[:wanted]


def subject_of_recipe(
    recipe: Recipe, *, watch: Observer = ignore, say: Say = lambda line: None, cache: Path | None = None
) -> DiagnosisInput:
    """Train a recipe's teacher, or reuse it, and return what is to be diagnosed."""
    _require_asked(recipe)
    parts = vet(recipe)
    require_one_label(parts.train)
    seed = recipe.teacher.of(recipe.seeds[0])
    return _subject(recipe, parts, trained_teacher(recipe, parts, seed, watch=watch, say=say, cache=cache).model, say)


def subject_of_run(
    run: FinishedRun, *, watch: Observer = ignore, say: Say = lambda line: None, cache: Path | None = None
) -> DiagnosisInput:
    """Return what is to be diagnosed of a finished run: its teacher, its student and its data.

    A teacher that was trained on all data, the held-out part included, would be measured on what it has learnt: a run
    with `refit` is diagnosed with the teacher that was trained before.
    """
    recipe = run.recipe
    _require_asked(recipe)
    if recipe.refit:
        say("the run was refitted on all data: diagnosing the teacher that was trained without the held-out part")
        return subject_of_recipe(recipe, watch=watch, say=say, cache=cache)
    say(f"teacher: read from {run.folder}")
    subject = _subject(recipe, run.parts, run.teacher(run.seeds[0]), say)
    places = (run.folder / f"{role}-{seed}" for role in ("alone", "distilled") for seed in run.seeds)
    return replace(subject, trained=tuple(place for place in places if (place / "result.json").is_file()))


def _require_asked(recipe: Recipe) -> None:
    """Require a teacher that answers the held-out part."""
    if not recipe.teacher.asked:
        raise RecipeError(
            "teacher.stored: a diagnosis asks the teacher about the held-out part, to which a store has no answers;"
            " expected a teacher that can be asked. Name a network, or answers to all samples under teacher.arrays"
        )


def _subject(recipe: Recipe, parts: Parts, model: nn.Module, say: Say) -> DiagnosisInput:
    if parts.held_out is None:
        parts = prepare(recipe)
    if parts.held_out is None:
        raise RecipeError("validation: found no held-out part, expected one, on which a diagnosis is measured")
    clean = recipe.teacher.view == "clean"
    kind = recipe.teacher.model.untrained()
    train = parts.alone
    method = _method(recipe, say)
    about = _about(recipe)
    for line in about:
        say(line)
    codes = {"student": recipe.student.code(), "teacher": recipe.teacher.model.code()}
    return DiagnosisInput(
        name=recipe.name,
        teacher=as_teacher(recipe, model),
        train=train,
        held_out=parts.held_out,
        student=lambda seed: build_student(recipe, parts, seed),
        larger=(lambda seed: seeded_build(kind, parts.train, seed, "larger")) if recipe.teacher.network else None,
        training=recipe.training,
        clean=clean,
        groups=train.groups,
        about=about,
        code={kind: code for kind, code in codes.items() if code},
        **method,
    )


def _about(recipe: Recipe) -> tuple[str, ...]:
    """Return which student is diagnosed, where a recipe's own is another."""
    if recipe.graft is not None:
        return (
            "The student with its teacher's classifier is not looked into: diagnosed are students without the graft.",
        )
    if isinstance(recipe.scheme, Offline):
        return ()
    name = recipe.keys["scheme"]["name"]
    return (
        f"The student of the scheme {name} is not looked into: diagnosed are students that learn offline from the same"
        " teacher, by the same method and training. What is said of the teacher and of the data holds for the scheme"
        " too; what is said of the student need not.",
    )


def _method(recipe: Recipe, say: Say) -> dict[str, Any]:
    """Read temperature, weights and divergence off a recipe's objective, at its first step; {} where it has none."""
    terms = list(recipe.inspected.terms.values())
    soft = next((term for term in terms if isinstance(term, SoftTargets)), None)
    hard = next((term for term in terms if isinstance(term, HardLabels)), None)
    name = recipe.method.name
    if soft is None:
        usual = f"T = {DiagnosisInput.temperature:g}, alpha = {DiagnosisInput.hard_weight:g}"
        say(f"method {name} has no soft targets: diagnosing at {usual}")
        return {}
    values = [soft.temperature, soft.weight, 0.0 if hard is None else hard.weight]
    if any(callable(value) for value in values):
        say(f"method {name} has a schedule: diagnosing at its first value")
    temperature, soft_weight, hard_weight = (schedules.at(value, 0) for value in values)
    if soft_weight == 0:
        raise RecipeError("method: its soft targets have weight 0 at the first step; give them a weight above 0")
    return {
        "temperature": temperature,
        "hard_weight": hard_weight,
        "soft_weight": soft_weight,
        "divergence": soft.divergence,
    }
