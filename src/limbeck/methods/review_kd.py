"""Knowledge review: each layer of the teacher taught by the student's layers from there to its end."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.features import FeatureTerm, require_two
from limbeck.layers import LayerPairs
from limbeck.losses.reduction import reduce
from limbeck.objective import Objective, Setup
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "KnowledgeReview", "Review", "review_kd"]

CARD = Card(
    name="review_kd",
    summary="each of the teacher's layers, from the student's same and deeper layers fused by attention",
    authors="Pengguang Chen, Shu Liu, Hengshuang Zhao, Jiaya Jia",
    year=2021,
    title="Distilling Knowledge via Knowledge Review",
    source="https://arxiv.org/abs/2104.09044",
    formula="hard_weight·H(y, softmax(z)) + weight·Σ_l HCL(ABF_l(F_l, ..., F_L), G_l), HCL(a, b) = "
    "Σ_j w_j·mean (pool_j(a) - pool_j(b))²/Σ_j w_j",
)

_WIDEST = 512


class Review(nn.Module):
    """The student's maps, from the deepest to the first, fused and brought to the shapes of the teacher's.

    A layer is brought to a common width by a 1×1 convolution and batch normalisation; with `fuse` it is added to the
    review of the deeper layers, both weighed by an attention over positions, and passed on to the next one.  A 3×3
    convolution and batch normalisation give the teacher's channels.
    """

    def __init__(self, students: Sequence[torch.Size], teachers: Sequence[torch.Size], *, fuse: bool = True) -> None:
        super().__init__()
        width = min(_WIDEST, students[-1][0])
        self.sizes = [tuple(shape[1:]) for shape in teachers]
        self.reduce = nn.ModuleList(_conv_bn(shape[0], width, 1) for shape in students)
        self.expand = nn.ModuleList(_conv_bn(width, shape[0], 3) for shape in teachers)
        self.attend = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in students[1:] if fuse)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        given: list[Tensor] = []
        review: Tensor | None = None
        for number in reversed(range(len(maps))):
            x: Tensor = self.reduce[number](maps[number])
            if review is not None and len(self.attend):
                deeper = F.interpolate(review, x.shape[2:], mode="nearest")
                own, other = torch.sigmoid(self.attend[number](torch.cat([x, deeper], 1))).chunk(2, 1)
                x = own * x + other * deeper
            if x.shape[2:] != self.sizes[number]:
                x = F.interpolate(x, self.sizes[number], mode="nearest")
            given.insert(0, self.expand[number](x))
            review = x
        return given


class KnowledgeReview(FeatureTerm):
    """The sum over layers of the hierarchical context loss between the student's review and the teacher's maps."""

    axes = frozenset({2, 4})

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        layers: LayerPairs,
        preactivation: Sequence[str] = ("teacher",),
        fuse: bool = True,
        name: str = "review_kd",
    ) -> None:
        super().__init__(name, weight, layers, preactivation=preactivation)
        self.fuse = fuse

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        before = [(each.student_shape[1:], each.teacher_shape[1:]) for each in self.pairs]
        super().build(outputs, setup)
        if before == [(each.student_shape[1:], each.teacher_shape[1:]) for each in self.pairs]:
            return
        students, teachers = ([_as_map(each) for each in every] for every in self._features(outputs))
        with setup.drawing("projection", self.name, "all"):
            shapes = [[each.shape[1:] for each in every] for every in (students, teachers)]
            review = Review(*shapes, fuse=self.fuse)
        self.projections = nn.ModuleList([review.to(students[0].device, students[0].dtype)])

    def projection_text(self, number: int) -> str:
        return super().projection_text(0) if number == 0 else "fused with the deeper layers" if self.fuse else ""

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        maps = [_as_map(each) for each in students]
        if any(each[0, 0].numel() == 1 for each in maps):
            require_two(self.name, self.projections[0], len(batch))
        reviewed = self.projections[0](maps)
        each = losses.review_kd(reviewed, [_as_map(other) for other in teachers], reduction="none")
        return reduce(each, mask, "sum")


def _conv_bn(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def _as_map(feature: Tensor) -> Tensor:
    return feature[:, :, None, None] if feature.dim() == 2 else feature


@checked
def review_kd(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    preactivation: str = "teacher",
    fuse: bool = True,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build knowledge review, with the terms `hard` and `review_kd`.

    Args:
        layers: from the first to the deepest; maps (N, C, H, W), and a pooled vector, which counts as a map of 1
            position.  Published: the stages and the pooled vector, `[stage1, stage2, stage3, pool@output]`.
        weight: β of the sum over layers; a number or schedule.  Published: 0.6 to 8 by the pair of networks, raised
            from 0 over the first 20 epochs.
        preactivation: the networks of which a path without a side means what the stage's last ReLU is called with:
            "teacher" as published, "both", or "none".
        fuse: review the deeper layers by attention; False compares each layer alone, after a projection.
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(review_kd(["stage1", "stage2"]).terms)
        ['hard', 'review_kd']

    Reference:
        Chen et al. (2021), "Distilling Knowledge via Knowledge Review", arXiv:2104.09044.
    """
    checks.choice("preactivation", preactivation, tuple(_PREACTIVATION))
    term = KnowledgeReview(weight, layers=layers, preactivation=_PREACTIVATION[preactivation], fuse=fuse)
    return beside_logits([term], hard_weight, soft_weight, temperature)


_PREACTIVATION = {"teacher": ("teacher",), "both": ("student", "teacher"), "none": ()}
