"""DarkRank: the order in which the neighbours of each example stand."""

from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.features import RelationalTerm
from limbeck.layers import LayerPairs
from limbeck.losses.ranking import MOST_ORDERED
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "NeighbourOrder", "darkrank"]

CARD = Card(
    name="darkrank",
    summary="the order of each example's nearest neighbours in the batch",
    authors="Yuntao Chen, Naiyan Wang, Zhaoxiang Zhang",
    year=2018,
    title="DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer",
    source="https://arxiv.org/abs/1707.01220",
    formula="hard_weight·H(y, q) + weight·Σ_layers mean_i -log P(π_i | S_i), S_ij = -α·‖x_i - x_j‖^β, π_i the "
    "teacher's order of the n nearest, P(π | S) = Π_k e^{S_k}/Σ_{l≥k} e^{S_l}",
)


class NeighbourOrder(RelationalTerm):
    """The loss of the teacher's order of each example's nearest neighbours, summed over the layers.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        n: how many of the nearest are ordered.
        alpha: α > 0.
        beta: β > 0.
        soft: KL over all n! orders instead of the teacher's order alone.
        normalise: divide each example's features by their length first.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> NeighbourOrder("pool").name
        'darkrank'

    Reference:
        Chen, Wang & Zhang (2018), arXiv:1707.01220.
    """

    def __init__(
        self,
        layers: LayerPairs,
        weight: Schedule = 1.0,
        *,
        n: int = 4,
        alpha: float = 3.0,
        beta: float = 3.0,
        soft: bool = False,
        normalise: bool = True,
    ) -> None:
        super().__init__("darkrank", weight, layers)
        checks.at_least("n", n, 2)
        checks.positive("alpha", alpha)
        checks.positive("beta", beta)
        if soft and n > MOST_ORDERED:
            raise InputError(f"n: found {n}, expected 2 to {MOST_ORDERED} with soft: all n! orders are summed")
        self.n, self.alpha, self.beta, self.soft, self.normalise = n, alpha, beta, soft, normalise

    def relate(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.dark_rank(
            student, teacher, n=self.n, alpha=self.alpha, beta=self.beta, soft=self.soft, normalise=self.normalise
        )


@checked
def darkrank(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    n: int = 4,
    alpha: float = 3.0,
    beta: float = 3.0,
    soft: bool = False,
    normalise: bool = True,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build DarkRank.

    The layer is the one whose distances are used: the embedding of metric learning, or the pooled vector before the
    classifier.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: of the term, a number or schedule.
        n: how many of each example's nearest neighbours are ordered; at most 5 with `soft`.
        alpha: α > 0, how fast the score of a neighbour falls with its distance.
        beta: β > 0, the power of the distance.
        soft: compare the probabilities of all n! orders instead of taking the teacher's one.
        normalise: divide each example's features by their length first.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `darkrank`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(darkrank("pool", hard_weight=0.0).terms)
        ['darkrank']

    Reference:
        Chen, Wang & Zhang (2018), "DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer",
        arXiv:1707.01220.
    """
    term = NeighbourOrder(layers, weight, n=n, alpha=alpha, beta=beta, soft=soft, normalise=normalise)
    return beside_logits([term], hard_weight, soft_weight, temperature)
