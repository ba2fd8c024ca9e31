"""Correlation congruence: how near the examples of a batch are to each other, by a kernel."""

from typing import Literal

from torch import Tensor, nn

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import RelationalTerm, as_vectors
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "CorrelationCongruence", "correlation_congruence"]

CARD = Card(
    name="correlation_congruence",
    summary="how near the examples of a batch are to each other, by a kernel",
    authors="Baoyun Peng, Xiao Jin, Jiaheng Liu, Shunfeng Zhou, Yichao Wu, Yu Liu, Dongsheng Li, Zhaoning Zhang",
    year=2019,
    title="Correlation Congruence for Knowledge Distillation",
    source="https://arxiv.org/abs/1904.01802",
    formula="hard_weight·H(y, q) + weight·Σ_layers Σ_ij (κ(F)_ij - κ(G)_ij)²/N², κ_ij = Σ_{p ≤ P} "
    "e^{-2γ}(2γ)^p/p!·cos(f_i, f_j)^p",
)


class CorrelationCongruence(RelationalTerm):
    """Squared difference of the kernels of all examples, summed over the layers.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        kernel: "gaussian", "bilinear" or "neighbours".
        gamma: γ > 0 of "gaussian".
        order: P of "gaussian", 1 or above.
        embed: the dimension of a linear layer on each side, 1 or above; None for none.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> CorrelationCongruence("pool").name
        'correlation_congruence'

    Reference:
        Peng et al. (2019), "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802.
    """

    def __init__(
        self,
        layers: LayerPairs,
        weight: Schedule = 100.0,
        *,
        kernel: Literal["gaussian", "bilinear", "neighbours"] = "gaussian",
        gamma: float = 0.4,
        order: int = 2,
        embed: int | None = None,
    ) -> None:
        super().__init__("correlation_congruence", weight, layers)
        checks.choice("kernel", kernel, ("gaussian", "bilinear", "neighbours"))
        checks.positive("gamma", gamma)
        checks.at_least("order", order, 1)
        if embed is not None:
            checks.at_least("embed", embed, 1)
        self.kernel = kernel
        self.gamma = gamma
        self.order = order
        self.embed = embed

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module | None:
        if self.embed is None:
            return None
        own, other = (nn.Linear(as_vectors(each).shape[1], self.embed) for each in (student, teacher))
        return nn.ModuleDict({"student": own, "teacher": other.requires_grad_(False)})

    def relate(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        if self.embed is not None:
            made: nn.ModuleDict = self.projections[number]  # type: ignore[assignment]
            student, teacher = made["student"](student), made["teacher"](teacher)
        if self.kernel == "neighbours":
            return losses.neighbour_congruence(student, teacher)
        return losses.correlation_congruence(student, teacher, kernel=self.kernel, gamma=self.gamma, order=self.order)


@checked
def correlation_congruence(
    layers: LayerPairs,
    weight: Schedule = 100.0,
    kernel: Literal["gaussian", "bilinear", "neighbours"] = "gaussian",
    gamma: float = 0.4,
    order: int = 2,
    embed: int | None = None,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build correlation congruence.

    The published layer is the pooled vector before the classifier.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, to be searched; 0.02 in tables with "neighbours".
        kernel: "gaussian", its series up to an order; "bilinear", the cosine; or "neighbours", which tables of
            later papers call CC: the differences of features of two neighbours in the batch, multiplied.
        gamma: γ > 0 of "gaussian".
        order: P of "gaussian", 1 or above.
        embed: the dimension of a linear layer on each side, 128 as published.  The teacher's stays at its start: of two
            that are learned, both could become constant.  None compares the features themselves.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `correlation_congruence`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(correlation_congruence("pool").terms)
        ['correlation_congruence', 'hard']

    Reference:
        Peng et al. (2019), "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802.
    """
    term = CorrelationCongruence(layers, weight, kernel=kernel, gamma=gamma, order=order, embed=embed)
    return beside_logits([term], hard_weight, soft_weight, temperature)
