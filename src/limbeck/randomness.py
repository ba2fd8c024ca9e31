"""Random numbers as pure functions of (seed, view, index): no worker, rank, batch size or resume point changes them.

A counter is hashed by the finaliser of SplitMix64 (Steele, Lea & Flood 2014), in int64 tensor arithmetic, so that a
whole batch is drawn at once and every device draws the same bits.
"""

import hashlib

import torch
from torch import Tensor

from limbeck.devices import exact

__all__ = ["derive_seed", "fingerprints", "normal", "permutation", "uniform"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift without carrying the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _hash(seed: int, stream: str, view: Tensor, index: Tensor, count: int) -> Tensor:
    start = torch.tensor(derive_seed(seed, stream), dtype=torch.int64, device=index.device)
    state = _mix(start + _GOLDEN * (view + 1))
    state = _mix(state + _GOLDEN * (index + 1))
    columns = torch.arange(1, count + 1, device=index.device)
    return _mix(state[:, None] + _GOLDEN * columns)


def derive_seed(seed: int, *names: object) -> int:
    """Return a seed in [0, 2^63) for a named purpose, so that no two purposes share their random numbers.

    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1) != derive_seed(0, "order", 2)
    True
    """
    text = "/".join(str(name).replace("%", "%25").replace("/", "%2F") for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def fingerprints(inputs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return a number for the content of each sample: (N,) int64, the same for the same values in the same order.

    inputs: (N, ...) floating point, read as float32, or whole numbers.  mask: which of them count, by default all.

    >>> first, second, third = fingerprints(torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])).tolist()
    >>> first == third != second
    True
    """
    rows = inputs.flatten(1)
    bits = rows.to(torch.float32).contiguous().view(torch.int32) if rows.is_floating_point() else rows
    columns = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    mixed = _mix(bits.long() + _GOLDEN * columns)
    return _mix((mixed if mask is None else mixed * mask.flatten(1)).sum(1))


def uniform(seed: int, stream: str, view: Tensor, index: Tensor, count: int = 1) -> Tensor:
    """Draw from the uniform distribution on [0, 1).

    view, index: (N,) int64.  Returns (N, count) float32, multiples of 2^-24.

    >>> index = torch.arange(3)
    >>> all_three = uniform(0, "shift", torch.zeros_like(index), index)
    >>> torch.equal(all_three[1:], uniform(0, "shift", torch.zeros(2, dtype=torch.int64), index[1:]))
    True
    """
    return _shift_right(_hash(seed, stream, view, index, count), 40).to(torch.float32) * 2.0**-24


def normal(seed: int, stream: str, view: Tensor, index: Tensor, count: int = 1) -> Tensor:
    """Draw from the standard normal distribution (Box & Muller 1958).  Returns (N, count) float32."""
    half = (count + 1) // 2
    u = exact(uniform(seed, stream, view, index, 2 * half))
    radius = torch.sqrt(-2.0 * torch.log(1.0 - u[:, :half]))
    angle = 2.0 * torch.pi * u[:, half:]
    pairs = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return pairs[:, :count].to(torch.float32).to(index.device)


def permutation(seed: int, stream: str, step: int, size: int) -> Tensor:
    """Return the order of `size` samples: (size,) int64 on the CPU, a function of (seed, stream, step) alone."""
    generator = torch.Generator().manual_seed(derive_seed(seed, stream, step))
    return torch.randperm(size, generator=generator)
