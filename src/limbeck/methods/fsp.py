"""Flow of solution procedure: how a network goes from one layer to the next."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from limbeck import checks, losses, projections
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "Flow", "fsp"]

CARD = Card(
    name="fsp",
    summary="products of each two consecutive layers, the flow between them",
    authors="Junho Yim, Donggyu Joo, Jihoon Bae, Junmo Kim",
    year=2017,
    title="A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
    source="https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html",
    formula="hard_weight·H(y, q) + weight·Σ_pairs mean (Γ(F) - Γ(G))², Γ_ij = Σ_p F¹_ip F²_jp/P of consecutive layers",
)


class Flow(FeatureTerm):
    """Squared difference of the flows between consecutive layers, summed over these; see `losses.fsp`.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        pooling: "max" or "mean".
        norm: "mean" or "sum".
        projection: "none" or "conv_bn".

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> Flow(["stem", "stage1"]).name
        'fsp'

    Reference:
        Yim et al. (2017), "A Gift from Knowledge Distillation", CVPR.
    """

    axes = frozenset({3, 4})

    def __init__(
        self,
        layers: LayerPairs,
        weight: Schedule = 50.0,
        *,
        pooling: Literal["max", "mean"] = "max",
        norm: Literal["mean", "sum"] = "mean",
        projection: Literal["none", "conv_bn"] = "none",
    ) -> None:
        super().__init__("fsp", weight, layers)
        if len(self.layers) < 2:
            raise InputError("layers: found one, expected two or more, whose flow is compared; name them in order")
        checks.choice("pooling", pooling, ("max", "mean"))
        checks.choice("norm", norm, ("mean", "sum"))
        checks.choice("projection", projection, ("none", "conv_bn"))
        self.pooling: Literal["max", "mean"] = pooling
        self.norm: Literal["mean", "sum"] = norm
        self.projection = projection

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module | None:
        channels = [each.shape[1 if each.dim() == 4 else 2] for each in (student, teacher)]
        if self.projection == "none":
            if channels[0] != channels[1]:
                raise InputError(
                    f"found {channels[0]} and {channels[1]} channels, expected as many in both; set projection: conv_bn"
                )
            return None
        return (projections.conv_bn if student.dim() == 4 else projections.linear)(student.shape, teacher.shape)

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        """Return the sum over the flows; a pair of layers alone has none."""
        projected = [self.projected(each, number) for number, each in enumerate(students)]
        total = projected[0].new_zeros(())
        for number in range(1, len(projected)):
            with self._naming(number):
                flows = projected[number - 1 : number + 1], teachers[number - 1 : number + 1]
                each = losses.fsp(*flows, pooling=self.pooling, norm=self.norm, reduction="none")
            total = total + (each if mask is None else each[mask]).sum()
        return total


@checked
def fsp(
    layers: LayerPairs,
    weight: Schedule = 50.0,
    pooling: Literal["max", "mean"] = "max",
    norm: Literal["mean", "sum"] = "mean",
    projection: Literal["none", "conv_bn"] = "none",
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build the flow of solution procedure, trained together with the other terms.

    The paper trains the flow alone first, as `scheme: hints` does, and on labels alone then.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, 50 in the literature's tables, whose second stage has no such term.
        pooling: of the larger map of two layers: "max", as in the paper, or "mean".
        norm: "mean" over a flow's entries, or "sum", the paper's.
        projection: "none", for networks of the same channels, or "conv_bn", for each layer of the student.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `fsp`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(fsp(["stem", "stage1", "stage2"]).terms)
        ['fsp', 'hard']

    Reference:
        Yim et al. (2017), "A Gift from Knowledge Distillation", CVPR.
    """
    term = Flow(layers, weight, pooling=pooling, norm=norm, projection=projection)
    return beside_logits([term], hard_weight, soft_weight, temperature)
