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
    """A distribution over all classes.  log_probs: (..., K), each row summing to 1 in probability.

    >>> import torch
    >>> Dense(torch.tensor([[0.25, 0.75]]).log()).log_probs.shape
    torch.Size([1, 2])
    """

    log_probs: Tensor


@checked
def soften(logits: Tensor, temperature: float = 1.0) -> Dense:
    """Soften logits: softmax(logits / T), as a target (Hinton, Vinyals & Dean 2015).

    logits: (..., K).  temperature: above 0; T → ∞ gives the uniform distribution, T → 0 the argmax.

    >>> import torch
    >>> soften(torch.tensor([0.0, 2.0]), temperature=2.0).log_probs.exp()
    tensor([0.2689, 0.7311])
    """
    checks.positive("temperature", temperature)
    return Dense(F.log_softmax(compute_dtype(logits.detach()) / temperature, dim=-1))
