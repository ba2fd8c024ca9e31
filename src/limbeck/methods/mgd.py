"""Masked generative distillation: the teacher's map made by a generator from a part of the student's."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.losses.maps import pooled
from limbeck.losses.reduction import reduce
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "Generator", "MaskedGeneration", "mgd"]

CARD = Card(
    name="mgd",
    summary="the teacher's map, generated from the student's of which random channels or positions are set to 0",
    authors="Zhendong Yang, Zhe Li, Mingqi Shao, Dachuan Shi, Zehuan Yuan, Chun Yuan",
    year=2022,
    title="Masked Generative Distillation",
    source="https://arxiv.org/abs/2205.01529",
    formula="hard_weight·H(y, softmax(z)) + weight·Σ (generator(M ⊙ align(F)) - G)²",
)


class Generator(nn.Module):
    """Two 3×3 convolutions with a ReLU between them, behind a 1×1 convolution where the channels differ."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.align = nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(), nn.Conv2d(teacher, teacher, 3, padding=1)
        )

    def forward(self, maps: Tensor, keep: Tensor) -> Tensor:
        aligned = self.align(maps)
        generated: Tensor = self.generate(aligned * keep.to(aligned))
        return generated


class MaskedGeneration(FeatureTerm):
    """Σ (generator(M ⊙ align(F)) - G)² per example; the mask is a function of (seed, step, index)."""

    axes = frozenset({4})

    def __init__(
        self,
        weight: Schedule = 7e-5,
        *,
        layers: LayerPairs,
        masked: float = 0.15,
        mask: Literal["channels", "positions"] = "channels",
        name: str = "mgd",
    ) -> None:
        super().__init__(name, weight, layers)
        checks.unit_interval("masked", masked)
        checks.choice("mask", mask, ("channels", "positions"))
        self.masked = masked
        self.mask = mask

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        return Generator(student.shape[1], teacher.shape[1])

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        values = []
        for number, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            student, teacher = pooled(student, teacher)
            keep = self._keep(batch, step, number, teacher)
            each = losses.mgd(self.projections[number](student, keep), teacher, reduction="none")
            values.append(reduce(each, mask, "sum"))
        return torch.stack(values).sum()

    def _keep(self, batch: Batch, step: int | None, number: int, teacher: Tensor) -> Tensor:
        """Return the mask, 1 where the map is kept: (N, C, 1, 1) or (N, 1, H, W)."""
        channels, *sides = teacher.shape[1:]
        shape = (channels, 1, 1) if self.mask == "channels" else (1, *sides)
        if not self.masked:
            return torch.ones(len(batch), *shape, device=teacher.device)
        drawn = self.draw(batch, step, f"mask {number}", shape[0] * shape[1] * shape[2])
        return (drawn >= self.masked).view(len(batch), *shape)


@checked
def mgd(
    layers: LayerPairs,
    weight: Schedule = 7e-5,
    masked: float = 0.15,
    mask: Literal["channels", "positions"] = "channels",
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build masked generative distillation, with the terms `hard` and `mgd`.

    Args:
        layers: maps (N, C, H, W), published the last one, such as `stage3`.  Of two sizes, the larger map is reduced by
            average pooling.
        weight: of the sum over channels and positions; a number or schedule.  Published: 7e-5 with masked channels,
            2e-5 with masked positions.
        masked: the share that is set to 0, in [0, 1].  Published: 0.15 of the channels, or 0.65 of the positions.  With
            0 the generator alone remains.
        mask: "channels" (N, C, 1, 1), or "positions" (N, 1, H, W).
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(mgd("stage3").terms)
        ['hard', 'mgd']

    Reference:
        Yang et al. (2022), "Masked Generative Distillation", arXiv:2205.01529.
    """
    term = MaskedGeneration(weight, layers=layers, masked=masked, mask=mask)
    return beside_logits([term], hard_weight, soft_weight, temperature)
