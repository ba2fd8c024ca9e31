"""Review of a student's layers: maps of each layer compared at several sizes."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import require_axes, same_shape
from limbeck.losses.reduction import Reduction, reduce

__all__ = ["hcl", "review_kd"]

_SIZES = (4, 2, 1)
"""To which maps are pooled, where they are larger."""


@checked
def hcl(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute the hierarchical context loss: Σ_j w_j·mean (pool_j(F) - pool_j(G))² / Σ_j w_j.

    The maps are compared at their own size (w = 1), and average-pooled to 4, 2 and 1 where they are larger than that
    (w = 1/2, 1/4, 1/8 in the order used).  It is a mean over channels and positions.

    Args:
        student: F, (N, C, H, W) floating point.
        teacher: G, (N, C, H, W) floating point; it receives no gradient.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        Squared units of the features: a scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the shapes disagree, or are no maps.

    Example:
        >>> hcl(torch.full((1, 2, 8, 8), 3.0), torch.ones(1, 2, 8, 8))
        tensor(4.)

    Reference:
        Chen et al. (2021), "Distilling Knowledge via Knowledge Review", arXiv:2104.09044.
    """
    student, teacher = same_shape(student, teacher)
    require_axes("student", student, 4, "a map (N, C, H, W)")
    difference = student - teacher  # pooling is linear
    height, width = difference.shape[2:]
    value, weight, total = _mean_square(difference), 1.0, 1.0
    for size in _SIZES:
        if size < max(height, width):
            weight /= 2
            total += weight
            pooled = F.adaptive_avg_pool2d(difference, (min(size, height), min(size, width)))
            value = value + weight * _mean_square(pooled)
    return reduce(value / total, None, reduction)


@checked
def review_kd(student: Sequence[Tensor], teacher: Sequence[Tensor], *, reduction: Reduction = "mean") -> Tensor:
    """Compute the loss of knowledge review: the sum over layers of `hcl`.

    Args:
        student: for each layer, what the student's review gives, (N, C_l, H_l, W_l); `projections.Review` makes it.
        teacher: the teacher's map of each layer, of the same shapes; they receive no gradient.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if there are no layers or not equally many, or shapes disagree.

    Example:
        >>> maps = [torch.ones(2, 3, 4, 4), torch.ones(2, 5, 1, 1)]
        >>> review_kd([each + 1.0 for each in maps], maps)
        tensor(2.)

    Reference:
        Chen et al. (2021), "Distilling Knowledge via Knowledge Review", arXiv:2104.09044.
    """
    checks.at_least("number of layers of the student", len(student), 1)
    if len(student) != len(teacher):
        raise InputError(f"teacher: found {len(teacher)} layers, expected {len(student)}, as many as the student's")
    total = hcl(student[0], teacher[0], reduction=reduction)
    for own, other in zip(student[1:], teacher[1:], strict=True):
        total = total + hcl(own, other, reduction=reduction)
    return total


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().mean((1, 2, 3))
