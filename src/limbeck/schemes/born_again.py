"""Born-again networks: generations of equal networks, each taught by the one before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from limbeck import checks
from limbeck.card import Card
from limbeck.distiller import Distiller
from limbeck.randomness import derive_seed
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.teachers import MeanOfModels

__all__ = ["CARD", "BornAgain"]

CARD = Card(
    name="born_again",
    summary="generations of equal networks, each taught by the one before; and their ensemble",
    authors="Tommaso Furlanello, Zachary C. Lipton, Michael Tschannen, Laurent Itti, Anima Anandkumar",
    year=2018,
    title="Born Again Neural Networks",
    source="https://arxiv.org/abs/1805.04770",
    formula="generation k learns by the recipe's method from generation k-1; ensemble: mean_k p_k",
)


_MOST = 100
"""Generations."""


@dataclass(frozen=True)
class BornAgain(Scheme):
    """Generations of the student, the first taught by the recipe's teacher; the last is the distilled student.

    Leave `teacher` out of the recipe for generations that are equal to the teacher as well, as in the paper.

    Attributes:
        generations: how many students.  Each has initial weights, order and augmentation of its own; the last one's are
            those of the student alone.
    """

    generations: int = 3

    def __post_init__(self) -> None:
        checks.at_least("generations", self.generations, 1, at_most=_MOST)

    def roles(self) -> Mapping[str, str]:
        """Return the generations before the last, and the ensemble of all of them."""
        roles = {f"generation_{number}": f"generation {number}" for number in range(1, self.generations)}
        return roles | ({"ensemble": "ensemble of the generations"} if roles else {})

    def means(self, role: str) -> Sequence[str]:
        """Return the members of the ensemble."""
        return (*(each for each in self.roles() if each != role), "distilled") if role == "ensemble" else ()

    def check(self, builder: Builder) -> str | None:
        """Refuse a method that no teacher takes part in."""
        if not builder.needs_teacher:
            return "name: born_again needs a method that reads a teacher; use kd"
        return None

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return a generation's network."""
        return builder.student() if role == "distilled" else builder.student_as(role)

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of all generations."""
        last = super().planned(builder, teacher)
        if self.generations == 1:
            return last
        label, count = "generations before the last", self.generations - 1
        return [self.planned_as("generation_1", label, builder, teacher, count=count), *last]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train generation after generation."""
        units = [role for role in self.roles() if role != "ensemble"] + ["distilled"]
        context.require(units)
        models: dict[str, nn.Module] = {}
        teacher = context.teacher()
        for role in units:
            seed = context.seed if role == "distilled" else derive_seed(context.seed, role)
            distiller = Distiller(self.build(role, context), teacher, context.objective())
            models[role] = context.fit(role, distiller, context.parts.transfer, seed=seed).student
            if role != "distilled":
                teacher = context.teach(models[role], name=role)
        if len(units) > 1:
            models["ensemble"] = MeanOfModels([models[role] for role in units])
        return models
