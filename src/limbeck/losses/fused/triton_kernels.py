"""The Triton back end: one program a row, which reads the logits of both models twice and writes the gradient once."""

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.fused.parts import Hard, Part, Soft
from limbeck.losses.fused.tiles import tiled

try:
    import triton
    import triton.language as tl
except ImportError:  # `has_triton` is asked before anything here is called
    triton, tl = None, SimpleNamespace(constexpr=int)

__all__ = ["has_triton", "on_cuda"]

_BLOCK = 4096
"""Classes that a program reads at once."""
_KINDS = {"kl": 0, "cross_entropy": 1, "reverse_kl": 2}


def has_triton() -> bool:
    """Return whether Triton can be imported."""
    return triton is not None


def on_cuda(logits: Tensor, parts: Sequence[Part], gradient: Tensor | None) -> list[Tensor]:
    """Return the value (n,) of each part for each row of logits (n, K); see `tiles.tiled`.

    Hard labels and one dense target by KL, cross-entropy or reverse KL are one kernel; tiles compute anything else.
    Its values round more coarsely the more is common to all logits of a row.
    """
    hard = [part for part in parts if isinstance(part, Hard)]
    soft = [part for part in parts if isinstance(part, Soft)]
    dense = all(isinstance(part.target, Tensor) and part.divergence.kind in _KINDS for part in soft)
    if len(hard) > 1 or len(soft) > 1 or not dense or logits.dtype == torch.float64:
        return tiled(logits, parts, gradient)
    found = _launched(logits, hard[0] if hard else None, soft[0] if soft else None, gradient)
    return [found[0] if isinstance(part, Hard) else found[1] for part in parts]


def _launched(logits: Tensor, hard: Hard | None, soft: Soft | None, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    count, classes = logits.shape
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    values = torch.zeros(2, count, device=logits.device)
    teacher: Any = logits
    kind, temperature, factor = 0, 1.0, 1.0
    if soft is not None:
        assert isinstance(soft.target, Tensor)
        teacher = soft.target if soft.target.stride(-1) == 1 else soft.target.contiguous()
        kind, temperature, factor = _KINDS[soft.divergence.kind], soft.temperature, soft.factor
    everywhere = torch.ones(1, dtype=torch.bool, device=logits.device)
    scales = torch.stack([_scale(part, logits) for part in (hard, soft)])
    _kernel()[(count,)](
        logits,
        teacher,
        logits if gradient is None else gradient,
        everywhere if hard is None else hard.labels,
        everywhere if hard is None or hard.mask is None else hard.mask,
        everywhere if soft is None or soft.mask is None else soft.mask,
        scales,
        values,
        logits.stride(0),
        teacher.stride(0),
        0 if gradient is None else gradient.stride(0),
        count,
        classes,
        1.0 / temperature,
        factor,
        HARD=hard is not None,
        SOFT=soft is not None,
        HARD_MASK=hard is not None and hard.mask is not None,
        SOFT_MASK=soft is not None and soft.mask is not None,
        KIND=kind,
        WANTED=gradient is not None,
        BLOCK=min(_BLOCK, triton.next_power_of_2(classes)),
        num_warps=8,
    )
    return values[0], values[1]


def _scale(part: Part | None, logits: Tensor) -> Tensor:
    """Return by what the slope of a part is multiplied: a scalar on the device, which the host does not wait for."""
    coefficient = 0.0 if part is None else part.coefficient
    if isinstance(part, Soft):
        coefficient = coefficient * (part.factor / part.temperature)
    return torch.as_tensor(coefficient, dtype=torch.float32, device=logits.device).reshape(())


@cache
def _kernel() -> Any:
    return triton.jit(_rows)


def _rows(  # type: ignore[no-untyped-def]
    student,
    teacher,
    gradient,
    labels,
    hard_mask,
    soft_mask,
    scales,
    values,
    student_stride,
    teacher_stride,
    gradient_stride,
    count,
    classes,
    inverse,
    factor,
    HARD: tl.constexpr,
    SOFT: tl.constexpr,
    HARD_MASK: tl.constexpr,
    SOFT_MASK: tl.constexpr,
    KIND: tl.constexpr,
    WANTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    own, other = student + row * student_stride, teacher + row * teacher_stride
    written = gradient + row * gradient_stride
    places = tl.arange(0, BLOCK)
    hard_on, soft_on = HARD, SOFT
    if HARD_MASK:
        hard_on = tl.load(hard_mask + row) != 0
    if SOFT_MASK:
        soft_on = tl.load(soft_mask + row) != 0
    high_z = float("-inf")
    high_v = float("-inf")
    sum_q = 0.0  # of exp((z - high)/T)
    sum_p = 0.0
    sum_1 = 0.0  # of exp(z - high)
    mean = 0.0  # of (v - z)/T under p, or under q for reverse KL, or of z/T under p for cross-entropy; unnormalised
    for start in range(0, classes, BLOCK):
        here = start + places
        inside = here < classes
        z = tl.load(own + here, mask=inside, other=float("-inf")).to(tl.float32)
        new_z = tl.maximum(high_z, tl.max(z, 0))
        safe_z = tl.where(new_z == float("-inf"), 0.0, new_z)
        old = tl.where(high_z == float("-inf"), 0.0, tl.exp((high_z - safe_z) * inverse))
        if HARD:
            old_1 = tl.where(high_z == float("-inf"), 0.0, tl.exp(high_z - safe_z))
            sum_1 = sum_1 * old_1 + tl.sum(tl.exp(z - safe_z), 0)
        if SOFT:
            v = tl.load(other + here, mask=inside, other=float("-inf")).to(tl.float32)
            new_v = tl.maximum(high_v, tl.max(v, 0))
            safe_v = tl.where(new_v == float("-inf"), 0.0, new_v)
            old_v = tl.where(high_v == float("-inf"), 0.0, tl.exp((high_v - safe_v) * inverse))
            q = tl.exp((z - safe_z) * inverse)
            p = tl.exp((v - safe_v) * inverse)
            sum_q = sum_q * old + tl.sum(q, 0)
            sum_p = sum_p * old_v + tl.sum(p, 0)
            if KIND == 0:
                mean = mean * old_v + tl.sum(tl.where(p > 0, p * ((v - z) * inverse), 0.0), 0)
            elif KIND == 1:
                mean = mean * old_v + tl.sum(tl.where(p > 0, p * (z * inverse), 0.0), 0)
            else:
                mean = mean * old + tl.sum(tl.where(q > 0, q * ((v - z) * inverse), 0.0), 0)
            high_v = new_v
        high_z = new_z
    label = tl.zeros((), dtype=tl.int64)
    if HARD:
        label = tl.load(labels + row)
        of_label = tl.load(own + label).to(tl.float32)
        tl.store(values + row, tl.where(hard_on, tl.log(sum_1) + high_z - of_label, 0.0))
    if SOFT:
        log_q = tl.log(sum_q) + high_z * inverse
        log_p = tl.log(sum_p) + high_v * inverse
        if KIND == 0:
            value = mean / sum_p + log_q - log_p
        elif KIND == 1:
            value = log_q - mean / sum_p
        else:
            mean = mean / sum_q
            value = log_p - log_q - mean
        tl.store(values + count + row, tl.where(soft_on, value * factor, 0.0))
    if WANTED:
        hard_scale = tl.where(hard_on, tl.load(scales), 0.0)
        soft_scale = tl.where(soft_on, tl.load(scales + 1), 0.0)
        for start in range(0, classes, BLOCK):
            here = start + places
            inside = here < classes
            z = tl.load(own + here, mask=inside, other=float("-inf")).to(tl.float32)
            slope = tl.zeros((BLOCK,), dtype=tl.float32)
            if HARD:
                by_label = tl.exp(z - high_z) / sum_1 - tl.where(here == label, 1.0, 0.0)
                slope += tl.where(hard_on, by_label * hard_scale, 0.0)
            if SOFT:
                v = tl.load(other + here, mask=inside, other=float("-inf")).to(tl.float32)
                q = tl.exp((z - high_z) * inverse) / sum_q
                if KIND == 2:
                    by_target = tl.where(q > 0, q * (mean - (v - z) * inverse), 0.0)
                else:
                    by_target = q - tl.exp((v - high_v) * inverse) / sum_p
                slope += tl.where(soft_on, by_target * soft_scale, 0.0)
            tl.store(written + here, slope.to(written.dtype.element_ty), mask=inside)
