"""A finished run, read back from its folder: its recipe, its data and its trained models."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from limbeck.config import Recipe, load_recipe
from limbeck.errors import RunError, one_line
from limbeck.schemes.preparing import Parts, build_student, prepare, seeded_build
from limbeck.training import load_weights
from limbeck.training.state import checked_history

__all__ = ["FinishedRun", "teacher_file"]


def teacher_file(folder: Path, seed: int) -> Path:
    """Return where a run keeps the weights of the teacher of a seed."""
    return folder / f"teacher-{seed}.safetensors"


@dataclass(frozen=True)
class FinishedRun:
    """A run whose outcome is known.  parts: its sets, as its final trainings saw them."""

    folder: Path
    recipe: Recipe
    parts: Parts
    outcome: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "FinishedRun":
        """Read a run folder; RunError when it is none, or not finished."""
        if not (folder / "recipe.yaml").is_file():
            raise RunError(f"'{folder}' is no run folder (it has no recipe.yaml); name one below runs/")
        recipe = load_recipe(folder / "recipe.yaml")
        path = folder / "outcome.json"
        if not path.is_file():
            again = f"limbeck distill {folder / 'recipe.yaml'} --resume {folder}"
            raise RunError(f"'{folder}' is not finished (it has no outcome.json); go on with: {again}")
        try:
            outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            _check_outcome(outcome, recipe)
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"'{path}' is damaged ({one_line(error)}); run the recipe again") from None
        return cls(folder, recipe, prepare(recipe, refit=recipe.refit), outcome)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the students."""
        return self.recipe.seeds

    def teacher(self, seed: int) -> nn.Module:
        """Return the trained teacher of a student's seed."""
        own = seed if self.recipe.teacher.seed is None else self.recipe.teacher.seed
        model = seeded_build(self.recipe.teacher.model, self.parts.train, own, "teacher")
        load_weights(model, teacher_file(self.folder, own))
        return model

    def student(self, role: str, seed: int) -> nn.Module:
        """Return the trained student of a role, "alone" or "distilled", and a seed."""
        model = build_student(self.recipe, self.parts, seed)
        load_weights(model, self.folder / f"{role}-{seed}" / "student.safetensors")
        return model

    def history(self, role: str, seed: int) -> list[dict[str, Any]]:
        """Return the metrics of each epoch of a student's training, as metrics.jsonl has them."""
        lines = (self.folder / f"{role}-{seed}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        try:
            return checked_history([json.loads(line) for line in lines])
        except RecursionError as error:
            raise ValueError(str(error)) from None


class _Metrics(BaseModel):
    model_config = ConfigDict(strict=True)
    examples: int = Field(ge=1, lt=2**63)
    errors: int = Field(ge=0, lt=2**63)
    accuracy: float
    nll: float


class _Parameters(BaseModel):
    model_config = ConfigDict(strict=True)
    teacher: int = Field(ge=0, lt=2**63)
    student: int = Field(ge=0, lt=2**63)


class _Interval(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    mean: float
    half_width: float | None
    n: int


class _Outcome(BaseModel):
    """What readers of an outcome take for granted; roles become names of files, so they are plain words."""

    model_config = ConfigDict(strict=True)
    seeds: list[dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")], int | _Metrics]] = Field(min_length=1)
    parameters: _Parameters
    gap_closed: _Interval | None = None
    chosen: dict[str, dict[str, Any]] = {}


def _check_outcome(outcome: Any, recipe: Recipe) -> None:
    """Require an outcome to be what a run of the recipe writes; ValueError otherwise."""
    checked = _Outcome.model_validate(outcome)
    if [seed.get("seed") for seed in checked.seeds] != list(recipe.seeds):
        raise ValueError("its seeds are not the recipe's")
    if any(seed.keys() != checked.seeds[0].keys() for seed in checked.seeds):
        raise ValueError("its seeds have different roles")
