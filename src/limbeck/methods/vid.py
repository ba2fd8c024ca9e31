"""Variational information distillation: the teacher's feature as a Gaussian around the student's."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks, losses, projections
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.features import FeatureTerm, by_token
from limbeck.layers import LayerPairs
from limbeck.losses.maps import pooled
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "Gaussian", "VariationalInformation", "vid"]

CARD = Card(
    name="vid",
    summary="a layer of the teacher as a Gaussian around the student's projection, with a variance for each channel",
    authors="Sungsoo Ahn, Shell Xu Hu, Andreas Damianou, Neil D. Lawrence, Zhenwen Dai",
    year=2019,
    title="Variational Information Distillation for Knowledge Transfer",
    source="https://arxiv.org/abs/1904.05835",
    formula="hard_weight·H(y, q) + weight·Σ_layers mean ½((G - r(F))²/σ_c² + ln σ_c²), σ_c² = softplus(α_c) + 1e-5",
)

_LEAST = 1e-5
"""What is added to a variance, so that it stays above 0."""


class Gaussian(nn.Module):
    """A projection of the student's feature, and a variance for each channel of the teacher's that has no weight decay.

    Args:
        projection: from the student's feature to the teacher's.
        channels: C, of the teacher.
        variance: σ² at the start, above 1e-5.

    Example:
        >>> Gaussian(nn.Identity(), 2, 5.0).variance
        tensor([5.0000, 5.0000], grad_fn=...)
    """

    without_decay = ("scale",)

    def __init__(self, projection: nn.Module, channels: int, variance: float) -> None:
        super().__init__()
        self.projection = projection
        self.scale = nn.Parameter(torch.full((channels,), math.log(math.expm1(variance - _LEAST))))

    @property
    def variance(self) -> Tensor:
        """σ² (C,), above 0."""
        return functional.softplus(self.scale) + _LEAST

    def forward(self, feature: Tensor) -> Tensor:
        """Map the student's feature to the teacher's channels."""
        projected: Tensor = self.projection(feature)
        return projected


class VariationalInformation(FeatureTerm):
    """-ln density of the teacher's feature, summed over the layers; of an example or token, the mean over its feature.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        variance: σ² at the start, above 1e-5.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> VariationalInformation("stage1").name
        'vid'

    Reference:
        Ahn et al. (2019), "Variational Information Distillation for Knowledge Transfer", arXiv:1904.05835.
    """

    per_token = True

    def __init__(self, layers: LayerPairs, weight: Schedule = 1.0, *, variance: float = 5.0) -> None:
        super().__init__("vid", weight, layers)
        checks.positive("variance", variance)
        if variance <= _LEAST:
            raise InputError(f"variance: found {variance}, expected a finite number above {_LEAST}")
        self.variance = variance

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        kind = projections.three_conv if student.dim() == 4 else projections.linear
        channels = teacher.shape[1 if teacher.dim() == 4 else -1]
        return Gaussian(kind(student.shape, teacher.shape), channels, self.variance)

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        student, teacher = pooled(student, teacher)
        variance = self.projections[number].variance
        return by_token(losses.vid, self.projected(student, number), teacher, variance=variance)


@checked
def vid(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    variance: float = 5.0,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build variational information distillation.

    The published layers are the outputs of all stages.  Three 1×1 convolutions bring maps to the teacher's channels, a
    `linear` vectors and tokens.  The value can be negative.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, 1 in the literature's tables.
        variance: σ² at the start, above 1e-5.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `vid`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(vid(["stage1", "stage2"]).terms)
        ['hard', 'vid']

    Reference:
        Ahn et al. (2019), "Variational Information Distillation for Knowledge Transfer", arXiv:1904.05835.
    """
    return beside_logits(
        [VariationalInformation(layers, weight, variance=variance)], hard_weight, soft_weight, temperature
    )
