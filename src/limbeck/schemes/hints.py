"""Two stages: the terms on layers alone first, on a part of the student, then everything else on all of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from limbeck import checks
from limbeck.card import Card
from limbeck.data import Loader, SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, LimbeckError
from limbeck.features import FeatureTerm
from limbeck.networks import evaluating
from limbeck.objective import Objective
from limbeck.outputs import run_model
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.training import Training
from limbeck.training.stages import check_part, training_part

__all__ = ["CARD", "Hints"]

CARD = Card(
    name="hints",
    summary="first the terms on layers alone, on a part of the student; then the method's other terms on all of it",
    authors="Adriana Romero, Nicolas Ballas, Samira Ebrahimi Kahou, Antoine Chassang, Carlo Gatta, Yoshua Bengio",
    year=2015,
    title="FitNets: Hints for Thin Deep Nets",
    source="https://arxiv.org/abs/1412.6550",
    formula="stage 1: weight·(the terms on layers), labels unused; stage 2: the other terms; projections are made anew",
)


@dataclass(frozen=True)
class Hints(Scheme):
    """The student learns from the teacher's layers first, then by the method's other terms.

    epochs: of the first stage; the second has those of the recipe's training.
    trainable: paths of the student's modules that the first stage trains, with all below them; by default those that
        the compared layers depend on.  The rest, and the statistics of its BatchNorms, stay as they are.
    learning_rate: of the first stage; None for the recipe's.
    """

    epochs: int = 30
    trainable: tuple[str, ...] = ()
    learning_rate: float | None = None

    any_task: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.at_least("epochs", self.epochs, 1)
        if self.learning_rate is not None:
            checks.positive("learning_rate", self.learning_rate)

    def check(self, builder: Builder) -> str | None:
        """Refuse a method without terms for both stages, and a part that the student does not have."""
        objective = builder.inspected
        if not _of_layers(objective):
            return "name: hints needs a method on layers, such as hint, activation_boundary or fsp"
        if len(_of_layers(objective)) == len(objective.terms):
            return "name: hints has no term for its second stage; set the method's hard_weight or soft_weight"
        try:
            self._first(builder.training)
            check_part(builder.student(), self.trainable or None, where="trainable")
        except LimbeckError as error:
            return str(error)
        return None

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of both stages."""
        first, second = _split(builder.objective())
        samples = builder.parts.transfer
        return [
            Planned(
                "student, on layers",
                Distiller(builder.student(), teacher, first),
                samples,
                self._first(builder.training),
            ),
            Planned("student distilled", Distiller(builder.student(), teacher, second), samples),
        ]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the student in both stages."""
        context.require(["on_layers", "distilled"])
        first, second = _split(context.objective())
        student, samples = context.student(), context.parts.transfer
        part = self.trainable or _reached(student, first, samples)
        with training_part(student, part, where="trainable"):
            distiller = Distiller(student, context.teacher(), first)
            student = context.fit("on_layers", distiller, samples, training=self._first(context.training)).student
        distiller = Distiller(student, context.teacher(), second)
        return {"distilled": context.fit("distilled", distiller, samples).student}

    def _first(self, training: Training) -> Training:
        """Return the settings of the first stage."""
        rate = training.learning_rate if self.learning_rate is None else self.learning_rate
        try:
            return replace(training, epochs=self.epochs, learning_rate=rate, patience=None, keep="last")
        except InputError as error:
            raise InputError(f"epochs: the first stage cannot have the recipe's training: {error}") from None


def _of_layers(objective: Objective) -> list[FeatureTerm]:
    return [term for term in objective.terms.values() if isinstance(term, FeatureTerm)]


def _split(objective: Objective) -> tuple[Objective, Objective]:
    """Return the terms on layers, and the others."""
    own = _of_layers(objective)
    return Objective(own), Objective([term for term in objective.terms.values() if term not in own])  # type: ignore[misc]


def _reached(student: nn.Module, objective: Objective, samples: SampleSet) -> Sequence[str]:
    """Return the paths of the modules whose own weights the student's compared layers depend on."""
    inputs = next(Loader(samples, 2, seed=0).epoch(0)).inputs
    weights = dict(student.named_parameters())
    with evaluating(student), torch.enable_grad():
        outputs = run_model(student, inputs, objective.taps("student"), task=samples.task, role="student")
        total = torch.stack([feature.sum() for feature in outputs.features.values()]).sum()
        found = torch.autograd.grad(total, [each for each in weights.values() if each.requires_grad], allow_unused=True)
    names = [name for name, each in weights.items() if each.requires_grad]
    reached = [name for name, gradient in zip(names, found, strict=True) if gradient is not None]
    return tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in reached))
