"""Deep mutual learning: networks of any kinds learn side by side, each from every other one's answers."""

from dataclasses import dataclass

from limbeck.card import Card
from limbeck.objective import Objective
from limbeck.peers import mean_over_peers
from limbeck.schemes.context import Builder
from limbeck.schemes.peers import PeersScheme

__all__ = ["CARD", "Mutual"]

CARD = Card(
    name="mutual",
    summary="networks of any kinds train side by side on the same batches, each drawn to every other one's answers",
    authors="Ying Zhang, Tao Xiang, Timothy M. Hospedales, Huchuan Lu",
    year=2018,
    title="Deep Mutual Learning",
    source="https://arxiv.org/abs/1706.00384",
    formula="H(y, q_i) + 1/(N-1)·Σ_{j≠i} T²·KL(q_j(T) ‖ q_i(T))",
)


@dataclass(frozen=True)
class Mutual(PeersScheme):
    """Networks that learn from labels and from every other peer, all on the same batches.

    The method's terms that read a teacher are taken with each other peer as teacher and averaged;
    {name: kd, temperature: 1, hard_weight: 1, soft_weight: 1} is the paper's loss.
    """

    def joined(self, objective: Objective) -> Objective:
        """Return the method, each of its teacher's terms averaged over the peers."""
        return mean_over_peers(objective)

    def order(self, context: Builder) -> int | None:
        """Return the student's seed: all see the same batches."""
        return context.seed
