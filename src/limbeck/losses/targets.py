"""Targets: what the student is asked to match, as distributions over classes in log space."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.reduction import compute_dtype

__all__ = ["Dense", "SoftTarget", "smooth_labels", "soften", "uniform"]


@dataclass(frozen=True)
class Dense:
    """A distribution over all classes.  log_probs: (..., K), each row summing to 1 in probability.

    >>> Dense(torch.tensor([[0.25, 0.75]]).log()).log_probs.shape
    torch.Size([1, 2])
    """

    log_probs: Tensor


SoftTarget = Dense
"""What a divergence accepts as its target."""


def soften(logits: Tensor, temperature: float = 1.0) -> Dense:
    """Soften logits: softmax(logits / T), as a target (Hinton, Vinyals & Dean 2015).

    logits: (..., K).  temperature: above 0; T → ∞ gives the uniform distribution, T → 0 the argmax.

    >>> soften(torch.tensor([0.0, 2.0]), temperature=2.0).log_probs.exp()
    tensor([0.2689, 0.7311])
    """
    checks.positive("temperature", temperature)
    return Dense(F.log_softmax(compute_dtype(logits.detach()) / temperature, dim=-1))


def smooth_labels(labels: Tensor, classes: int, epsilon: float, *, dtype: torch.dtype = torch.float32) -> Dense:
    """Smooth hard labels: y(1-ε) + ε/K (Szegedy et al. 2016).

    labels: (...) int64 in [0, classes), or `UNLABELLED`, whose row is uniform and is for the caller to mask.
    epsilon: in [0, 1]; 0 gives the labels themselves.  Returns log-probabilities (..., classes).

    >>> smooth_labels(torch.tensor([1]), classes=4, epsilon=0.4).log_probs.exp()
    tensor([[0.1000, 0.7000, 0.1000, 0.1000]])
    """
    checks.unit_interval("epsilon", epsilon)
    checks.at_least("classes", classes, 1)
    if labels.dtype != torch.int64:
        raise InputError(f"labels: found {labels.dtype}, expected torch.int64 class indices")
    labelled = labels != UNLABELLED
    known = labels[labelled]
    if known.numel() and not (0 <= int(known.min()) and int(known.max()) < classes):
        raise InputError(
            f"labels: found {int(known.min())} to {int(known.max())}, expected 0 to {classes - 1} (or {UNLABELLED})"
        )
    log_rest = math.log(epsilon / classes) if epsilon > 0 else -math.inf
    log_true = math.log(1.0 - epsilon + epsilon / classes)
    log_probs = torch.full((*labels.shape, classes), log_rest, dtype=dtype, device=labels.device)
    log_probs.scatter_(-1, labels.clamp_min(0).unsqueeze(-1), log_true)
    return Dense(torch.where(labelled.unsqueeze(-1), log_probs, -math.log(classes)))


def uniform(like: Tensor) -> Dense:
    """Return the uniform distribution over the classes of `like` (..., K): a teacher that knows nothing.

    >>> uniform(torch.zeros(1, 4)).log_probs.exp()
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    like = compute_dtype(like)
    return Dense(torch.full_like(like, -math.log(like.shape[-1])))
