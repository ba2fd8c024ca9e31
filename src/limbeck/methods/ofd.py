"""Overhaul of feature distillation: the teacher's layers before their ReLU, cut at a margin below 0."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from limbeck import losses, projections
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.features import FeatureTerm, require_negative
from limbeck.layers import LayerPairs
from limbeck.objective import Objective, Setup
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "Overhaul", "ofd"]

CARD = Card(
    name="ofd",
    summary="the teacher's layers before their ReLU, cut at a margin below 0, with a loss that asks no more below it",
    authors="Byeongho Heo, Jeesoo Kim, Sangdoo Yun, Hyojin Park, Nojun Kwak, Jin Young Choi",
    year=2019,
    title="A Comprehensive Overhaul of Feature Distillation",
    source="https://arxiv.org/abs/1904.01866",
    formula="hard_weight·H(y, q) + weight·Σ_l 2^(l-L)·Σ_units (z - t)²·(1 - 1[z ≤ t ≤ 0]), z = r(F), t = max(G, m_c)",
)


class Overhaul(FeatureTerm):
    """Partial squared error of features before their ReLU, the deepest layer times 1, the one before it times 1/2.

    Of an example it is the sum over units.  Layers without a side are read before their last ReLU in both networks.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        batch_norms: for each layer, the path of the teacher's BatchNorm whose output the ReLU reads; None measures.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> Overhaul("stage1").layers.pairs
        (('stage1@preactivation', 'stage1@preactivation'),)

    Reference:
        Heo et al. (2019), "A Comprehensive Overhaul of Feature Distillation", arXiv:1904.01866.
    """

    axes = frozenset({4})

    def __init__(
        self, layers: LayerPairs, weight: Schedule = 0.001, *, batch_norms: Sequence[str] | None = None
    ) -> None:
        super().__init__("ofd", weight, layers, preactivation=("student", "teacher"))
        self.batch_norms = None if batch_norms is None else tuple(batch_norms)
        if self.batch_norms is not None:
            if len(self.batch_norms) != len(self.layers):
                raise InputError(
                    f"batch_norms: found {len(self.batch_norms)} paths, expected {len(self.layers)}, one for each layer"
                )
            parts = [f"{path}.{part}" for path in self.batch_norms for part in ("weight", "bias")]
            self.reads_weights = {"teacher": {path: path for path in parts}}

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        require_negative(teacher)
        return projections.conv_bn(student.shape, teacher.shape)

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Make the projections and the margins, unless they are there."""
        super().build(outputs, setup)
        if self.batch_norms is not None:
            weights = outputs["teacher"].weights
            pairs = [(weights[f"{path}.weight"], weights[f"{path}.bias"]) for path in self.batch_norms]
            found = [losses.batch_norm_margins(*each) for each in pairs]
        elif "margins_0" in dict(self.named_buffers(recurse=False)):
            return
        else:
            found = self._measured(setup)
        for number, margins in enumerate(found):
            self.register_buffer(f"margins_{number}", margins)

    def _measured(self, setup: Setup) -> list[Tensor]:
        """Return the mean negative response of each channel of each layer, over the training samples; 0 for none."""
        places = [other for _, other in self.layers.pairs]
        sums: list[Tensor] = []
        counts: list[Tensor] = []
        for outputs in setup.passes():
            below = [outputs["teacher"].features[place].double().clamp_max(0.0) for place in places]
            added = [each.sum((0, 2, 3)) for each in below]
            number = [(each < 0).sum((0, 2, 3)) for each in below]
            sums = [a + b for a, b in zip(sums, added, strict=True)] if sums else added
            counts = [a + b for a, b in zip(counts, number, strict=True)] if counts else number
        return [(total / count.clamp_min(1)).float() for total, count in zip(sums, counts, strict=True)]

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        margins = self.get_buffer(f"margins_{number}")
        each = losses.ofd(self.projected(student, number), teacher, margins, reduction="none")
        return each * 2.0 ** (number + 1 - len(self.layers))


@checked
def ofd(
    layers: LayerPairs,
    weight: Schedule = 0.001,
    batch_norms: Sequence[str] | None = None,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build the overhaul of feature distillation.

    The published layers are all stages, before their last ReLU; a `conv_bn` brings the student to the teacher's
    channels.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, 1e-3 as published for CIFAR and 1e-4 for ImageNet; 1e-4 also for ResNet-56 to 20.
        batch_norms: for each layer, the path of the teacher's BatchNorm whose output the ReLU reads; the margins are
            then those of its normal distribution.  None takes the mean negative response over the training samples.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `ofd`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(ofd(["stage1", "stage2"]).terms)
        ['hard', 'ofd']

    Reference:
        Heo et al. (2019), "A Comprehensive Overhaul of Feature Distillation", arXiv:1904.01866.
    """
    return beside_logits([Overhaul(layers, weight, batch_norms=batch_norms)], hard_weight, soft_weight, temperature)
