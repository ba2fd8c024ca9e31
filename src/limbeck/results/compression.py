"""Compressions of finished runs: the recipe that makes a trained student smaller, and what each stage came to."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.compress import rebuilt
from limbeck.config import Recipe
from limbeck.errors import CheckpointError, InputError, RunError, one_of
from limbeck.evaluation import Interval, t_interval
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.outcome import FIXED_ROLES, Outcome
from limbeck.results.finished import FinishedRun
from limbeck.runs import environment, read_manifest
from limbeck.training import load_weights
from limbeck.training.weight_files import transforms_of

__all__ = ["StageFigures", "compressed_recipe", "keep_what_was_trained", "stages_of"]

_LONGEST = 100  # letters of a recipe's name
_END = "-small"


@dataclass(frozen=True)
class StageFigures:
    """What a network of a compression costs and answers: before the first stage, of one stage, or to compare with.

    role: its role in the run.  label: what a table calls it.  retrained: whether it was trained after its transform.
    compared: whether that training is only compared with the one that the next stage goes on from.
    bytes: on disk, as it is exported.  ideal_bytes: with an ideal code for each tensor.
    latency: seconds of an answer to one sample: lower quartile, median, upper quartile.
    typing: of a keyboard that offers words, the shares of keys saved and of words offered before their first letter, in
        percent: of the whole test text and of the words that can be offered; None where none was asked for.
    errors: the main figure of the task on the test set; accuracy: the share that is right.
    """

    role: str
    label: str
    stage: int
    retrained: bool
    compared: bool
    parameters: int
    bytes: int
    ideal_bytes: int
    flops: int
    latency: tuple[float, float, float]
    typing: Mapping[str, Interval] | None
    errors: Interval
    accuracy: Interval

    @property
    def smaller(self) -> bool:
        """Whether it is a smaller network that was trained alone, to compare with."""
        return self.role.startswith("smaller_")


def stages_of(outcome: Outcome, *, beside: bool = False) -> list[StageFigures]:
    """Return what each network of a compression came to, in order; none for a run of another scheme.

    Sizes are those of the first seed, latencies the mean of all.
    beside: of the networks that a keyboard's are compared with instead, the teacher and the student alone.
    """
    key = "beside" if beside else "stages"
    by_seed = [found[key] for found in outcome.figures.values() if isinstance(found.get(key), list)]
    if not by_seed or any(len(each) != len(by_seed[0]) for each in by_seed):
        return []
    found = []
    for number, first in enumerate(by_seed[0]):
        role = first["role"]
        times = [each[number]["latency"] for each in by_seed]
        lower, median, upper = (
            t_interval([float(one[key]) for one in times]).mean for key in ("lower", "median", "upper")
        )
        found.append(
            StageFigures(
                role=role,
                label=_label(outcome, first),
                stage=first["stage"],
                retrained=first["retrained"],
                compared=bool(first.get("compared", False)),
                parameters=first["parameters"],
                bytes=first["bytes"],
                ideal_bytes=first["ideal_bytes"],
                flops=first["flops"],
                latency=(lower, median, upper),
                typing=_typing([each[number].get("typing") for each in by_seed]),
                errors=outcome.errors(role),
                accuracy=outcome.accuracy(role),
            )
        )
    return found


def _typing(by_seed: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Interval] | None:
    """Return the rates of a keyboard over the seeds; None where they were not measured."""
    known = [each for each in by_seed if each]
    if len(known) < len(by_seed):
        return None
    rates = [key for key in known[0] if key.endswith(("savings", "rate"))]
    return {key: t_interval([float(each[key]) for each in known]) for key in rates}


def _label(outcome: Outcome, stage: Mapping[str, Any]) -> str:
    if stage["stage"] and stage["role"] in FIXED_ROLES:
        return f"stage {stage['stage']}, {stage['transform']}"
    return outcome.roles[stage["role"]].label


def compressed_recipe(finished: FinishedRun, stages: Sequence[Mapping[str, Any]], *, role: str = "distilled") -> Recipe:
    """Return the recipe that makes a trained student of a run smaller, stage by stage.

    stages: as the scheme `compress` has them.  role: of the student.
    Data, teacher, method and training are the run's; a teacher that is one network is read from the run.
    Raises RunError where the role is no single network, RecipeError for a stage that is wrong.
    """
    _require_student(finished, role)
    recipe = finished.recipe
    keys = dict(recipe.with_values(finished.outcome.chosen.get("distilled", {})).keys)
    keys |= {
        "name": recipe.name.removesuffix(_END)[: _LONGEST - len(_END)] + _END,
        "summary": f"the student of {finished.folder.name}, made smaller",
        "search": {},
        "alone_budget": False,
        "expect": {},
        "scheme": {
            "name": "compress",
            "start": str(finished.folder.resolve() / f"{role}-{{seed}}" / "student.safetensors"),
            "stages": list(stages),
        },
    }
    spec, shared = recipe.teacher, recipe.teacher.seed is not None or len(recipe.seeds) == 1
    plain = spec.single and spec.members[0].learns and spec.members[0].model.sees is None
    if plain and shared and recipe.classes is None:
        weights = finished.weights("teacher", recipe.seeds[0]).resolve()
        teacher = {key: value for key, value in keys["teacher"].items() if key not in ("method", "data")}
        model = {key: value for key, value in teacher["model"].items() if key != "key"} | {"checkpoint": str(weights)}
        keys["teacher"] = teacher | {"model": model, "training": "none"}
    return Recipe.parse(keys, recipe.base)


def _require_student(finished: FinishedRun, role: str) -> None:
    """Require a role whose network is the recipe's student, made smaller or not."""
    students = [each for each in finished.roles if each not in ("teacher", "member") and not finished.composed(each)]
    if role not in students:
        raise InputError(f"role: found '{role}'; {one_of(role, students)}")
    seed = finished.seeds[0]
    builder = SeedBuilder(finished.recipe.without_checkpoints(), finished.signature.parts(), seed)
    weights = finished.weights(role, seed)
    try:
        load_weights(rebuilt(builder.student(), transforms_of(weights)), weights)
    except CheckpointError:
        raise RunError(
            f"role: '{role}' of '{finished.folder}' is more than the recipe's student, which a graft or its scheme "
            "adds to; expected a plain student. Name another role with --role, or write a recipe with scheme compress"
        ) from None


def keep_what_was_trained(finished: FinishedRun, recipe: Recipe, folder: Path) -> None:
    """Copy the student alone of a run into the new run's folder, where its training would be the same.

    A search or a refit trains it in another way, and so may other versions of the packages; then it is trained again,
    and so it is where the copy fails.
    """
    old = finished.recipe
    try:
        packages = read_manifest(finished.folder).get("environment", {}).get("packages")
    except (OSError, ValueError, RecursionError):
        return
    if old.search or old.refit or packages != environment()["packages"]:
        return
    for seed in recipe.seeds:
        source, copy = finished.folder / f"alone-{seed}", folder / f"alone-{seed}"
        if (source / "result.json").is_file() and not copy.exists():
            aside = copy.with_name(f".{copy.name}.tmp")
            try:
                shutil.copytree(source, aside)
                aside.replace(copy)
            except OSError:
                continue
            finally:
                shutil.rmtree(aside, ignore_errors=True)
