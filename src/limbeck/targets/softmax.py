"""The teacher's own distribution."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.losses import Dense, soften
from limbeck.outputs import Outputs
from limbeck.targets.geometric import geometric_mean
from limbeck.targets.mixture import mixture
from limbeck.targets.target import Target

__all__ = ["CARD", "PLAIN", "Softmax", "softened"]

CARD = Card(
    name="softmax",
    summary="the teacher's probabilities at the temperature; of an ensemble, their mean",
    authors="Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    year=2015,
    title="Distilling the Knowledge in a Neural Network",
    source="https://arxiv.org/abs/1503.02531",
    formula="softmax(v/T)",
)

_MEANS: Mapping[str, Callable[[Sequence[Dense], Sequence[float]], Dense]] = {
    "arithmetic": mixture,
    "geometric": geometric_mean,
}


@checked
def softened(outputs: Outputs, temperature: float) -> Dense:
    """Return a teacher's distribution at a temperature; for an ensemble, the mean of its members' distributions.

    Args:
        outputs: the teacher's outputs, logits (..., K).
        temperature: T > 0.

    Returns:
        Log-probabilities (..., K) without gradient.

    Raises:
        InputError: if the temperature is not above 0.

    Example:
        >>> softened(Outputs(torch.tensor([[0.0, 2.0]])), 2.0).log_probs.exp()
        tensor([[0.2689, 0.7311]])

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """
    if outputs.members is None:
        return soften(outputs.logits, temperature)
    answers = [soften(logits, temperature) for logits in outputs.members.logits]
    return _MEANS[outputs.members.mean](answers, outputs.members.weights)


@checked_fields
@dataclass(frozen=True)
class Softmax(Target):
    """Match the teacher's probabilities at the temperature, softmax(v/T): the default target.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3))
        >>> Softmax()(Outputs(torch.tensor([[0.0, 2.0]])), batch, temperature=2.0).log_probs.exp()
        tensor([[0.2689, 0.7311]])

    Reference:
        Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """

    reads_teacher = True

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return softened(outputs, temperature)


PLAIN = Softmax()
"""The teacher's distribution as it is: the target where nothing else is said."""
