"""Defensive distillation: teacher and student of one kind at a high temperature, and what that is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

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
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.terms import HardLabels, SoftTargets

if TYPE_CHECKING:
    from limbeck.experiment.context import Work
    from limbeck.experiment.prepare import Shop

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

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int) -> Tensor:
        return super().sum({"student": Outputs(outputs["student"].logits / self.temperature)}, batch, step)


@dataclass(frozen=True)
class Defensive(Scheme):
    """A teacher of the student's kind learns at the method's temperature, the student from it at the same.

    At T = 1, at which both answer, the logits are about T times as large as an ordinary network's, and the gradients
    that an attack follows underflow (Carlini & Wagner 2016): the figures give the accuracy under attack as it is
    claimed, and again where the attacker divides the logits by T or attacks the student alone instead.

    epsilons: of the attacks (the fast gradient sign method), in units of what the network sees.
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

    def check(self, shop: "Shop") -> str | None:
        """Refuse a method without soft targets at one temperature."""
        terms = shop.recipe.objective().terms.values()
        found = [term.temperature for term in terms if isinstance(term, SoftTargets)]
        if len(found) != 1 or callable(found[0]):
            return "name: defensive needs a method with soft targets at one temperature; use kd with alpha: 0"
        return None

    def build(self, role: str, shop: "Shop") -> nn.Module:
        """Return the teacher's network, or the student's."""
        return shop.student_as(role) if role == "hot_teacher" else shop.student()

    def planned(self, shop: "Shop", teacher: Teacher) -> list[Planned]:
        """Return the trainings of teacher and student."""
        hot = Distiller(self.build("hot_teacher", shop), None, self._hot(shop.recipe.objective()))
        label = self.roles()["hot_teacher"]
        return [Planned(label, hot, shop.parts.alone), *super().planned(shop, teacher)]

    def train(self, work: "Work") -> dict[str, nn.Module]:
        """Train teacher and student."""
        work.require(["hot_teacher", "distilled"])
        hot = self.build("hot_teacher", work)
        alone = Distiller(hot, None, self._hot(work.objective()))
        work.fit("hot_teacher", alone, work.parts.alone)
        taught = Distiller(work.student(), work.teach(hot, name="hot_teacher"), work.objective())
        return {"hot_teacher": hot, "distilled": work.fit("distilled", taught, work.parts.transfer).student}

    def _hot(self, own: Objective) -> Objective:
        return Objective([LabelsAtTemperature(_temperature(own))])

    def figures(self, models: Mapping[str, nn.Module], samples: SampleSet, shop: "Shop") -> dict[str, Any]:
        """Return the accuracy under attack, as claimed and without the masking of the gradient."""
        alone, distilled, hot = models["alone"], models["distilled"], _temperature(shop.recipe.objective())
        attack = partial(robustness, samples=samples, epsilons=self.epsilons, bounds=value_range(shop.parts.train))
        attacks = {
            "alone": attack(alone),
            "distilled": attack(distilled),
            "distilled, logits divided by T": attack(distilled, temperature=hot),
            "distilled, attacked through the student alone": attack(distilled, attacked=alone),
        }
        if "alone_budget" in models:
            attacks["alone, equal compute"] = attack(models["alone_budget"])
        return {name: [point.as_dict() for point in points] for name, points in attacks.items()}

    def told(self, figures: Sequence[Mapping[str, Any]]) -> list[str]:
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
