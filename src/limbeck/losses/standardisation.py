"""Logits without their scale, so that the student is not asked to reach the teacher's (Sun et al. 2024)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.losses.reduction import compute_dtype

__all__ = ["Standardise", "standardise"]


@checked
def standardise(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Compute the z-score (z_i - mean z)/(σ(z) + eps) of each example over its classes.

    σ divides by K, as in the paper.  The published code divides by K-1, which equals a temperature √(K/(K-1)) times as
    high.  A class at -inf stays there and counts in neither mean nor σ.  Logits that are all equal, up to rounding,
    become 0 and keep the gradient of z - mean z.

    Args:
        logits: (..., K) floating point.  Half precision is computed in float32.
        eps: added to σ; above 0.

    Returns:
        (..., K), without unit.

    Raises:
        InputError: if the logits are not floating point, or eps is not above 0.

    Example:
        >>> standardise(torch.tensor([[1.0, 3.0], [100.0, 300.0], [5.0, 5.0]])).round()
        tensor([[-1.,  1.],
                [-1.,  1.],
                [ 0.,  0.]])

    Reference:
        Sun et al. (2024), "Logit Standardization in Knowledge Distillation", arXiv:2403.01427.
    """
    checks.positive("eps", eps)
    logits = compute_dtype(logits)
    numbers = logits.detach().amax(-1, keepdim=True) < torch.inf  # a row with NaN or inf is NaN, without a gradient
    logits = torch.where(numbers, logits, 0.0)
    present = ~torch.isneginf(logits)
    count = present.sum(-1, keepdim=True).clamp_min(1)
    known = torch.where(present, logits, 0.0)
    below = torch.where(present, known - known.detach().amax(-1, keepdim=True), 0.0)  # exact where the spread is small
    centred = torch.where(present, below - below.sum(-1, keepdim=True) / count, 0.0)
    spread = centred.detach().abs().amax(-1, keepdim=True)
    flat = spread <= 8 * torch.finfo(logits.dtype).eps * known.detach().abs().sum(-1, keepdim=True) / count
    unit = centred / torch.where(flat, 1.0, spread)  # first, or the squares of small logits would vanish
    length = torch.where(flat, 1.0, (unit * unit).sum(-1, keepdim=True) / count).sqrt()
    deviation = torch.where(flat, 1.0, spread) * length + eps
    return torch.where(numbers, torch.where(present, centred / deviation, -torch.inf), torch.nan)


@checked_fields
@dataclass(frozen=True)
class Standardise:
    """Apply `standardise` to the logits of both models before a term compares them.

    Attributes:
        eps: added to the standard deviation; above 0.

    Raises:
        InputError: if eps is not above 0.

    Example:
        >>> Standardise()(torch.tensor([[1.0, 3.0], [100.0, 300.0]])).round()
        tensor([[-1.,  1.],
                [-1.,  1.]])

    Reference:
        Sun et al. (2024), arXiv:2403.01427.
    """

    eps: float = 1e-7

    def __post_init__(self) -> None:
        checks.positive("eps", self.eps)

    def __call__(self, logits: Tensor) -> Tensor:
        return standardise(logits, self.eps)
