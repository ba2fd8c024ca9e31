"""A teacher's feature as a Gaussian around the student's projection (VID)."""

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import both, pooled, same_shape
from limbeck.losses.reduction import Reduction, reduce

__all__ = ["vid"]


@checked
def vid(student: Tensor, teacher: Tensor, variance: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute the mean over the units of ½·((G - r(F))²/σ_c² + ln σ_c²), a Gaussian's -ln density without a constant.

    The value can be negative.  At the best σ_c², the mean squared error of a channel, it is mean_c ½(1 + ln σ_c²).

    Args:
        student: r(F), a map (N, C, H, W), tokens (N, L, C) or vectors (N, C).
        teacher: G, with the same channels.  Of two map sizes, the larger is reduced by average pooling.
        variance: σ², (C,) above 0, with gradient.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar in nats a unit, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the shapes differ, there is not one variance for each channel, or one is not above 0.

    Example:
        >>> vid(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([1.0, 1.0]))
        tensor(1.2500)

    Reference:
        Ahn et al. (2019), "Variational Information Distillation for Knowledge Transfer", arXiv:1904.05835.
    """
    student, teacher = same_shape(*pooled(*both(student, teacher)))
    axis = 2 if student.dim() == 3 else 1
    if variance.shape != student.shape[axis : axis + 1]:
        raise InputError(
            f"variance: found shape {tuple(variance.shape)}, expected one for each of {student.shape[axis]} channels"
        )
    if not variance.is_cuda and not bool((variance > 0).all()):
        raise InputError("variance: found a number that is not above 0, expected all above 0")
    positions = [other for other in range(1, student.dim()) if other != axis]
    squares = (teacher - student).square()
    errors = squares.mean(positions) if positions else squares  # (N, C)
    variance = variance.to(torch.promote_types(variance.dtype, student.dtype))
    each = 0.5 * (errors / variance + variance.log())
    return reduce(each.mean(1), None, reduction)
