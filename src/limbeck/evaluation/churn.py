"""How much the answers of a network change when it is trained again."""

from dataclasses import dataclass

from torch import Tensor

from limbeck import checks

__all__ = ["Churn", "churn"]


@dataclass(frozen=True)
class Churn:
    """What two trainings of the same network do not agree in.

    difference: mean over examples and classes of |p - p'|.  changed: share of the examples whose answer is another.
    """

    difference: float
    changed: float


def churn(first: Tensor, second: Tensor) -> Churn:
    """Return the churn between the logits of two networks for the same examples: (N, K) each (Anil et al. 2018).

    >>> import torch
    >>> churn(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 0.0]])).changed
    0.5
    """
    checks.shapes_match("first", first.shape, "second", second.shape)
    difference = (first.double().softmax(-1) - second.double().softmax(-1)).abs().mean()
    changed = (first.argmax(-1) != second.argmax(-1)).double().mean()
    return Churn(float(difference), float(changed))
