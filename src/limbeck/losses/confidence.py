"""The loss on hard labels, weighted by how sure a teacher is."""

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.distillation import cross_entropy

__all__ = ["confidence_weighted"]


@checked
def confidence_weighted(logits: Tensor, labels: Tensor, confidence: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Compute Σ_n w_n·H(y_n, q_n), where w_n = c_n / Σ_batch c, the loss of CWTM.

    Args:
        logits: (..., K) floating point.
        labels: (...) int64 in [0, K), or `UNLABELLED` (-100), which has weight 0.
        confidence: c, (...) floating point, 0 or above: the teacher's largest probabilities.
        mask: (...) bool, False for padding, which has weight 0.

    Returns:
        A scalar in nats; 0 if no example is counted.

    Raises:
        InputError: if shapes disagree, or every counted example has confidence 0 (on a GPU the loss is then NaN).

    Example:
        >>> logits, labels = torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 0])
        >>> confidence_weighted(logits, labels, torch.tensor([0.75, 0.25]))
        tensor(0.5199)

    Reference:
        Furlanello et al. (2018), "Born-Again Neural Networks", arXiv:1805.04770.
    """
    checks.shapes_match("confidence", confidence.shape, "labels", labels.shape)
    each = cross_entropy(logits, labels, mask=mask, reduction="none")
    counted = labels != UNLABELLED if mask is None else (labels != UNLABELLED) & mask
    weights = torch.where(counted, confidence.detach().to(each.dtype), 0.0)
    nothing = ~counted.any()
    if not weights.is_cuda and not bool(nothing) and not bool((weights != 0).any()):
        raise InputError("confidence: found 0 for every counted example, expected at least one above 0")
    if weights.numel():
        weights = weights / torch.where(nothing, 1.0, weights.amax())  # first, or small weights would lose digits
    return (weights * each).sum() / torch.where(nothing, 1.0, weights.sum())
