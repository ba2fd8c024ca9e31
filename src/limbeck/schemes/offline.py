"""Offline distillation: a fixed teacher, trained before, and a student that learns from it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from limbeck.card import Card
from limbeck.distiller import Distiller
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Scheme

__all__ = ["CARD", "Offline"]

CARD = Card(
    name="offline",
    summary="a fixed teacher, trained before, teaches one student",
    authors="Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    year=2015,
    title="Distilling the Knowledge in a Neural Network",
    source="https://arxiv.org/abs/1503.02531",
    formula="the student learns by the recipe's method from the recipe's teacher",
)


@dataclass(frozen=True)
class Offline(Scheme):
    """The recipe's teacher teaches the recipe's student by the recipe's method."""

    single: ClassVar[bool] = True
    any_task: ClassVar[bool] = True
    takes_graft: ClassVar[bool] = True
    takes_copy: ClassVar[bool] = True

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return the student, with what the recipe gives it of the teacher."""
        return builder.grafted(builder.student())

    def distiller(self, context: Context) -> Distiller:
        """Return the student with the recipe's teacher and method."""
        return Distiller(self.build("distilled", context), context.teacher(), context.objective())

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the student."""
        return {"distilled": context.fit("distilled", self.distiller(context), context.parts.transfer).student}
