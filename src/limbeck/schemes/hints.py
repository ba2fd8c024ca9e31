"""Stages: the terms on layers alone first, on a part of the student, then everything else on all of it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import nn

from limbeck import checks
from limbeck.card import Card
from limbeck.data import Loader, SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, LimbeckError, one_of
from limbeck.features import FeatureTerm
from limbeck.networks import evaluating
from limbeck.objective import Objective
from limbeck.outputs import run_model
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.teachers import ModelTeacher
from limbeck.training import Training
from limbeck.training.stages import check_part, training_part

__all__ = ["CARD", "General", "Hints"]

CARD = Card(
    name="hints",
    summary="first the terms on layers alone, on part of the student and perhaps on other data; then the others",
    authors="Adriana Romero, Nicolas Ballas, Samira Ebrahimi Kahou, Antoine Chassang, Carlo Gatta, Yoshua Bengio",
    year=2015,
    title="FitNets: Hints for Thin Deep Nets",
    source="https://arxiv.org/abs/1412.6550",
    formula="stage 1: weight·(the terms on layers), labels unused; stage 2: the other terms; projections are made anew",
)


@dataclass(frozen=True)
class General:
    """A stage before those on the task: the terms on layers alone, on other data without labels.

    The teacher is the pretrained network as it was before it learned the task.

    Attributes:
        epochs: of the stage.
        first: use only the first samples, this many; None for all.
        learning_rate: of the stage; None for the recipe's.
        batch_size: of the stage; None for the recipe's, or for the lanes of a stream.
    """

    epochs: int = 3
    first: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        checks.at_least("epochs", self.epochs, 1)
        if self.learning_rate is not None:
            checks.positive("learning_rate", self.learning_rate)
        for name in ("first", "batch_size"):
            if getattr(self, name) is not None:
                checks.at_least(name, getattr(self, name), 1)

    @classmethod
    def of(cls, keys: dict[str, Any]) -> "General":
        """Return the stage that a recipe's keys describe; those of its `data` are read elsewhere."""
        known = [each.name for each in fields(cls)]
        if "data" not in keys:
            raise InputError("general.data: is missing; add data without labels, as the recipe's own data is written")
        own = {key: value for key, value in keys.items() if key != "data"}
        for key, value in own.items():
            if key not in known:
                raise InputError(f"general.{key}: there is no such key; {one_of(key, [*known, 'data'])}")
            whole = key != "learning_rate"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise InputError(f"general.{key}: found {value!r}, expected a {'whole ' if whole else ''}number")
        try:
            return cls(**own)
        except InputError as error:
            raise InputError(f"general.{error}") from None


@dataclass(frozen=True)
class Hints(Scheme):
    """The student learns from the teacher's layers first, then by the method's other terms.

    Attributes:
        epochs: of the stage on layers; the last stage has those of the recipe's training.
        trainable: paths of the student's modules that the stage on layers trains, with all below them; by default those
            that the compared layers depend on.  The rest, and the statistics of its BatchNorms, stay as they are.
        learning_rate: of the stage on layers; None for the recipe's.
        general: a stage before both, on other data: its `data`, as the recipe's own data is written, and what else
            `General` takes; None for no such stage.
    """

    epochs: int = 30
    trainable: tuple[str, ...] = ()
    learning_rate: float | None = None
    general: dict[str, Any] | None = None

    any_task: ClassVar[bool] = True
    takes_copy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.at_least("epochs", self.epochs, 1)
        if self.learning_rate is not None:
            checks.positive("learning_rate", self.learning_rate)
        if self.general is not None:
            General.of(self.general)

    def check(self, builder: Builder) -> str | None:
        """Refuse a method without terms for both stages, and a part that the student does not have."""
        objective = builder.inspected
        if not _of_layers(objective):
            return "name: hints needs a method on layers, such as hint, activation_boundary or fsp"
        if len(_of_layers(objective)) == len(objective.terms):
            return "name: hints has no term for its second stage; set the method's hard_weight or soft_weight"
        if self.general is not None and not builder.teacher_is_pretrained:
            return "general: needs a teacher that begins pretrained, such as kind: pretrained; leave general out"
        try:
            self._first(builder.training)
            self._before(builder.training, builder.parts.general)
            check_part(builder.student(), self.trainable or None, where="trainable")
        except LimbeckError as error:
            return str(error)
        return None

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return the student, with what it has of the teacher."""
        return builder.grafted(builder.student())

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of all stages."""
        first, second = _split(builder.objective())
        samples = builder.parts.transfer
        stages = []
        if builder.parts.general is not None:
            distiller = Distiller(builder.student(), self._pretrained(builder), _split(builder.objective())[0])
            training = self._before(builder.training, builder.parts.general)
            stages.append(Planned("student, general", distiller, builder.parts.general, training))
        return [
            *stages,
            Planned(
                "student, on layers",
                Distiller(builder.student(), teacher, first),
                samples,
                self._first(builder.training),
            ),
            Planned("student distilled", Distiller(builder.student(), teacher, second), samples),
        ]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the student in all stages."""
        general = context.parts.general
        context.require([*(["general"] if general is not None else []), "on_layers", "distilled"])
        student, samples = self.build("distilled", context), context.parts.transfer
        if general is not None:
            before, _ = _split(context.objective())
            distiller = Distiller(student, self._pretrained(context), before)
            training = self._before(context.training, general)
            student = self._on_layers("general", distiller, general, training, context)
        first, second = _split(context.objective())
        distiller = Distiller(student, context.teacher(), first)
        student = self._on_layers("on_layers", distiller, samples, self._first(context.training), context)
        distiller = Distiller(student, context.teacher(second), second)
        return {"distilled": context.fit("distilled", distiller, samples).student}

    def _on_layers(
        self, unit: str, distiller: Distiller, samples: SampleSet, training: Training, context: Context
    ) -> nn.Module:
        """Train the part of the student that the compared layers depend on, or that was named."""
        distiller.locate()
        part = self.trainable or _reached(distiller.student, distiller.objective, samples)
        with training_part(distiller.student, part, where="trainable"):
            return context.fit(unit, distiller, samples, training=training).student

    def _pretrained(self, builder: Builder) -> ModelTeacher:
        """Return the teacher as it was before it learned the task; a part of it that is new is drawn by the seed."""
        with builder.drawing("general"):
            return ModelTeacher(builder.teacher_network())

    def _first(self, training: Training) -> Training:
        """Return the settings of the stage on layers."""
        return _stage(training, self.epochs, self.learning_rate, None, "epochs: the first stage")

    def _before(self, training: Training, samples: SampleSet | None) -> Training:
        """Return the settings of the general stage, on other samples."""
        if self.general is None or samples is None:
            return training
        stage = General.of(self.general)
        size = samples.lanes if stage.batch_size is None else stage.batch_size
        return _stage(training, stage.epochs, stage.learning_rate, size, "general: the general stage")


def _stage(training: Training, epochs: int, rate: float | None, batch_size: int | None, what: str) -> Training:
    """Return the settings of a stage that is judged by no choice."""
    size = training.batch_size if batch_size is None else batch_size
    rate = training.learning_rate if rate is None else rate
    try:
        return replace(training, epochs=epochs, learning_rate=rate, batch_size=size, patience=None, keep="last")
    except InputError as error:
        raise InputError(f"{what} cannot have the recipe's training: {error}") from None


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
