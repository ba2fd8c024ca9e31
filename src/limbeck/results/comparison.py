"""Finished runs side by side: figures, students on the same test samples, and what differs in the recipes."""

import glob
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.config import load_recipe
from limbeck.errors import RunError
from limbeck.evaluation import Estimate, Interval, McNemar, Point, mcnemar, paired_difference, pareto
from limbeck.results.assessment import assess_run
from limbeck.results.evaluations import Evaluation, newest
from limbeck.results.finished import FinishedRun
from limbeck.results.naming import flattened, names_of_runs
from limbeck.tasks import Task, task_named

__all__ = ["ComparedRun", "Comparison", "Pair", "compare_runs", "find_runs"]

_FIXED = ("teacher", "alone", "alone_budget", "distilled")
_ALL_PAIRS = 4  # runs up to which each is compared with each; else each with the first


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run in a comparison.

    label: what tells it apart, such as "temperature=4".  recipe: resolved, flattened to key.path.
    """

    folder: Path
    label: str
    recipe: Mapping[str, Any]
    evaluation: Evaluation

    def figure(self, role: str, name: str) -> Interval | None:
        """Return a figure of a role with its interval over seeds, if the run has it."""
        return self.evaluation.summary.get(role, {}).get(name)

    @property
    def seeds(self) -> int:
        """How many distilled students there are."""
        return len(self.evaluation.of("distilled"))

    @property
    def task(self) -> Task:
        """What its labels are."""
        return task_named(self.evaluation.test.task)


@dataclass(frozen=True)
class Pair:
    """The distilled students of two runs on the same test samples."""

    first: str
    second: str
    test: McNemar
    difference: Estimate


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side.

    pairs: of runs that share their test set.  differing: the recipe keys that are not the same everywhere, with the
    value of each run; None where a run has no such key.
    frontier: the models, by "run: role", that none beats in both test accuracy and parameters.
    """

    runs: tuple[ComparedRun, ...]
    pairs: tuple[Pair, ...]
    differing: Mapping[str, Sequence[Any]]
    frontier: tuple[Point, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            "runs": [
                {
                    "run": str(run.folder),
                    "label": run.label,
                    **{
                        key: getattr(run.evaluation, key)
                        for key in ("name", "test", "parameters", "summary", "advantage", "failures", "cost")
                    },
                }
                for run in self.runs
            ],
            "pairs": self.pairs,
            "differing": self.differing,
            "frontier": self.frontier,
        }


def find_runs(named: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the run folders that are named, and a line for each that was passed over as unfinished.

    named: folders of runs, folders of folders of runs, or globs.
    Raises RunError if a name matches no run, or names an unfinished one.
    """
    found: dict[Path, Path] = {}
    passed: list[str] = []
    for name in named:
        exact = Path(name)
        places = [exact] if exact.exists() else [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 - a whole pattern
        runs = [run for place in places for run in _below(place)]
        if not runs:
            raise RunError(f"'{name}': found no run there; name a run folder, a folder of runs, or a glob of either")
        for run in runs:
            if run == exact or (run / "outcome.json").is_file():
                found.setdefault(run.resolve(), run)
            else:
                passed.append(f"passed over '{run}': it is not finished")
    return list(found.values()), passed


def _below(place: Path) -> list[Path]:
    if (place / "recipe.yaml").is_file():
        return [place]
    return sorted(path.parent for path in place.rglob("recipe.yaml") if (path.parent / "manifest.json").is_file())


def compare_runs(
    folders: Sequence[Path],
    *,
    device: str | None = None,
    trust: bool = False,
    data: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Compare two or more finished runs.

    A run that was evaluated is read from its evaluation.json; another is evaluated now, without its cost.
    trust, data: see `FinishedRun.read`, by which each run is read first.
    """
    if len(folders) < 2:
        raise RunError(f"compare: found {'one finished run' if folders else 'no run'}, expected two or more")
    runs = []
    finished = [FinishedRun.read(folder, trust=trust, data=data) for folder in folders]
    recipes = [load_recipe(folder / "recipe.yaml") for folder in folders]
    names = names_of_runs(folders, recipes)
    for run, recipe, name in zip(finished, recipes, names, strict=True):
        runs.append(ComparedRun(run.folder, name, flattened(recipe.keys), _evaluation(run, device, say)))
    return Comparison(tuple(runs), tuple(_pairs(runs)), _differing(runs), pareto(list(_points(runs))))


def _evaluation(run: FinishedRun, device: str | None, say: Callable[[str], None]) -> Evaluation:
    """Return the newest evaluation that is kept, or a new one."""
    known = newest(run.folder)
    if known is not None:
        return known
    size = len(run.parts.test)  # which reads the data, or refuses it
    say(f"'{run.folder}' is not evaluated yet; its models answer {size:,} test examples")
    return assess_run(run, with_cost=False, device=device, say=say).evaluation()


def _pairs(runs: Sequence[ComparedRun]) -> Iterable[Pair]:
    everyone = itertools.combinations(runs, 2)
    chosen = everyone if len(runs) <= _ALL_PAIRS else ((runs[0], other) for other in runs[1:])
    for first, second in chosen:
        same = first.evaluation.test.digest == second.evaluation.test.digest
        one, two = (run.evaluation.correct("distilled") for run in (first, second))
        if same and one is not None and two is not None:
            yield Pair(first.label, second.label, mcnemar(one, two), paired_difference(one, two))


def _differing(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    columns = {key: [run.recipe.get(key) for run in runs] for key in keys if key != "summary"}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def _points(runs: Sequence[ComparedRun]) -> Iterable[Point]:
    for run in runs:
        for role in _FIXED:
            accuracy = run.figure(role, "accuracy")
            sizes = run.evaluation.parameters
            size = sizes.get(role, sizes["student"])
            if accuracy is not None:
                yield Point(f"{run.label}: {role}", accuracy.mean, float(size))
