"""The trainings that a recipe asks for, counted before any is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from limbeck.config import Recipe
from limbeck.data import SampleSet
from limbeck.experiment.building import SeedBuilder, as_teacher, build_teacher
from limbeck.experiment.parts import Parts
from limbeck.training import Training
from limbeck.training.loop import batches_of, in_lanes

__all__ = ["Expected", "agenda", "agenda_of_trials", "repeats"]


@dataclass(frozen=True)
class Expected:
    """Trainings of one kind.

    role: "teacher", "alone" or "alone_budget"; "" for those of the scheme.  steps: of each.  runs: how many there are.
    """

    role: str
    steps: float
    runs: int


def agenda(recipe: Recipe, parts: Parts) -> list[Expected]:
    """Return the trainings of a whole run; those that a scheme plans only as it goes are left out.

    A training that is read from a folder, ends early, or is a refit with more samples is counted like any other.
    """
    seeds = len(recipe.seeds)
    found = _teachers(recipe, parts, (seeds if recipe.teacher.seed is None else 1) + recipe.refit)
    alone, distilled = repeats(recipe)
    steps = _steps(recipe.training, parts.alone)
    found.append(Expected("alone", steps, seeds + alone))
    found += _scheme(recipe, parts, seeds, distilled)
    if recipe.alone_budget is not None:
        found.append(Expected("alone_budget", recipe.alone_budget.at_most * steps, seeds))
    return found


def agenda_of_trials(recipe: Recipe, parts: Parts, *, trials: int, seeds: int) -> list[Expected]:
    """Return the trainings of a study with so many trials, each with so many seeds."""
    times = seeds if recipe.teacher.seed is None else 1
    return [*_teachers(recipe, parts, times), *_scheme(recipe, parts, trials * seeds, 0)]


def repeats(recipe: Recipe) -> tuple[int, int]:
    """Return how often the student alone, and the scheme, are trained to choose something, at the first seed."""
    fixed = recipe.training.patience is None and recipe.training.keep == "last"
    budgets = recipe.refit and not fixed, recipe.refit and not (fixed and not recipe.scheme.needs_held_out)
    if not recipe.search:
        return budgets[0], budgets[1]
    own: list[dict[str, object]] = []  # settings that are the student alone's to choose
    for setting in recipe.settings():
        training = {key: value for key, value in setting.items() if key.startswith("training.")}
        if training and training not in own:
            own.append(training)
    return len(own) + budgets[0], len(recipe.candidates()) + budgets[1]


def _teachers(recipe: Recipe, parts: Parts, times: int) -> list[Expected]:
    samples = parts.of_teacher.train
    return [
        Expected("teacher", _steps(member.training, samples), times * count)
        for member, count in recipe.teacher.kinds()
        if member.learns
    ]


def _scheme(recipe: Recipe, parts: Parts, seeds: int, tried: int) -> Sequence[Expected]:
    if recipe.scheme.single:
        return [Expected("", _steps(recipe.training, parts.transfer), seeds + tried)]
    builder = SeedBuilder(recipe, parts, recipe.seeds[0])
    planned = recipe.scheme.planned(builder, as_teacher(recipe, build_teacher(recipe, parts, 0)))
    steps = [
        _steps(each.training or recipe.training, each.samples)
        for each in planned
        for _ in range(each.count * ((1 if each.once else seeds) + tried))
    ]
    return [Expected("", fmean(steps), len(steps))] if steps else []


def _steps(training: Training, samples: SampleSet) -> int:
    """Return the steps of a training."""
    return batches_of(samples, in_lanes(samples, training), 0).steps * training.epochs
