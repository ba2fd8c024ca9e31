"""How much the answers of a network change when it is trained again."""

from dataclasses import dataclass

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError

__all__ = ["Churn", "churn"]


@checked_fields
@dataclass(frozen=True)
class Churn:
    """What two trainings of the same network do not agree in.

    difference: mean over examples and classes of |p - p'|; of two classes that is |p - p'| of either one, as in the
        paper, and of K the total variation times 2/K.
    changed: share of the examples whose answer is another.
    """

    difference: float
    changed: float


@checked
def churn(first: Tensor, second: Tensor) -> Churn:
    """Return the churn between the logits of two networks for the same examples: (N, K) each (Anil et al. 2018).

    InputError for other shapes, of no examples, or with one logit (which softmax makes a certainty).

    >>> import torch
    >>> churn(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 0.0]])).changed
    0.5
    """
    checks.shapes_match("first", first.shape, "second", second.shape)
    if first.ndim != 2 or len(first) == 0 or first.shape[1] < 2:
        raise InputError(
            f"churn: found logits {tuple(first.shape)}, expected (N, K): an example or more, two classes or more"
        )
    for name, logits in (("first", first), ("second", second)):
        checks.logits(name, logits)
    difference = (first.double().softmax(-1) - second.double().softmax(-1)).abs().mean()
    changed = (first.argmax(-1) != second.argmax(-1)).double().mean()
    return Churn(float(difference), float(changed))
