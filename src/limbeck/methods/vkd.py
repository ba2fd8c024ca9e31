"""Features mapped by an orthogonal projection to the teacher's standardised ones."""

from torch import Tensor, nn

from limbeck import checks, losses, projections
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "OrthogonalFeatures", "vkd"]

CARD = Card(
    name="vkd",
    summary="the teacher's standardised features, of a projection that keeps the angles between the student's",
    authors="Roy Miles, Ismail Elezi, Jiankang Deng",
    year=2024,
    title="V_kD: Improving Knowledge Distillation using Orthogonal Projections",
    source="https://arxiv.org/abs/2403.06213",
    formula="hard_weight·H(y, softmax(z)) + weight·smooth_L1(W·f, (g - mean g)/std g), W orthonormal",
)


class OrthogonalFeatures(FeatureTerm):
    """Smooth L1 between orthogonally projected features and the teacher's standardised ones, a mean over numbers."""

    axes = frozenset({2})

    def __init__(self, weight: Schedule = 1.0, *, layers: LayerPairs, delta: float = 1.0, name: str = "vkd") -> None:
        super().__init__(name, weight, layers)
        checks.positive("delta", delta)
        self.delta = delta

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        return projections.orthogonal(student.shape, teacher.shape)

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.vkd(self.projected(student, number), teacher, delta=self.delta, reduction="none")


@checked
def vkd(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    delta: float = 1.0,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build distillation through orthogonal projections, with the terms `hard` and `vkd`.

    Args:
        layers: a vector for each example, such as `pool`.
        weight: of smooth L1, a mean over the numbers of a vector; a number or schedule.
        delta: δ > 0, the difference up to which the loss is quadratic.
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(vkd("pool").terms)
        ['hard', 'vkd']

    Reference:
        Miles, Elezi & Deng (2024), arXiv:2403.06213.
    """
    term = OrthogonalFeatures(weight, layers=layers, delta=delta)
    return beside_logits([term], hard_weight, soft_weight, temperature)
