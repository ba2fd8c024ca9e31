"""A recipe carried out: teacher, student alone and the scheme's students, on the same budget and search."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from limbeck import methods
from limbeck.config import Recipe
from limbeck.distiller import Distiller
from limbeck.errors import NonFiniteLossError, RunError
from limbeck.evaluation import constant_accuracy, evaluate_together
from limbeck.evaluation import parameters as count
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.context import Decisions, SeedContext
from limbeck.experiment.cost import LEARNING, Compute, forward_flops
from limbeck.experiment.outcome import (
    FIXED_ROLES,
    Outcome,
    RoleOutcome,
    SeedOutcome,
    keep_history,
    label_of,
    ordered,
    teacher_file,
)
from limbeck.experiment.parts import Parts, prepare
from limbeck.experiment.sameness import same_as_before
from limbeck.experiment.sealing import data_of
from limbeck.experiment.signature import write_signature
from limbeck.experiment.teacher import TrainedTeacher, trained_teacher
from limbeck.experiment.trials import Trials
from limbeck.experiment.vetting import vet
from limbeck.ranks import first_says
from limbeck.runs import RunFolder
from limbeck.teachers import MeanOfModels, StoredTeacher, state_digest
from limbeck.training import Observer, Training, save_weights
from limbeck.training.progress import ignore
from limbeck.training.trackers import tracking

__all__ = ["Chosen", "Experiment", "Trained", "distill"]

Say = Callable[[str], None]
Role = Callable[[SeedContext], dict[str, nn.Module]]


@dataclass(frozen=True)
class Chosen:
    """A recipe with its choices made.

    values: what the search chose.  decisions: of the units, where the final run has no held-out part.
    """

    recipe: Recipe
    values: dict[str, Any]
    decisions: Decisions | None = None


@dataclass(frozen=True)
class Trained:
    """The models that the training of a role gave at a seed, by role, what each took, and what was decided."""

    models: dict[str, nn.Module]
    compute: dict[str, Compute]
    decided: dict[str, Any] = field(default_factory=dict)


class Experiment:
    """A recipe whose teachers, choices and students are made when they are asked for, each once.

    recipe: the choices are made at its first seed.  folder: where trainings are kept; finished ones are read.
    choosing: the sets that choices are made with.  final: those of the final trainings, the same without a refit.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        parts: Parts | None = None,
        watch: Observer = ignore,
        say: Say = lambda line: None,
        cache: Path | None = None,
    ) -> None:
        """Take what `vet` returned as `parts`, if the recipe was vetted already."""
        self.recipe, self.folder, self.watch, self.say, self.cache = recipe, folder, watch, say, cache
        self.choosing = vet(recipe) if parts is None else parts
        whole = self.choosing.of_teacher.whole
        self.final = prepare(recipe, refit=True, splits=whole) if recipe.refit else self.choosing
        self.notes: list[str] = []
        self._teachers: dict[tuple[bool, int], TrainedTeacher] = {}
        self._chosen: dict[str, Chosen] = {}
        self._trained: dict[tuple[str, int], Trained] = {}
        self._answers: dict[tuple[int, ...], StoredTeacher] = {}

    @property
    def first(self) -> int:
        """The seed at which every choice is made."""
        return self.recipe.seeds[0]

    def teacher(self, seed: int, *, choosing: bool = False) -> TrainedTeacher:
        """Return the teacher of a student's seed.

        choosing: the one with which choices are made, that has not seen the held-out part.
        """
        own = self.recipe.teacher.of(seed)
        refitted = self.recipe.refit and not choosing
        if (refitted, own) not in self._teachers:
            parts = self.final if refitted else self.choosing
            self._teachers[refitted, own] = trained_teacher(
                self.recipe, parts, own, watch=self.watch, say=self.say, cache=self.cache
            )
        return self._teachers[refitted, own]

    def chosen(self, role: str) -> Chosen:
        """Return the recipe of "alone", "alone_budget" or "distilled" with its choices, made on the held-out part."""
        if role not in self._chosen:
            recipe = self._longer() if role == "alone_budget" else self.recipe
            self._chosen[role] = self._choose(role, recipe)
        return self._chosen[role]

    def trained(self, role: str, seed: int) -> Trained:
        """Return what the training of a role gives: "teacher", "alone", "alone_budget" or "distilled".

        A teacher of several networks has the first of them beside it, as "member"; a student distilled has the roles of
        its scheme beside it.
        """
        if (role, seed) not in self._trained:
            self._trained[role, seed] = self._of_teacher(seed) if role == "teacher" else self._train(role, seed)
        return self._trained[role, seed]

    def figures(self, seed: int) -> dict[str, Any]:
        """Return the scheme's own figures of a seed's models on the test set."""
        roles = ("teacher", "alone", "distilled", *(("alone_budget",) if self.recipe.alone_budget else ()))
        models = _together([self.trained(role, seed) for role in roles]).models
        recipe = self.chosen("distilled").recipe
        return recipe.scheme.figures(models, self.final.test, SeedBuilder(recipe, self.final, seed))

    def _of_teacher(self, seed: int) -> Trained:
        taught = self.teacher(seed)
        found = Trained({"teacher": taught.model}, {"teacher": taught.compute})
        if isinstance(taught.model, MeanOfModels):
            found.models["member"] = taught.model.members[0]
            found.compute["member"] = taught.first
        return found

    def _train(self, role: str, seed: int) -> Trained:
        """Train a role of a seed in full, and what its scheme trains beside it."""
        chosen = self.chosen(role)
        decisions = chosen.decisions
        if decisions is None and role == "distilled" and self.recipe.scheme.needs_held_out and seed != self.first:
            decisions = Decisions(answers=self.trained(role, self.first).decided)  # it chooses for all, as in a search
        taught = self.teacher(seed) if role == "distilled" else None
        context = self._context(chosen.recipe, self.final, seed, taught, role=role, keep_to=decisions)
        models = _trainer(chosen.recipe, role)(context)
        return Trained(models, {name: context.compute(name) for name in models}, context.decided.answers)

    def _context(
        self, recipe: Recipe, parts: Parts, seed: int, taught: TrainedTeacher | None, **more: Any
    ) -> SeedContext:
        """Return what a role of a seed is trained with."""
        more |= {"shared": self._answers, "cache": self.cache}
        return SeedContext(recipe, parts, seed, self.folder, taught, self.watch, self.say, **more)

    # -- choices -----------------------------------------------------------------------------------------------------

    def _choose(self, role: str, recipe: Recipe) -> Chosen:
        """Make the choices of a role on the held-out part: the search's, and the budget of a refit."""
        chosen = self._search(role, recipe) if recipe.search else Chosen(recipe, {})
        if not recipe.refit:
            return chosen
        training: Training = chosen.recipe.training
        fixed = training.patience is None and training.keep == "last"
        if fixed and not (role == "distilled" and recipe.scheme.needs_held_out):
            return chosen
        taught = self.teacher(self.first, choosing=True) if role == "distilled" else None
        context = self._context(chosen.recipe, self.choosing, self.first, taught, role=role, trial=f"budget-{role}")
        _trainer(recipe, role)(context)
        return replace(chosen, decisions=context.decided)

    def _search(self, role: str, recipe: Recipe) -> Chosen:
        """Return the candidate with the fewest held-out errors at the first seed, and what it sets."""
        if role != "distilled" and not any(path.startswith("training.") for path in recipe.searched):
            return Chosen(recipe, {})  # nothing of the search is the student alone's to choose
        wanted: dict[str, Chosen] = {}
        for number, (candidate, values) in enumerate(zip(recipe.candidates(), recipe.settings(), strict=True)):
            if role != "distilled":
                values = {path: value for path, value in values.items() if path.startswith("training.")}
                if any(values == known.values for known in wanted.values()):
                    continue
            wanted[f"search-{role}-{number}"] = Chosen(candidate, values)
        scored: list[tuple[float, float, int, Chosen]] = []
        for name, figures in self._tried(role, wanted):
            if isinstance(figures, Exception):
                self.say(f"search, {FIXED_ROLES[role]}: {wanted[name].values} diverges and drops out")
                continue
            metrics = first_says({**figures})
            scored.append((metrics["errors"], metrics["nll"], len(scored), wanted[name]))
            self.say(f"search, {FIXED_ROLES[role]}: {wanted[name].values} gives {metrics['errors']} held-out errors")
        if not scored:
            raise RunError(
                f"search: found {len(wanted)} candidates, which all diverge, for the {FIXED_ROLES[role]}; expected "
                "one that does not. Lower the learning rates, or set training.clip"
            )
        *_, best = min(scored, key=lambda entry: entry[:3])
        self.say(f"search, {FIXED_ROLES[role]}: chose {best.values} out of {len(wanted)}")
        return best

    def _tried(
        self, role: str, wanted: Mapping[str, Chosen]
    ) -> Iterator[tuple[str, Mapping[str, float] | NonFiniteLossError]]:
        """Train candidates by the names of their trainings, with the first seed, and yield their held-out figures."""
        seed = self.first
        if role == "distilled":
            own = {self.recipe.teacher.of(seed): self.teacher(seed, choosing=True)}
            bench = Trials(self.recipe, self.folder, self.choosing, self.say, self.cache, own)
            candidates = {name: chosen.recipe for name, chosen in wanted.items()}
            yield from bench.attempt_all(candidates, seed, watch=self.watch)
            return
        if self.choosing.held_out is None:
            raise ValueError("choices are made with a held-out part")
        for name, chosen in wanted.items():
            context = self._context(chosen.recipe, self.choosing, seed, None, role=role, trial=name)
            try:
                model = _trainer(chosen.recipe, role)(context)[role]
            except NonFiniteLossError as error:
                yield name, error
                continue
            yield name, evaluate_together(model, self.choosing.held_out).as_dict()

    def _longer(self) -> Recipe:
        """Return the recipe with as many epochs of the student alone as the distillation's compute pays for."""
        recipe, planned, budget = self.recipe, self.recipe.training.epochs, self.recipe.alone_budget
        if budget is None:
            raise ValueError("the recipe has no alone_budget")
        alone = self.trained("alone", self.first).models["alone"]
        epoch = LEARNING * forward_flops(alone, self.final.alone) * len(self.final.alone)
        total = fmean(
            self.trained("distilled", seed).compute["distilled"].total(teachers=budget.teachers)
            for seed in recipe.seeds
        )
        epochs, most = max(1, round(total / epoch)) if epoch else planned, max(1, round(budget.at_most * planned))
        line = f"student alone, equal compute: {epochs:,} epochs of it take as many FLOPs as the distillation"
        if epochs > most:
            line += (
                f"; cut at {most:,}, which is alone_budget.at_most, {budget.at_most:g}, times its {planned:,} epochs"
            )
            self.notes.append(line)
        self.say(line)
        epochs = min(epochs, most)
        fixed = ("training.epochs", "training.milestones")
        return recipe.with_values(
            {
                "search": [
                    {path: values for path, values in grid.items() if path not in fixed}
                    for grid in recipe.search
                    if set(grid) - set(fixed)
                ]
                or {},
                "training.epochs": epochs,
                "training.milestones": [milestone * epochs / planned for milestone in recipe.training.milestones],
            }
        )


def distill(
    recipe: Recipe,
    folder: RunFolder,
    *,
    parts: Parts | None = None,
    watch: Observer = ignore,
    say: Say = lambda line: None,
    cache: Path | None = None,
) -> Outcome:
    """Run a recipe: teacher, student alone and the scheme's students for every seed, then the test set once.

    Every choice is made on the held-out part.  Trainings that the folder already holds are not run again.
    parts: what `vet` returned, if the recipe was vetted already.
    """
    parts = vet(recipe) if parts is None else parts
    with tracking(recipe.trackers, folder.path, recipe.name, watch) as observed:
        return _distill(Experiment(recipe, folder, parts=parts, watch=observed, say=say, cache=cache))


def _distill(run: Experiment) -> Outcome:
    recipe, folder = run.recipe, run.folder
    code = same_as_before(recipe, folder, run.choosing)
    for note in run.choosing.notes:
        run.say(note)
    write_signature(folder, run.final)
    run.teacher(run.first, choosing=True)
    chosen = {role: run.chosen(role) for role in ("alone", "distilled")}
    digests: dict[str, str] = {}
    for seed in recipe.seeds:
        taught, own = run.teacher(seed), recipe.teacher.of(seed)
        folder.save(teacher_file(folder.path, own).name, partial(save_weights, taught.model))
        keep_history(folder, own, taught.history)
        digests[str(own)] = state_digest(taught.model)
        for role in chosen:
            run.trained(role, seed)
    if recipe.alone_budget is not None:
        chosen["alone_budget"] = run.chosen("alone_budget")
        for seed in recipe.seeds:
            run.trained("alone_budget", seed)
    seeds = {seed: _together([run.trained(role, seed) for role in ("teacher", *chosen)]) for seed in recipe.seeds}
    notes = [*run.choosing.notes, *_uncounted(recipe), *run.notes]

    folder.note(teachers=digests)
    roles = ordered(list(seeds[run.first].models))
    names = [_label(recipe, role) for role in roles]
    folder.read_test_set(f"final figures of {', '.join(names[:-1])} and {names[-1]}")
    figures = {seed: found for seed in seeds if (found := run.figures(seed))}
    notes += recipe.scheme.notes(list(figures.values())) if figures else []
    models = seeds[run.first].models
    return Outcome(
        seeds=tuple(
            SeedOutcome(seed, {role: evaluate_together(found.models[role], run.final.test) for role in roles})
            for seed, found in seeds.items()
        ),
        roles=_roles(recipe, list(seeds.values())),
        parameters={"teacher": count(models["teacher"]), "student": count(models["distilled"])},
        chosen={role: {**choice.values} for role, choice in chosen.items()},
        decided={seed: found.decided for seed, found in seeds.items() if found.decided},
        figures=figures,
        notes=notes,
        task=run.final.test.task,
        teaches=recipe.scheme.uses_teacher,
        constant_accuracy=constant_accuracy(run.final.test.labels, run.final.test.task),
        data=data_of(run.final),
        code=code,
    )


# ---------------------------------------------------------------------------------------------------------------- roles


def _alone(role: str) -> Role:
    def train(context: SeedContext) -> dict[str, nn.Module]:
        distiller = Distiller(context.student(), None, methods.hard())
        return {role: context.fit(role, distiller, context.parts.alone).student}

    return train


def _trainer(recipe: Recipe, role: str) -> Role:
    return recipe.scheme.train if role == "distilled" else _alone(role)


def _together(parts: Sequence[Trained]) -> Trained:
    """Return the models of all roles of a seed."""
    found = Trained({}, {}, {})
    for part in parts:
        found.models.update(part.models)
        found.compute.update(part.compute)
        found.decided.update(part.decided)
    return found


def _roles(recipe: Recipe, seeds: Sequence[Trained]) -> Mapping[str, RoleOutcome]:
    alone = fmean(found.compute["alone"].total() for found in seeds)
    roles = {}
    for role in ordered(list(seeds[0].models)):
        each = [found.compute[role].as_dict() for found in seeds]
        compute = {kind: fmean(one[kind] for one in each) for kind in each[0]}
        roles[role] = RoleOutcome(
            label=_label(recipe, role),
            parameters=count(seeds[0].models[role]),
            compute=compute,
            relative=compute["total"] / alone if alone else None,
        )
    return roles


def _uncounted(recipe: Recipe) -> list[str]:
    """Return what to say of compute that is not counted."""
    if any(member.estimator for member in recipe.teacher.members):
        return ["compute: FLOPs of scikit-learn estimators are not counted"]
    if any(member.given for member in recipe.teacher.members) and recipe.scheme.uses_teacher:
        return ["compute: the teacher's weights are used as given, and what their training took is not counted"]
    if any(member.arrays or member.stored for member in recipe.teacher.members):
        return ["compute: the teacher's answers were made elsewhere, and count for nothing"]
    return []


def _label(recipe: Recipe, role: str) -> str:
    label = label_of(role, teaches=recipe.scheme.uses_teacher) or recipe.scheme.roles()[role]
    given = role == "teacher" and all(member.given for member in recipe.teacher.members)
    return f"{label}, as given" if given else label
