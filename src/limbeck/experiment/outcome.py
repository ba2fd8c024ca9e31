"""What a distillation came to: the test figures of every role and seed, and what each role cost."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from limbeck.evaluation import Interval, Metrics, Standing, gap_closed, standing, t_interval
from limbeck.records import as_json, plain_values, read_as
from limbeck.runs import RunFolder
from limbeck.tasks import CLASSIFICATION, Task, task_named
from limbeck.training.checkpoints import write_text

__all__ = [
    "FIXED_ROLES",
    "Outcome",
    "RoleOutcome",
    "SeedOutcome",
    "keep_history",
    "label_of",
    "ordered",
    "teacher_file",
    "teacher_history",
]

FIXED_ROLES = {
    "teacher": "teacher",
    "member": "one network of the teacher",
    "alone": "student alone",
    "alone_budget": "student alone, equal compute",
    "distilled": "student distilled",
}
"""The roles that are no scheme's own, with their labels."""

_REFERENCE = "reference, no teacher"


def label_of(role: str, *, teaches: bool) -> str | None:
    """Return the label of a fixed role; a teacher that the scheme does not use is called no teacher.

    >>> label_of("teacher", teaches=False), label_of("alone", teaches=False), label_of("peer_1", teaches=True)
    ('reference, no teacher', 'student alone', None)
    """
    return _REFERENCE if role == "teacher" and not teaches else FIXED_ROLES.get(role)


@dataclass(frozen=True)
class SeedOutcome:
    """The models of one seed on the test set, by role."""

    seed: int
    metrics: Mapping[str, Metrics]

    @property
    def teacher(self) -> Metrics:
        """The teacher's figures."""
        return self.metrics["teacher"]

    @property
    def alone(self) -> Metrics:
        """The figures of the student alone."""
        return self.metrics["alone"]

    @property
    def distilled(self) -> Metrics:
        """The figures of the student that the scheme ended with."""
        return self.metrics["distilled"]


@dataclass(frozen=True)
class RoleOutcome:
    """A role over all seeds.

    compute: FLOPs of all trainings that led to it, by kind (mean over the seeds).
    relative: their sum as a multiple of the student alone's; None where that is not known.
    """

    label: str
    parameters: int
    compute: Mapping[str, float]
    relative: float | None


class _ByName:
    """Tells pydantic that a task is written as its name."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(task_named)


@dataclass(frozen=True)
class Outcome:
    """What a distillation came to.

    seeds: the figures of each seed.  roles: what is known of each role, in the order of a table.
    parameters: of teacher and student.  chosen: what the search chose for each.
    decided: what the scheme decided on held-out data, by seed.  figures: further ones of the scheme, by seed.
    notes: lines on what was cut short.  task: of the data, which says what errors and accuracy are.
    constant_accuracy: on the test set, of the best answer that is the same for every sample.
    teaches: whether the scheme uses the recipe's teacher (`Scheme.uses_teacher`); if not, there is no gap to it.
    data: the digest of each set.  code: of each factory of the recipe, the digests of its files by module.
    """

    seeds: tuple[SeedOutcome, ...]
    roles: Mapping[str, RoleOutcome]
    parameters: dict[str, int]
    chosen: dict[str, dict[str, Any]]
    decided: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    figures: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    task: Annotated[Task, _ByName()] = CLASSIFICATION
    constant_accuracy: float = 0.0
    teaches: bool = True
    data: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def errors(self, role: str) -> Interval:
        """Return the test errors of a role over the seeds."""
        return t_interval([float(seed.metrics[role].errors) for seed in self.seeds])

    def accuracy(self, role: str) -> Interval:
        """Return the test accuracy of a role over the seeds."""
        return t_interval([seed.metrics[role].accuracy for seed in self.seeds])

    def more(self, role: str, names: Sequence[str]) -> list[Interval]:
        """Return further test figures of a role over the seeds, such as the mean average precision."""
        return [t_interval([seed.metrics[role].more.get(name, math.nan) for seed in self.seeds]) for name in names]

    def gap_closed(self) -> Interval | None:
        """Return the share of the gap to the teacher that distillation closed; None without a gap."""
        if not self.teaches:
            return None
        return gap_closed(
            self.errors("teacher").mean,
            [float(seed.alone.errors) for seed in self.seeds],
            [float(seed.distilled.errors) for seed in self.seeds],
        )

    def standing(self) -> Standing:
        """Return what may be claimed of these figures."""
        found = {role: [seed.metrics[role] for seed in self.seeds] for role in self.seeds[0].metrics}
        compressed = "uncompressed" in self.roles  # a role that scheme compress alone has
        return standing(found, self.constant_accuracy, self.task, teaches=self.teaches, compressed=compressed)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and what follows from them, as `read` takes them."""
        plain: dict[str, Any] = plain_values(
            {
                **vars(self),
                "seeds": [
                    {"seed": seed.seed, **{role: seed.metrics[role] for role in self.roles}} for seed in self.seeds
                ],
                "errors": {role: self.errors(role) for role in self.roles},
                "gap_closed": self.gap_closed(),
                "task": self.task.name,
                "failures": self.standing().failures,
            }
        )
        return plain

    @classmethod
    def read(cls, content: Any) -> "Outcome":
        """Return the outcome whose `as_dict` this is; ValueError with the first field that does not fit.

        Roles become names of files, so they are plain words.
        """
        if not isinstance(content, dict) or not isinstance(seeds := content.get("seeds"), list) or not seeds:
            raise ValueError("seeds: it has none")
        found = read_as(cls, {**content, "seeds": [_by_role(each) for each in seeds]})
        if any(seed.metrics.keys() != found.roles.keys() for seed in found.seeds):
            raise ValueError("its seeds have different roles")
        if not {"teacher", "alone", "distilled"} <= found.roles.keys():
            raise ValueError("roles: teacher, alone or distilled is missing")
        for role in found.roles:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", role):
                raise ValueError(f"roles: {role[:50]!r} is no role")
        return found


def _by_role(seed: Any) -> Any:
    """Return the figures of a seed as `SeedOutcome` has them: by role, further ones apart."""
    if not isinstance(seed, dict):
        return seed
    own = {each.name for each in fields(Metrics)} - {"more"}
    metrics = {
        role: {**figures, "more": {name: value for name, value in figures.items() if name not in own}}
        for role, figures in seed.items()
        if isinstance(figures, dict)
    }
    return {"seed": seed.get("seed"), "metrics": metrics}


def ordered(roles: Sequence[str]) -> list[str]:
    """Return roles in the order of a table: teacher, student alone, the scheme's own, distilled.

    >>> ordered(["distilled", "assistant_1", "teacher", "alone"])
    ['teacher', 'alone', 'assistant_1', 'distilled']
    """
    own = [role for role in roles if role not in FIXED_ROLES]
    return [role for role in ("teacher", "member", "alone", "alone_budget", *own, "distilled") if role in roles]


def teacher_file(folder: Path, seed: int) -> Path:
    """Return where a run keeps the weights of the teacher of a seed."""
    return folder / f"teacher-{seed}.safetensors"


def keep_history(folder: RunFolder, seed: int, history: Sequence[Mapping[str, Any]]) -> None:
    """Put the history of a teacher's training into the run; of a teacher that was read there is none."""
    if history:
        path = teacher_history(folder.path, seed)
        folder.save(
            path.name, lambda path: write_text(path, "".join(f"{as_json(entry, indent=None)}\n" for entry in history))
        )


def teacher_history(folder: Path, seed: int) -> Path:
    """Return where a run keeps the history of its teacher's training."""
    return folder / f"teacher-{seed}.metrics.jsonl"
