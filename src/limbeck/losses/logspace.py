"""Sums over two distributions that are kept as logarithms, by arithmetic that does not cancel, with known slopes.

Where two distributions nearly agree, Σ p·(log p - log q) adds large terms of both signs to a small sum.  The same sum
is Σ (q - p - p·log(q/p)), whose terms are all 0 or above, and which is accurate however small it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Formula", "compare", "cross_entropy", "js", "kl", "reverse_kl", "rows", "skewed_kl", "total_variation"]

_RowFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Formula:
    """How far log-probabilities log q (..., K) are from log p (..., K).

    value(log q, log p) -> (...).  slope(log q, log p) -> (..., K), the derivative of the value by log q.
    """

    value: _RowFunction
    slope: _RowFunction


def compare(scaled: Tensor, log_p: Tensor, formula: Formula) -> Tensor:
    """Return how far softmax(scaled) is from p: (...).

    scaled: (..., K) logits divided by the temperature.  log_p: (..., K), a constant.

    >>> scaled = torch.zeros(1, 2)
    >>> compare(scaled, torch.tensor([[0.9, 0.1]]).log(), kl())
    tensor([0.3681])
    """

    def value(scaled: Tensor, log_p: Tensor) -> Tensor:
        return formula.value(F.log_softmax(scaled, -1), log_p)

    def slope(scaled: Tensor, log_p: Tensor) -> Tensor:
        log_q = F.log_softmax(scaled, -1)
        by_log_q = formula.slope(log_q, log_p)
        return by_log_q - log_q.exp() * by_log_q.sum(-1, keepdim=True)

    return rows(scaled, log_p, value, slope)


def rows(own: Tensor, other: Tensor, value: _RowFunction, slope: _RowFunction) -> Tensor:
    """Return value(own, other), (..., K) -> (...), whose derivative by `own` is slope(own, other), (..., K).

    A row that nothing depends on has gradient 0, also where it holds NaN or infinity.  `other` is a constant.
    """
    result: Tensor = _Rows.apply(own, other, value, slope)  # type: ignore[no-untyped-call]
    return result


class _Rows(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(own: Tensor, other: Tensor, value: _RowFunction, _slope: _RowFunction) -> Tensor:
        return _in_chunks(value, own, other)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        own, other, _, ctx.slope = inputs
        ctx.save_for_backward(own, other)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        own, other = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        result, unused = gradient * _in_chunks(ctx.slope, own, other), gradient == 0
        if own.device.type != "cpu" or bool(unused.any()):
            result = torch.where(unused, 0.0, result)
        return result.to(own.dtype), None, None, None


def _in_chunks(function: _RowFunction, own: Tensor, other: Tensor) -> Tensor:
    """Return function(own, other), on a processor by rows that its cache holds."""
    if own.device.type != "cpu" or own.numel() <= _CHUNK:
        return function(own, other)
    step = max(1, _CHUNK // own.shape[-1])
    pairs = zip(*(table.reshape(-1, own.shape[-1]).split(step) for table in (own, other)), strict=True)
    found = torch.cat([function(*pair) for pair in pairs])
    return found.reshape(*own.shape[:-1], *found.shape[1:])


_CHUNK = 2**16


def kl() -> Formula:
    """Return KL(p ‖ q)."""

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        pair = _apart(log_q, log_p)
        return _excess(pair.p, pair.q, pair.gap).sum(-1)

    def slope(log_q: Tensor, log_p: Tensor) -> Tensor:
        return _difference(*_apart(log_q, log_p))

    return Formula(value, slope)


def reverse_kl() -> Formula:
    """Return KL(q ‖ p)."""

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        pair = _apart(log_q, log_p)
        return _excess(pair.q, pair.p, -pair.gap).sum(-1)

    def slope(log_q: Tensor, log_p: Tensor) -> Tensor:
        pair = _apart(log_q, log_p)
        return _product(pair.q, pair.gap)

    return Formula(value, slope)


def js(share: float) -> Formula:
    """Return share·KL(p ‖ m) + (1-share)·KL(q ‖ m), m = share·p + (1-share)·q."""

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        pair = _apart(log_q, log_p)
        m = share * pair.p + (1.0 - share) * pair.q
        from_p, from_q = _to_mixture(pair.gap, share)
        return (share * _excess(pair.p, m, from_p) + (1.0 - share) * _excess(pair.q, m, from_q)).sum(-1)

    def slope(log_q: Tensor, log_p: Tensor) -> Tensor:
        pair = _apart(log_q, log_p)
        return -(1.0 - share) * _product(pair.q, _to_mixture(pair.gap, share)[1])

    return Formula(value, slope)


def skewed_kl(share: float) -> Formula:
    """Return KL(p ‖ m), m = share·p + (1-share)·q, for a share above 0."""

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        pair = _apart(log_q, log_p)
        m = share * pair.p + (1.0 - share) * pair.q
        return _excess(pair.p, m, _to_mixture(pair.gap, share)[0]).sum(-1)

    def slope(log_q: Tensor, log_p: Tensor) -> Tensor:
        pair = _apart(log_q, log_p)
        return (1.0 - share) ** 2 * _difference(*pair) * (-_to_mixture(pair.gap, share)[1]).exp()

    return Formula(value, slope)


def total_variation() -> Formula:
    """Return ½·Σ |p - q|."""

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        return 0.5 * _difference(*_apart(log_q, log_p)).abs().sum(-1)

    def slope(log_q: Tensor, log_p: Tensor) -> Tensor:
        pair = _apart(log_q, log_p)
        return 0.5 * pair.q * pair.gap.sign()

    return Formula(value, slope)


def cross_entropy() -> Formula:
    """Return -Σ p·log q."""

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        p = log_p.exp()
        return 0.0 * (p.sum(-1) + log_q.amax(-1)) - _product(p, log_q).sum(-1)  # the first is NaN where either is

    def slope(_: Tensor, log_p: Tensor) -> Tensor:
        return -log_p.exp()

    return Formula(value, slope)


class _Pair(NamedTuple):
    """Two distributions (..., K) and the gap log(q/p), which is 0 for a class that neither can have.

    The gap is NaN throughout a row that has a NaN in either.
    """

    p: Tensor
    q: Tensor
    gap: Tensor


def _apart(log_q: Tensor, log_p: Tensor) -> _Pair:
    """Return p, q and their gap.

    A normaliser is only as exact as its own size allows.  What its rounding adds to the gap of every class is taken out
    again: Σ p·(exp(gap) - 1) is 0 for two distributions.
    """
    p, q = log_p.exp(), log_q.exp()
    gap = (log_q - log_p).nan_to_num_(0.0, torch.inf, -torch.inf)
    surplus = _difference(p, q, gap).sum(-1, keepdim=True) / p.sum(-1, keepdim=True)
    return _Pair(p, q, gap - surplus.log1p())


# No torch.where below: on a processor it takes as long as twenty-five multiplications.


def _difference(p: Tensor, q: Tensor, gap: Tensor) -> Tensor:
    """Return q - p = (p + q)·tanh(gap/2)."""
    return (p + q) * (0.5 * gap).tanh()


def _excess(p: Tensor, q: Tensor, gap: Tensor) -> Tensor:
    """Return q - p - p·gap = p·(exp(gap) - 1 - gap), which is 0 or above.

    The gap is parted into s, for which a short series is exact, and the rest r, 0 for classes that nearly agree: it
    adds q - p·exp(s) - p·r.
    """
    near = gap.clamp(-_NEAR, _NEAR)
    rest = gap - near
    coefficients = _SERIES[gap.dtype]
    series = near * coefficients[0]
    for coefficient in coefficients[1:-1]:
        series = series.add_(coefficient).mul_(near)
    series = series.add_(coefficients[-1]).mul_(near).mul_(near).mul_(p)
    return series.add_(_difference(p * near.exp(), q, rest)).sub_(_product(p, rest))


_NEAR = 1 / 16
_SERIES = {
    dtype: [1.0 / math.factorial(power) for power in range(last, 1, -1)]
    for dtype, last in ((torch.float32, 5), (torch.float64, 10))
}


def _product(p: Tensor, factor: Tensor) -> Tensor:
    """Return p·factor, 0 where one is 0 and the other infinite."""
    return (p * factor).nan_to_num_(0.0, torch.inf, -torch.inf)


def _to_mixture(gap: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return log(m/p) and log(m/q) for m = share·p + (1-share)·q and log(q/p) = gap."""
    half = (0.5 * gap).tanh()  # (q - p)/(q + p), which rounds to ±1 where one is next to nothing
    from_p = (2.0 * (1.0 - share) * half / (1.0 - half)).log1p()
    from_q = (-2.0 * share * half / (1.0 + half)).log1p()
    return torch.minimum(from_p, gap.clamp_min(0.0)), torch.minimum(from_q, -gap.clamp_max(0.0))
