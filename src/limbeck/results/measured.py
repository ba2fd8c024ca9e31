"""What every assessment of a finished run holds, whatever its task: models, figures over the seeds, and cost."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from limbeck.data import SampleSet
from limbeck.errors import InputError, command
from limbeck.evaluation import Cost, Interval, Metrics, Standing, constant_accuracy, cost, standing, t_interval
from limbeck.results.evaluations import EvaluatedModel, Evaluation, MeasuredSet
from limbeck.results.finished import FinishedRun
from limbeck.results.measurements import held
from limbeck.runs import RunFolder
from limbeck.tasks import Task, task_named

__all__ = [
    "Judged",
    "JudgedModel",
    "costs_of",
    "identity",
    "models_of",
    "place",
    "put_on_record",
    "sets_of",
]

_TIMED = 256  # samples of the larger batch whose time is taken


class JudgedModel(Protocol):
    """One model of a run."""

    @property
    def role(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def correct(self) -> Tensor | None:
        """Whether each labelled test sample is right, (n,) bool; None where it is not right or wrong as a whole."""
        ...

    def figures(self) -> dict[str, float]:
        """Return the figures that a table shows, by name, of the test set where nothing else is said."""
        ...


M = TypeVar("M", bound=JudgedModel)


@dataclass(frozen=True, eq=False)
class Judged(Generic[M]):
    """A run under the measures of its task.

    teaches: whether the scheme uses the teacher.
    models: of every role and seed.  labels: what a table calls each role, in its order.
    test: identity and size of the test set.  cost: of teacher and student; empty when it was not measured.
    """

    name: str
    teaches: bool
    models: tuple[M, ...]
    labels: Mapping[str, str]
    test: MeasuredSet
    parameters: Mapping[str, int]
    cost: Mapping[str, Cost]

    def of(self, role: str) -> list[M]:
        """Return the models of a role, in the order of their seeds."""
        return [model for model in self.models if model.role == role]

    def figure(self, role: str, name: str) -> Interval | None:
        """Return a figure of a role with its t-interval over the seeds; None if a model has none."""
        values = [model.figures().get(name) for model in self.of(role)]
        known = [value for value in values if value is not None]
        return t_interval(known) if known and len(known) == len(values) else None

    def advantage(self, name: str) -> Interval | None:
        """Return a figure of the student distilled less that of the student alone, paired by seed."""
        pairs = zip(self.of("alone"), self.of("distilled"), strict=True)
        values = [(one.figures().get(name), two.figures().get(name)) for one, two in pairs]
        known = [two - one for one, two in values if one is not None and two is not None]
        return t_interval(known) if known and len(known) == len(values) else None

    @property
    def task(self) -> Task:
        """What the labels of the test set are."""
        return task_named(self.test.task)

    def standing(self) -> Standing:
        """Return what may be claimed of these figures."""
        seeds, examples = len(self.of("distilled")), self.test.examples
        found: dict[str, list[Metrics]] = {}
        for model in self.models:
            errors, accuracy, nll = (model.figures()[name] for name in ("errors", "accuracy", "nll"))
            found.setdefault(model.role, []).append(Metrics(examples, errors, accuracy, nll))
        shared = {role: each * seeds if len(each) == 1 else each for role, each in found.items()}
        return standing(shared, self.test.constant_accuracy, self.task, teaches=self.teaches)

    def evaluation(self) -> Evaluation:
        """Return what a comparison needs of it."""
        names = list(dict.fromkeys(name for model in self.models for name in model.figures()))
        return Evaluation(
            name=self.name,
            test=self.test,
            parameters=self.parameters,
            summary={
                role: {name: found for name in names if (found := self.figure(role, name)) is not None}
                for role in self.labels
            },
            advantage={name: found for name in names if (found := self.advantage(name)) is not None},
            models=tuple(
                EvaluatedModel(model.role, model.seed, wrong_positions(model.correct)) for model in self.models
            ),
            failures=tuple(self.standing().failures),
            cost=self.cost,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation with everything that was measured of each model."""
        roles = {role: {"label": label} for role, label in self.labels.items()}
        return {**vars(self.evaluation()), "roles": roles, "models": self.models}


def wrong_positions(correct: Tensor | None) -> tuple[int, ...] | None:
    """Return the positions of the test samples that are wrong."""
    return None if correct is None else tuple(torch.where(~correct)[0].tolist())


def put_on_record(run: FinishedRun) -> None:
    """Write into the manifest that the test set is read."""
    with held(run.folder):
        names = [run.label(role) for role in run.roles]
        folder = RunFolder(run.folder, command("limbeck", "evaluate", run.folder))
        folder.read_test_set(f"evaluation of {', '.join(names[:-1])} and {names[-1]}")


def sets_of(run: FinishedRun) -> dict[str, SampleSet]:
    """Return what each model is measured on; there is no validation part after a refit."""
    held_out = {} if run.parts.held_out is None else {"validation": run.parts.held_out}
    return {"transfer": run.parts.alone, **held_out, "test": run.parts.test}


def costs_of(run: FinishedRun, device: torch.device, say: Callable[[str], None]) -> dict[str, Cost]:
    """Measure the cost of teacher and student."""
    train, seed = run.parts.train, run.seeds[0]
    inputs = train.batch(torch.arange(min(_TIMED, len(train))), augment=None, seed=0, view=0).inputs
    costs = {}
    for role, model in (("teacher", run.teacher(seed)), ("student", run.student("distilled", seed))):
        say(f"measuring the cost of the {role}")
        costs[role] = cost(model.to(device), inputs.to(device), batches=(1, _TIMED))
    return costs


def place(device: str | None) -> torch.device:
    """Return the device of a name, after a number was put there."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device: found '{name}' ({str(error).splitlines()[0]}), expected cpu or cuda:0, say"
        ) from None


def models_of(run: FinishedRun) -> Iterator[tuple[str, int, nn.Module]]:
    """Yield role, seed and model, each teacher before its students."""
    shared = run.recipe.teacher.seed
    for number, seed in enumerate(run.seeds):
        if shared is None or number == 0:
            yield "teacher", seed if shared is None else shared, run.teacher(seed)
        for role in run.roles[1:]:
            yield role, seed, run.student(role, seed)


def identity(samples: SampleSet) -> MeasuredSet:
    """Return what tells whether two runs were measured on the same samples in the same order."""
    digest = hashlib.sha256(samples.source.encode())
    digest.update(samples.index.cpu().numpy().tobytes())
    labelled = int(samples.task.count(samples.task.labelled(samples.labels)))
    return MeasuredSet(
        name=samples.name,
        examples=labelled,
        classes=samples.classes,
        digest=digest.hexdigest(),
        task=samples.task.name,
        constant_accuracy=constant_accuracy(samples.labels, samples.task),
    )
