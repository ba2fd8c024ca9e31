"""Sums over two distributions that are kept as logarithms, by arithmetic that does not cancel, with known slopes.

Where two distributions nearly agree, Σ p·(log p - log q) adds large terms of both signs to a small sum.  The same sum
is Σ (q - p - p·log(q/p)), whose terms are all 0 or above, and which is accurate however small it is.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Formula", "cross_entropy", "js", "kl", "reverse_kl", "rows", "skewed_kl", "total_variation"]

Formula = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
"""own, other (..., K), if a slope is wanted -> a value for each row, (...), and its derivative by own, (..., K)."""


def rows(own: Tensor, other: Tensor, formula: Formula) -> Tensor:
    """Return the values (...) of a formula, whose gradient by `own` is the slope that it gives.

    A row that nothing depends on has gradient 0, also where it holds NaN or infinity.  `other` is a constant.

    >>> rows(torch.zeros(1, 2), torch.tensor([[0.9, 0.1]]).log(), kl)
    tensor([0.3681])
    """
    wanted = own.requires_grad and torch.is_grad_enabled()
    value, _ = _Rows.apply(own, other, formula, wanted)  # type: ignore[no-untyped-call]
    result: Tensor = value
    return result


class _Rows(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(own: Tensor, other: Tensor, formula: Formula, wanted: bool) -> tuple[Tensor, Tensor]:
        return _in_chunks(formula, own, other, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        own, other, ctx.formula, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(own, other, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _by_slope: None) -> tuple[Tensor | None, None, None, None]:
        if gradient is None:
            return None, None, None, None
        own, other, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # of a second derivative: the slope as a function of `own`
            slope = _in_chunks(ctx.formula, own, other, True)[1]
        gradient = gradient.unsqueeze(-1)
        result = gradient * slope
        spoilt = torch.where(gradient == 0, 0.0, 0.0 * result.sum(-1, keepdim=True))  # NaN in rows that are used
        result = result.nan_to_num_(0.0, torch.inf, -torch.inf) + spoilt
        return result.to(own.dtype), None, None, None


def _in_chunks(formula: Formula, own: Tensor, other: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Return values and slopes, on a processor by rows that its cache holds; slopes of 0 rows where none are wanted."""
    if own.device.type != "cpu" or own.numel() <= _CHUNK:
        found = [formula(own, other, wanted)]
    else:
        step = max(1, _CHUNK // own.shape[-1])
        pairs = zip(*(table.reshape(-1, own.shape[-1]).split(step) for table in (own, other)), strict=True)
        found = [formula(first, second, wanted) for first, second in pairs]
    slopes = [slope for _, slope in found if slope is not None]
    if len(found) == 1:
        return found[0][0], slopes[0] if slopes else own.new_empty(0)
    value = torch.cat([value for value, _ in found]).reshape(own.shape[:-1])
    return value, torch.cat(slopes).reshape(own.shape) if slopes else own.new_empty(0)


_CHUNK = 2**16


def kl(scaled: Tensor, log_p: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return KL(p ‖ q), q = softmax(scaled)."""
    pair = _apart(scaled, log_p)
    return _excess(pair.p, pair.q, pair.gap).sum(-1), _difference(*pair) if wanted else None


def reverse_kl(scaled: Tensor, log_p: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return KL(q ‖ p), q = softmax(scaled)."""
    pair = _apart(scaled, log_p)
    value = _excess(pair.q, pair.p, -pair.gap).sum(-1)
    return value, _through_softmax(pair.q, _product(pair.q, pair.gap)) if wanted else None


@cache
def js(share: float) -> Formula:
    """Make share·KL(p ‖ m) + (1-share)·KL(q ‖ m), m = share·p + (1-share)·q, q = softmax(scaled)."""

    def formula(scaled: Tensor, log_p: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        pair = _apart(scaled, log_p)
        m = share * pair.p + (1.0 - share) * pair.q
        from_p, from_q = _to_mixture(pair.gap, share)
        value = (share * _excess(pair.p, m, from_p) + (1.0 - share) * _excess(pair.q, m, from_q)).sum(-1)
        return value, _through_softmax(pair.q, (share - 1.0) * _product(pair.q, from_q)) if wanted else None

    return formula


@cache
def skewed_kl(share: float) -> Formula:
    """Make KL(p ‖ m), m = share·p + (1-share)·q, q = softmax(scaled), for a share above 0."""

    def formula(scaled: Tensor, log_p: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        pair = _apart(scaled, log_p)
        m = share * pair.p + (1.0 - share) * pair.q
        from_p, from_q = _to_mixture(pair.gap, share)
        by_log_q = (1.0 - share) ** 2 * _difference(*pair) * (-from_q).exp()
        return _excess(pair.p, m, from_p).sum(-1), _through_softmax(pair.q, by_log_q) if wanted else None

    return formula


def total_variation(scaled: Tensor, log_p: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return ½·Σ |p - q|, q = softmax(scaled)."""
    pair = _apart(scaled, log_p)
    value = 0.5 * _difference(*pair).abs().sum(-1)
    return value, _through_softmax(pair.q, 0.5 * pair.q * pair.gap.sign()) if wanted else None


def cross_entropy(scaled: Tensor, log_p: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return -Σ p·log q, q = softmax(scaled)."""
    log_q, p = F.log_softmax(scaled, -1), log_p.exp()
    value = 0.0 * (p.sum(-1) + log_q.amax(-1)) - _product(p, log_q).sum(-1)  # the first is NaN where either is
    return value, _through_softmax(log_q.exp(), -p) if wanted else None


def _through_softmax(q: Tensor, by_log_q: Tensor) -> Tensor:
    """Return the derivative by logits of what has a derivative by log q."""
    return by_log_q - q * by_log_q.sum(-1, keepdim=True)


class _Pair(NamedTuple):
    """Two distributions (..., K) and the gap log(q/p), which is 0 for a class that neither can have.

    The gap is NaN throughout a row that has a NaN in either.
    """

    p: Tensor
    q: Tensor
    gap: Tensor


def _apart(scaled: Tensor, log_p: Tensor) -> _Pair:
    """Return p, q = softmax(scaled) and their gap.

    A normaliser is only as exact as its own size allows.  What its rounding adds to the gap of every class is taken out
    again: Σ p·(exp(gap) - 1) is 0 for two distributions.
    """
    log_q = F.log_softmax(scaled, -1)
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
