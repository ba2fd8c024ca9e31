"""A generalist and specialists on the classes it confuses, which answer together and are distilled into one network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.card import Card
from limbeck.data import HalfSet, SampleSet, half_and_half, with_dustbin
from limbeck.distiller import Distiller
from limbeck.errors import InputError, LimbeckError, ModelError
from limbeck.evaluation import measure, predict
from limbeck.losses import kl
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.randomness import derive_seed
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.teachers import ModelTeacher
from limbeck.teachers.specialists import (
    GeneralistWithSpecialists,
    Specialist,
    cluster_classes,
    confusion_columns,
    covariance_columns,
    dustbin_shift,
    named_groups,
    specialise,
)
from limbeck.terms import HardLabels
from limbeck.training import Job, Training, fit_apart

if TYPE_CHECKING:
    from limbeck.batch import Batch

__all__ = ["CARD", "Grouping", "OffSetClasses", "SpecialistTraining", "Specialists", "specialist_distiller"]

CARD = Card(
    name="specialists",
    summary="specialists on the classes that the teacher confuses; all together are distilled into one student",
    authors="Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    year=2015,
    title="Distilling the Knowledge in a Neural Network",
    source="https://arxiv.org/abs/1503.02531",
    formula="the answer is argmin_q KL(p^g, q) + Σ_m KL(p^m, q), over the specialists m that cover p^g's top classes",
)


@dataclass(frozen=True)
class Grouping:
    """Which classes each specialist gets.

    Attributes:
        named: the groups, as lists of class names or numbers, where they are not to be found; `count` is then theirs.
        count: how many groups to find, by on-line K-means on the columns that `by` names.
        by: "covariance", the columns of the covariance of the generalist's predictions, or "confusion", those of its
            confusion matrix.
        smallest: the fewest classes of a group.
        largest: the most classes of a group; None for all classes but one.
        overlap: a class joins every group whose centre is at most so many times as far as the nearest.
    """

    named: tuple[tuple[int | str, ...], ...] = ()
    count: int = 4
    by: Literal["covariance", "confusion"] = "covariance"
    smallest: int = 2
    largest: int | None = None
    overlap: float = 1.0

    def __post_init__(self) -> None:
        checks.at_least("groups.count", self.count, 1)
        checks.at_least("groups.smallest", self.smallest, 1)
        if self.largest is not None:
            checks.at_least("groups.largest", self.largest, 1)
        checks.finite("groups.overlap", self.overlap)
        if self.overlap < 1:
            raise InputError(f"groups.overlap: found {self.overlap!r}, expected 1 or above")

    @property
    def size(self) -> int:
        """How many groups there are."""
        return len(self.named) or self.count

    def find(self, generalist: nn.Module, samples: SampleSet, seed: int) -> tuple[tuple[int, ...], ...]:
        """Return the groups of classes, by the generalist's predictions for some samples where they are not named."""
        if self.named:
            return named_groups(self.named, samples.class_names)
        said = predict(generalist, samples).softmax(1)
        columns = covariance_columns(said) if self.by == "covariance" else confusion_columns(said, samples.labels)
        return cluster_classes(columns, self.count, **self.bounds, seed=derive_seed(seed, "groups"))

    @property
    def bounds(self) -> dict[str, Any]:
        """The bounds of a group, as `cluster_classes` takes them."""
        return {"smallest": self.smallest, "largest": self.largest, "overlap": self.overlap}


@dataclass(frozen=True)
class SpecialistTraining(Training):
    """The training of a specialist, whose epoch is all samples of its classes and as many others.

    Its keys are those of any training; it starts from the generalist, so that the defaults are shorter and gentler.

    Attributes:
        epochs: passes over all samples of its classes and as many others.
        learning_rate: at the peak of the schedule.
    """

    epochs: int = 10
    learning_rate: float = 0.01


class OffSetClasses(Term):
    """T²·KL between teacher and student among the classes outside a set, for specialists with a full softmax.

    Both distributions are of these classes alone, softened at `temperature`; how much they all get together is for the
    hard labels to say.
    """

    reads = frozenset({"student", "teacher"})
    any_classes = frozenset({"teacher"})

    def __init__(self, others: Tensor, weight: float = 1.0, *, temperature: float = 2.0, name: str = "soft") -> None:
        super().__init__(name, weight)
        checks.positive("temperature", temperature)
        self.temperature = temperature
        self.others = tuple(others.tolist())

    def sum(self, outputs: Mapping[str, Outputs], batch: "Batch", step: int | None) -> Tensor:
        student, teacher = outputs["student"].heads["full"], outputs["teacher"].logits
        losses = kl(
            student[:, self.others],
            teacher[:, self.others],
            temperature=self.temperature,
            mask=batch.mask,
            reduction="sum",
        )
        return self.temperature**2 * losses


def specialist_distiller(
    specialist: Specialist, generalist: nn.Module, *, soft_weight: float = 1.0, temperature: float = 2.0
) -> Distiller:
    """Return what trains a specialist: hard labels with a dustbin, and soft targets where its softmax is full.

    >>> generalist = nn.Linear(3, 5)
    >>> sorted(specialist_distiller(specialise(generalist, [0], full=True), generalist).objective.terms)
    ['hard', 'soft']
    """
    terms: list[Term] = [HardLabels()]
    teacher: Teacher | None = None
    if specialist.full:
        terms.append(OffSetClasses((~specialist.member).nonzero().squeeze(1), soft_weight, temperature=temperature))
        teacher = ModelTeacher(generalist)
    return Distiller(specialist, teacher, Objective(terms))


@dataclass(frozen=True, eq=False)
class _Job(Job):
    """The training of a specialist."""

    train_set: HalfSet


@dataclass(frozen=True)
class Specialists(Scheme):
    """Specialists beside the recipe's teacher, the generalist; and a student that learns from all of them together.

    Attributes:
        groups: which classes each specialist gets.
        top: an example is put to the specialists that cover one of so many of the generalist's most probable classes;
            of a list, the number with which all together make the fewest held-out errors.
        rule: how they answer together: joint, by the distribution that is nearest to all of their answers; or take,
            where the surest specialist divides among its classes what the generalist gives to them.
        full: keep the softmax over all classes; the generalist then gives soft targets for those outside the set.
        soft_weight: weight of these soft targets; it counts with `full` alone.
        temperature: of these soft targets; it counts with `full` alone.
        training: of each specialist.
        workers: processes that train them at the same time; the result is the same.
    """

    groups: Grouping = field(default_factory=Grouping)
    top: int | tuple[int, ...] = 1
    rule: Literal["joint", "take"] = "joint"
    full: bool = False
    soft_weight: float = 1.0
    temperature: float = 2.0
    training: SpecialistTraining = field(default_factory=SpecialistTraining)
    workers: int = 1

    needs_held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for top in self.tops:
            checks.at_least("top", top, 1)
        if not self.tops or len(set(self.tops)) < len(self.tops):
            raise InputError(f"top: found {list(self.tops)}; expected one number or more, each once")
        checks.non_negative("soft_weight", self.soft_weight)
        checks.positive("temperature", self.temperature)
        checks.at_least("workers", self.workers, 1)

    @property
    def tops(self) -> tuple[int, ...]:
        """The numbers that `top` is chosen from."""
        return self.top if isinstance(self.top, tuple) else (self.top,)

    def roles(self) -> Mapping[str, str]:
        """Return generalist and specialists together, and a student of the generalist alone to compare with."""
        return {"together": "teacher with specialists", "of_teacher": "student distilled, no specialists"}

    def check(self, builder: Builder) -> str | None:
        """Refuse groups that the data does not have, labels that are not there, and a method that nobody teaches in."""
        train = builder.parts.train
        if not builder.needs_teacher:
            return "name: specialists needs a method that reads a teacher; use kd, for example"
        if builder.teachers > 1 or builder.teacher_source not in ("trained", "file"):
            other = "several; take members out" if builder.teachers > 1 else "no network; name a model"
            return f"name: specialists needs a single network as the teacher, but found {other}"
        if max(self.tops) > train.classes:
            return f"top: found {max(self.tops)}, expected 1 to {train.classes}, the classes of the data"
        try:
            if self.groups.named:
                for group in named_groups(self.groups.named, train.class_names):
                    half_and_half(train, group)
            else:
                cluster_classes(torch.eye(train.classes), self.groups.count, **self.groups.bounds)
            self._specialists(self._generalist(builder), [[0]] * self.groups.size, train.classes)
        except LimbeckError as error:
            return str(error) if str(error).startswith("groups") else f"groups: {error}"
        return None

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return the network of a role; which classes a specialist has, and `top`, are part of its state."""
        if role != "together":
            return builder.student()
        generalist = self._generalist(builder)
        specialists = self._specialists(generalist, [[0]] * self.groups.size, builder.parts.train.classes)
        return self._together(generalist, specialists, self.tops[0])

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of the specialists, as if the classes were shared out evenly, and of both students."""
        train, generalist = builder.parts.train, self._generalist(builder)
        group = list(range(max(self.groups.smallest, train.classes // self.groups.size)))
        if self.groups.named:
            group = list(named_groups(self.groups.named, train.class_names)[0])
        specialist = self._specialists(generalist, [group], train.classes)[0]
        distiller = specialist_distiller(
            specialist, generalist, soft_weight=self.soft_weight, temperature=self.temperature
        )
        half = half_and_half(train, group)
        return [
            Planned("specialist", distiller, half, training=self.training, count=self.groups.size),
            self.planned_as("of_teacher", self.roles()["of_teacher"], builder, teacher, compared=True),
            *super().planned(builder, teacher),
        ]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the specialists, then the student of all of them, then for comparison that of the teacher alone."""
        generalist, parts = context.teacher_model, context.parts
        found = context.choose("groups", lambda: self.groups.find(generalist, context.held_out, context.seed))
        groups = [[int(label) for label in group] for group in found]
        if bare := sorted({*range(parts.train.classes)} - {label for group in groups for label in group}):
            names = ", ".join(parts.train.class_names[label] for label in bare)
            context.say(f"specialists: the teacher answers alone for what no specialist covers: {names}")
        context.require([*map(_unit, range(len(groups))), "distilled", "of_teacher"])
        made = self._specialists(generalist, groups, parts.train.classes)
        jobs = [self._job(context, number, each, generalist) for number, each in enumerate(made)]
        if self.workers > 1:
            fit_apart(jobs, self.workers, say=context.say)
        specialists = [self._trained(context, each, job) for each, job in zip(made, jobs, strict=True)]
        together = self._together(generalist, specialists, self._top(context, generalist, specialists))
        context.keep("together", together)
        distilled = self._student(context, "distilled", context.teach(together, name="specialists"))
        return {"together": together, "distilled": distilled, "of_teacher": self._student(context, "of_teacher")}

    def _together(
        self, generalist: nn.Module, specialists: Sequence[Specialist], top: int
    ) -> GeneralistWithSpecialists:
        together = GeneralistWithSpecialists(generalist, specialists, top=top, rule=self.rule)
        return together.requires_grad_(False).eval()

    def _top(self, context: Context, generalist: nn.Module, specialists: Sequence[Specialist]) -> int:
        """Return the number of top classes that makes the fewest held-out errors; of equally good ones the smallest."""
        if not isinstance(self.top, tuple):
            return self.top

        def errors(top: int) -> tuple[float, int]:
            logits = predict(self._together(generalist, specialists, top), context.held_out)
            return measure(logits, context.held_out.labels).errors, top

        chosen = int(context.choose("top", lambda: min(self.tops, key=errors)))
        context.say(f"specialists: those of the teacher's {chosen} most probable classes are asked")
        return chosen

    def _job(self, context: Context, number: int, specialist: Specialist, generalist: nn.Module) -> "_Job":
        """Return the training of a specialist."""
        group, held_out, unit = specialist.classes.tolist(), context.parts.held_out, _unit(number)
        weights = {"soft_weight": self.soft_weight, "temperature": self.temperature}
        return _Job(
            distiller=specialist_distiller(specialist, generalist, **weights),
            train_set=half_and_half(context.parts.train, group),
            validation=None if held_out is None else with_dustbin(held_out, group),
            training=context.planned(unit, self.training),
            seed=derive_seed(context.seed, "specialist", number),
            folder=context.place(unit),
            label=unit,
        )

    def _trained(self, context: Context, specialist: Specialist, job: "_Job") -> Specialist:
        """Train a specialist, or read it, and put its dustbin right."""
        names = ", ".join(context.parts.train.class_names[label] for label in specialist.classes.tolist())
        context.say(f"{job.label}: {names}")
        half, held_out = job.train_set, job.validation
        context.fit(job.label, job.distiller, half, training=self.training, seed=job.seed, held_out=held_out)
        specialist.shift.fill_(dustbin_shift(half.share))
        return specialist

    def _student(self, context: Context, role: str, teacher: Teacher | None = None) -> nn.Module:
        """Train the recipe's student, by default with the recipe's teacher alone."""
        distiller = Distiller(context.student(), teacher or context.teacher(), context.objective())
        return context.fit(role, distiller, context.parts.transfer).student

    def _specialists(self, generalist: nn.Module, groups: Sequence[Sequence[int]], classes: int) -> list[Specialist]:
        made = [specialise(generalist, group, full=self.full) for group in groups]
        if len(made[0].member) != classes:
            raise ModelError(
                f"teacher: its last linear layer gives {len(made[0].member)} outputs, expected the {classes} classes; "
                "specialists need a network that ends with a linear layer"
            )
        return made

    def _generalist(self, builder: Builder) -> nn.Module:
        return builder.teacher_network()


def _unit(number: int) -> str:
    return f"specialist_{number}"
