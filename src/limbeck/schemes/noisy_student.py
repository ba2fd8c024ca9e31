"""Noisy student: a teacher labels what has no labels, a noised student learns from both and becomes the teacher."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.batch import UNLABELLED, Batch
from limbeck.card import Card
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import DataError, InputError
from limbeck.evaluation import predict
from limbeck.objective import Objective, Term, TermAround
from limbeck.outputs import Outputs
from limbeck.randomness import derive_seed
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.teachers import ArrayTeacher, StoredTeacher

__all__ = ["CARD", "NoisyStudent", "OnUnlabelled", "balanced"]

CARD = Card(
    name="noisy_student",
    summary="a teacher labels unlabelled data, a noised student learns from all of it and becomes the next teacher",
    authors="Qizhe Xie, Minh-Thang Luong, Eduard Hovy, Quoc V. Le",
    year=2019,
    title="Self-training with Noisy Student improves ImageNet classification",
    source="https://arxiv.org/abs/1911.04252",
    formula="mean of H(y, q) over the labelled + mean of the method's teacher terms over the pseudo-labelled",
)


_MOST = 100  # iterations; each is a training


class OnUnlabelled(TermAround):
    """A term of the unlabelled samples of a batch alone; it counts no other."""

    def __init__(self, term: Term) -> None:
        super().__init__(term)
        self.takes_mixed = False  # one half of a mixed sample may be labelled

    def count(self, batch: Batch) -> Tensor | int:
        return self.term.count(_unlabelled(batch))

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        return self.term.sum(outputs, _unlabelled(batch), step)


def _unlabelled(batch: Batch) -> Batch:
    if batch.labels is None:
        return batch
    mask = batch.labels == UNLABELLED
    return replace(batch, mask=mask if batch.mask is None else mask & batch.mask)


def balanced(classes: Tensor, confidence: Tensor, per_class: int) -> Tensor:
    """Return positions in which each class that occurs at all stands `per_class` times.

    Of a class with more, the most confident stay; of one with fewer, all are repeated in turn, the most confident
    first.  classes: (n,) int64.  confidence: (n,).  Returns (k,) int64, class by class.

    >>> balanced(torch.tensor([0, 0, 0, 1]), torch.tensor([0.5, 0.9, 0.7, 0.8]), 2)
    tensor([1, 2, 3, 3])
    """
    checks.at_least("per_class", per_class, 1)
    chosen = []
    for label in classes.unique():
        own = (classes == label).nonzero().squeeze(1)
        order = own[torch.argsort(confidence[own], descending=True, stable=True)]
        chosen.append(order.repeat(math.ceil(per_class / len(order)))[:per_class])
    return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class NoisyStudent(Scheme):
    """The teacher labels the unlabelled part of the transfer set (`data.transfer.labelled`); noised students learn.

    The recipe's teacher, which learnt from the labelled part, is the first teacher; each student is the next one's.
    Labels come from the clean samples and without dropout.  The noise is the student's own: `dropout` and `survival`
    of its model, `augment` of its training.  The method's hard term reads the labelled samples, its other terms the
    pseudo-labelled; {name: kd, temperature: 1, hard_weight: 1, soft_weight: 1} is the paper's loss.

    Attributes:
        iterations: how many students, the last of which is the distilled one.
        models: the networks of those before the last, of growing size, say; the recipe's student by default.
        pseudo_labels: "soft", the teacher's distribution, or "hard", its class.
        confidence: pseudo-labels below this probability are dropped.
        balance: whether every class gets as many samples, by repeating the few and cutting the many down to the most
            confident; each repeat is augmented by itself.
        per_class: how many; by default the mean over the classes that occur.
    """

    iterations: int = 1
    models: tuple[dict[str, Any], ...] = ()
    pseudo_labels: Literal["soft", "hard"] = "soft"
    confidence: float = 0.3
    balance: bool = True
    per_class: int | None = None

    def __post_init__(self) -> None:
        checks.at_least("iterations", self.iterations, 1, at_most=_MOST)
        checks.unit_interval("confidence", self.confidence)
        if self.models and len(self.models) != self.iterations - 1:
            raise InputError(
                f"models: found {len(self.models)} for {self.iterations} iterations, expected one for each iteration"
                " except the last"
            )
        if self.per_class is not None:
            checks.at_least("per_class", self.per_class, 1)
            if not self.balance:
                raise InputError("per_class: found together with balance: false; set balance: true, or leave it out")

    def roles(self) -> Mapping[str, str]:
        """Return the students before the last."""
        return {f"student_{number}": f"noisy student {number}" for number in range(1, self.iterations)}

    def check(self, builder: Builder) -> str | None:
        """Refuse a set without unlabelled samples, and a method that a teacher takes no part in."""
        objective = builder.inspected
        if "teacher" not in objective.reads():
            return "name: noisy_student needs a method that reads a teacher; use kd"
        if objective.taps("teacher"):
            return "name: noisy_student has no teacher features, but the method reads some; use kd"
        if bool((builder.parts.transfer.labels != UNLABELLED).all()):
            return "name: noisy_student found no unlabelled samples; set data.transfer.labelled below 1"
        return None

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return the network of an iteration."""
        if role == "distilled":
            return builder.student()
        return builder.model(int(role.removeprefix("student_")) - 1, role) if self.models else builder.student_as(role)

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of all iterations, each on as many samples as the transfer set has."""
        before = [self.planned_as(role, label, builder, teacher) for role, label in self.roles().items()]
        return [*before, *super().planned(builder, teacher)]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train student after student."""
        units = [*self.roles(), "distilled"]
        context.require(units)
        models: dict[str, nn.Module] = {}
        teacher = context.teacher_model
        for number, role in enumerate(units, start=1):
            samples, labeller = self._labelled(context, teacher, number)
            objective = Objective(
                [OnUnlabelled(term) if "teacher" in term.reads else term for term in _terms(context.objective())]
            )
            seed = context.seed if role == "distilled" else derive_seed(context.seed, role)
            distiller = Distiller(self.build(role, context), labeller, objective)
            models[role] = context.fit(role, distiller, samples, seed=seed).student
            teacher = models[role]
        return models

    def _labelled(
        self, context: Context, model: nn.Module, number: int
    ) -> tuple[SampleSet, ArrayTeacher | StoredTeacher]:
        """Return the set of an iteration, labelled and pseudo-labelled samples, and who answers for the latter."""
        transfer = context.parts.transfer
        logits = predict(model, transfer).cpu()
        context.count_answers(f"labels of iteration {number}", model, transfer)
        checks.logits(f"teacher of iteration {number}", logits)
        sure, classes = logits.double().softmax(-1).max(-1)
        unlabelled = transfer.labels.cpu() == UNLABELLED
        kept = (unlabelled & (sure >= self.confidence)).nonzero().squeeze(1)
        if len(kept) == 0:
            raise DataError(
                f"scheme.confidence: none of {int(unlabelled.sum()):,} unlabelled samples is given a class with a "
                f"probability of {self.confidence:g} or above from the teacher of iteration {number} (at most "
                f"{float(sure[unlabelled].max()):.3f}); lower it"
            )
        if self.balance:
            per_class = self.per_class or round(len(kept) / len(classes[kept].unique()))
            kept = kept[balanced(classes[kept], sure[kept], per_class)]
        missing = transfer.classes - len(classes[kept].unique())
        without = f"; {missing} of {transfer.classes} classes have none" if missing else ""
        context.say(f"noisy_student, iteration {number}: {len(kept):,} pseudo-labelled samples{without}")
        positions = torch.cat([(~unlabelled).nonzero().squeeze(1), kept])
        samples = transfer.subset(positions)
        if self.pseudo_labels == "hard":
            return samples, ArrayTeacher.of_labels(classes, transfer, clean=True)
        return samples, StoredTeacher(logits, transfer.index.cpu(), source=transfer.source, clean=True)


def _terms(objective: Objective) -> list[Term]:
    return list(objective.terms.values())  # type: ignore[arg-type]
