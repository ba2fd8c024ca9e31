"""How similar the features of two networks are: linear CKA, attention maps, and which units are active."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.devices import exact
from limbeck.errors import InputError

__all__ = ["MinibatchCKA", "attention_map", "has_attention_map", "linear_cka", "sparsity_difference"]

_FEWEST = 4  # examples: the unbiased estimate divides by n - 3
_ROUNDING = 1e-24  # of the energy of features; what is left of constant ones once their mean is taken away


class MinibatchCKA:
    """Linear CKA of two layers over many batches, of which one is held at a time.

    HSIC(X, Y), HSIC(X, X) and HSIC(Y, Y) are estimated without bias in each batch and averaged; CKA is the first over
    the geometric mean of the others.  Without the bias the value does not depend on how samples are cut into batches,
    apart from noise.  A batch of n examples takes O(n² d) operations.

    Example:
        >>> features = torch.randn(64, 10)
        >>> similarity = MinibatchCKA()
        >>> for part in features.split(16):
        ...     similarity.add(part, 3 * part + 1)
        >>> round(similarity.value, 9)
        1.0

    Reference:
        Nguyen, Raghu & Kornblith (2021), "Do Wide and Deep Networks Learn the Same Things?", arXiv:2010.15327; Song et
        al. (2012), "Feature Selection via Dependence Maximization", JMLR 13.
    """

    def __init__(self) -> None:
        self._sums = [0.0, 0.0, 0.0]

    @checked
    def add(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            student: (n, ...) features of n ≥ 4 examples.
            teacher: (n, ...), of the same examples; the other sizes may differ.
            mask: (n, L) bool, the tokens of features (n, L, d) that are valid; their mean is taken then.

        Raises:
            InputError: if the numbers of examples differ, or are below 4.
        """
        x, y = _rows(student, teacher, mask)
        found = _hsic(x, y, debiased=True)
        self._sums = [total + len(x) * value for total, value in zip(self._sums, found, strict=True)]

    @property
    def value(self) -> float:
        """CKA, at most about 1 and near 0 for unrelated features; NaN if the features of a layer are constant."""
        return _ratio(self._sums)


@torch.no_grad()
@checked
def linear_cka(student: Tensor, teacher: Tensor, *, debiased: bool = False, mask: Tensor | None = None) -> float:
    """Return linear CKA, ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred features X and Y, in float64.

    Maps (n, C, H, W) and tokens (n, L, d) are flattened, so that where a feature is active counts as well; to compare
    what is active alone, average them over their places first.  The value does not change with rotations, a common
    scale or a shift of either side.

    Args:
        student: (n, ...) features of n examples.
        teacher: (n, ...), of the same examples; the other sizes may differ.
        debiased: estimate without bias, with n ≥ 4.  The plain value nears 1 for any features with many more numbers
            than examples.
        mask: (n, L) bool, the tokens of features (n, L, d) that are valid; their mean is taken then.

    Returns:
        A number in [0, 1]; the debiased one can be slightly outside.  NaN if one side is constant.

    Raises:
        InputError: if the numbers of examples differ, or are too small.

    Example:
        >>> features = torch.randn(50, 8)
        >>> round(linear_cka(features, 2 * features.flip(1)), 9)
        1.0

    Reference:
        Kornblith et al. (2019), "Similarity of Neural Network Representations Revisited", arXiv:1905.00414.
    """
    x, y = _rows(student, teacher, mask)
    return _ratio(_hsic(x, y, debiased=debiased))


@torch.no_grad()
@checked
def attention_map(features: Tensor) -> Tensor:
    """Return where a layer is active: Σ over channels of F², each example divided by its largest value.

    Args:
        features: (n, C, H, W); or (n, L, d) tokens of a square picture, L = s² or, with a class token first, s² + 1.

    Returns:
        (n, H, W) in [0, 1]; zeros for an example whose features are 0.

    Raises:
        InputError: if the features have another shape.

    Example:
        >>> attention_map(torch.tensor([[[[1.0, 2.0]], [[0.0, 2.0]]]]))
        tensor([[[0.1250, 1.0000]]])

    Reference:
        Zagoruyko & Komodakis (2017), "Paying More Attention to Attention", arXiv:1612.03928.
    """
    if not has_attention_map(features.shape):
        raise InputError(
            f"features: found shape {tuple(features.shape)}; expected (n, C, H, W), or (n, L, d) with a square number"
            " of tokens. Choose a layer that gives a map"
        )
    values = features.float()
    if values.dim() == 4:
        energy = values.square().sum(1)
    else:
        side = math.isqrt(values.shape[1])
        energy = values[:, values.shape[1] - side**2 :].square().sum(-1).unflatten(1, (side, side))
    largest = energy.flatten(1).amax(1)[:, None, None]
    return torch.where(largest > 0, energy / largest.clamp_min(torch.finfo(energy.dtype).tiny), 0.0)


@checked
def has_attention_map(shape: Sequence[int]) -> bool:
    """Return whether features of a shape have a map of more than one place.

    Args:
        shape: of features, the examples first.

    Returns:
        True for (n, C, H, W), and for (n, L, d) where L is a square number, or one more.

    Example:
        >>> has_attention_map((8, 16, 4, 4)), has_attention_map((8, 17, 32)), has_attention_map((8, 64))
        (True, True, False)
    """
    if len(shape) == 4:
        return shape[2] * shape[3] > 1 and 0 not in shape
    return len(shape) == 3 and shape[1] > 3 and math.isqrt(shape[1]) ** 2 in (shape[1], shape[1] - 1) and 0 not in shape


@torch.no_grad()
@checked
def sparsity_difference(student: Tensor, teacher: Tensor) -> float:
    """Return the share of units whose activity differs, the mean of 1[(F > 0) ≠ (G > 0)].

    Args:
        student: (n, ...) features.
        teacher: the same shape.

    Returns:
        A share in [0, 1]: 0 if the same units are active, about 1/2 for unrelated features that are as often active.

    Raises:
        InputError: if the shapes differ.

    Example:
        >>> sparsity_difference(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[3.0, 1.0, 0.0]]))
        0.6666666666666666

    Reference:
        Heo et al. (2019), "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        arXiv:1811.03233.
    """
    checks.shapes_match("student", student.shape, "teacher", teacher.shape)
    return float(((student > 0) != (teacher.to(student.device) > 0)).double().mean())


def _rows(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a centred row of numbers for each example of both sides, in float64."""
    for name, features in (("student", student), ("teacher", teacher)):
        if features.dim() < 2 or 0 in features.shape:
            raise InputError(f"{name}: found shape {tuple(features.shape)}; expected features (n, ...) of n examples")
    if len(student) != len(teacher):
        raise InputError(
            f"teacher: found features of {len(teacher)} examples, the student has {len(student)}; give both of the same"
            " examples"
        )
    x, y = (_centred(exact(each), mask) for each in (student, teacher))
    return x, y.to(x.device)


def _centred(features: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None and features.shape[:2] == mask.shape and features.dim() == 3:
        valid = mask.to(features.device)[..., None]
        features = torch.where(valid, features, 0.0).sum(1) / valid.sum(1).clamp_min(1)
    rows = features.flatten(1)
    centred = rows - rows.mean(0)
    if float(centred.square().sum()) <= _ROUNDING * float(rows.square().sum()):
        return torch.zeros_like(centred)
    return centred


def _hsic(x: Tensor, y: Tensor, *, debiased: bool) -> tuple[float, float, float]:
    """Return HSIC of x with y, x with x and y with y, for centred rows: biased ones up to a common factor."""
    if len(x) < (_FEWEST if debiased else 2):
        raise InputError(
            f"examples: found {len(x)}; expected at least {_FEWEST if debiased else 2}. Give more examples at a time"
        )
    grams = x @ x.T, y @ y.T

    def hsic(one: Tensor, other: Tensor) -> float:
        value = (one * other).sum()
        if not debiased:
            return float(value)
        n, a, b = len(one), one.diagonal(), other.diagonal()
        value = value - n / (n - 2) * (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2))
        return float(value) / (n * (n - 3))

    return hsic(grams[0], grams[1]), hsic(grams[0], grams[0]), hsic(grams[1], grams[1])


def _ratio(hsic: Sequence[float]) -> float:
    both, student, teacher = hsic
    return both / math.sqrt(student * teacher) if student > 0 and teacher > 0 else math.nan
