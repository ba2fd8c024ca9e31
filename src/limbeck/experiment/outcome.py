"""What a distillation came to: the test figures of every role and seed, and what each role cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.evaluation import Interval, Metrics, Standing, gap_closed, standing, t_interval
from limbeck.records import as_json
from limbeck.runs import RunFolder
from limbeck.tasks import CLASSIFICATION, Task
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

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return {
            "label": self.label,
            "parameters": self.parameters,
            "compute": dict(self.compute),
            "relative": self.relative,
        }


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
    task: Task = CLASSIFICATION
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
        return standing(found, self.constant_accuracy, self.task, teaches=self.teaches)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        gap = self.gap_closed()
        return {
            "seeds": [
                {"seed": seed.seed, **{role: seed.metrics[role].as_dict() for role in self.roles}}
                for seed in self.seeds
            ],
            "errors": {role: vars(self.errors(role)) for role in self.roles},
            "gap_closed": None if gap is None else vars(gap),
            "parameters": self.parameters,
            "chosen": self.chosen,
            "roles": {role: found.as_dict() for role, found in self.roles.items()},
            "decided": {str(seed): dict(answers) for seed, answers in self.decided.items()},
            "figures": {str(seed): dict(found) for seed, found in self.figures.items()},
            "notes": list(self.notes),
            "task": self.task.name,
            "failures": list(self.standing().failures),
            "data": dict(self.data),
            "code": {where: dict(files) for where, files in self.code.items()},
        }


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
