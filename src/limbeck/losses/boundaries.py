"""Where units are active: activation boundaries (AB), and features before their rectifier (OFD).

All features here are those before a ReLU.
"""

import math

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import both, pooled, same_shape
from limbeck.losses.reduction import Reduction, compute_dtype, reduce

__all__ = ["activation_boundary", "batch_norm_margins", "ofd"]

_LEAST_SHARE = 1e-3
"""The probability of a negative response below which the margin is -3σ."""


@checked
def activation_boundary(
    student: Tensor, teacher: Tensor, *, margin: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Compute the sum over the units of relu(m - z)² where the teacher's is active, and of relu(m + z)² elsewhere.

    The value depends on the teacher through 1[G > 0] alone.  It is 0 if all |z| ≥ m with the teacher's signs.

    Args:
        student: z = r(F), (N, ...) floating point, before the ReLU.
        teacher: G, (N, ...) of the same shape, before the ReLU; after one, no unit would be below its boundary.
        margin: m, finite, not negative.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``; a sum over units, which grows with the map.

    Raises:
        InputError: if the shapes differ, or the margin is negative.

    Example:
        >>> activation_boundary(torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, -3.0]]))
        tensor(2.5000)

    Reference:
        Heo et al. (2019), "Knowledge Transfer via Distillation of Activation Boundaries", arXiv:1811.03233.
    """
    checks.non_negative("margin", margin)
    student, teacher = same_shape(student, teacher)
    sign = 2.0 * (teacher > 0) - 1.0 + 0.0 * teacher  # of NaN it is NaN
    return reduce((margin - sign * student).clamp_min(0.0).square().flatten(1).sum(1), None, reduction)


@checked
def ofd(student: Tensor, teacher: Tensor, margins: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute the sum over the units of (z - t)², except where z ≤ t ≤ 0, with the target t = max(G, m_c).

    Where the target is above 0 this is the squared error.  Elsewhere only a z above the target costs.

    Args:
        student: z = r(F), a map (N, C, H, W), tokens (N, L, C) or vectors (N, C), before the ReLU.
        teacher: G, with the same channels, before the ReLU.  Of two map sizes, the larger is average-pooled.
        margins: m (C,), not above 0: the mean negative response of each of the teacher's channels (see
            `batch_norm_margins`).
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``; a sum over units, which grows with the map.

    Raises:
        InputError: if the shapes differ, there is not one margin for each channel, or a margin is above 0.

    Example:
        >>> student, teacher = torch.tensor([[1.0, -9.0]]), torch.tensor([[3.0, -5.0]])
        >>> ofd(student, teacher, torch.tensor([-1.0, -1.0]))
        tensor(4.)

    Reference:
        Heo et al. (2019), "A Comprehensive Overhaul of Feature Distillation", arXiv:1904.01866.
    """
    student, teacher = same_shape(*pooled(*both(student, teacher)))
    axis = 2 if student.dim() == 3 else 1
    if margins.shape != student.shape[axis : axis + 1]:
        raise InputError(
            f"margins: found shape {tuple(margins.shape)}, expected one for each of {student.shape[axis]} channels"
        )
    if not margins.is_cuda and bool((margins > 0).any()):
        raise InputError(f"margins: found {float(margins.max()):.6g}, expected numbers that are 0 or below")
    shape = [1] * student.dim()
    shape[axis] = -1
    target = torch.maximum(teacher, margins.detach().to(teacher.dtype).reshape(shape))
    free = (student <= target) & (target <= 0)
    squares = ((student - target) * ~free).square()
    return reduce(squares.flatten(1).sum(1), None, reduction)


@checked
def batch_norm_margins(weight: Tensor, bias: Tensor) -> Tensor:
    """Compute m = E[x | x < 0] of x ~ N(β, γ²), the mean negative response of each channel behind a BatchNorm.

    m = μ - σ·φ(μ/σ)/Φ(-μ/σ) with μ = β and σ = |γ|; -3σ where less than a thousandth is negative.

    Args:
        weight: γ, (C,) floating point.
        bias: β, (C,).

    Returns:
        (C,), not above 0, in the type of the bias.

    Raises:
        InputError: if the shapes differ.

    Example:
        >>> batch_norm_margins(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 4.0]))
        tensor([-0.7979, -3.0000])

    Reference:
        Heo et al. (2019), "A Comprehensive Overhaul of Feature Distillation", arXiv:1904.01866.
    """
    checks.shapes_match("weight", weight.shape, "bias", bias.shape)
    given = compute_dtype(bias.detach(), "bias").dtype
    mean, deviation = bias.detach().double(), weight.detach().double().abs()
    constant = deviation == 0
    ratio = mean / torch.where(constant, 1.0, deviation)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    share = torch.special.ndtr(-ratio)
    truncated = mean - deviation * density / share.clamp_min(_LEAST_SHARE)
    found = torch.where(share > _LEAST_SHARE, truncated, -3.0 * deviation)
    return torch.where(constant, mean, found).clamp_max(0.0).to(given)
