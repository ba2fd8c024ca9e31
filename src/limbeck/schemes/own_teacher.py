"""Be your own teacher: exits of one network learn from labels and from the deepest exit."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.evaluation import early_exit_curve, predict
from limbeck.losses import KL, reduce, soften
from limbeck.losses.reduction import compute_dtype, only_counted
from limbeck.models.layers import DEEPEST, ExitOf, WithExits
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.records import plain_values
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.terms import HardLabels

__all__ = ["CARD", "ExitHint", "ExitLabels", "ExitSoftTargets", "OwnTeacher"]

CARD = Card(
    name="own_teacher",
    summary="exits along one network learn from labels and from its deepest exit; a sure sample may leave early",
    authors="Linfeng Zhang, Jiebo Song, Anni Gao, Jingwei Chen, Chenglong Bao, Kaisheng Ma",
    year=2019,
    title="Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
    source="https://arxiv.org/abs/1905.08094",
    formula="H(y, q_C) + Σ_i (1-α)·H(y, q_i) + α·T²·KL(q_C(T) ‖ q_i(T)) + λ·‖F_i - F_C‖²",
)


class ExitLabels(HardLabels):
    """Hard labels at an exit of the student."""

    def __init__(self, leave: str, weight: float, *, label_smoothing: float = 0.0) -> None:
        super().__init__(weight, label_smoothing=label_smoothing, name=f"{leave}_hard")
        self.leave = leave

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        return super().sum({"student": Outputs(outputs["student"].heads[self.leave])}, batch, step)


class ExitSoftTargets(Term):
    """T²·KL from the deepest exit's softened distribution, cut off from the graph, to that of an exit."""

    takes_mixed = True

    def __init__(self, leave: str, weight: float, *, temperature: float) -> None:
        super().__init__(f"{leave}_soft", weight)
        checks.positive("temperature", temperature)
        self.leave = leave
        self.temperature = temperature

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        student = outputs["student"]
        deepest, leaving = (only_counted(each, batch.mask) for each in (student.logits, student.heads[self.leave]))
        per_example = KL.per_example(leaving, soften(deepest, self.temperature), self.temperature)
        return KL.factor(self.temperature) * reduce(per_example, batch.mask, "sum")


class ExitHint(Term):
    """Squared distance between an exit's adapted feature and the deepest one, which is cut off from the graph."""

    takes_mixed = True

    def __init__(self, leave: str, weight: float) -> None:
        super().__init__(f"{leave}_hint", weight)
        self.leave = leave

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        features = outputs["student"].features
        own, deepest = (
            compute_dtype(only_counted(each, batch.mask)) for each in (features[self.leave], features[DEEPEST].detach())
        )
        return reduce((own - deepest).square().sum(-1), batch.mask, "sum")


@dataclass(frozen=True)
class OwnTeacher(Scheme):
    """One network with exits at modules that are named; the deepest exit teaches the others.

    The method is `hard`, whose label smoothing all exits share.

    Attributes:
        exits: paths of modules of the student, in the order in which it calls them.
        temperature: of the soft targets, above 0.
        alpha: weight of the soft targets in [0, 1]; that of the labels is 1 - alpha.
        hint_weight: weight of the squared distance between an exit's feature and the deepest one.
    """

    exits: tuple[str, ...] = ()
    temperature: float = 3.0
    alpha: float = 0.3
    hint_weight: float = 0.03

    uses_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.exits or len(set(self.exits)) != len(self.exits):
            raise InputError(f"exits: found {list(self.exits)}, expected paths of the student's modules, each once")
        checks.positive("temperature", self.temperature)
        checks.unit_interval("alpha", self.alpha)
        checks.non_negative("hint_weight", self.hint_weight)

    def roles(self) -> Mapping[str, str]:
        """Return the exits before the deepest."""
        return {f"exit_{number}": f"exit {number}, after {path}" for number, path in enumerate(self.exits, start=1)}

    def check(self, builder: Builder) -> str | None:
        """Refuse another method, and modules that are none or never called."""
        method = builder.method_name
        if method != "hard":
            return (
                f"name: own_teacher adds its own loss to that of the labels, but found the method '{method}'; set hard"
            )
        try:
            network = self.build("distilled", builder)
            with torch.random.fork_rng():
                network.forward_flops(_one(builder.parts.train))
        except ModelError as error:
            return "exits: " + re.sub(r"^(exits|feature '\w+'): ", "", str(error))
        return None

    def part_of(self, role: str) -> str | None:
        """Return the network that an exit is a part of."""
        return "distilled" if role in self.roles() else None

    def part(self, role: str, model: nn.Module) -> nn.Module:
        """Return an exit of the network."""
        if not isinstance(model, WithExits):
            raise TypeError(f"expected a network with exits, found {type(model).__name__}")
        return ExitOf(model, role)

    def build(self, role: str, builder: Builder) -> WithExits:
        """Return the student with its exits."""
        base, samples = builder.student(), builder.parts.train
        with builder.drawing("exits"):
            return WithExits(base, dict(zip(self.roles(), self.exits, strict=True)), _one(samples), samples.classes)

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the training of the network with all its exits."""
        distiller = Distiller(self.build("distilled", builder), None, self._objective(builder.objective()))
        return [Planned("student distilled", distiller, builder.parts.alone)]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the network with all its exits."""
        network = self.build("distilled", context)
        distiller = Distiller(network, None, self._objective(context.objective()))
        student = context.fit("distilled", distiller, context.parts.alone).student
        return {"distilled": student, **{role: self.part(role, student) for role in self.roles()}}

    def _objective(self, own: Objective) -> Objective:
        terms: list[Term] = list(own.terms.values())  # type: ignore[arg-type]
        smoothing = max(getattr(term, "label_smoothing", 0.0) for term in terms)
        for leave in self.roles():
            if self.alpha < 1:
                terms.append(ExitLabels(leave, 1 - self.alpha, label_smoothing=smoothing))
            if self.alpha:
                terms.append(ExitSoftTargets(leave, self.alpha, temperature=self.temperature))
            if self.hint_weight:
                terms.append(ExitHint(leave, self.hint_weight))
        return Objective(terms)

    def figures(self, models: Mapping[str, nn.Module], samples: SampleSet, builder: Builder) -> dict[str, Any]:
        """Return accuracy against cost where sure samples leave early."""
        network = models["distilled"]
        if not isinstance(network, WithExits):
            raise TypeError(f"expected a network with exits, found {type(network).__name__}")
        logits = [predict(models[role], samples) for role in self.roles()] + [predict(network, samples)]
        costs = network.forward_flops(_one(samples))
        curve = early_exit_curve(logits, samples.labels, costs)
        return {"exit_flops": costs, "early_exit": plain_values(curve)}

    def notes(self, figures: Sequence[Mapping[str, Any]]) -> list[str]:
        """Say what leaving early saves."""
        whole = fmean(each["exit_flops"][-1] for each in figures)
        lines = []
        for number, point in enumerate(figures[0]["early_exit"]):
            if point["threshold"] in (0.5, 0.9, 0.99):
                accuracy = fmean(each["early_exit"][number]["accuracy"] for each in figures)
                cost = fmean(each["early_exit"][number]["flops"] for each in figures)
                lines.append(
                    f"Leaving at the first exit that is sure to {point['threshold']:g}: accuracy "
                    f"{100 * accuracy:.1f} % at {100 * cost / whole:.0f} % of the FLOPs."
                )
        return lines


def _one(samples: SampleSet) -> Any:
    return samples.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0).inputs
