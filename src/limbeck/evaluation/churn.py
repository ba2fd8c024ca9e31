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
    """The disagreement of two trainings of the same network.

    Attributes:
        difference: mean over examples and classes of |p - p'|.  For two classes that is |p - p'| of either class, as in
            the paper; for K classes the total variation times 2/K.
        changed: share of the examples with another prediction, in [0, 1].

    Example:
        >>> Churn(difference=0.1, changed=0.05).changed
        0.05

    Reference:
        Anil et al. (2018), "Large scale distributed neural network training through online distillation",
        arXiv:1804.03235.
    """

    difference: float
    changed: float


@checked
def churn(first: Tensor, second: Tensor) -> Churn:
    """Return the disagreement of two networks on the same examples.

    Args:
        first: logits (n, K) of one network.
        second: logits (n, K) of the other.

    Returns:
        The churn.

    Raises:
        InputError: if the shapes disagree, there is no example, or K is 1.

    Example:
        >>> import torch
        >>> churn(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 0.0]])).changed
        0.5

    Reference:
        Anil et al. (2018), "Large scale distributed neural network training through online distillation",
        arXiv:1804.03235.
    """
    checks.shapes_match("first", first.shape, "second", second.shape)
    if first.ndim != 2 or len(first) == 0 or first.shape[1] < 2:
        raise InputError(
            f"churn: found logits {tuple(first.shape)}, expected (N, K): at least one example and two classes"
        )
    for name, logits in (("first", first), ("second", second)):
        checks.logits(name, logits)
    difference = (first.double().softmax(-1) - second.double().softmax(-1)).abs().mean()
    changed = (first.argmax(-1) != second.argmax(-1)).double().mean()
    return Churn(float(difference), float(changed))
