"""Which weights of a model to leave out: masks by magnitude, and the ramp by which their share grows."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError

__all__ = [
    "dropout_after_pruning",
    "magnitude_masks",
    "pruned_count",
    "ramp",
    "top_mask",
    "two_of_four",
    "unit_mask",
]


@checked
def pruned_count(sparsity: float, count: int) -> int:
    """Return ⌊s·n⌋, how many of n weights a sparsity s leaves out; s is taken as the decimal number that is written.

    Args:
        sparsity: s, in [0, 1).
        count: n, 0 or above.

    Returns:
        A whole number below n, or 0.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> pruned_count(0.29, 100), int(0.29 * 100)
        (29, 28)
    """
    _check_share("sparsity", sparsity)
    checks.at_least("count", count, 0)
    return int(Fraction(repr(float(sparsity))) * count)


@checked
def magnitude_masks(
    weights: Mapping[str, Tensor], sparsity: float, *, scope: Literal["layer", "global"] = "layer"
) -> dict[str, Tensor]:
    """Mark the weights that stay when those of the smallest magnitude are left out.

    Exactly ⌊s·n⌋ are left out, of each layer or of all layers together.  Of equal magnitudes the first are left out, in
    the order of the mapping and of each tensor's memory, so that the masks are the same everywhere.

    Args:
        weights: by name, of any shapes; finite.
        sparsity: s, in [0, 1).
        scope: "layer" for a threshold of each tensor's own, "global" for one over all of them.

    Returns:
        By name a bool tensor of the weight's shape, True for a weight that stays.

    Raises:
        InputError: if a value is out of range or not finite, there are no weights, or a layer would keep none.

    Example:
        >>> magnitude_masks({"fc": torch.tensor([0.5, -2.0, 0.1, 1.0])}, 0.5)
        {'fc': tensor([False,  True, False,  True])}

    Reference:
        Han et al. (2015), "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626.
    """
    checks.choice("scope", scope, ("layer", "global"))
    _check_share("sparsity", sparsity)
    if not weights:
        raise InputError("weights: found none, expected at least one tensor by name")
    for name, weight in weights.items():
        check_weight(name, weight)
    if scope == "layer":
        return {name: top_mask(weight.abs(), sparsity) for name, weight in weights.items()}
    every = torch.cat([weight.detach().abs().flatten().double() for weight in weights.values()])
    parts = top_mask(every, sparsity).split([weight.numel() for weight in weights.values()])
    masks = {name: part.reshape(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}
    for name, mask in masks.items():
        if mask.numel() and not bool(mask.any()):
            raise InputError(
                f"sparsity: found {sparsity!r} over all layers, which leaves '{name}' empty; lower it, skip that layer,"
                " or prune each layer by itself (scope: layer)"
            )
    return masks


@checked
def top_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Mark what stays when the ⌊s·n⌋ lowest scores are left out; of equal scores the first are left out.

    Args:
        scores: of any shape; no NaN.
        sparsity: s, in [0, 1).

    Returns:
        A bool tensor of that shape.

    Raises:
        InputError: if the sparsity is out of range or a score is NaN.

    Example:
        >>> top_mask(torch.tensor([1.0, 1.0, 1.0, -1.0]), 0.5)
        tensor([False,  True,  True, False])
    """
    flat = scores.detach().flatten()
    if bool(torch.isnan(flat).any()):
        raise InputError("scores: found NaN, expected numbers; look at the model's weights")
    mask = torch.ones(flat.numel(), dtype=torch.bool, device=flat.device)
    mask[flat.sort(stable=True).indices[: pruned_count(sparsity, flat.numel())]] = False
    return mask.reshape(scores.shape)


@checked
def two_of_four(weight: Tensor) -> Tensor:
    """Mark the two largest magnitudes in each group of four neighbours along the input, the second axis.

    Of equal magnitudes the last stay.

    Args:
        weight: (m, n, ...) with n a multiple of four; finite.

    Returns:
        A bool tensor of that shape, half of it True.

    Raises:
        InputError: if the input axis cannot be cut into groups of four, or a weight is not finite.

    Example:
        >>> two_of_four(torch.tensor([[0.1, -0.4, 0.3, 0.2]]))
        tensor([[False,  True,  True, False]])

    Reference:
        Mishra et al. (2021), "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378.
    """
    check_weight("weight", weight)
    if weight.dim() < 2 or weight.shape[1] % 4:
        raise InputError(
            f"weight: found shape {tuple(weight.shape)}, expected (m, n, ...) with n a multiple of 4; skip this layer"
        )
    groups = weight.detach().abs().movedim(1, -1).unflatten(-1, (-1, 4))
    order = groups.sort(dim=-1, stable=True).indices
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter(-1, order[..., 2:], True)
    return mask.flatten(-2).movedim(-1, 1).contiguous()


@checked
def unit_mask(weight: Tensor, sparsity: float, *, size: int = 1) -> Tensor:
    """Mark the units that stay when the ⌊s·n⌋ of the smallest l2 norm are left out.

    A unit is a row of a matrix, an output channel of a convolution, or `size` neighbouring rows: the head of an
    attention.

    Args:
        weight: (n·size, ...), at least two axes; finite.
        sparsity: s, in [0, 1).
        size: rows of a unit.

    Returns:
        (n,) bool.

    Raises:
        InputError: if a value is out of range, or the rows cannot be cut into units.

    Example:
        >>> unit_mask(torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]]), 0.34)
        tensor([ True, False,  True])
        >>> unit_mask(torch.tensor([[3.0], [4.0], [0.0], [6.0]]), 0.5, size=2)
        tensor([False,  True])

    Reference:
        Li et al. (2017), "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, with l1 norms.
    """
    check_weight("weight", weight)
    checks.at_least("size", size, 1)
    if weight.dim() < 2 or weight.shape[0] % size:
        raise InputError(
            f"weight: found shape {tuple(weight.shape)}, expected two axes or more, the first a multiple of {size}"
        )
    norms = torch.linalg.vector_norm(weight.detach().double().reshape(weight.shape[0] // size, -1), dim=1)
    return top_mask(norms, sparsity)


@checked
def ramp(step: int, *, final: float, steps: int) -> float:
    """Compute s_t = s_f - s_f·(1 - t/n)³, the sparsity at a step; s_f from step n on.

    Args:
        step: t, 0 or above.
        final: s_f, in [0, 1).
        steps: n, 1 or above.

    Returns:
        A number from 0 to s_f.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> [round(ramp(step, final=0.9, steps=100), 4) for step in (0, 10, 50, 100, 200)]
        [0.0, 0.2439, 0.7875, 0.9, 0.9]

    Reference:
        Zhu & Gupta (2017), "To prune, or not to prune: exploring the efficacy of pruning for model compression",
        arXiv:1710.01878.
    """
    checks.at_least("step", step, 0)
    checks.at_least("steps", steps, 1)
    _check_share("final", final)
    if step >= steps:
        return final
    return final - final * (1 - step / steps) ** 3


@checked
def dropout_after_pruning(dropout: float, kept: int, count: int) -> float:
    """Compute p·√(kept/all), the dropout rate of a layer that has fewer connections than before.

    Args:
        dropout: p, in [0, 1].
        kept: connections that stay.
        count: connections that the layer had; 1 or above.

    Returns:
        A number in [0, p].

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> dropout_after_pruning(0.5, 64, 100)
        0.4

    Reference:
        Han et al. (2015), arXiv:1506.02626.
    """
    checks.unit_interval("dropout", dropout)
    checks.at_least("count", count, 1)
    checks.at_least("kept", kept, 0, at_most=count)
    return float(dropout * (kept / count) ** 0.5)


def check_weight(name: str, weight: Tensor) -> None:
    """Require a tensor of finite floating-point numbers."""
    if not weight.is_floating_point():
        raise InputError(f"{name}: found {str(weight.dtype).removeprefix('torch.')}, expected floating-point numbers")
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"{name}: found NaN or infinity, expected finite numbers; train the model again")


def _check_share(name: str, value: float) -> None:
    checks.unit_interval(name, value)
    if value == 1:
        raise InputError(f"{name}: found {value!r}, expected a number in [0, 1): 1 would leave nothing")
