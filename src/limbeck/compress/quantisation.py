"""Numbers of fewer bits: uniform grids for weights, ranges for activations, and 16-bit floating point."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.compress.pruning import check_weight
from limbeck.errors import InputError

__all__ = [
    "Grid",
    "activation_grid",
    "activation_range",
    "dequantize",
    "pack",
    "quantize",
    "quantize_activations",
    "signal_to_noise",
    "to_16bit",
    "unpack",
    "weight_scales",
]

_MOST_BITS = 8
_CANDIDATES = 100
"""Shares of the largest magnitude that are tried for the range of the smallest squared error."""


@checked_fields
@dataclass(frozen=True)
class Grid:
    """Weights on a uniform grid: w ≈ scale·code.

    Attributes:
        codes: int8, of the weight's shape.
        scales: (rows, groups) float32; one row where all rows share it.
        group: neighbours along the input that share a scale; 0 for a whole row.

    Example:
        >>> quantize(torch.tensor([[0.5, -1.27, 0.003]])).codes
        tensor([[  50, -127,    0]], dtype=torch.int8)
    """

    codes: Tensor
    scales: Tensor
    group: int = 0

    def __post_init__(self) -> None:
        if self.codes.dtype != torch.int8 or self.codes.dim() < 2:
            raise InputError(
                f"codes: found {str(self.codes.dtype).removeprefix('torch.')} {tuple(self.codes.shape)}, expected int8"
                " with two axes or more"
            )
        checks.at_least("group", self.group, 0)
        columns = self.codes[0].numel() if len(self.codes) else 0
        groups = -(-columns // self.group) if self.group else 1
        if self.scales.dim() != 2 or self.scales.shape[1] != groups or self.scales.shape[0] not in (1, len(self.codes)):
            raise InputError(
                f"scales: found shape {tuple(self.scales.shape)}, expected ({len(self.codes)}, {groups}), or one row"
            )


@checked
def weight_scales(weight: Tensor, bits: int = 8, *, group: int = 0) -> Tensor:
    """Compute s = max|w|/(2^(b-1) - 1) of each row, or of each group of neighbours in it; 1 where all are 0.

    Args:
        weight: (m, ...), at least two axes; finite.  What is not on the first axis is the input.
        bits: b, from 2 to 8.
        group: neighbours along the input that share a scale; the last group can be shorter.  0 for the whole row.

    Returns:
        (m, groups) of the weight's type.

    Raises:
        InputError: if a value is out of range, or the weight has one axis.

    Example:
        >>> weight_scales(torch.tensor([[0.5, -1.27, 0.003], [0.0, 0.0, 0.0]]))
        tensor([[0.0100],
                [1.0000]])
    """
    _check_bits(bits)
    check_weight("weight", weight)
    largest = grouped(weight, group).abs().amax(-1)
    return torch.where(largest == 0, torch.ones_like(largest), largest / (2 ** (bits - 1) - 1))


@checked
def quantize(weight: Tensor, bits: int = 8, *, group: int = 0) -> Grid:
    """Round weights to the symmetric grid q = clamp(round(w/s)) of -(2^(b-1) - 1) to 2^(b-1) - 1; half to even.

    The error of each weight is at most s/2.

    Args:
        weight: (m, ...), at least two axes: a matrix or kernel with its outputs first, or an embedding.  Finite.
        bits: b, from 2 to 8.
        group: neighbours along the input that share a scale, 32 or 64 say; 0 for one scale a row.

    Returns:
        The codes with their scales.

    Raises:
        InputError: if a value is out of range, or the weight has one axis.

    Example:
        >>> quantize(torch.tensor([[0.5, -1.27, 0.003]]), bits=8).scales
        tensor([[0.0100]])

    Reference:
        Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", arXiv:1712.05877.
    """
    scales = weight_scales(weight.detach(), bits, group=group)
    return on_grid(weight.detach(), scales, 2 ** (bits - 1) - 1, 2 ** (bits - 1) - 1, group)


def on_grid(weight: Tensor, scales: Tensor, lowest: int, highest: int, group: int) -> Grid:
    """Return the codes from -lowest to highest of a weight for given scales."""
    codes = (grouped(weight, group) / scales[..., None]).round().clamp(-lowest, highest)
    return Grid(ungrouped(codes, weight).to(torch.int8), scales, group)


@checked
def dequantize(grid: Grid) -> Tensor:
    """Compute scale·code.

    Args:
        grid: the codes with their scales.

    Returns:
        The weights, of the codes' shape and the scales' type.

    Example:
        >>> dequantize(quantize(torch.tensor([[0.5, -1.27, 0.003]])))
        tensor([[ 0.5000, -1.2700,  0.0000]])
    """
    codes = grid.codes.to(grid.scales.dtype)
    return ungrouped(grouped(codes, grid.group) * grid.scales[..., None], codes)


@checked
def signal_to_noise(weight: Tensor, approximation: Tensor) -> float:
    """Compute 10·log₁₀(Σw²/Σ(w - w')²).

    Args:
        weight: w.
        approximation: w', of the same shape.

    Returns:
        Decibels; infinity where both are equal.

    Raises:
        InputError: if the shapes differ.

    Example:
        >>> signal_to_noise(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5]))
        20.0
    """
    checks.shapes_match("weight", weight.shape, "approximation", approximation.shape)
    noise = (weight.double() - approximation.double()).square().sum()
    if noise == 0:
        return float("inf")
    return float(10 * (weight.double().square().sum() / noise).log10())


@checked
def pack(codes: Tensor) -> Tensor:
    """Put two codes of four bits into each byte, the first into the lower half.

    Args:
        codes: int8 from -8 to 7, of any shape.

    Returns:
        (⌈n/2⌉,) uint8.

    Raises:
        InputError: if a code needs more bits, or is no int8.

    Example:
        >>> pack(torch.tensor([1, -1, 7], dtype=torch.int8))
        tensor([241,   7], dtype=torch.uint8)
    """
    if codes.dtype != torch.int8:
        raise InputError(f"codes: found {str(codes.dtype).removeprefix('torch.')}, expected int8")
    flat = codes.flatten()
    if flat.numel() and not -8 <= int(flat.min()) <= int(flat.max()) <= 7:
        raise InputError(f"codes: found {int(flat.min())} to {int(flat.max())}, expected -8 to 7")
    halves = torch.cat([flat, flat.new_zeros(flat.numel() % 2)]).view(torch.uint8) & 15
    return halves[::2] | (halves[1::2] << 4)


@checked
def unpack(packed: Tensor, count: int) -> Tensor:
    """Undo `pack`.

    Args:
        packed: (⌈n/2⌉,) uint8.
        count: n.

    Returns:
        (n,) int8 from -8 to 7.

    Raises:
        InputError: if the bytes are not as many as the codes need.

    Example:
        >>> unpack(pack(torch.tensor([1, -1, 7], dtype=torch.int8)), 3)
        tensor([ 1, -1,  7], dtype=torch.int8)
    """
    checks.at_least("count", count, 0)
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 2),):
        raise InputError(
            f"packed: found {str(packed.dtype).removeprefix('torch.')} {tuple(packed.shape)}, expected uint8"
            f" ({-(-count // 2)},) for {count} codes"
        )
    halves = torch.stack([packed & 15, packed >> 4], 1).flatten()[:count].to(torch.int8)
    return torch.where(halves > 7, halves - 16, halves)


@checked
def activation_grid(low: Tensor, high: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Compute the scale and the zero point of the asymmetric grid from low to high, which is widened to hold 0.

    Args:
        low: least values, of any shape.
        high: greatest values, of the same shape.
        bits: b, from 2 to 8.

    Returns:
        The scale (high - low)/(2^b - 1), 1 where both are 0; and the code of 0, a whole number in the same type.

    Raises:
        InputError: if the shapes differ, or the bits are out of range.

    Example:
        >>> activation_grid(torch.tensor(-1.0), torch.tensor(1.55))
        (tensor(0.0100), tensor(100.))
    """
    _check_bits(bits)
    checks.shapes_match("low", low.shape, "high", high.shape)
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return scale, (-low / scale).round().clamp(0, 2**bits - 1)


@checked
def quantize_activations(values: Tensor, scale: Tensor, zero: Tensor, bits: int = 8) -> Tensor:
    """Compute s·(clamp(round(x/s) + z, 0, 2^b - 1) - z), values rounded to an asymmetric grid.

    Args:
        values: x, (..., d).
        scale: s, which broadcasts against x.
        zero: z, the code of 0.
        bits: b, from 2 to 8.

    Returns:
        Values of x's shape.

    Raises:
        InputError: if the bits are out of range.

    Example:
        >>> quantize_activations(torch.tensor([-1.0, 0.0, 0.503, 9.0]), torch.tensor(0.01), torch.tensor(100.0))
        tensor([-1.0000,  0.0000,  0.5000,  1.5500])
    """
    _check_bits(bits)
    return scale * ((values / scale).round().add(zero).clamp(0, 2**bits - 1) - zero)


@checked
def activation_range(
    values: Tensor, *, by: Literal["minmax", "percentile", "mse"] = "minmax", bits: int = 8
) -> tuple[Tensor, Tensor]:
    """Choose the range of a grid for activations from a sample of them.

    Args:
        values: of any shape; at least one, finite.
        by: "minmax", "percentile" (99.99 % of the values lie in it, half of the rest on each side), or "mse" (the range
            of the smallest squared error, of 100 shares of the one by minmax).
        bits: of the grid.

    Returns:
        The least and the greatest value, two scalars.

    Raises:
        InputError: if there are no values, or an option is unknown.

    Example:
        >>> activation_range(torch.tensor([-1.0, 0.5, 2.0]))
        (tensor(-1.), tensor(2.))
    """
    checks.choice("by", by, ("minmax", "percentile", "mse"))
    _check_bits(bits)
    flat = values.detach().flatten()
    if not flat.numel():
        raise InputError("values: found none, expected at least one")
    check_weight("values", flat)
    low, high = flat.amin(), flat.amax()
    if by == "percentile":
        ordered = flat.sort().values
        outside = int(0.00005 * (len(ordered) - 1))
        return ordered[outside], ordered[len(ordered) - 1 - outside]
    if by == "mse":
        best = torch.inf
        whole_low, whole_high = low, high
        for share in torch.linspace(1, 0.01, _CANDIDATES).tolist():
            grid = activation_grid(whole_low * share, whole_high * share, bits)
            error = float((quantize_activations(flat, *grid, bits) - flat).square().mean())
            if error < best:
                best, low, high = error, whole_low * share, whole_high * share
    return low, high


@checked
def to_16bit(weight: Tensor, kind: Literal["fp16", "bf16"] = "fp16") -> Tensor:
    """Round weights to 16 bits.

    The relative error is at most 2^-11 for fp16 above 6.1e-5, below which its numbers lie farther apart, and 2^-8 for
    bf16.

    Args:
        weight: of any shape.
        kind: "fp16", up to 65504, or "bf16", with the range of float32.

    Returns:
        float16 or bfloat16.

    Raises:
        InputError: if a weight is too large for fp16.

    Example:
        >>> to_16bit(torch.tensor([1.0, 0.1])).float()
        tensor([1.0000, 0.1000])
    """
    checks.choice("kind", kind, ("fp16", "bf16"))
    rounded = weight.detach().to(torch.float16 if kind == "fp16" else torch.bfloat16)
    if bool((rounded.isinf() & ~weight.isinf()).any()):
        raise InputError(
            f"weight: found {float(weight.detach().abs().max()):.6g}, expected at most 65504 for fp16; use bf16"
        )
    return rounded


def _check_bits(bits: int) -> None:
    checks.at_least("bits", bits, 2, at_most=_MOST_BITS)


def grouped(weight: Tensor, group: int) -> Tensor:
    """Return a weight as (rows, groups, columns of a group); the last group is filled with zeros."""
    checks.at_least("group", group, 0)
    if weight.dim() < 2:
        raise InputError(f"weight: found shape {tuple(weight.shape)}, expected two axes or more; skip it")
    rows = weight.reshape(weight.shape[0], -1)
    if not group:
        return rows[:, None]
    missing = -rows.shape[1] % group
    padded: Tensor = torch.nn.functional.pad(rows, (0, missing)).unflatten(1, (-1, group))
    return padded


def ungrouped(groups: Tensor, like: Tensor) -> Tensor:
    """Undo `grouped`."""
    columns = like.reshape(like.shape[0], -1).shape[1]
    return groups.flatten(1)[:, :columns].reshape(like.shape)
