"""What is learned between a layer of the student and one of the teacher, so that the two can be compared.

Each function here makes a module from the shapes of both features, the batch axis included.  It starts from torch's
random numbers.  A projection is trained with the student and is left behind at export.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import unit

__all__ = [
    "KINDS",
    "Orthogonal",
    "UnitLength",
    "bottleneck",
    "conv_act",
    "conv_bn",
    "conv_bn_relu",
    "embed",
    "fit_bn",
    "kind_of",
    "linear",
    "orthogonal",
    "three_conv",
]

_LONGEST_KERNEL = 0.9
"""Of `conv_act`: the largest length of the weights of one of its outputs."""


@checked
def kind_of(projection: str | dict[str, str]) -> str:
    """Return the kind that a recipe names, as text or as the one key `kind` of a mapping.

    Args:
        projection: such as "linear" or {"kind": "linear"}.

    Returns:
        The kind.

    Raises:
        InputError: for a mapping with other keys.

    Example:
        >>> kind_of({"kind": "conv_bn"})
        'conv_bn'
    """
    if isinstance(projection, str):
        return projection
    if set(projection) != {"kind"}:
        raise InputError(f"projection: found the keys {', '.join(projection) or 'none'}, expected kind alone")
    return projection["kind"]


@checked
def linear(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    """Make a linear layer with bias from the last axis of the student's feature to that of the teacher's.

    Args:
        student_shape: (N, d) or (N, L, d).
        teacher_shape: (N, d') or (N, L', d').

    Returns:
        The module.

    Raises:
        InputError: for maps, whose last axis is not their channels.

    Example:
        >>> linear((8, 16), (8, 64))
        Linear(in_features=16, out_features=64, bias=True)
    """
    return nn.Linear(*_features("linear", student_shape, teacher_shape))


@checked
def orthogonal(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    """Make a linear map without bias whose rows stay orthonormal; its columns where the teacher's feature is wider.

    Args:
        student_shape: (N, d) or (N, L, d).
        teacher_shape: (N, d') or (N, L', d').

    Returns:
        The module.

    Raises:
        InputError: for maps, whose last axis is not their channels.

    Example:
        >>> weight = orthogonal((8, 3), (8, 2)).weight
        >>> torch.allclose(weight @ weight.T, torch.eye(2), atol=1e-6)
        True

    Reference:
        Miles et al. (2024), "VkD: Improving Knowledge Distillation using Orthogonal Projections", arXiv:2403.06213.
    """
    return Orthogonal(*_features("orthogonal", student_shape, teacher_shape))


@checked
def embed(shape: Sequence[int], dimension: int = 128) -> nn.Module:
    """Make a linear layer with bias to vectors of length 1; maps and tokens are flattened first.

    Args:
        shape: of a feature, (N, ...).
        dimension: of the vectors, 1 or above.

    Returns:
        The module.

    Raises:
        InputError: if the dimension is below 1.

    Example:
        >>> embed((8, 16), 4)(torch.randn(8, 16)).norm(dim=1).detach().round(decimals=4)
        tensor([1., 1., 1., 1., 1., 1., 1., 1.])

    Reference:
        Tian et al. (2020), "Contrastive Representation Distillation", arXiv:1910.10699.
    """
    checks.at_least("dimension", dimension, 1)
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape[1:]).numel(), dimension), UnitLength())


@checked
def conv_bn(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    """Make a 1×1 convolution without bias and a BatchNorm, for targets before a ReLU: negative numbers are reached.

    Args:
        student_shape: (N, C, H, W).
        teacher_shape: (N, C', H', W').  The projected map keeps the student's height and width.

    Returns:
        The module; the convolution starts from a normal distribution of deviation √(2/C').

    Raises:
        InputError: if the features are no maps.

    Example:
        >>> conv_bn((8, 16, 4, 4), (8, 64, 4, 4))(torch.zeros(8, 16, 4, 4)).shape
        torch.Size([8, 64, 4, 4])

    Reference:
        Heo et al. (2019), "A Comprehensive Overhaul of Feature Distillation", arXiv:1904.01866.
    """
    _maps("conv_bn", student_shape, teacher_shape)
    conv = nn.Conv2d(student_shape[1], teacher_shape[1], 1, bias=False)
    nn.init.normal_(conv.weight, 0.0, (2.0 / teacher_shape[1]) ** 0.5)
    return nn.Sequential(conv, nn.BatchNorm2d(teacher_shape[1]))


@checked
def fit_bn(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    """Make a convolution with bias to the teacher's channels, height and width, and a BatchNorm.

    On each side of the map, a student of twice the size has a kernel of 3 with stride 2, one of half the size a
    transposed kernel of 4 with stride 2, and a larger one a kernel of 1 + h - h'.

    Args:
        student_shape: (N, C, H, W).
        teacher_shape: (N, C', H', W').

    Returns:
        The module.

    Raises:
        InputError: if the features are no maps, or the student's map is smaller, other than half as large.

    Example:
        >>> fit_bn((8, 16, 8, 8), (8, 64, 4, 4))[0]
        Conv2d(16, 64, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    """
    return _fitted("fit_bn", student_shape, teacher_shape)


@checked
def conv_bn_relu(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    """Make `fit_bn` and a ReLU, for targets behind a ReLU.

    Args:
        student_shape: (N, C, H, W).
        teacher_shape: (N, C', H', W').

    Returns:
        The module.

    Raises:
        InputError: if the features are no maps, or the student's map is smaller, other than half as large.

    Example:
        >>> conv_bn_relu((8, 16, 4, 4), (8, 64, 8, 8))(torch.zeros(8, 16, 4, 4)).shape
        torch.Size([8, 64, 8, 8])

    Reference:
        Tian et al. (2020), arXiv:1910.10699, in its published code, which uses it for FitNets.
    """
    return nn.Sequential(*_fitted("conv_bn_relu", student_shape, teacher_shape), nn.ReLU())


@checked
def conv_act(
    student_shape: Sequence[int], teacher_shape: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Module:
    """Make a convolution with bias and kernel 1 + h - h', followed by the nonlinearity of the teacher's layer.

    The weights of each output have a length of at most 0.9.  The published code cuts them after each step; here the
    weights that are used are those that are learned, cut.

    Args:
        student_shape: (N, C, H, W).
        teacher_shape: (N, C', H', W').
        activation: makes the nonlinearity.

    Returns:
        The module; the convolution starts from a uniform distribution on ±0.05.

    Raises:
        InputError: if the features are no maps, or the student's map is smaller.

    Example:
        >>> conv_act((8, 16, 6, 6), (8, 32, 4, 4))(torch.zeros(8, 16, 6, 6)).shape
        torch.Size([8, 32, 4, 4])

    Reference:
        Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.
    """
    _maps("conv_act", student_shape, teacher_shape)
    kernel = [1 + own - other for own, other in zip(student_shape[2:], teacher_shape[2:], strict=True)]
    if min(kernel) < 1:
        raise _unlike("conv_act", student_shape, teacher_shape)
    conv = _ShortConv2d(student_shape[1], teacher_shape[1], (kernel[0], kernel[1]))
    nn.init.uniform_(conv.weight, -0.05, 0.05)
    return nn.Sequential(conv, activation())


@checked
def three_conv(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    """Make three 1×1 convolutions without bias, with a ReLU behind the first and the second.

    Args:
        student_shape: (N, C, H, W).
        teacher_shape: (N, C', H', W').  The projected map keeps the student's height and width.

    Returns:
        The module.

    Raises:
        InputError: if the features are no maps.

    Example:
        >>> three_conv((8, 16, 4, 4), (8, 64, 4, 4))(torch.zeros(8, 16, 4, 4)).shape
        torch.Size([8, 64, 4, 4])

    Reference:
        Ahn et al. (2019), "Variational Information Distillation for Knowledge Transfer", arXiv:1904.05835.
    """
    _maps("three_conv", student_shape, teacher_shape)
    own, other = student_shape[1], teacher_shape[1]
    return nn.Sequential(
        nn.Conv2d(own, other, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(other, other, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(other, other, 1, bias=False),
    )


@checked
def bottleneck(student_shape: Sequence[int], teacher_shape: Sequence[int], factor: int = 2) -> nn.Module:
    """Make 1×1, 3×3 and 1×1 convolutions without bias, the inner ones of C'/f channels, each with BatchNorm and ReLU.

    Args:
        student_shape: (N, C, H, W).
        teacher_shape: (N, C', H', W').  The projected map keeps the student's height and width.
        factor: f, 1 or above and at most C'.

    Returns:
        The module.

    Raises:
        InputError: if the features are no maps, or the factor is out of range.

    Example:
        >>> bottleneck((8, 16, 4, 4), (8, 64, 4, 4))(torch.zeros(8, 16, 4, 4)).shape
        torch.Size([8, 64, 4, 4])

    Reference:
        Chen et al. (2022), "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001.
    """
    _maps("bottleneck", student_shape, teacher_shape)
    checks.at_least("factor", factor, 1, at_most=teacher_shape[1])
    inner = teacher_shape[1] // factor
    parts: list[nn.Module] = []
    for own, other, kernel in [(student_shape[1], inner, 1), (inner, inner, 3), (inner, teacher_shape[1], 1)]:
        parts += [nn.Conv2d(own, other, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(other), nn.ReLU()]
    return nn.Sequential(*parts)


KINDS: dict[str, Callable[[Sequence[int], Sequence[int]], nn.Module]] = {
    "bottleneck": bottleneck,
    "conv_act": conv_act,
    "conv_bn": conv_bn,
    "conv_bn_relu": conv_bn_relu,
    "fit_bn": fit_bn,
    "linear": linear,
    "orthogonal": orthogonal,
    "three_conv": three_conv,
}
"""By name, the projections that need nothing but the shapes of both features."""


class Orthogonal(nn.Module):
    """A linear map without bias whose rows are orthonormal, or its columns where it has more rows.

    Its weight is the factor Q of the learned matrix, so that it stays orthonormal after every step of any optimizer and
    under weight decay.

    Args:
        in_features: d.
        out_features: d'.

    Example:
        >>> Orthogonal(2, 3)(torch.tensor([[3.0, 4.0]])).norm()
        tensor(5., grad_fn=...)
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.wide = in_features > out_features
        self.matrix = nn.Parameter(torch.randn(max(in_features, out_features), min(in_features, out_features)))

    @property
    def weight(self) -> Tensor:
        """(d', d), in float32 at least."""
        matrix = self.matrix.float() if self.matrix.dtype in (torch.float16, torch.bfloat16) else self.matrix
        q: Tensor
        q, r = torch.linalg.qr(matrix)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)  # the sign that makes it continuous in the matrix
        return q.t() if self.wide else q

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., d) to (..., d')."""
        return functional.linear(features, self.weight.to(features.dtype))


class UnitLength(nn.Module):
    """Each vector over its length; a vector of zeros stays one.

    Example:
        >>> UnitLength()(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., d) to (..., d), in float32 at least."""
        return unit(features.float() if features.dtype in (torch.float16, torch.bfloat16) else features)


class _ShortConv2d(nn.Conv2d):
    """A convolution with the weights of each output cut to a length of at most 0.9."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch names it
        length = self.weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        shorter = torch.where(length > _LONGEST_KERNEL, self.weight * (_LONGEST_KERNEL / length), self.weight)
        answer: Tensor = self._conv_forward(input, shorter, self.bias)
        return answer


def _fitted(kind: str, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Sequential:
    """Return the convolution that brings the student's map to the size of the teacher's, and a BatchNorm."""
    _maps(kind, student_shape, teacher_shape)
    return nn.Sequential(_fit(kind, student_shape, teacher_shape), nn.BatchNorm2d(teacher_shape[1]))


def _fit(kind: str, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    sides = list(zip(student_shape[2:], teacher_shape[2:], strict=True))
    channels = student_shape[1], teacher_shape[1]
    if all(own >= other for own, other in sides):
        halved = [own == 2 * other for own, other in sides]
        kernel = [3 if half else 1 + own - other for half, (own, other) in zip(halved, sides, strict=True)]
        stride, padding = [1 + half for half in halved], [int(half) for half in halved]
        return nn.Conv2d(*channels, (kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1]))
    if all(2 * own == other or own == other for own, other in sides):
        doubled = [2 * own == other for own, other in sides]
        kernel, stride = [4 if twice else 1 for twice in doubled], [1 + twice for twice in doubled]
        padding = [int(twice) for twice in doubled]
        return nn.ConvTranspose2d(*channels, (kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1]))
    raise _unlike(kind, student_shape, teacher_shape)


def _features(kind: str, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> tuple[int, int]:
    if not 2 <= len(student_shape) == len(teacher_shape) <= 3:
        raise InputError(
            f"projection {kind}: found student {tuple(student_shape)} and teacher {tuple(teacher_shape)}, expected"
            " vectors (N, d) or tokens (N, L, d); for maps use conv_bn or conv_bn_relu"
        )
    return student_shape[-1], teacher_shape[-1]


def _maps(kind: str, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> None:
    if not len(student_shape) == len(teacher_shape) == 4:
        raise InputError(
            f"projection {kind}: found student {tuple(student_shape)} and teacher {tuple(teacher_shape)}, expected maps"
            " (N, C, H, W); for vectors and tokens use linear"
        )


def _unlike(kind: str, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> InputError:
    return InputError(
        f"projection {kind}: found student {tuple(student_shape)} and teacher {tuple(teacher_shape)}, expected a"
        " student's map of the teacher's size or larger; name another layer"
    )
