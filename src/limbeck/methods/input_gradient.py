"""Gradients by the inputs: of the label's logit, of the loss, in random directions, or all of the Jacobian."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.errors import InputError, ModelError
from limbeck.losses.reduction import compute_dtype, only_counted, reduce
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits, label_shares, require_classes

__all__ = ["CARD", "InputGradient", "input_gradient"]

CARD = Card(
    name="input_gradient",
    summary="how the teacher's answer changes with the input: its gradients, in place of its values alone",
    authors="Suraj Srinivas, Francois Fleuret",
    year=2018,
    title="Knowledge Transfer with Jacobian Matching",
    source="https://arxiv.org/abs/1803.00443",
    formula="hard_weight·H(y, softmax(z)) + weight·‖j_S/‖j_S‖ - j_T/‖j_T‖‖², j = ∂z_y/∂x",
)

_OF = ("label", "loss", "random", "full")


class InputGradient(Term):
    """The squared distance between gradients of student and teacher by the inputs, summed over an example's inputs.

    Batch normalisation in training makes the answers of a batch depend on each other, and the student's gradient has
    the share of that.
    """

    reads = frozenset({"student", "teacher"})
    takes_mixed = True
    differentiates_inputs = True
    differentiates_teacher = True

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        of: Literal["label", "loss", "random", "full"] = "label",
        directions: int = 1,
        name: str = "input_gradient",
    ) -> None:
        super().__init__(name, weight)
        checks.choice("of", of, _OF)
        checks.at_least("directions", directions, 1)
        if of != "random" and directions != 1:
            raise InputError(f"directions: found {directions} with of: {of}, expected 1; only of: random has several")
        self.of = of
        self.directions = directions

    def settle(self, legend: Legend) -> None:
        require_classes(legend.task, f"term '{self.name}' differentiates the logits of", alone=True)

    def count(self, batch: Batch) -> Tensor | int:
        return len(batch) if batch.mask is None else batch.mask.sum()

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        student, teacher = outputs["student"], outputs["teacher"]
        if student.logits.dim() != 2 or student.logits.shape != teacher.logits.shape:
            raise ModelError(
                f"logits: student {tuple(student.logits.shape)}, teacher {tuple(teacher.logits.shape)}; give both"
                " models the same classes, one answer for each example"
            )
        if student.inputs is None or teacher.vjp is None:
            raise InputError(
                f"term '{self.name}': found outputs without inputs or vjp, expected those of a Distiller with a network"
                " as teacher"
            )
        if not len(batch):
            return compute_dtype(student.logits).sum()
        own, other = (only_counted(compute_dtype(each.logits), batch.mask) for each in (student, teacher))
        cotangents = self._cotangents(own, other, batch, step)
        if batch.mask is not None:
            cotangents = [torch.where(batch.mask[:, None], each, 0.0) for each in cotangents]
        products = losses.vector_jacobian(own, student.inputs, cotangents[0])
        each = losses.input_gradient(
            products,
            teacher.vjp(cotangents[1]),
            normalise=self.of == "label",
            over="sum" if self.of == "full" else "mean",
            reduction="none",
        )
        for logits in (own, other):  # whose NaN need not reach the gradient
            failed = (logits.isnan() | logits.isposinf()).any(1)
            each = torch.where(failed, torch.nan, each)
        return reduce(each, batch.mask, "sum")

    def _cotangents(self, student: Tensor, teacher: Tensor, batch: Batch, step: int | None) -> list[Tensor]:
        """Return what the logits of student and teacher are multiplied by: (V, N, K) each."""
        if self.of == "full":
            axes = torch.eye(student.shape[1], device=student.device, dtype=student.dtype)
            both = axes[:, None].expand(-1, len(student), -1)
            return [both, both]
        if self.of == "random":
            both = self._directions(batch, step, student)
            return [both, both]
        target = label_shares(batch, teacher).to(student.dtype)
        if self.of == "label":
            return [target[None], target[None]]
        return [(each.softmax(1) - target)[None] for each in (student, teacher)]

    def _directions(self, batch: Batch, step: int | None, like: Tensor) -> Tensor:
        """Return random directions, uniform on the unit sphere, (V, N, K): a function of (seed, step, index)."""
        classes = like.shape[1]
        u = self.draw(batch, step, "direction", 2 * self.directions * classes).double()
        radius, angle = u.view(len(batch), 2, self.directions, classes).unbind(1)
        normal = (-2.0 * torch.log(1.0 - radius)).sqrt() * torch.cos(2.0 * torch.pi * angle)
        return F.normalize(normal, dim=2).transpose(0, 1).to(like.dtype)


@checked
def input_gradient(
    of: Literal["label", "loss", "random", "full"] = "label",
    directions: int = 1,
    weight: Schedule = 1.0,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build the matching of gradients by the inputs, with the terms `hard` and `input_gradient`.

    The teacher has to be a network, and neither model compiled.  It is meant beside labels or soft targets: alone it
    can be unstable.  A step takes about 2.25 times as long as one of `kd`.

    Args:
        of: "label", the direction of the gradient of the label's logit; "loss", the gradient of the cross-entropy;
            "random", gradients in random directions of the logits; "full", of every logit.  Where an example has no
            label, the teacher's top class takes its place.
        directions: of "random", for each example.
        weight: of the squared distance, a sum over the inputs; a number or schedule.
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(input_gradient(of="loss").terms)
        ['hard', 'input_gradient']

    Reference:
        Srinivas & Fleuret (2018), "Knowledge Transfer with Jacobian Matching", arXiv:1803.00443; Czarnecki et al.
        (2017), arXiv:1706.04859, for random directions; Zagoruyko & Komodakis (2017), arXiv:1612.03928, for the loss.
    """
    return beside_logits([InputGradient(weight, of=of, directions=directions)], hard_weight, soft_weight, temperature)
