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
    """Compute Σ_n w_n·H(y_n, q_n), w_n = c_n / Σ_batch c (CWTM, Furlanello 2018).

    logits: (..., K).  labels: (...) int64, `UNLABELLED` where there is none.  confidence: (...) c, 0 or above: the
    teacher's largest probabilities.  mask: (...) bool, False where an example is padding.  What has no label or is
    padding has no weight, and a batch of nothing else has loss 0.  Returns a scalar.
    Raises InputError where every counted example has confidence 0 (on a GPU the loss is then NaN).

    >>> logits, labels = torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 0])
    >>> confidence_weighted(logits, labels, torch.tensor([0.75, 0.25]))
    tensor(0.5199)
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
