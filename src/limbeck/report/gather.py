"""What a report tells of a run, gathered from its folder as plain numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.evaluation import Interval, predict, t_interval
from limbeck.runs import RunFolder
from limbeck.schemes.finished import FinishedRun, teacher_file

__all__ = ["Answers", "Curve", "Gathered", "Model", "gather", "temperature_of"]

_NAMES = {"teacher": "Teacher", "alone": "Student alone", "distilled": "Student distilled"}


@dataclass(frozen=True)
class Model:
    """One of the models of a run, over its seeds.  bytes: of its weights on disk."""

    role: str
    name: str
    errors: Interval
    accuracy: Interval
    nll: Interval
    parameters: int
    bytes: int | None


@dataclass(frozen=True)
class Answers:
    """Logits (n, K) on the test set by role, one tensor a seed, and the labels (n,)."""

    labels: Tensor
    logits: Mapping[str, Sequence[Tensor]]

    def has(self, *roles: str) -> bool:
        """Whether all these roles have answered."""
        return all(self.logits.get(role) for role in roles)

    def pairs(self, role: str) -> list[tuple[Tensor, Tensor]]:
        """Return the answers of the teacher and of a student, seed by seed; they share one teacher or have each one."""
        teachers, students = list(self.logits["teacher"]), list(self.logits[role])
        return list(zip(teachers * len(students) if len(teachers) == 1 else teachers, students, strict=False))


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs: the mean over the seeds, and its least and greatest value."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Gathered:
    """A run as its report sees it.

    curves: by student and quantity ("train.soft", "validation.errors", "learning_rate").
    notes: what had to be left out, and why.
    """

    run: FinishedRun
    models: tuple[Model, ...]
    gap: Interval | None
    answers: Answers | None
    curves: Mapping[str, Mapping[str, Curve]]
    manifest: Mapping[str, Any]
    recipe: str
    notes: list[str] = field(default_factory=list)

    def model(self, role: str) -> Model | None:
        """Return a model by its role."""
        return next((model for model in self.models if model.role == role), None)

    @property
    def students(self) -> list[Model]:
        """The models that are no teacher."""
        return [model for model in self.models if model.role != "teacher"]


def gather(folder: Path) -> Gathered:
    """Read a finished run and let its models answer the test set, which is put on record; RunError when it is none."""
    run = FinishedRun.read(folder)
    notes: list[str] = []
    manifest = _manifest(folder, notes)
    answers = _answers(run, notes)
    if answers is not None and manifest:
        try:
            RunFolder(folder).read_test_set("report: where the models differ, and their calibration")
            manifest = _manifest(folder, notes)
        except OSError:
            notes.append("The run folder cannot be written, so this report's reading of the test set is not on record.")
    gap = run.outcome.get("gap_closed")
    return Gathered(
        run=run,
        models=_models(run),
        gap=None if gap is None else Interval(**gap),
        answers=answers,
        curves={role: _curves(run, role, notes) for role in _roles(run) if role != "teacher"},
        manifest=manifest,
        recipe=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        notes=notes,
    )


def temperature_of(keys: Mapping[str, Any]) -> float:
    """Return the temperature that a resolved recipe distils at; 4 where it has none or a schedule.

    >>> temperature_of({"method": {"name": "kd", "temperature": 2}}), temperature_of({"method": {"name": "hard"}})
    (2.0, 4.0)
    """
    value = keys.get("method", {}).get("temperature")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 4.0


def _roles(run: FinishedRun) -> list[str]:
    """Return the run's roles: teacher, alone, any others, distilled."""
    found = [role for role, value in run.outcome["seeds"][0].items() if isinstance(value, dict) and "errors" in value]
    others = [role for role in found if role not in _NAMES]
    return [role for role in ("teacher", "alone", *others, "distilled") if role in found]


def _models(run: FinishedRun) -> tuple[Model, ...]:
    models = []
    for role in _roles(run):
        found = [seed[role] for seed in run.outcome["seeds"]]
        # A teacher that all seeds share was measured once.
        found = found[:1] if role == "teacher" and run.recipe.teacher.seed is not None else found
        of = "teacher" if role == "teacher" else "student"
        models.append(
            Model(
                role=role,
                name=_NAMES.get(role) or f"Student {role.replace('_', ' ')}",
                errors=t_interval([float(metrics["errors"]) for metrics in found]),
                accuracy=t_interval([metrics["accuracy"] for metrics in found]),
                nll=t_interval([metrics["nll"] for metrics in found]),
                parameters=run.outcome["parameters"][of],
                bytes=_size(_weights(run, role)),
            )
        )
    return tuple(models)


def _weights(run: FinishedRun, role: str) -> Path:
    seed = run.seeds[0]
    if role == "teacher":
        return teacher_file(run.folder, seed if run.recipe.teacher.seed is None else run.recipe.teacher.seed)
    return run.folder / f"{role}-{seed}" / "student.safetensors"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _answers(run: FinishedRun, notes: list[str]) -> Answers | None:
    """Let every model that can be read answer the test set."""
    logits: dict[str, list[Tensor]] = {}
    seeds = run.seeds
    for role in _roles(run):
        own = seeds[:1] if role == "teacher" and run.recipe.teacher.seed is not None else seeds
        try:
            models = [run.teacher(seed) if role == "teacher" else run.student(role, seed) for seed in own]
        except LimbeckError as error:
            notes.append(f"What the {_NAMES.get(role, role).lower()} answers is left out: {error}")
            continue
        logits[role] = [predict(model, run.parts.test).float().cpu() for model in models]
    labels = run.parts.test.labels.cpu()
    return Answers(labels, logits) if logits else None


def _curves(run: FinishedRun, role: str, notes: list[str]) -> dict[str, Curve]:
    """Return a student's quantities over the epochs that all its seeds have."""
    try:
        histories = [run.history(role, seed) for seed in run.seeds]
    except (OSError, ValueError) as error:
        notes.append(f"The curves of the student {role} are left out: its metrics cannot be read ({error}).")
        return {}
    epochs = [entry["epoch"] for entry in min(histories, key=len)]
    columns: dict[str, list[list[float]]] = {}
    for history in histories:
        for number, entry in enumerate(history[: len(epochs)]):
            for name, value in _flat(entry).items():
                columns.setdefault(name, [[] for _ in epochs])[number].append(value)
    return {
        name: Curve(
            epochs=tuple(epoch for epoch, values in zip(epochs, column, strict=True) if values),
            mean=tuple(fmean(values) for values in column if values),
            low=tuple(min(values) for values in column if values),
            high=tuple(max(values) for values in column if values),
        )
        for name, column in columns.items()
    }


def _flat(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch by name."""
    flat = {f"train.{name}": value for name, value in entry.get("train", {}).items()}
    validation = entry.get("validation") or {}
    flat |= {f"validation.{name}": validation[name] for name in ("errors", "nll") if name in validation}
    if "learning_rate" in entry:
        flat["learning_rate"] = entry["learning_rate"]
    return flat


def _manifest(folder: Path, notes: list[str]) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        line = "The manifest cannot be read, so versions, hashes and the command are left out."
        if line not in notes:
            notes.append(line)
        return {}
    return manifest if isinstance(manifest, dict) else {}
