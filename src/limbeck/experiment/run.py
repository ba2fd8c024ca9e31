"""A recipe carried out: teacher, student alone and the scheme's students, on the same budget and search."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from limbeck import methods
from limbeck.config import AloneBudget, Recipe
from limbeck.distiller import Distiller
from limbeck.evaluation import constant_accuracy, evaluate
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
from limbeck.experiment.prepare import Parts, SeedBuilder, prepare, vet
from limbeck.experiment.sameness import same_as_before
from limbeck.experiment.sealing import data_of
from limbeck.experiment.signature import write_signature
from limbeck.experiment.teacher import TrainedTeacher, trained_teacher
from limbeck.experiment.trials import Trials
from limbeck.ranks import first_says
from limbeck.runs import RunFolder
from limbeck.teachers import MeanOfModels, state_digest
from limbeck.training import Observer, Training, save_weights
from limbeck.training.progress import ignore
from limbeck.training.trackers import tracking

__all__ = ["distil"]

Say = Callable[[str], None]
Role = Callable[[SeedContext], dict[str, nn.Module]]


@dataclass(frozen=True)
class _Chosen:
    """A recipe with its choices made.  decisions: of the units, where the final run has no held-out part."""

    recipe: Recipe
    values: dict[str, Any]
    decisions: Decisions | None = None


@dataclass(frozen=True)
class _Seed:
    """The models of a seed by role, what each took, and what the scheme decided."""

    seed: int
    models: dict[str, nn.Module]
    compute: dict[str, Compute]
    decided: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    """What all trainings of a run share.

    choosing: the sets that choices are made with.  final: those of the final trainings, the same without a refit.
    """

    recipe: Recipe
    folder: RunFolder
    choosing: Parts
    final: Parts
    watch: Observer
    say: Say
    cache: Path | None

    def taught(self, parts: Parts, seed: int) -> TrainedTeacher:
        """Return the teacher of a student's seed."""
        own = self.recipe.teacher.of(seed)
        return trained_teacher(self.recipe, parts, own, watch=self.watch, say=self.say, cache=self.cache)

    def context(
        self, recipe: Recipe, parts: Parts, seed: int, taught: TrainedTeacher | None, **more: Any
    ) -> SeedContext:
        """Return what a role of a seed is trained with."""
        return SeedContext(recipe, parts, seed, self.folder, taught, self.watch, self.say, **more)


def distil(
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
        final = prepare(recipe, refit=True) if recipe.refit else parts
        return _distil(_Run(recipe, folder, parts, final, observed, say, cache))


def _distil(run: _Run) -> Outcome:
    recipe, folder, code = run.recipe, run.folder, run.recipe.code()
    same_as_before(recipe, folder, run.choosing)
    for note in run.choosing.notes:
        run.say(note)
    write_signature(folder, run.final)
    taught = run.taught(run.choosing, recipe.seeds[0])
    chosen = {"alone": _choose(run, "alone", recipe, None), "distilled": _choose(run, "distilled", recipe, taught)}
    seeds = []
    digests: dict[str, str] = {}
    for number, seed in enumerate(recipe.seeds):
        if recipe.refit if number == 0 else recipe.teacher.seed is None:
            taught = run.taught(run.final, seed)
        own = recipe.teacher.of(seed)
        folder.save(teacher_file(folder.path, own).name, partial(save_weights, taught.model))
        keep_history(folder, own, taught.history)
        digests[str(own)] = state_digest(taught.model)
        found = _Seed(seed, {"teacher": taught.model}, {"teacher": taught.compute})
        if isinstance(taught.model, MeanOfModels):
            found.models["member"] = taught.model.members[0]
            found.compute["member"] = taught.first
        _train(run, "alone", chosen["alone"], found, None)
        decided = _train(run, "distilled", chosen["distilled"], found, taught)
        if chosen["distilled"].decisions is None:  # the first seed chooses for all, as it does in a search
            chosen["distilled"] = replace(chosen["distilled"], decisions=Decisions(answers=decided.answers))
        seeds.append(found)
    notes = [*run.choosing.notes, *_uncounted(recipe)]
    if recipe.alone_budget is not None:
        longer = _longer(run, recipe.alone_budget, seeds, notes)
        chosen["alone_budget"] = _choose(run, "alone_budget", longer, None)
        for found in seeds:
            _train(run, "alone_budget", chosen["alone_budget"], found, None)

    folder.note(teachers=digests)
    names = [_label(recipe, role) for role in ordered(list(seeds[0].models))]
    folder.read_test_set(f"final figures of {', '.join(names[:-1])} and {names[-1]}")
    figures = {found.seed: _figures(run, chosen["distilled"].recipe, found) for found in seeds}
    figures = {seed: found for seed, found in figures.items() if found}
    notes += recipe.scheme.notes(list(figures.values())) if figures else []
    return Outcome(
        seeds=tuple(
            SeedOutcome(
                found.seed,
                {role: evaluate(found.models[role], run.final.test) for role in ordered(list(found.models))},
            )
            for found in seeds
        ),
        roles=_roles(recipe, seeds),
        parameters={
            "teacher": _parameters(seeds[0].models["teacher"]),
            "student": _parameters(seeds[0].models["distilled"]),
        },
        chosen={role: {**choice.values} for role, choice in chosen.items()},
        decided={found.seed: found.decided for found in seeds if found.decided},
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


def _train(run: _Run, role: str, chosen: _Chosen, found: _Seed, taught: TrainedTeacher | None) -> Decisions:
    """Train a role of a seed in full, and what its scheme trains beside it."""
    context = run.context(chosen.recipe, run.final, found.seed, taught, role=role, keep_to=chosen.decisions)
    models = _trainer(chosen.recipe, role)(context)
    found.models.update(models)
    found.compute.update({name: context.compute(name) for name in models})
    found.decided.update(context.decided.answers)
    return context.decided


def _choose(run: _Run, role: str, recipe: Recipe, taught: TrainedTeacher | None) -> _Chosen:
    """Make the choices of a role on the held-out part: the search's, and the budget of a refit."""
    chosen = _search(run, role, recipe, taught) if recipe.search else _Chosen(recipe, {})
    if not recipe.refit:
        return chosen
    training: Training = chosen.recipe.training
    fixed = training.patience is None and training.keep == "last"
    if fixed and not (role == "distilled" and recipe.scheme.needs_held_out):
        return chosen
    context = run.context(chosen.recipe, run.choosing, recipe.seeds[0], taught, role=role, trial=f"budget-{role}")
    _trainer(recipe, role)(context)
    return replace(chosen, decisions=context.decided)


def _search(run: _Run, role: str, recipe: Recipe, taught: TrainedTeacher | None) -> _Chosen:
    """Return the candidate with the fewest held-out errors at the first seed, and what it sets."""
    if role != "distilled" and not any(path.startswith("training.") for path in recipe.searched):
        return _Chosen(recipe, {})  # nothing of the search is the student alone's to choose
    wanted: dict[str, _Chosen] = {}
    for number, (candidate, values) in enumerate(zip(recipe.candidates(), recipe.settings(), strict=True)):
        if role != "distilled":
            values = {path: value for path, value in values.items() if path.startswith("training.")}
            if any(values == known.values for known in wanted.values()):
                continue
        wanted[f"search-{role}-{number}"] = _Chosen(candidate, values)
    scored: list[tuple[float, float, int, _Chosen]] = []
    for name, figures in _tried(run, role, wanted, taught):
        metrics = first_says({**figures})
        scored.append((metrics["errors"], metrics["nll"], len(scored), wanted[name]))
        run.say(f"search, {FIXED_ROLES[role]}: {wanted[name].values} gives {metrics['errors']} held-out errors")
    *_, best = min(scored, key=lambda entry: entry[:3])
    run.say(f"search, {FIXED_ROLES[role]}: chose {best.values} out of {len(scored)}")
    return best


def _tried(
    run: _Run, role: str, wanted: Mapping[str, _Chosen], taught: TrainedTeacher | None
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Train candidates by the names of their trainings, with the first seed, and yield their held-out figures."""
    seed = run.recipe.seeds[0]
    if taught is not None:
        own = {run.recipe.teacher.of(seed): taught}
        bench = Trials(run.recipe, run.folder, run.choosing, run.say, run.cache, own)
        candidates = {name: chosen.recipe for name, chosen in wanted.items()}
        yield from bench.attempt_all(candidates, seed, watch=run.watch)
        return
    if run.choosing.held_out is None:
        raise ValueError("choices are made with a held-out part")
    for name, chosen in wanted.items():
        context = run.context(chosen.recipe, run.choosing, seed, None, role=role, trial=name)
        model = _trainer(chosen.recipe, role)(context)[role]
        yield name, evaluate(model, run.choosing.held_out).as_dict()


# -------------------------------------------------------------------------------------------------------------- compute


def _longer(run: _Run, budget: AloneBudget, seeds: Sequence[_Seed], notes: list[str]) -> Recipe:
    """Return the recipe with as many epochs of the student alone as the distillation's compute pays for."""
    recipe, planned = run.recipe, run.recipe.training.epochs
    epoch = LEARNING * forward_flops(seeds[0].models["alone"], run.final.alone) * len(run.final.alone)
    total = fmean(found.compute["distilled"].total(teachers=budget.teachers) for found in seeds)
    epochs, most = max(1, round(total / epoch)) if epoch else planned, max(1, round(budget.at_most * planned))
    line = f"student alone, equal compute: {epochs:,} epochs of it take as many FLOPs as the distillation"
    if epochs > most:
        line += f"; cut at {most:,}, which is alone_budget.at_most, {budget.at_most:g}, times its {planned:,} epochs"
        notes.append(line)
    run.say(line)
    epochs = min(epochs, most)
    milestones = [milestone * epochs / planned for milestone in recipe.training.milestones]
    fixed = ("training.epochs", "training.milestones")
    return recipe.with_values(
        {
            "search": [
                {path: values for path, values in grid.items() if path not in fixed}
                for grid in recipe.search
                if set(grid) - set(fixed)
            ],
            "training.epochs": epochs,
            "training.milestones": milestones,
        }
    )


def _roles(recipe: Recipe, seeds: Sequence[_Seed]) -> Mapping[str, RoleOutcome]:
    alone = fmean(found.compute["alone"].total() for found in seeds)
    roles = {}
    for role in ordered(list(seeds[0].models)):
        each = [found.compute[role].as_dict() for found in seeds]
        compute = {kind: fmean(one[kind] for one in each) for kind in each[0]}
        roles[role] = RoleOutcome(
            label=_label(recipe, role),
            parameters=_parameters(seeds[0].models[role]),
            compute=compute,
            relative=compute["total"] / alone if alone else None,
        )
    return roles


def _uncounted(recipe: Recipe) -> list[str]:
    """Return what to say of compute that is not counted."""
    if any(member.estimator for member in recipe.teacher.members):
        return ["compute: what scikit-learn fits does so without FLOPs that are counted, and trees answer with none"]
    if any(member.arrays for member in recipe.teacher.members):
        return ["compute: the teacher's answers were made elsewhere, and count for nothing"]
    return []


def _figures(run: _Run, recipe: Recipe, found: _Seed) -> dict[str, Any]:
    return recipe.scheme.figures(found.models, run.final.test, SeedBuilder(recipe, run.final, found.seed))


def _label(recipe: Recipe, role: str) -> str:
    return label_of(role, teaches=recipe.scheme.uses_teacher) or recipe.scheme.roles()[role]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
