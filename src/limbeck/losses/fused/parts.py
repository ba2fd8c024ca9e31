"""The parts of a loss on logits: what each compares the student with, and what it counts."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limbeck import checks
from limbeck.batch import UNLABELLED
from limbeck.devices import on_accelerator
from limbeck.errors import InputError
from limbeck.head import Head
from limbeck.losses.divergences import KL, Divergence
from limbeck.losses.reduction import check_labels, check_mask
from limbeck.losses.sparse import Sampled, TopK, check_ids

__all__ = ["Hard", "Part", "Soft", "parts_of_kd", "usable"]


@dataclass(frozen=True)
class Hard:
    """Cross-entropy on labels, times a coefficient.

    labels: (...) int64, `UNLABELLED` for none.  coefficient: a number, or a scalar tensor.  mask: (...) bool.
    mean: whether the coefficient is divided by how many count.
    """

    labels: Tensor
    coefficient: float | Tensor = 1.0
    mask: Tensor | None = None
    mean: bool = False

    def flat(self, leading: tuple[int, ...], classes: int, dtype: torch.dtype) -> "Hard":
        """Return it for logits (n, K), its mask including which places are labelled; InputError for what is wrong.

        dtype: that the loss is computed in.
        """
        check_labels(self.labels, leading)
        counted = self.labels != UNLABELLED
        if self.mask is not None:
            check_mask(self.mask, leading)
            counted = counted & self.mask
        if not on_accelerator(self.labels) and bool(counted.any()):
            low, high = map(int, torch.aminmax(self.labels[counted]))
            if low < 0 or high >= classes:
                raise InputError(
                    f"labels: found {low} to {high}, expected 0 to {classes - 1} for logits of {classes} classes (or"
                    f" {UNLABELLED})"
                )
        labels, coefficient = torch.where(counted, self.labels, 0).reshape(-1), self.coefficient
        if self.mean:
            coefficient = coefficient / counted.sum().clamp_min(1).to(dtype)
        return Hard(labels, coefficient, _told(counted))

    def rows(self, where: slice | Tensor) -> "Hard":
        """Return the part of some rows of a flat one."""
        return replace(self, labels=self.labels[where], mask=None if self.mask is None else self.mask[where])


@dataclass(frozen=True)
class Soft:
    """A divergence between a target and the student at a temperature, times its factor and a coefficient.

    target: the teacher's logits (..., K), the `Head` that they are made of, or a `TopK` or `Sampled` target at this
    temperature.
    coefficient: a number, or a scalar tensor.  mask: (...) bool.  mean: whether the coefficient is divided by how many
    count.
    """

    target: Tensor | Head | TopK | Sampled
    temperature: float = 1.0
    divergence: Divergence = KL
    coefficient: float | Tensor = 1.0
    mask: Tensor | None = None
    mean: bool = False

    @property
    def factor(self) -> float:
        """What the divergence is multiplied by at its temperature."""
        return self.divergence.factor(self.temperature)

    def flat(self, leading: tuple[int, ...], classes: int, dtype: torch.dtype) -> "Soft":
        """Return it for logits (n, K); InputError for what is wrong."""
        checks.positive("temperature", self.temperature)
        target = self.target
        if isinstance(target, Tensor):
            checks.shapes_match("student_logits", (*leading, classes), "teacher_logits", target.shape)
            flat: Tensor | Head | TopK | Sampled = target.detach().reshape(-1, classes)
        elif isinstance(target, Head):
            checks.shapes_match("student's logits", (*leading, classes), "teacher's logits", target.shape)
            flat = target.detach().flat("teacher")
        else:
            checks.shapes_match("student_logits without the class axis", leading, "the target", target.places)
            check_ids(target.ids, classes, repeated=isinstance(target, Sampled))
            ids = target.ids.reshape(-1, target.ids.shape[-1])
            if isinstance(target, TopK):
                flat = TopK(ids, target.log_probs.reshape(ids.shape), target.log_tail.reshape(-1))
            else:
                flat = Sampled(ids, target.entropy.reshape(-1))
        coefficient, mask = self.coefficient, self.mask
        if mask is not None:
            check_mask(mask, leading)
        if self.mean:
            coefficient = coefficient / (
                max(math.prod(leading), 1) if mask is None else mask.sum().clamp_min(1).to(dtype)
            )
        mask = None if mask is None else _told(mask)
        return Soft(flat, self.temperature, self.divergence, coefficient, mask)

    def rows(self, where: slice | Tensor) -> "Soft":
        """Return the part of some rows of a flat one; the logits of a head are made for them."""
        target = self.target
        if isinstance(target, Tensor):
            some: Tensor | TopK | Sampled = target[where]
        elif isinstance(target, Head):
            some = target.logits(where)
        elif isinstance(target, TopK):
            some = TopK(target.ids[where], target.log_probs[where], target.log_tail[where])
        else:
            some = Sampled(target.ids[where], target.entropy[where])
        return replace(self, target=some, mask=None if self.mask is None else self.mask[where])


Part = Hard | Soft


def usable(part: Part) -> bool:
    """Return whether one pass can compute a part."""
    return isinstance(part, Hard) or part.divergence.formula is not None


def parts_of_kd(
    target: Tensor | Head | TopK | Sampled,
    labels: Tensor | None,
    weights: tuple[float, float],
    *,
    temperature: float,
    divergence: Divergence = KL,
    mask: Tensor | None = None,
) -> list[Part]:
    """Return the parts of a distillation loss, each a mean; InputError where nothing is left to compute.

    weights: of hard labels, and of soft targets.
    """
    hard_weight, soft_weight = weights
    if labels is None and soft_weight == 0:
        raise InputError("labels: found None, but soft_weight is 0, which leaves no term; give labels or a soft_weight")
    parts: list[Part] = []
    if labels is not None and hard_weight:
        parts.append(Hard(labels, hard_weight, mask, mean=True))
    if soft_weight:
        parts.append(Soft(target, temperature, divergence, soft_weight, mask, mean=True))
    return parts


def _told(mask: Tensor) -> Tensor | None:
    """Return a flat mask; None on the CPU where it counts all."""
    return None if not on_accelerator(mask) and bool(mask.all()) else mask.reshape(-1)
