"""Offline distillation: a fixed teacher, the student alone and the student distilled, on the same budget and search."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import methods
from limbeck.config import Recipe
from limbeck.distiller import Distiller, Teacher
from limbeck.evaluation import Interval, Metrics, evaluate, gap_closed, t_interval
from limbeck.runs import RunFolder
from limbeck.schemes.finished import teacher_file
from limbeck.schemes.preparing import Parts, build_student, prepare, vet
from limbeck.schemes.teaching import train_teacher, wrap_teacher
from limbeck.teachers import state_digest
from limbeck.training import Observer, Result, Training, fit, save_weights
from limbeck.training.progress import ignore
from limbeck.training.trackers import tracking

__all__ = ["Outcome", "SeedOutcome", "distil"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class SeedOutcome:
    """The three models of one seed on the test set."""

    seed: int
    teacher: Metrics
    alone: Metrics
    distilled: Metrics


@dataclass(frozen=True)
class Outcome:
    """What a distillation came to.

    seeds: the figures of each seed.  parameters: of teacher and student.  chosen: what the search chose for each.
    """

    seeds: tuple[SeedOutcome, ...]
    parameters: dict[str, int]
    chosen: dict[str, dict[str, Any]]

    def errors(self, role: str) -> Interval:
        """Return the test errors of a role ("teacher", "alone", "distilled") over the seeds."""
        return t_interval([float(getattr(seed, role).errors) for seed in self.seeds])

    def accuracy(self, role: str) -> Interval:
        """Return the test accuracy of a role over the seeds."""
        return t_interval([getattr(seed, role).accuracy for seed in self.seeds])

    def gap_closed(self) -> Interval | None:
        """Return the share of the gap to the teacher that distillation closed; None without a gap."""
        return gap_closed(
            self.errors("teacher").mean,
            [float(seed.alone.errors) for seed in self.seeds],
            [float(seed.distilled.errors) for seed in self.seeds],
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        gap = self.gap_closed()
        return {
            "seeds": [
                {
                    "seed": outcome.seed,
                    **{role: getattr(outcome, role).as_dict() for role in ("teacher", "alone", "distilled")},
                }
                for outcome in self.seeds
            ],
            "errors": {role: vars(self.errors(role)) for role in ("teacher", "alone", "distilled")},
            "gap_closed": None if gap is None else vars(gap),
            "parameters": self.parameters,
            "chosen": self.chosen,
        }


def distil(
    recipe: Recipe,
    folder: RunFolder,
    *,
    parts: Parts | None = None,
    watch: Observer = ignore,
    say: Say = lambda line: None,
    cache: Path | None = None,
) -> Outcome:
    """Run a recipe: teacher, student alone and student distilled for every seed, then the test set once.

    Every choice is made on the held-out part.  Trainings that the folder already holds are not run again.
    parts: what `vet` returned, if the recipe was vetted already.
    """
    parts = vet(recipe) if parts is None else parts
    with tracking(recipe.trackers, folder.path, recipe.name, watch) as observed:
        return _distil(recipe, folder, parts, observed, say, cache)


def _distil(recipe: Recipe, folder: RunFolder, parts: Parts, watch: Observer, say: Say, cache: Path | None) -> Outcome:
    folder.note(data={"source": parts.train.source, "train": len(parts.train), "test": len(parts.test)})
    first = recipe.seeds[0] if recipe.teacher.seed is None else recipe.teacher.seed
    model = train_teacher(recipe, parts, first, watch=watch, say=say, cache=cache)
    alone, distilled = recipe, recipe
    chosen: dict[str, dict[str, Any]] = {"alone": {}, "distilled": {}}
    if recipe.search:
        alone, chosen["alone"] = _search(recipe, parts, None, folder, watch, say)
        distilled, chosen["distilled"] = _search(recipe, parts, model, folder, watch, say)
    if recipe.refit:
        alone = _fixed_budget(alone, parts, None, folder, watch)
        distilled = _fixed_budget(distilled, parts, model, folder, watch)
        parts = prepare(recipe, refit=True)
        model = train_teacher(recipe, parts, first, watch=watch, say=say, cache=cache)

    outcomes = []
    digests: dict[str, str] = {}
    for seed in recipe.seeds:
        if recipe.teacher.seed is None and seed != first:
            model = train_teacher(recipe, parts, seed, watch=watch, say=say, cache=cache)
        own = seed if recipe.teacher.seed is None else recipe.teacher.seed
        with folder.writing(teacher_file(folder.path, own).name):
            save_weights(model, teacher_file(folder.path, own))
        digests[str(own)] = state_digest(model)
        teacher = wrap_teacher(distilled, model, parts)
        students = {
            "alone": _train(alone, parts, None, seed, folder, watch).student,
            "distilled": _train(distilled, parts, teacher, seed, folder, watch).student,
        }
        outcomes.append((seed, model, students))

    folder.note(teachers=digests)
    folder.read_test_set("final figures of teacher, student alone and student distilled")
    return Outcome(
        seeds=tuple(
            SeedOutcome(
                seed,
                evaluate(model, parts.test),
                evaluate(students["alone"], parts.test),
                evaluate(students["distilled"], parts.test),
            )
            for seed, model, students in outcomes
        ),
        parameters={
            "teacher": _parameters(outcomes[0][1]),
            "student": _parameters(outcomes[0][2]["distilled"]),
        },
        chosen=chosen,
    )


def _train(
    recipe: Recipe,
    parts: Parts,
    teacher: Teacher | None,
    seed: int,
    folder: RunFolder,
    watch: Observer,
    *,
    name: str | None = None,
) -> Result:
    """Train the student of a seed, alone without a teacher and distilled with one."""
    role = "alone" if teacher is None else "distilled"
    student = build_student(recipe, parts, seed)
    objective = methods.hard() if teacher is None else recipe.objective()
    return fit(
        Distiller(student, teacher, objective),
        parts.alone if teacher is None else parts.transfer,
        parts.held_out,
        training=recipe.training,
        seed=seed,
        folder=folder.path / (name or f"{role}-{seed}"),
        watch=watch,
        label=name or f"{role} (seed {seed})",
    )


def _search(
    recipe: Recipe, parts: Parts, model: nn.Module | None, folder: RunFolder, watch: Observer, say: Say
) -> tuple[Recipe, dict[str, Any]]:
    """Return the candidate with the fewest held-out errors at the first seed, and what it sets."""
    role = "alone" if model is None else "distilled"
    scored: list[tuple[float, float, int, Recipe, dict[str, Any]]] = []
    for number, candidate in enumerate(recipe.candidates()):
        teacher = None if model is None else wrap_teacher(candidate, model, parts)
        values = {path: _value(candidate.keys, path) for path in recipe.search}
        if model is None:
            values = {path: value for path, value in values.items() if not path.startswith("method.")}
            if any(values == known for *_, known in scored):
                continue
        name = f"search-{role}-{number}"
        metrics = _train(candidate, parts, teacher, recipe.seeds[0], folder, watch, name=name).metrics
        scored.append((metrics["errors"], metrics["nll"], number, candidate, values))
        say(f"search, student {role}: {values} gives {metrics['errors']} held-out errors")
    _, _, _, best, values = min(scored, key=lambda entry: entry[:3])
    say(f"search, student {role}: chose {values} out of {len(scored)}")
    return best, values


def _fixed_budget(recipe: Recipe, parts: Parts, model: nn.Module | None, folder: RunFolder, watch: Observer) -> Recipe:
    """Return the recipe with the number of epochs that the held-out part chose, and nothing left to choose."""
    training: Training = recipe.training
    if training.patience is None and training.keep == "last":
        return recipe
    teacher = None if model is None else wrap_teacher(recipe, model, parts)
    role = "alone" if model is None else "distilled"
    result = _train(recipe, parts, teacher, recipe.seeds[0], folder, watch, name=f"budget-{role}")
    return replace(recipe, training=replace(training, epochs=result.epoch, patience=None, keep="last"))


def _value(keys: Any, path: str) -> Any:
    for key in path.split("."):
        keys = keys.get(key)
    return keys


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
