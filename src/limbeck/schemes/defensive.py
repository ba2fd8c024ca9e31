"""Defensive distillation: teacher and student of one kind at a high temperature, and what that is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, ClassVar

from torch import Tensor, nn

from limbeck import checks
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.evaluation import robustness, value_range
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.records import plain_values
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.terms import HardLabels, SoftTargets

__all__ = ["CARD", "Defensive", "LabelsAtTemperature"]

CARD = Card(
    name="defensive",
    summary="teacher and student of one kind, both trained at a high temperature; robustness with its known caveat",
    authors="Nicolas Papernot, Patrick McDaniel, Xi Wu, Somesh Jha, Ananthram Swami",
    year=2016,
    title="Distillation as a Defense to Adversarial Perturbations against Deep Neural Networks",
    source="https://arxiv.org/abs/1511.04508",
    formula="teacher: T·H(y, softmax(v/T)); student: the method's soft targets at T; both answer at T = 1",
)


class LabelsAtTemperature(HardLabels):
    """T·H(y, softmax(z/T)): hard labels at a temperature, whose gradient is that of T = 1 in size."""

    def __init__(self, temperature: float) -> None:
        super().__init__(temperature)
        self.temperature = temperature

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        return super().sum({"student": Outputs(outputs["student"].logits / self.temperature)}, batch, step)


@dataclass(frozen=True)
class Defensive(Scheme):
    """A teacher of the student's kind learns at the method's temperature, the student from it at the same.

    At T = 1, at which both answer, the logits are about T times as large as an ordinary network's, and the gradients
    that an attack follows underflow (Carlini & Wagner 2016): the figures give the accuracy under attack as it is
    claimed, and again where the attacker divides the logits by T or attacks the student alone instead.

    Attributes:
        epsilons: sizes of the attacks that the figures report (the fast gradient sign method), in units of what the
            network sees.
    """

    epsilons: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)

    uses_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.epsilons:
            raise InputError("epsilons: found none, expected at least one")
        for epsilon in self.epsilons:
            checks.positive("epsilons", epsilon)

    def roles(self) -> Mapping[str, str]:
        """Return the teacher at a high temperature."""
        return {"hot_teacher": "teacher at the high temperature"}

    def check(self, builder: Builder) -> str | None:
        """Refuse a method without soft targets at one temperature."""
        terms = builder.inspected.terms.values()
        found = [term.temperature for term in terms if isinstance(term, SoftTargets)]
        if len(found) != 1 or callable(found[0]):
            return "name: defensive needs a method with soft targets at one temperature; use kd with alpha: 0"
        return None

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return the teacher's network, or the student's."""
        return builder.student_as(role) if role == "hot_teacher" else builder.student()

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of teacher and student."""
        hot = Distiller(self.build("hot_teacher", builder), None, self._hot(builder.inspected))
        label = self.roles()["hot_teacher"]
        return [Planned(label, hot, builder.parts.alone), *super().planned(builder, teacher)]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train teacher and student."""
        context.require(["hot_teacher", "distilled"])
        hot = self.build("hot_teacher", context)
        alone = Distiller(hot, None, self._hot(context.inspected))
        context.fit("hot_teacher", alone, context.parts.alone)
        taught = Distiller(context.student(), context.teach(hot, name="hot_teacher"), context.objective())
        return {"hot_teacher": hot, "distilled": context.fit("distilled", taught, context.parts.transfer).student}

    def _hot(self, own: Objective) -> Objective:
        return Objective([LabelsAtTemperature(_temperature(own))])

    def figures(self, models: Mapping[str, nn.Module], samples: SampleSet, builder: Builder) -> dict[str, Any]:
        """Return the accuracy under attack, as claimed and without the masking of the gradient."""
        alone, distilled, hot = models["alone"], models["distilled"], _temperature(builder.inspected)
        attack = partial(robustness, samples=samples, epsilons=self.epsilons, bounds=value_range(builder.parts.train))
        attacks = {
            "alone": attack(alone),
            "distilled": attack(distilled),
            "distilled, logits divided by T": attack(distilled, temperature=hot),
            "distilled, attacked through the student alone": attack(distilled, attacked=alone),
        }
        if "alone_budget" in models:
            attacks["alone, equal compute"] = attack(models["alone_budget"])
        return {name: plain_values(points) for name, points in attacks.items()}

    def notes(self, figures: Sequence[Mapping[str, Any]]) -> list[str]:
        """Say how accurate each is under attack."""
        lines = []
        for name in figures[0]:
            cells = []
            for number, epsilon in enumerate(self.epsilons):
                accuracy = fmean(each[name][number]["accuracy"] for each in figures)
                cells.append(f"{100 * accuracy:.1f} % at ε = {epsilon:g}")
            still = fmean(each[name][0]["still"] for each in figures)
            masked = f" ({100 * still:.0f} % of the samples show the attacker no gradient)" if still else ""
            lines.append(f"Under attack, {name}: {', '.join(cells)}{masked}.")
        return lines


def _temperature(objective: Objective) -> float:
    found = [term.temperature for term in objective.terms.values() if isinstance(term, SoftTargets)]
    return float(found[0])  # type: ignore[arg-type]
