"""Label smoothing: the plainest teacher-free rival of distillation."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.objective import Objective
from limbeck.terms import HardLabels

__all__ = ["CARD", "label_smoothing"]

CARD = Card(
    name="label_smoothing",
    summary="hard labels smoothed by ε, no teacher: distillation from a teacher that knows nothing",
    authors="Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens, Zbigniew Wojna",
    year=2016,
    title="Rethinking the Inception Architecture for Computer Vision",
    source="https://arxiv.org/abs/1512.00567",
    formula="H(y(1-ε) + ε/K, softmax(z))",
)


@checked
def label_smoothing(epsilon: float = 0.1) -> Objective:
    """Build cross-entropy on labels smoothed by `epsilon` ε in [0, 1] (Szegedy et al. 2016), with the one term `hard`.

    It equals `kd` with the target `uniform`, divergence cross_entropy, T=1, hard_weight 1-ε and soft_weight ε.

    >>> sorted(label_smoothing(0.1).terms)
    ['hard']
    """
    return Objective([HardLabels(label_smoothing=epsilon)])
