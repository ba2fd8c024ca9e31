"""Teacher assistants: networks between teacher and student in size, each taught by the one before it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import nn

from limbeck import checks
from limbeck.card import Card
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher

__all__ = ["CARD", "Assistants", "between"]

CARD = Card(
    name="assistants",
    summary="a chain of networks, each smaller than its teacher, bridges the gap between teacher and student",
    authors="Seyed Iman Mirzadeh, Mehrdad Farajtabar, Ang Li, Nir Levine, Akihiro Matsukawa, Hassan Ghasemzadeh",
    year=2019,
    title="Improved Knowledge Distillation via Teacher Assistant",
    source="https://arxiv.org/abs/1902.03393",
    formula="teacher → assistant 1 → ... → student, each step by the recipe's method",
)
_MOST = 20
"""Assistants that are proposed."""
_STEP = {"resnet": 6, "wrn": 6}
"""Depths of a family come as base + step·n; n is what is interpolated."""
_SIZES = {"mlp": ("hidden",), "cnn": ("channels",), "resnet": ("depth", "widths"), "wrn": ("depth", "width")}
"""The keys of a family that say its size."""


def between(teacher: Mapping[str, Any], student: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return `count` networks between two of one family, as a recipe names them, the largest first.

    Widths and depths are interpolated geometrically, layer by layer; every other key is the student's.

    >>> [each["hidden"] for each in between({"kind": "mlp", "hidden": [800]}, {"kind": "mlp", "hidden": [8]}, 1)]
    [[80]]
    """
    kind = student.get("kind")
    if kind is None or teacher.get("kind") != kind or kind not in _SIZES:
        raise InputError(
            f"count: cannot propose an assistant between a teacher of kind {_kind(teacher)} and a student of kind "
            f"{_kind(student)}, only within {', '.join(sorted(_SIZES))}; name the networks under models"
        )
    for role, model in (("teacher", teacher), ("student", student)):
        for key in _SIZES[kind]:
            if not _has_a_size(model.get(key), _STEP.get(kind, 0) if key == "depth" else 0):
                raise InputError(
                    f"count: cannot propose an assistant: the {role}'s {key} is {checks.shown(model.get(key))}; "
                    "name the networks under models"
                )
    like = {key: value for key, value in student.items() if key not in ("checkpoint", "key")}
    proposed = []
    for number in range(1, count + 1):
        share = number / (count + 1)
        sizes = {key: _interpolated(kind, key, teacher[key], student[key], share) for key in _SIZES[kind]}
        proposed.append({**like, **sizes})
    return proposed


def _has_a_size(value: Any, least: int) -> bool:
    """Whether a width or depth is a whole number above `least`, or some of them: what can be interpolated."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value) > 0 and all(_has_a_size(each, least) for each in value)
    return isinstance(value, int) and not isinstance(value, bool) and least < value < 2**31


def _interpolated(kind: str, key: str, large: Any, small: Any, share: float) -> Any:
    if key == "depth":
        step = _STEP[kind]
        base = small % step
        return base + step * round(_geometric((large - base) / step, (small - base) / step, share))
    if isinstance(large, Sequence):
        layers = round(_geometric(len(large), len(small), share))
        pairs = zip(_resampled(large, layers), _resampled(small, layers), strict=True)
        return [round(_geometric(one, two, share)) for one, two in pairs]
    return round(_geometric(large, small, share))


def _geometric(large: float, small: float, share: float) -> float:
    return math.exp((1 - share) * math.log(large) + share * math.log(small))


def _resampled(widths: Sequence[int], layers: int) -> list[float]:
    """Return widths at `layers` places, evenly spread over the network; between two layers geometrically."""
    found = []
    for layer in range(layers):
        place = (len(widths) - 1) * (layer / (layers - 1) if layers > 1 else 1.0)
        below = min(int(place), max(len(widths) - 2, 0))
        above = min(below + 1, len(widths) - 1)
        found.append(_geometric(widths[below], widths[above], place - below))
    return found


def _kind(model: Mapping[str, Any]) -> str:
    return f"'{model['kind']}'" if "kind" in model else "its own factory"


@dataclass(frozen=True)
class Assistants(Scheme):
    """Teacher, assistants, student: each learns from the one before, by the recipe's method and training.

    Attributes:
        models: the assistants, the first taught by the recipe's teacher.
        count: how many to propose between teacher and student instead; 1 where neither is given.
    """

    models: tuple[dict[str, Any], ...] = ()
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None:
            checks.at_least("count", self.count, 1, at_most=_MOST)
            if self.models:
                raise InputError("count: found together with models; give one of them")

    def settled(self, teacher: Mapping[str, Any] | None, student: Mapping[str, Any]) -> Self:
        """Propose the assistants where none are named."""
        if self.models:
            return self
        if teacher is None:
            raise InputError("count: cannot propose an assistant: the teacher is not a single network; name models")
        return replace(self, models=tuple(between(teacher, student, self.count or 1)), count=None)

    def roles(self) -> Mapping[str, str]:
        """Return the assistants."""
        return {f"assistant_{number}": f"assistant {number}" for number in range(1, len(self.models) + 1)}

    def check(self, builder: Builder) -> str | None:
        """Refuse an assistant that has more parameters than its teacher."""
        if not builder.needs_teacher:
            return "name: assistants needs a method that reads a teacher; use kd, for example"
        above, size = "the teacher", builder.teacher_parameters()
        for number, role in enumerate(self.roles()):
            own = sum(parameter.numel() for parameter in self.build(role, builder).parameters())
            if size is not None and own > size:
                return (
                    f"models[{number}]: assistant {number + 1} has {own:,} parameters, {above}, which teaches it, "
                    f"{size:,}; give it fewer, or name the assistants from the largest to the smallest"
                )
            above, size = f"assistant {number + 1}", own
        return None

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return an assistant's network, or the student's."""
        if role not in self.roles():
            return builder.student()
        return builder.model(int(role.removeprefix("assistant_")) - 1, role)

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of the chain."""
        before = [self.planned_as(role, label, builder, teacher) for role, label in self.roles().items()]
        return [*before, *super().planned(builder, teacher)]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the chain."""
        context.require([*self.roles(), "distilled"])
        models: dict[str, nn.Module] = {}
        teacher = context.teacher()
        for role in (*self.roles(), "distilled"):
            distiller = Distiller(self.build(role, context), teacher, context.objective())
            models[role] = context.fit(role, distiller, context.parts.transfer).student
            if role != "distilled":
                teacher = context.teach(models[role], name=role)
        return models
