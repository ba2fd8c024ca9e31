"""A recipe's scheme tried with other settings on the held-out part, the teacher's answers computed once for all."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.config import Recipe
from limbeck.distiller import Teacher
from limbeck.evaluation import evaluate
from limbeck.runs import RunFolder
from limbeck.schemes.preparing import Parts, vet
from limbeck.schemes.teaching import TrainedTeacher, trained_teacher, wrap_teacher
from limbeck.schemes.work import Work
from limbeck.teachers import StoredTeacher
from limbeck.training import Observer
from limbeck.training.progress import ignore

__all__ = ["Bench"]


@dataclass
class Bench:
    """Where settings of one recipe are tried: its data, its teacher and a folder for the trainings.

    parts: with a held-out part, which alone measures.  The test set is never read.
    """

    recipe: Recipe
    folder: RunFolder
    parts: Parts
    say: Callable[[str], None] = lambda line: None
    cache: Path | None = None
    _taught: dict[int, TrainedTeacher] = field(default_factory=dict)
    _answers: dict[tuple[Any, ...], Teacher] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder, **more: Any) -> "Bench":
        """Vet a recipe and set a bench up for it."""
        return cls(recipe, folder, vet(recipe), **more)

    def attempt(self, candidate: Recipe, seed: int, *, name: str, watch: Observer = ignore) -> dict[str, float]:
        """Train the student of a candidate by its scheme and measure it on the held-out part.

        candidate: the recipe with other values of `training`, `method` or `scheme`.
        name: of the training's folder; an attempt that is found there finished is read, one begun is gone on with.
        """
        taught = self._teacher(candidate, seed, watch)
        work = Work(
            candidate,
            self.parts,
            seed,
            self.folder,
            taught,
            watch,
            self.say,
            trial=name,
            answering=self._answering(candidate, taught),
        )
        model = candidate.scheme.train(work)[work.role]
        return evaluate(model, work.held_out).as_dict()

    def _teacher(self, candidate: Recipe, seed: int, watch: Observer) -> TrainedTeacher:
        own = seed if candidate.teacher.seed is None else candidate.teacher.seed
        if own not in self._taught:
            self._taught[own] = trained_teacher(candidate, self.parts, own, watch=watch, say=self.say, cache=self.cache)
        return self._taught[own]

    def _answering(self, candidate: Recipe, taught: TrainedTeacher) -> Teacher | None:
        """Return the teacher whose answers an earlier candidate had computed, where they are this one's too."""
        taps = tuple(sorted(candidate.objective().taps("teacher")))
        key = (id(taught), candidate.training.augment, taps)
        if key not in self._answers:
            self._answers[key] = wrap_teacher(candidate, taught.model, self.parts)
        found = self._answers[key]
        return found if isinstance(found, StoredTeacher) else None
