"""A finished run whose labels are not one class an example, under the figures of its task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import SampleSet
from limbeck.evaluation import (
    Estimate,
    McNemar,
    Metrics,
    Nearness,
    evaluate,
    figures_of,
    mcnemar,
    paired_difference,
    predict,
)
from limbeck.results.finished import FinishedRun
from limbeck.results.measured import Judged, costs_of, identity, models_of, wrong_positions

__all__ = ["TaskAssessment", "TaskModel", "assess_task", "nearness"]

_AT_ONCE = 500  # samples whose answers are held at a time


def nearness(student: nn.Module, teacher: nn.Module, samples: SampleSet) -> Nearness:
    """Compare a student with its teacher on a set, a part of it at a time."""
    figures, found = figures_of(samples.task), []
    for positions in torch.arange(len(samples), device=samples.index.device).split(_AT_ONCE):
        part = samples.subset(positions)
        own, taught = predict(student, part).cpu(), predict(teacher, part).cpu()
        found.append((len(positions), figures.nearness(own, taught)))
    return Nearness.mean(found)


@dataclass(frozen=True, eq=False)
class TaskModel:
    """One model of a run.

    sets: by "transfer" (what the student learnt from, unaugmented), "validation" (absent after a refit) and "test".
    near: of a student to its teacher, by the same names.
    correct: (n,) bool, whether all labels of each test sample are right, where an example is right or wrong as a whole.
    """

    role: str
    seed: int
    sets: Mapping[str, Metrics]
    near: Mapping[str, Nearness]
    correct: Tensor | None

    def figures(self) -> dict[str, float]:
        """Return the figures that a table shows, by name, of the test set where nothing else is said."""
        test = self.sets["test"]
        found: dict[str, float | None] = {"errors": test.errors, "accuracy": test.accuracy, "nll": test.nll}
        found |= test.more
        for name, near in self.near.items():
            suffix = "" if name == "test" else f"_{name}"
            found |= {f"{figure}{suffix}": value for figure, value in vars(near).items()}
        found |= {f"accuracy_{name}": each.accuracy for name, each in self.sets.items() if name != "test"}
        return {name: value for name, value in found.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name; test_errors are positions among the labelled test samples."""
        return {
            "role": self.role,
            "seed": self.seed,
            "sets": self.sets,
            "fidelity": self.near,
            **({} if self.correct is None else {"test_errors": wrong_positions(self.correct)}),
        }


@dataclass(frozen=True, eq=False)
class TaskAssessment(Judged[TaskModel]):
    """A run under the figures of its task.

    pooled: student alone (first) against distilled (second), test sample by test sample, over all seeds, and
    difference: in accuracy; None where an example is not right or wrong as a whole.
    """

    pooled: McNemar | None
    difference: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        more = {
            "task": self.task.name,
            "pooled": self.pooled,
            "difference": self.difference,
        }
        return {**super().as_dict(), **more}


def assess_task(
    run: FinishedRun,
    sets: Mapping[str, SampleSet],
    device: torch.device,
    *,
    with_cost: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> TaskAssessment:
    """Assess every model of a run on its sets; that the test set is read is put on record before."""
    models: list[TaskModel] = []
    teacher: nn.Module = nn.Identity()
    for role, seed, model in models_of(run):
        say(f"evaluating: {role} (seed {seed})")
        model = model.to(device)
        teacher = model if role == "teacher" else teacher
        near = {} if role == "teacher" else {name: nearness(model, teacher, each) for name, each in sets.items()}
        figures = {name: evaluate(model, each) for name, each in sets.items()}
        models.append(TaskModel(role, seed, figures, near, _correct(model, sets["test"])))
    pairs = [[model.correct for model in models if model.role == role] for role in ("alone", "distilled")]
    known = [torch.stack([each for each in rows if each is not None]) for rows in pairs if rows[0] is not None]
    return TaskAssessment(
        name=run.recipe.name,
        teaches=run.recipe.scheme.uses_teacher,
        models=tuple(models),
        labels={role: run.label(role) for role in run.roles},
        test=identity(run.parts.test),
        parameters=run.outcome.parameters,
        cost=costs_of(run, device, say) if with_cost else {},
        pooled=mcnemar(*known) if known else None,
        difference=paired_difference(*known) if known else None,
    )


def _correct(model: nn.Module, samples: SampleSet) -> Tensor | None:
    """Return whether each labelled sample is right as a whole; None where that is not what counts."""
    figures = figures_of(samples.task)
    return figures.correct(predict(model, samples).cpu(), samples.labels.cpu()) if figures.by_example else None
