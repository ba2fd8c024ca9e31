"""Class attention transfer: where in the last map each class is seen."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import ModelError
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.losses.reduction import reduce
from limbeck.objective import Objective, Setup
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "ClassAttention", "cat_kd"]

CARD = Card(
    name="cat_kd",
    summary="the class activation maps of the teacher, which say where in an image it sees each class",
    authors="Ziyao Guo, Haonan Yan, Hui Li, Xiaodong Lin",
    year=2023,
    title="Class Attention Transfer Based Knowledge Distillation",
    source="https://arxiv.org/abs/2304.12777",
    formula="hard_weight·H(y, softmax(z)) + weight·mean (CAM_S - CAM_T)², CAM_k = pool(Σ_c W_kc·F_c)",
)

_LAST = {name: name for name in ("last_linear.weight", "last_linear.bias")}
_WEIGHTS = {"student": _LAST, "teacher": _LAST}


class ClassAttention(FeatureTerm):
    """Mean (CAM_S - CAM_T)² over classes and positions, of the maps before the pooling and the last linear layers."""

    reads_logits = True
    axes = frozenset({4})
    any_classes = frozenset()
    reads_weights = _WEIGHTS

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        layers: LayerPairs,
        size: int = 2,
        normalise: bool = False,
        name: str = "cat_kd",
    ) -> None:
        super().__init__(name, weight, layers)
        checks.at_least("size", size, 1)
        self.size = size
        self.normalise = normalise

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        super().build(outputs, setup)
        for number, (model, features) in enumerate(zip(("student", "teacher"), self._features(outputs), strict=True)):
            answer = outputs[model]
            for place, feature in zip([pair[number] for pair in self.layers.pairs], features, strict=True):
                _check_head(model, place, feature, answer)

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        weights = [outputs[model].weights["last_linear.weight"] for model in ("student", "teacher")]
        values = []
        for pair in zip(students, teachers, strict=True):
            own, other = (losses.class_activation_maps(*each) for each in zip(pair, weights, strict=True))
            each = losses.cat_kd(own, other, size=self.size, normalise=self.normalise, reduction="none")
            values.append(reduce(each, mask, "sum"))
        return torch.stack(values).sum()


def _check_head(model: str, place: str, feature: Tensor, answer: Outputs) -> None:
    """Require that a network pools a map over its positions and applies a linear layer, which gives its logits."""
    weight, bias = (answer.weights[name].detach().float() for name in _LAST)
    if weight.shape[1] == feature.shape[1]:
        logits = F.linear(feature.detach().float().mean((2, 3)), weight, bias)
        scale = answer.logits.detach().float().abs().amax().clamp_min(1e-3)
        if bool(((logits - answer.logits.detach().float()).abs() <= 0.02 * scale).all()):
            return
    raise ModelError(
        f"layers: the {model}'s '{place}' gives {tuple(feature.shape)}, whose mean over the positions and last linear"
        f" layer {tuple(weight.shape)} are not its logits; name the last map before the pooling, or use another method"
    )


@checked
def cat_kd(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    size: int = 2,
    normalise: bool = False,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build class attention transfer, with the terms `hard` and `cat_kd`.

    Both networks have to pool their last map over its positions and apply one linear layer to it; the teacher has to
    be a network.

    Args:
        layers: the last map before the pooling in both networks, such as `stage3`.
        weight: β; a number or schedule.  Published, by the pair of networks: 0.7 to 15; with `normalise` 40 to 600.
        size: to which the maps are pooled.  Published: 2, and 4 for ShuffleNets.
        normalise: divide each pooled map by its Euclidean norm, as published for pairs of unlike families.
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(cat_kd("stage3").terms)
        ['cat_kd', 'hard']

    Reference:
        Guo et al. (2023), "Class Attention Transfer Based Knowledge Distillation", arXiv:2304.12777.
    """
    term = ClassAttention(weight, layers=layers, size=size, normalise=normalise)
    return beside_logits([term], hard_weight, soft_weight, temperature)
