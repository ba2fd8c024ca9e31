"""Activation boundaries: the same units are active in student and teacher."""

from torch import Tensor, nn

from limbeck import checks, losses, projections
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import FeatureTerm, require_negative
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "ActivationBoundary", "activation_boundary"]

CARD = Card(
    name="activation_boundary",
    summary="which units of the teacher are active, before their ReLU",
    authors="Byeongho Heo, Minsik Lee, Sangdoo Yun, Jin Young Choi",
    year=2019,
    title="Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
    source="https://arxiv.org/abs/1811.03233",
    formula="hard_weight·H(y, q) + weight·Σ_l 2^(l-L)·Σ_units relu(m - z)² where G > 0, relu(m + z)² elsewhere, "
    "z = r(F)",
)


class ActivationBoundary(FeatureTerm):
    """Squared hinge of the units' activity, the deepest layer times 1, the one before it times 1/2 and so on.

    Of an example it is the sum over units.  Layers without a side are read before their last ReLU in both networks.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        margin: m, finite, not negative.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> ActivationBoundary("stage1").layers.pairs
        (('stage1@preactivation', 'stage1@preactivation'),)

    Reference:
        Heo et al. (2019), "Knowledge Transfer via Distillation of Activation Boundaries", arXiv:1811.03233.
    """

    axes = frozenset({4})

    def __init__(self, layers: LayerPairs, weight: Schedule = 0.003, *, margin: float = 1.0) -> None:
        super().__init__("activation_boundary", weight, layers, preactivation=("student", "teacher"))
        checks.non_negative("margin", margin)
        self.margin = margin

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        require_negative(teacher)
        checks.shapes_match("the student's map", student.shape[2:], "the teacher's map", teacher.shape[2:])
        if student.shape == teacher.shape:
            return nn.Identity()
        return projections.conv_bn(student.shape, teacher.shape)

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        own = self.projected(student, number)
        each = losses.activation_boundary(own, teacher, margin=self.margin, reduction="none")
        return each * 2.0 ** (number + 1 - len(self.layers))


@checked
def activation_boundary(
    layers: LayerPairs,
    weight: Schedule = 0.003,
    margin: float = 1.0,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build the transfer of activation boundaries, trained together with the other terms.

    The paper trains it alone first, as `scheme: hints` does.  Layers are read before their last ReLU; a `conv_bn`
    brings the student to the teacher's channels.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, 3/1000 in published code, where it is the one term of the first stage.
        margin: m, from which on a unit's side of the boundary is sure; finite, not negative.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `activation_boundary`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(activation_boundary(["stage1", "stage2"]).terms)
        ['activation_boundary', 'hard']

    Reference:
        Heo et al. (2019), "Knowledge Transfer via Distillation of Activation Boundaries", arXiv:1811.03233.
    """
    return beside_logits([ActivationBoundary(layers, weight, margin=margin)], hard_weight, soft_weight, temperature)
