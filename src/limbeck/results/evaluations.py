"""Evaluations in the folders of their runs, as a comparison reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import RunError, command
from limbeck.evaluation import Cost, Interval
from limbeck.results.measurements import Content, newest_of, write_once

__all__ = ["EvaluatedModel", "Evaluation", "MeasuredSet", "keep", "newest"]

_MOST = 10**8  # test examples


@dataclass(frozen=True)
class MeasuredSet:
    """Which test set it was.

    examples: labelled ones.  digest: of the samples in their order.
    constant_accuracy: of the best answer that is the same for every sample.
    """

    name: str
    examples: int
    classes: int
    digest: str
    task: str
    constant_accuracy: float


@dataclass(frozen=True)
class EvaluatedModel:
    """A model of a run.

    test_errors: positions among the labelled test samples; None where a sample is not right or wrong as a whole.
    """

    role: str
    seed: int
    test_errors: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation of a run says, whatever its task; further keys of the file are its task's.

    summary: figures over the seeds by role and name.  advantage: of the student distilled over the student alone.
    failures: a clause for each model that failed, as `Standing.failures` has them.
    cost: of teacher and student; empty when it was not measured.
    """

    name: str
    test: MeasuredSet
    parameters: Mapping[str, int]
    summary: Mapping[str, Mapping[str, Interval]]
    advantage: Mapping[str, Interval]
    models: tuple[EvaluatedModel, ...]
    failures: tuple[str, ...]
    cost: Mapping[str, Cost]
    format: int = 2

    def of(self, role: str) -> list[EvaluatedModel]:
        """Return the models of a role, in the order of their seeds."""
        return [model for model in self.models if model.role == role]

    def correct(self, role: str) -> Tensor | None:
        """Return whether each labelled test sample is right, (seeds, n) bool; None where that is not known."""
        right = torch.ones(len(self.of(role)), self.test.examples, dtype=torch.bool)
        for row, model in zip(right, self.of(role), strict=True):
            if model.test_errors is None:
                return None
            row[list(model.test_errors)] = False
        return right


def keep(found: Any, folder: Path) -> Path:
    """Write an assessment into its run folder and return where it lies; nothing is overwritten (see `write_once`)."""
    again = command("limbeck", "evaluate", folder)
    return write_once(found, folder, "evaluation", again=again, timeless=_timeless)


def newest(folder: Path) -> Evaluation | None:
    """Return the newest evaluation of a run, None where there is none; RunError when it is damaged or of old."""
    found = newest_of(Evaluation, folder, "evaluation", "evaluate")
    if found is not None:
        size, positions = found.test.examples, [at for model in found.models for at in model.test_errors or ()]
        if not 0 < size <= _MOST or any(not 0 <= at < size for at in positions):
            mend = f"delete it and run {command('limbeck', 'evaluate', folder)}"
            raise RunError(f"'{folder}': its evaluation is damaged (test errors of {size} test examples); {mend}")
    return found


def _timeless(content: Content, other: Content) -> Content:
    """Return what does not depend on the clock; without the cost where the other has none."""
    costs = content.get("cost")
    if not isinstance(costs, Mapping) or not all(isinstance(each, Mapping) for each in costs.values()):
        return content  # a damaged file, which says nothing that is the same
    kept = {role: {k: v for k, v in each.items() if k not in ("timings", "memory")} for role, each in costs.items()}
    return {**content, "cost": kept if other.get("cost") else {}}
