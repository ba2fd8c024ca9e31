"""Neuron selectivity transfer: the channels of a map as samples of one distribution."""

from typing import Literal

from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "NeuronSelectivity", "nst"]

CARD = Card(
    name="nst",
    summary="the distribution of a layer's channels over positions, by maximum mean discrepancy",
    authors="Zehao Huang, Naiyan Wang",
    year=2017,
    title="Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
    source="https://arxiv.org/abs/1707.01219",
    formula="hard_weight·H(y, q) + weight·Σ_layers (mean k(x, x') + mean k(y, y') - 2·mean k(x, y)), x and y the "
    "channels of F and G over their lengths",
)


class NeuronSelectivity(FeatureTerm):
    """Squared maximum mean discrepancy of channels, summed over the layers.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        kernel: "poly", "linear" or "gaussian" (see `losses.nst`).

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> NeuronSelectivity("stage1").name
        'nst'

    Reference:
        Huang & Wang (2017), "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv:1707.01219.
    """

    axes = frozenset({3, 4})

    def __init__(
        self, layers: LayerPairs, weight: Schedule = 50.0, *, kernel: Literal["poly", "linear", "gaussian"] = "poly"
    ) -> None:
        super().__init__("nst", weight, layers)
        checks.choice("kernel", kernel, ("poly", "linear", "gaussian"))
        self.kernel: Literal["poly", "linear", "gaussian"] = kernel

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.nst(student, teacher, kernel=self.kernel, reduction="none")


@checked
def nst(
    layers: LayerPairs,
    weight: Schedule = 50.0,
    kernel: Literal["poly", "linear", "gaussian"] = "poly",
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build neuron selectivity transfer.

    The published layers are the outputs of all stages.  Channels may differ in number.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, 50 in the literature's tables, for the kernel "poly".
        kernel: "poly", (x·y)²; "linear", x·y; or "gaussian", of the width of the example's mean squared distance.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `nst`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(nst(["stage1", "stage2"]).terms)
        ['hard', 'nst']

    Reference:
        Huang & Wang (2017), "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv:1707.01219.
    """
    return beside_logits([NeuronSelectivity(layers, weight, kernel=kernel)], hard_weight, soft_weight, temperature)
