"""A recipe's scheme tried with other settings on the held-out part, the teacher's answers computed once for all."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.config import Recipe
from limbeck.config.stores import StoreSpec
from limbeck.errors import NonFiniteLossError
from limbeck.evaluation import evaluate_together
from limbeck.experiment.context import SeedContext
from limbeck.experiment.parts import Parts
from limbeck.experiment.sameness import same_as_before
from limbeck.experiment.stores import STORED
from limbeck.experiment.teacher import TrainedTeacher, trained_teacher, wrap_teacher
from limbeck.experiment.vetting import vet
from limbeck.runs import RunFolder
from limbeck.teacher import Teacher
from limbeck.training import Observer, attempt_many
from limbeck.training.progress import ignore
from limbeck.training.together import SHARED

__all__ = ["Trials"]

_TOGETHER = 4  # candidates of a search that a live teacher teaches at a time: all of them are in memory


@dataclass
class Trials:
    """Where settings of one recipe are tried: its data, its teacher and a folder for the trainings.

    parts: with a held-out part, which alone measures.  The test set is never read.
    taught: trained teachers by their seed; others are trained, or read, when they are wanted.
    """

    recipe: Recipe
    folder: RunFolder
    parts: Parts
    say: Callable[[str], None] = lambda line: None
    cache: Path | None = None
    taught: dict[int, TrainedTeacher] = field(default_factory=dict)
    _answers: dict[tuple[Any, ...], Teacher] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder, *, parts: Parts | None = None, **more: Any) -> "Trials":
        """Vet a recipe, unless that was done and gave these parts, and set a bench up for it."""
        parts = vet(recipe) if parts is None else parts
        same_as_before(recipe, folder, parts)
        return cls(recipe, folder, parts, **more)

    def attempt(self, candidate: Recipe, seed: int, *, name: str, watch: Observer = ignore) -> dict[str, float]:
        """Train the student of a candidate by its scheme and measure it on the held-out part.

        candidate: the recipe with other values of `training`, `method` or `scheme`.
        name: of the training's folder; a finished attempt there is read, an interrupted one is resumed.
        """
        context = self._context(candidate, seed, name, watch)
        model = candidate.scheme.train(context)[context.role]
        return evaluate_together(model, context.held_out).as_dict()

    def attempt_together(
        self,
        candidates: Mapping[str, Recipe],
        seed: int,
        *,
        watch: Observer = ignore,
        drops_out: tuple[type[Exception], ...],
    ) -> dict[str, dict[str, float] | Exception]:
        """Train the students of several candidates on the same batches, and measure each, by the candidate's name.

        candidates: with `single` schemes, and alike in what decides the batches (`limbeck.training.SHARED`).
        drops_out: errors, of a training or of `watch`, that end one candidate alone, whose outcome is the error.
        Figures and folders are what `attempt` gives for each by itself.
        """
        contexts = {name: self._context(candidate, seed, name, watch) for name, candidate in candidates.items()}
        outcomes = attempt_many(
            [candidates[name].scheme.distiller(context) for name, context in contexts.items()],
            self.parts.transfer,
            self.parts.held_out,
            training=[candidate.training for candidate in candidates.values()],
            seed=seed,
            folders=[context.place(context.role) for context in contexts.values()],
            labels=list(contexts),
            watch=watch,
            drops_out=drops_out,
        )
        return {
            name: outcome
            if isinstance(outcome, Exception)
            else evaluate_together(outcome.student, context.held_out).as_dict()
            for (name, context), outcome in zip(contexts.items(), outcomes, strict=True)
        }

    def attempt_all(
        self, candidates: Mapping[str, Recipe], seed: int, *, watch: Observer = ignore
    ) -> Iterator[tuple[str, dict[str, float] | NonFiniteLossError]]:
        """Yield the name and the figures of each candidate, as `attempt` gives them; some are trained together.

        A candidate whose training diverges has the error in place of figures.
        These are neighbours that a live teacher teaches on the same batches, of which it is then asked once.
        """
        groups: list[tuple[Any, dict[str, Recipe]]] = []
        for name, candidate in candidates.items():
            batches = self._batches(candidate, seed, watch)
            if batches is None or not groups or groups[-1][0] != batches or len(groups[-1][1]) == _TOGETHER:
                groups.append((batches, {}))
            groups[-1][1][name] = candidate
        for _, group in groups:
            if len(group) > 1:
                outcomes = self.attempt_together(group, seed, watch=watch, drops_out=(NonFiniteLossError,))
                for name, outcome in outcomes.items():
                    if isinstance(outcome, Exception) and not isinstance(outcome, NonFiniteLossError):
                        raise outcome
                    yield name, outcome
            else:
                for name, candidate in group.items():
                    try:
                        figures = self.attempt(candidate, seed, name=name, watch=watch)
                    except NonFiniteLossError as error:
                        yield name, error
                        continue
                    yield name, figures

    def _batches(self, candidate: Recipe, seed: int, watch: Observer) -> tuple[object, ...] | None:
        """Return what decides the batches of a candidate's only training; None where sharing them gains nothing."""
        if not candidate.scheme.single or not candidate.scheme.uses_teacher or candidate.training.fsdp != "none":
            return None
        if isinstance(self._answering(candidate, self._teacher(candidate, seed, watch), seed), STORED):
            return None
        return tuple(getattr(candidate.training, key) for key in SHARED)

    def _context(self, candidate: Recipe, seed: int, name: str, watch: Observer) -> SeedContext:
        taught = self._teacher(candidate, seed, watch)
        answering = self._answering(candidate, taught, seed) if candidate.scheme.uses_teacher else None
        more: dict[str, Any] = {"trial": name, "answering": answering, "cache": self.cache}
        return SeedContext(candidate, self.parts, seed, self.folder, taught, watch, self.say, **more)

    def _teacher(self, candidate: Recipe, seed: int, watch: Observer) -> TrainedTeacher:
        own = candidate.teacher.of(seed)
        if own not in self.taught:
            self.taught[own] = trained_teacher(candidate, self.parts, own, watch=watch, say=self.say, cache=self.cache)
        return self.taught[own]

    def _answering(self, candidate: Recipe, taught: TrainedTeacher, seed: int) -> Teacher:
        """Return the teacher of all candidates that are alike in what it is asked; its answers are computed once."""
        taps = tuple(sorted(candidate.inspected.taps("teacher")))
        key = (id(taught), candidate.training.augment, taps, candidate.inspected.needs_network)
        if isinstance(candidate.teacher.store, StoreSpec):
            return wrap_teacher(candidate, taught.model, self.parts, seed)
        if key not in self._answers:
            self._answers[key] = wrap_teacher(candidate, taught.model, self.parts, seed)
        return self._answers[key]
