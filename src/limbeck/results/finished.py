"""A finished run, read back from its folder: its recipe, its data and its trained models."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import checks
from limbeck.compress import rebuilt
from limbeck.config import Recipe, load_recipe
from limbeck.errors import DataError, RunError
from limbeck.experiment.building import SeedBuilder, build_teacher
from limbeck.experiment.outcome import Outcome, ordered, teacher_file, teacher_history
from limbeck.experiment.parts import Parts, prepare
from limbeck.experiment.sealing import OUTCOME, data_of, files_of, read_outcome, require_same
from limbeck.experiment.signature import Signature, read_signature
from limbeck.results.trust import require_trust
from limbeck.runs import RunFolder, group_of, made_by
from limbeck.teachers import MeanOfModels
from limbeck.training import load_weights
from limbeck.training.state import checked_history
from limbeck.training.weight_files import transforms_of

__all__ = ["FinishedRun", "filled", "untrained"]


@dataclass(frozen=True)
class FinishedRun:
    """A run whose outcome is known.

    Its networks need no data: `signature` says what they take and answer.
    """

    folder: Path
    recipe: Recipe
    outcome: Outcome
    signature: Signature

    @classmethod
    def read(cls, folder: Path, *, trust: bool = False, data: Path | None = None) -> "FinishedRun":
        """Read a run folder, once its weights and code are those that it ended with; `parts` reads its data.

        trust: whether to import the factories of its recipe wherever they lie; else `require_trust` decides.
        data: the file or folder that its data is in now, if that was moved.
        Raises RunError when it is not a run folder, is not finished, or has changed since.
        """
        if not (folder / "recipe.yaml").is_file():
            raise RunError(f"'{folder}' is not a run folder (it has no recipe.yaml); name one below runs/")
        if not (folder / OUTCOME).is_file():
            if (group := group_of(folder)) is not None:
                raise RunError(
                    f"'{folder}' is a run of group {checks.shown(group)} alone, which has no outcome of a recipe; its "
                    "figures are in group.json, and limbeck distill trains all peers"
                )
            if (verb := made_by(folder)) in ("tune", "diagnose"):
                raise RunError(
                    f"'{folder}' was made by limbeck {verb} and is not a run; name a folder that distill made"
                )
            again = RunFolder(folder).again
            raise RunError(f"'{folder}' is not finished (it has no outcome.json); resume it with: {again}")
        outcome = read_outcome(folder)
        recipe = load_recipe(folder / "recipe.yaml")
        recipe = recipe if data is None else recipe.with_data_in(data)
        if [seed.seed for seed in outcome.seeds] != list(recipe.seeds):
            raise RunError(f"'{folder / OUTCOME}' is damaged (its seeds are not the recipe's); run the recipe again")
        require_same(folder, "code", files_of(recipe.code()), files_of(outcome.code))
        if not trust:
            require_trust(recipe, folder)
        return cls(folder, recipe, outcome, read_signature(folder))

    @cached_property
    def parts(self) -> Parts:
        """The sets of the run, as its final trainings saw them, prepared when they are first asked for.

        Raises RunError where the data is not there, or has changed since.
        """
        try:
            parts = prepare(self.recipe, refit=self.recipe.refit)
        except DataError as error:
            if (place := self.recipe.place) is None or place.exists():
                raise
            raise RunError(
                f"'{self.folder}': found no data in '{place}', where the run had it; expected it there. Say where it "
                f"is now with --data PATH (in Python data=), or put it back"
            ) from error
        require_same(self.folder, "data", data_of(parts), self.outcome.data)
        return parts

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the students."""
        return self.recipe.seeds

    def seeds_of(self, role: str) -> tuple[int, ...]:
        """Return a student's seed for each model of a role; of a teacher that all seeds share, the first."""
        return self.seeds[:1] if role == "teacher" and self.recipe.teacher.seed is not None else self.seeds

    def weights(self, role: str, seed: int) -> Path:
        """Return the file of the weights of a role, for a student's seed."""
        if role == "teacher":
            return teacher_file(self.folder, self.recipe.teacher.of(seed))
        return self.folder / f"{role}-{seed}" / "student.safetensors"

    def teacher(self, seed: int) -> nn.Module:
        """Return the trained teacher of a student's seed."""
        return filled(untrained(self.recipe, self.signature, "teacher", seed), self.weights("teacher", seed))

    @property
    def roles(self) -> list[str]:
        """The roles that were measured, in the order of a table: teacher, student alone, others, distilled."""
        return ordered(list(self.outcome.roles))

    def label(self, role: str) -> str:
        """Return what a table calls a role."""
        return self.outcome.roles[role].label

    def parameters(self, role: str) -> int:
        """Return how many parameters the model of a role has."""
        return self.outcome.roles[role].parameters

    def model(self, role: str, seed: int) -> nn.Module:
        """Return the trained model of any role and a student's seed."""
        return self.teacher(seed) if role == "teacher" else self.student(role, seed)

    def student(self, role: str, seed: int) -> nn.Module:
        """Return the trained model of a role that is not the teacher's: "alone", "distilled", the scheme's own."""
        scheme = self.recipe.scheme
        if role == "member" and not self.recipe.teacher.single:
            return self.teacher(seed).members[0]  # type: ignore[index,return-value]
        if whole := scheme.part_of(role):
            return scheme.part(role, self.student(whole, seed))
        if members := scheme.means(role):
            return MeanOfModels([self.student(member, seed) for member in members])
        return filled(untrained(self.recipe, self.signature, role, seed), self.weights(role, seed))

    def composed(self, role: str) -> bool:
        """Whether a role has no weights of its own: the mean of other roles, or a part of one."""
        ensemble = role in ("member", "teacher") and not self.recipe.teacher.single
        scheme = self.recipe.scheme
        return ensemble or bool(scheme.means(role)) or scheme.part_of(role) is not None

    def history(self, role: str, seed: int) -> list[dict[str, Any]]:
        """Return the metrics of each epoch of the training of a role, as metrics.jsonl has them.

        seed: of the student.  Of an ensemble there are none.  OSError where they are not there, as of a teacher that
        was read from a file; ValueError where they are damaged.
        """
        if self.composed(role):
            return []
        path = self.folder / f"{role}-{seed}" / "metrics.jsonl"
        if role == "teacher":
            path = teacher_history(self.folder, self.recipe.teacher.of(seed))
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            return checked_history([json.loads(line) for line in lines])
        except RecursionError as error:
            raise ValueError(str(error)) from None


def untrained(recipe: Recipe, signature: Signature, role: str, seed: int) -> nn.Module:
    """Return the network of a role that has weights of its own, as it was before any training and any transform."""
    plain, parts = recipe.without_checkpoints(), signature.parts()
    if role == "teacher":
        return build_teacher(plain, parts, recipe.teacher.of(seed))
    builder = SeedBuilder(plain, parts, seed)
    return builder.student() if role in ("alone", "alone_budget") else recipe.scheme.build(role, builder)


def filled(model: nn.Module, weights: Path) -> nn.Module:
    """Return a network with the weights of a file, in the structure that the transforms named there gave it."""
    model = rebuilt(model, transforms_of(weights))
    load_weights(model, weights)
    return model
