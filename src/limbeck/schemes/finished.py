"""A finished run, read back from its folder: its recipe, its data and its trained models."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.config import Recipe, load_recipe
from limbeck.errors import RunError
from limbeck.schemes.preparing import Parts, build_student, prepare, seeded_build
from limbeck.training import load_weights

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
        except ValueError as error:
            raise RunError(f"'{path}' is damaged ({error}); run the recipe again") from None
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
        return [json.loads(line) for line in lines]
