"""A distribution over all classes in log space, and softened logits as one."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.losses.reduction import compute_dtype

__all__ = ["Dense", "soften"]


@checked_fields
@dataclass(frozen=True)
class Dense:
    """Hold a distribution over all classes as log-probabilities.

    Attributes:
        log_probs: (..., K) floating point, in nats; the probabilities of each row sum to 1.

    Raises:
        InputError: if `log_probs` is not a tensor.

    Example:
        >>> import torch
        >>> Dense(torch.tensor([[0.25, 0.75]]).log()).log_probs.shape
        torch.Size([1, 2])
    """

    log_probs: Tensor


@checked
def soften(logits: Tensor, temperature: float = 1.0) -> Dense:
    """Return softmax(logits/T) as a distribution without gradient.

    Args:
        logits: (..., K) floating point.  Half precision is computed in float32.
        temperature: T > 0.  The distribution tends to uniform as T → ∞ and to the argmax as T → 0.

    Returns:
        Log-probabilities (..., K), cut off from the graph.

    Raises:
        InputError: if the logits are not floating point, or the temperature is not above 0.

    Example:
        >>> import torch
        >>> soften(torch.tensor([0.0, 2.0]), temperature=2.0).log_probs.exp()
        tensor([0.2689, 0.7311])

    Reference:
        Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    checks.positive("temperature", temperature)
    return Dense(F.log_softmax(scaled(compute_dtype(logits.detach()), temperature), dim=-1))


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """Return logits/T; at T = 1 the logits themselves, of which a large vocabulary makes a costly copy."""
    return logits if temperature == 1 else logits / temperature
