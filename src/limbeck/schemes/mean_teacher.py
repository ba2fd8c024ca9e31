"""Mean teacher: the teacher is the student's own moving average, and what it answers need not be labelled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.func import functional_call

from limbeck import checks, schedules
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.carry import state_axis
from limbeck.distiller import Average, Distiller
from limbeck.errors import InputError
from limbeck.networks import evaluating
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs, Tap, run_model
from limbeck.schedules import Schedule
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Scheme

__all__ = ["CARD", "AverageTeacher", "MeanTeacher", "MeanTeacherDistiller"]

CARD = Card(
    name="mean_teacher",
    summary="the teacher is the moving average of the student; of unlabelled samples it is all there is to learn from",
    authors="Antti Tarvainen, Harri Valpola",
    year=2017,
    title="Mean teachers are better role models",
    source="https://arxiv.org/abs/1703.01780",
    formula="θ' ← decay·θ' + (1-decay)·θ; the method's teacher terms times exp(-5·(1 - min(1, t/ramp))²)",
)


class AverageTeacher:
    """The student under the moving average of its weights, in eval mode; before there is one, under its own.

    view: name in `batch.views` to read instead of `batch.inputs`.
    """

    def __init__(self, student: nn.Module, *, view: str | None = None) -> None:
        self._student = (student,)
        self.view = view
        self.average: Average | None = None

    @property
    def state_axis(self) -> int:
        """The batch axis of the student's recurrent state."""
        return state_axis(self._student[0])

    @torch.no_grad()
    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None, state: Any = None) -> Outputs:
        """Return the outputs, with the features that `taps` name, continued from a recurrent state if there is one."""
        student, inputs = self._student[0], batch.inputs if self.view is None else batch.views[self.view]
        with evaluating(student):
            answer = run_model(_Under(student, self.average), inputs, taps, task=batch.task, state=state)
        return answer.detach()

    def to(self, device: torch.device | str) -> "AverageTeacher":
        """Return the teacher; its weights are where the student's are."""
        return self

    def fingerprint(self) -> str:
        """Return what decides the answers: nothing but the student's training."""
        return f"moving average of the student, view {self.view}"


class _Under(nn.Module):
    """A network under other weights; `module` is no part of a path, so that the paths are the network's own."""

    def __init__(self, model: nn.Module, average: Average | None) -> None:
        super().__init__()
        self.module = model
        self._average = average

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if self._average is None:
            return self.module(*inputs, **named)
        return functional_call(self.module, dict(self._average.state), inputs, named)


class MeanTeacherDistiller(Distiller):
    """A distiller whose teacher is the moving average of its student; train with `Training(averaging=decay)`.

    >>> import limbeck as lb
    >>> samples = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
    >>> distiller = MeanTeacherDistiller(nn.Linear(3, 4), lb.methods.kd(temperature=1.0))
    >>> lb.fit(distiller, samples, epochs=1, batch_size=16, averaging=0.99).steps
    4
    """

    def __init__(self, student: nn.Module, objective: Objective, *, view: str | None = None) -> None:
        teacher = AverageTeacher(student, view=view)
        super().__init__(student, teacher, objective)
        self.average_teacher = teacher

    def follow(self, average: Average | None) -> None:
        """Take the moving average for the teacher's weights."""
        if average is None:
            raise InputError("averaging: found None, but the mean teacher needs a moving average; set a decay")
        if not average.state:
            raise InputError(
                "averaging: found a mean that begins later, but the mean teacher needs a moving average"
                " from the first step; set a decay"
            )
        self.average_teacher.average = average


@dataclass(frozen=True)
class MeanTeacher(Scheme):
    """The student is taught by its own moving average, which is what is evaluated and kept as the distilled student.

    The method's terms that read a teacher read that average, on all samples of the transfer set, labelled or not
    (`data.transfer.labelled`); the paper's choice is a squared error of probabilities, KL at T = 1 is close to it.

    Attributes:
        decay: of the average, in [0, 1); early on it is held down to (1 + n)/(10 + n) after n steps.
        ramp: epochs over which the weight of the teacher's terms rises.
        clean: whether the teacher sees the samples as they are, instead of the same augmented view as the student.
    """

    decay: float = 0.99
    ramp: float = 5.0
    clean: bool = False

    uses_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.unit_interval("decay", self.decay)
        if self.decay == 1:
            raise InputError("decay: found 1, expected a number in [0, 1)")
        checks.non_negative("ramp", self.ramp)

    def check(self, builder: Builder) -> str | None:
        """Refuse a method that a teacher takes no part in, and an average that is not the teacher's."""
        objective = builder.inspected
        if "teacher" not in objective.reads():
            return "name: mean_teacher needs a method that reads a teacher; use kd, for example"
        if objective.taps("teacher"):
            return "name: mean_teacher's average has no features, but the method reads some; use kd, for example"
        if builder.training.averaging is not None:
            return "decay: found together with training.averaging; leave that out, because the teacher is the average"
        return None

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the student with its average."""
        samples, training = context.parts.transfer, context.training
        steps = self.ramp * math.ceil(len(samples) / training.batch_size)
        objective = context.objective()
        for term in objective.terms.values():
            if "teacher" in term.reads:  # type: ignore[operator]
                _ramp(term, steps)  # type: ignore[arg-type]
        view = "clean" if self.clean else None
        distiller = MeanTeacherDistiller(context.student(), objective, view=view)
        averaged = replace(training, averaging=self.decay)
        answer = float(context.forward_flops(distiller.student))
        result = context.fit("distilled", distiller, samples, training=averaged, extra=answer)
        return {"distilled": result.student}


def _ramp(term: Term, steps: float) -> None:
    term.weight = _Risen(term.weight, steps)


@dataclass(frozen=True)
class _Risen:
    """A weight times exp(-5·(1 - t)²), t the share of the steps that are done."""

    weight: Schedule
    steps: float

    def __call__(self, step: int) -> float:
        share = min(1.0, step / self.steps) if self.steps else 1.0
        return schedules.at(self.weight, step) * math.exp(-5 * (1 - share) ** 2)
