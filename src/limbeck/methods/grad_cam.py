"""Where a map speaks for the label: the map weighed by the gradient of the label's logit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck import losses
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.errors import InputError, ModelError
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs, place
from limbeck.losses.reduction import compute_dtype, reduce
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits, label_shares, require_classes

__all__ = ["CARD", "GradientMaps", "grad_cam"]

CARD = Card(
    name="grad_cam",
    summary="where the teacher's map speaks for the label, by the gradient of its logit",
    authors="Prithviraj Dhar, Rajat Vikram Singh, Kuan-Chuan Peng, Ziyan Wu, Rama Chellappa",
    year=2019,
    title="Learning without Memorizing",
    source="https://arxiv.org/abs/1811.08051",
    formula="hard_weight·H(y, softmax(z)) + weight·mean |M_S - M_T|, M = relu(Σ_c w_c·F_c)/‖·‖, "
    "w_c = mean_hw ∂z_y/∂F_c",
)


class GradientMaps(FeatureTerm):
    """Mean |M_S - M_T| over the positions of gradient-weighted maps; the gradient itself is learned too."""

    reads_logits = True
    axes = frozenset({4})
    any_classes = frozenset()
    differentiates_twice = True
    differentiates_teacher = True

    def settle(self, legend: Legend) -> None:
        require_classes(legend.task, f"term '{self.name}' differentiates the logits of", alone=True)

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        student, teacher = outputs["student"], outputs["teacher"]
        if teacher.vjp is None:
            raise InputError(f"term '{self.name}': found outputs without vjp, expected those of a network as teacher")
        logits = compute_dtype(student.logits)
        cotangents = label_shares(batch, compute_dtype(teacher.logits)).to(logits.dtype)[None]
        values = []
        for number, (own, other) in enumerate(self.layers.pairs):
            feature = student.features[own]
            if not feature.requires_grad:
                raise ModelError(f"layers: the student's '{own}' has no gradient; name a layer that learns")
            try:
                gradient = losses.vector_jacobian(logits, feature, cotangents)[0]
            except InputError:
                raise ModelError(
                    f"layers: the student's logits do not depend on what '{own}' gives; name another layer"
                ) from None
            each = losses.grad_cam(
                students[number], teachers[number], gradient, teacher.vjp(cotangents, place(other))[0], reduction="none"
            )
            values.append(reduce(each, mask, "sum"))
        return torch.stack(values).sum()


@checked
def grad_cam(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build the matching of gradient-weighted maps, with the terms `hard` and `grad_cam`.

    The teacher has to be a network.  Where both networks pool their last map and apply one linear layer, `cat_kd`
    compares the maps of all classes for less.

    Args:
        layers: maps (N, C, H, W), such as `stage3`.  Of two sizes, the larger map is reduced by average pooling.
        weight: of the mean over positions; a number or schedule.
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(grad_cam("stage3").terms)
        ['grad_cam', 'hard']

    Reference:
        Selvaraju et al. (2017), arXiv:1610.02391; Dhar et al. (2019), "Learning without Memorizing", arXiv:1811.08051.
    """
    return beside_logits([GradientMaps("grad_cam", weight, layers)], hard_weight, soft_weight, temperature)
