"""Training on hard labels: the student alone, and the teacher itself."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.objective import Objective
from limbeck.terms import HardLabels

__all__ = ["CARD", "hard"]

CARD = Card(
    name="hard",
    summary="hard labels only, optionally smoothed: the student alone",
    authors="Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens, Zbigniew Wojna",
    year=2016,
    title="Rethinking the Inception Architecture for Computer Vision",
    source="https://arxiv.org/abs/1512.00567",
    formula="H(y(1-ε) + ε/K, softmax(z))",
)


@checked
def hard(label_smoothing: float = 0.0) -> Objective:
    """Build cross-entropy on labels without a teacher, with the one term `hard`.

    Args:
        label_smoothing: ε in [0, 1].

    Returns:
        The objective.

    Raises:
        InputError: if ε is not in [0, 1].

    Example:
        >>> sorted(hard(label_smoothing=0.1).terms)
        ['hard']

    Reference:
        Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567, for
        smoothing.
    """
    return Objective([HardLabels(label_smoothing=label_smoothing)])
