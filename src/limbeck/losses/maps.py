"""What the losses on features share: precision, axes, sizes and lengths.

A feature is a vector (N, d), tokens (N, L, d) or a map (N, C, H, W).  The teacher's is a constant.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.errors import InputError
from limbeck.losses.reduction import compute_dtype

__all__ = [
    "both",
    "channels",
    "distances",
    "inverse_largest",
    "pooled",
    "product",
    "require_axes",
    "same_shape",
    "unit",
    "unit_difference",
]


def both(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both features in float32 at least, the teacher's cut off from the graph.

    Raises InputError if they differ in their number of axes or of examples.
    """
    student = compute_dtype(student, "student")
    teacher = compute_dtype(teacher.detach(), "teacher").to(student.dtype)
    if student.dim() != teacher.dim() or not 2 <= student.dim() <= 4 or len(student) != len(teacher):
        raise InputError(
            f"student has shape {tuple(student.shape)}, teacher has shape {tuple(teacher.shape)}; expected features of"
            " as many axes and examples, (N, d), (N, L, d) or (N, C, H, W)"
        )
    return student, teacher


def same_shape(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both features as `both` does; InputError if their shapes differ."""
    checks.shapes_match("student", student.shape, "teacher", teacher.shape)
    return both(student, teacher)


def pooled(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps of one height and width: the larger one is reduced by adaptive average pooling.

    >>> [tuple(each.shape) for each in pooled(torch.zeros(2, 3, 4, 6), torch.zeros(2, 5, 8, 3))]
    [(2, 3, 4, 3), (2, 5, 4, 3)]
    """
    if student.dim() == 3 and student.shape[1] != teacher.shape[1]:
        raise InputError(
            f"student has shape {tuple(student.shape)}, teacher has shape {tuple(teacher.shape)}; expected as many"
            " tokens in both"
        )
    if student.dim() < 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    student, teacher = (
        each if each.shape[2:] == size else F.adaptive_avg_pool2d(each, size) for each in (student, teacher)
    )
    return student, teacher


def channels(feature: Tensor, name: str) -> Tensor:
    """Return a map (N, C, H, W) or tokens (N, L, C) as (N, C, P), its channels over P positions.

    >>> channels(torch.zeros(2, 3, 4, 5), "student").shape, channels(torch.zeros(2, 7, 3), "student").shape
    (torch.Size([2, 3, 20]), torch.Size([2, 3, 7]))
    """
    if feature.dim() < 3:
        raise InputError(
            f"{name}: found a vector for each example, {tuple(feature.shape)}, expected a map (N, C, H, W) or tokens"
            " (N, L, d); name a layer before the pooling"
        )
    return feature.transpose(1, 2) if feature.dim() == 3 else feature.flatten(2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product a·b, under autocast in the type of its factors as well."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def unit(rows: Tensor) -> Tensor:
    """Return rows (..., d) over their length; a row of zeros stays one and has gradient 0.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    if not rows.numel():
        return rows
    scaled = rows * inverse_largest(rows, (-1,))  # squares neither overflow nor vanish
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled * torch.where(length == 0, 1.0, length).reciprocal()


def inverse_largest(features: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return 1 over the largest absolute value over some axes, which are kept, without gradient; 0 where all are 0."""
    largest = features.detach().abs().amax(dims, keepdim=True)
    least = torch.finfo(features.dtype).tiny
    return torch.where(largest == 0, 0.0, largest.clamp_min(least).reciprocal())


def unit_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the difference of two rows of length 1, (..., d); 0 with gradient 0 if either is a row of zeros."""
    empty = (student == 0).all(-1, keepdim=True) | (teacher == 0).all(-1, keepdim=True)
    return torch.where(empty, 0.0, unit(student) - unit(teacher))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ‖a_i - b_j‖ (..., I, J) from exact differences; a distance of 0 has gradient 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def require_axes(name: str, feature: Tensor, axes: int, words: str) -> None:
    """Require a feature with a number of axes.  words: what it is, such as "a map (N, C, H, W)"."""
    if feature.dim() != axes:
        raise InputError(f"{name}: found shape {tuple(feature.shape)}, expected {words}")
