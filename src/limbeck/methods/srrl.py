"""The teacher's features, and what the teacher's classifier makes of the student's."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import losses
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError, ModelError
from limbeck.features import FeatureTerm, require_two
from limbeck.layers import LayerPairs
from limbeck.losses.reduction import compute_dtype, only_counted, reduce
from limbeck.objective import Objective, Setup
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "SoftmaxRegression", "srrl"]

CARD = Card(
    name="srrl",
    summary="the teacher's last features, and the teacher's classifier applied to the student's",
    authors="Jing Yang, Brais Martinez, Adrian Bulat, Georgios Tzimiropoulos",
    year=2021,
    title="Knowledge Distillation via Softmax Regression Representation Learning",
    source="https://openreview.net/forum?id=ZzwDy_wiWv",
    formula="hard_weight·H(y, softmax(z)) + weight·(mean (r(f) - g)² + mean (W_T·r(f) + b_T - v)²), r = relu(BN(1×1))",
)


_LAST = {name: name for name in ("last_linear.weight", "last_linear.bias")}
_WEIGHTS = {"teacher": _LAST}


class SoftmaxRegression(FeatureTerm):
    """Mean (r(f) - g)² + mean (W_T·r(f) + b_T - v)² per example, v the teacher's logits."""

    reads_logits = True
    axes = frozenset({2})
    reads_weights = _WEIGHTS

    def __init__(self, weight: Schedule = 1.0, *, layers: LayerPairs, name: str = "srrl") -> None:
        super().__init__(name, weight, layers)
        if len(self.layers) > 1:
            raise InputError(f"layers: found {len(self.layers)} pairs, expected one, the vector before the classifier")

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        super().build(outputs, setup)
        weight, place, found = (
            outputs["teacher"].weights["last_linear.weight"],
            self.pairs[0].teacher,
            self.pairs[0].teacher_shape,
        )
        if weight.shape[1] != found[1]:
            raise ModelError(
                f"layers: the teacher's '{place}' gives {found}, its last linear layer takes {weight.shape[1]} numbers;"
                " name the vector that this layer is called with, such as pool"
            )

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        linear = nn.Linear(student.shape[1], teacher.shape[1], bias=False)
        return nn.Sequential(linear, nn.BatchNorm1d(teacher.shape[1]), nn.ReLU())

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        require_two(self.name, self.projections[0], len(batch))
        answer = outputs["teacher"]
        features = compute_dtype(self.projected(students[0], 0), "student")
        weight, bias = (answer.weights[name].detach().to(features.dtype) for name in _LAST)
        logits = F.linear(features, weight, bias)
        target = only_counted(answer.logits, mask)
        each = losses.srrl(features, teachers[0], logits, target, reduction="none")
        return reduce(each, mask, "sum")


@checked
def srrl(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build softmax regression representation learning, with the terms `hard` and `srrl`.

    The teacher has to be a network, for its classifier.

    Args:
        layers: the vector before the classifier in both networks, such as `pool`.
        weight: β; a number or schedule.
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.  The paper has them.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(srrl("pool").terms)
        ['hard', 'srrl']

    Reference:
        Yang et al. (2021), "Knowledge Distillation via Softmax Regression Representation Learning", ICLR.
    """
    return beside_logits([SoftmaxRegression(weight, layers=layers)], hard_weight, soft_weight, temperature)
