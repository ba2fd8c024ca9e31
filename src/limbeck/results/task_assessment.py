"""A finished run whose labels are not one class an example, under the figures of its task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import SampleSet
from limbeck.evaluation import Estimate, McNemar, Metrics, evaluate, fidelity, mcnemar, paired_difference, predict
from limbeck.records import plain_values
from limbeck.results.finished import FinishedRun
from limbeck.results.measured import Judged, costs_of, identity, models_of
from limbeck.tasks import Task

__all__ = ["Nearness", "TaskAssessment", "TaskModel", "assess_task", "nearness"]

_AT_ONCE = 500  # samples whose answers are held at a time


@dataclass(frozen=True)
class Nearness:
    """How near a student's answers are to its teacher's.

    agreement: share of all labels (of places, of a dense task) with the same class.  kl: KL(teacher ‖ student), mean
    over the same, in nats.  distance: of a regression instead, the mean squared difference.
    """

    agreement: float | None = None
    kl: float | None = None
    distance: float | None = None


def nearness(student: nn.Module, teacher: nn.Module, samples: SampleSet) -> Nearness:
    """Compare a student with its teacher on a set, a part of it at a time."""
    found = []
    for positions in torch.arange(len(samples), device=samples.index.device).split(_AT_ONCE):
        part = samples.subset(positions)
        own, taught = predict(student, part).cpu(), predict(teacher, part).cpu()
        if samples.task.has_classes:
            near = fidelity(own.flatten(0, -2), taught.flatten(0, -2))
            found.append((len(positions), near.agreement, near.kl))
        else:
            found.append((len(positions), float((own.double() - taught.double()).square().mean()), 0.0))
    size = sum(count for count, *_ in found)
    first, second = (sum(each[0] * each[place] for each in found) / size for place in (1, 2))
    return Nearness(first, second) if samples.task.has_classes else Nearness(distance=first)


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
        """Return everything as plain values; test_errors are positions among the labelled test samples."""
        return {
            "role": self.role,
            "seed": self.seed,
            "sets": self.sets,
            "fidelity": self.near,
            **({} if self.correct is None else {"test_errors": torch.where(~self.correct)[0].tolist()}),
        }


@dataclass(frozen=True, eq=False)
class TaskAssessment(Judged[TaskModel]):
    """A run under the figures of its task.

    pooled: student alone (first) against distilled (second), test sample by test sample, over all seeds, and
    difference: in accuracy; None where an example is not right or wrong as a whole.
    """

    task: Task
    pooled: McNemar | None
    difference: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; what is not finite is None."""
        more = {
            "task": self.task.name,
            "pooled": self.pooled,
            "difference": self.difference,
        }
        return {**super().as_dict(), **plain_values(more)}


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
        parameters=run.outcome["parameters"],
        cost=costs_of(run, device, say) if with_cost else {},
        task=run.parts.test.task,
        pooled=mcnemar(*known) if known else None,
        difference=paired_difference(*known) if known else None,
    )


def _correct(model: nn.Module, samples: SampleSet) -> Tensor | None:
    """Return whether each labelled sample has all its labels right; None where that is not what counts."""
    if not (samples.task.several and samples.task.has_classes):
        return None
    labels = samples.labels.cpu()
    known = samples.task.labelled(labels)
    right = (predict(model, samples).argmax(-1).cpu() == labels) | ~known
    return right.all(1)[known.any(1)]
