"""Products of features with each other: of layers (FSP), channels (ICKD, NST) and examples (SP)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import both, channels, distances, inverse_largest, pooled, product, unit, unit_difference
from limbeck.losses.reduction import Reduction, compute_dtype, reduce

__all__ = ["fsp", "fsp_matrix", "ickd", "nst", "similarity_preserving"]


@checked
def fsp_matrix(first: Tensor, second: Tensor, *, pooling: Literal["max", "mean"] = "max") -> Tensor:
    """Compute the flow between two layers, Γ_ij = Σ_p F¹_ip F²_jp/P over the positions p.

    Args:
        first: F¹, a map (N, C, H, W) that is reduced to the size of the second, or tokens (N, L, C).
        second: F², a map (N, C', H', W') no larger than the first, or tokens (N, L, C').
        pooling: how the first map is reduced: "max", as in the paper, or "mean".

    Returns:
        (N, C, C').

    Raises:
        InputError: if the axes differ, the features have no positions, or the second map is larger than the first.

    Example:
        >>> fsp_matrix(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0]]]]))
        tensor([[[6.]]])

    Reference:
        Yim et al. (2017), "A Gift from Knowledge Distillation", CVPR.
    """
    checks.choice("pooling", pooling, ("max", "mean"))
    first, second = compute_dtype(first, "first"), compute_dtype(second, "second")
    if (
        first.dim() != second.dim()
        or not 3 <= first.dim() <= 4
        or len(first) != len(second)
        or (first.dim() == 3 and first.shape[1] != second.shape[1])
        or any(a < b for a, b in zip(first.shape[2:], second.shape[2:], strict=True) if first.dim() > 3)
    ):
        raise InputError(
            f"first has shape {tuple(first.shape)}, second has shape {tuple(second.shape)}; expected two maps of which"
            " the second is no larger, or as many tokens"
        )
    if first.dim() > 3 and first.shape[2:] != second.shape[2:]:
        size = (second.shape[2], second.shape[3])
        first = F.adaptive_max_pool2d(first, size) if pooling == "max" else F.adaptive_avg_pool2d(first, size)
    a, b = channels(first, "first"), channels(second, "second")
    return product(a, b.transpose(1, 2)) / a.shape[2]


@checked
def fsp(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    pooling: Literal["max", "mean"] = "max",
    norm: Literal["mean", "sum"] = "mean",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the squared difference of two flows Γ, each between two layers of a network (see `fsp_matrix`).

    Args:
        student: the maps of two layers, (N, C, H, W) and (N, C', H', W').
        teacher: the maps of its two layers; C and C' are the student's, the sizes can be others.
        pooling: how the first map is reduced to the size of the second: "max", as in the paper, or "mean".
        norm: "mean" over the C·C' entries, as in published code, or "sum", the paper's ‖Γ(F) - Γ(G)‖².
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if there are not two maps each, the flows have other channels, or a setting is unknown.

    Example:
        >>> one, two = torch.ones(1, 1, 2, 2), torch.ones(1, 3, 2, 2)
        >>> fsp([one, two], [2 * one, two])
        tensor(1.)

    Reference:
        Yim et al. (2017), "A Gift from Knowledge Distillation", CVPR.
    """
    checks.choice("norm", norm, ("mean", "sum"))
    for name, maps in (("student", student), ("teacher", teacher)):
        if len(maps) != 2:
            raise InputError(f"{name}: found {len(maps)} maps, expected those of two layers")
    flow = fsp_matrix(student[0], student[1], pooling=pooling)
    target = fsp_matrix(teacher[0].detach(), teacher[1].detach(), pooling=pooling).to(flow.dtype)
    checks.shapes_match("the student's flow", flow.shape, "the teacher's", target.shape)
    squares = (flow - target).square().flatten(1)
    return reduce(squares.mean(1) if norm == "mean" else squares.sum(1), None, reduction)


@checked
def ickd(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute Σ_ij (c(F)_ij - c(G)_ij)²/C, where c has the rows of F·Fᵀ (C, C) over positions, each over its length.

    A channel that is zero everywhere in an example, in either feature, is left out of its sum.  The published code
    divides by N a second time.

    Args:
        student: F, a map (N, C, H, W) or tokens (N, L, C).
        teacher: G, with the same channels; the sizes can be others.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the channels or axes differ, or the features have no positions.

    Example:
        >>> ickd(torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]]))
        tensor(0.5858)

    Reference:
        Liu et al. (2021), "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation", ICCV.
    """
    student, teacher = both(student, teacher)
    a, b = channels(student, "student"), channels(teacher, "teacher")
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"student has {a.shape[1]} channels, teacher has {b.shape[1]}; expected as many in both, add a projection"
        )
    difference = unit_difference(*(product(each, each.transpose(1, 2)) for each in (_bounded(a), _bounded(b))))
    return reduce(difference.square().sum(2).mean(1), None, reduction)


@checked
def nst(
    student: Tensor,
    teacher: Tensor,
    *,
    kernel: Literal["poly", "linear", "gaussian"] = "poly",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute MMD² = mean k(x, x') + mean k(y, y') - 2·mean k(x, y) of the channels x of F and y of G.

    Each channel of an example is a vector over its positions, over its length.  k is (x·y)², x·y, or
    exp(-‖x - y‖²/2σ²), where σ² is the mean squared distance of x and y in the example.  The constant mean k(y, y')
    is kept, so that equal features have value 0.

    Args:
        student: F, a map (N, C, H, W) or tokens (N, L, d).
        teacher: G, with as many axes; other channels are allowed.  Of two map sizes, the larger is reduced by average
            pooling.
        kernel: "poly", "linear" or "gaussian".
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.  A channel of zeros is a vector of zeros, without gradient.

    Raises:
        InputError: if the features have no positions or unlike axes, or the kernel is unknown.

    Example:
        >>> nst(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]]))
        tensor(2.)

    Reference:
        Huang & Wang (2017), "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv:1707.01219.
    """
    checks.choice("kernel", kernel, ("poly", "linear", "gaussian"))
    student, teacher = pooled(*both(student, teacher))
    x, y = unit(channels(student, "student")), unit(channels(teacher, "teacher"))
    if kernel == "linear":
        return reduce((x.mean(1) - y.mean(1)).square().sum(1), None, reduction)
    if kernel == "gaussian":
        cross = distances(x, y).square()
        width = cross.detach().mean((1, 2), keepdim=True)
        width = torch.where(width == 0, 1.0, width)  # the example's vectors are all equal
        own, others = distances(x, x).square(), distances(y, y).square()
        kernels = (torch.exp(-each / (2 * width)).mean((1, 2)) for each in (own, others, cross))
    else:
        products = ((x, x), (y, y), (x, y))
        kernels = (product(a, b.transpose(1, 2)).square().mean((1, 2)) for a, b in products)
    of_student, of_teacher, between = kernels
    return reduce(of_student + of_teacher - 2 * between, None, reduction)


@checked
def similarity_preserving(student: Tensor, teacher: Tensor, *, per: Literal["pair", "anchor"] = "pair") -> Tensor:
    """Compute ‖Q(F) - Q(G)‖²/N², where Q has the rows of A·Aᵀ (N, N), each over its length, and A = flatten(F).

    It relates the examples of a batch to each other.  The value is at most 4/N: a published weight belongs to the
    published batch size of 64.  An example of zeros, in either feature, is left out as a row.

    Args:
        student: F, (N, ...) floating point.
        teacher: G, (N, ...); all other axes can be other ones.
        per: "pair" divides by N², as published; "anchor" divides by N.

    Returns:
        A scalar; 0 for one example.

    Raises:
        InputError: if the numbers of examples differ, or `per` is unknown.

    Example:
        >>> similarity_preserving(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [1.0]]))
        tensor(0.2929)

    Reference:
        Tung & Mori (2019), "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682.
    """
    checks.choice("per", per, ("pair", "anchor"))
    student, teacher = (each.flatten(1) for each in both(student, teacher))
    difference = unit_difference(*(product(each, each.t()) for each in (_bounded(student), _bounded(teacher))))
    examples = max(len(student), 1)
    return difference.square().sum() / (examples * examples if per == "pair" else examples)


def _bounded(features: Tensor) -> Tensor:
    """Return features over their largest absolute value, so that products do not overflow; it has no gradient."""
    if not features.numel():
        return features
    return features * inverse_largest(features, tuple(range(1, features.dim())) if features.dim() > 2 else (0, 1))
