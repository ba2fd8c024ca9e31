"""A distribution over all classes in log space, and its plainest makers."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError
from limbeck.losses.reduction import compute_dtype

__all__ = ["Dense", "SoftTarget", "normalised", "soften", "uniform"]


@checked_fields
@dataclass(frozen=True)
class Dense:
    """A distribution over all classes.  log_probs: (..., K), each row summing to 1 in probability.

    >>> Dense(torch.tensor([[0.25, 0.75]]).log()).log_probs.shape
    torch.Size([1, 2])
    """

    log_probs: Tensor


SoftTarget = Dense
"""What a divergence accepts as its target."""


@checked
def soften(logits: Tensor, temperature: float = 1.0) -> Dense:
    """Soften logits: softmax(logits / T), as a target (Hinton, Vinyals & Dean 2015).

    logits: (..., K).  temperature: above 0; T → ∞ gives the uniform distribution, T → 0 the argmax.

    >>> soften(torch.tensor([0.0, 2.0]), temperature=2.0).log_probs.exp()
    tensor([0.2689, 0.7311])
    """
    checks.positive("temperature", temperature)
    return Dense(F.log_softmax(compute_dtype(logits.detach()) / temperature, dim=-1))


@checked
def uniform(like: Tensor) -> Dense:
    """Return the uniform distribution over the classes of `like` (..., K): a teacher that knows nothing.

    >>> uniform(torch.zeros(1, 4)).log_probs.exp()
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    like = compute_dtype(like)
    return Dense(torch.full_like(like, -math.log(like.shape[-1])))


def normalised(scores: Tensor, nothing_left: str) -> Dense:
    """Return scores (..., K) as log-probabilities; InputError with `nothing_left` where all of a row are -inf."""
    if bool(torch.isneginf(scores).all(-1).any()):
        raise InputError(nothing_left)
    return Dense(F.log_softmax(scores, dim=-1))
