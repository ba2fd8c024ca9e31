"""Inter-channel correlation: which channels of a layer are active together."""

from torch import Tensor, nn

from limbeck import losses, projections
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "InterChannelCorrelation", "ickd"]

CARD = Card(
    name="ickd",
    summary="which channels of a layer are active together",
    authors="Li Liu, Qingle Huang, Sihao Lin, Hongwei Xie, Bing Wang, Xiaojun Chang, Xiaodan Liang",
    year=2021,
    title="Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation",
    source="https://arxiv.org/abs/2202.03680",
    formula="hard_weight·H(y, q) + weight·Σ_layers Σ_ij (c(r(F))_ij - c(G)_ij)²/C, c the rows of F·Fᵀ over their "
    "lengths",
)


class InterChannelCorrelation(FeatureTerm):
    """Squared difference of the channels' correlations, summed over the layers; of an example, the mean over channels.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> InterChannelCorrelation("stage3").name
        'ickd'

    Reference:
        Liu et al. (2021), "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation", ICCV.
    """

    axes = frozenset({3, 4})

    def __init__(self, layers: LayerPairs, weight: Schedule = 1.0) -> None:
        super().__init__("ickd", weight, layers)

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        return (projections.conv_bn if student.dim() == 4 else projections.linear)(student.shape, teacher.shape)

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.ickd(self.projected(student, number), teacher, reduction="none")


@checked
def ickd(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build inter-channel correlation.

    The published layer is the last stage.  A `conv_bn` brings maps to the teacher's channels, a `linear` tokens.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, to be searched: the published one belongs to a value that is divided by the batch
            size once more.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `ickd`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(ickd("stage3").terms)
        ['hard', 'ickd']

    Reference:
        Liu et al. (2021), "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation", ICCV.
    """
    return beside_logits([InterChannelCorrelation(layers, weight)], hard_weight, soft_weight, temperature)
