"""The distillation loss of a last linear layer, in chunks, without ever holding all logits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.devices import on_accelerator
from limbeck.errors import InputError
from limbeck.head import Head
from limbeck.losses.divergences import KL, Divergence
from limbeck.losses.fused.native import native
from limbeck.losses.fused.parts import Part, Soft, parts_of_kd, usable
from limbeck.losses.fused.room import wide_enough
from limbeck.losses.reduction import compute_dtype
from limbeck.losses.sparse import Sampled, TopK
from limbeck.losses.weights import kd_weights

__all__ = ["fused_linear_kd", "joint_of_head"]

_CHUNK = 2**24
"""Logits of a chunk: 64 MB in float32."""


def joint_of_head(head: Head, parts: Sequence[Part], *, chunk: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """Return what `joint` returns for the logits that a head makes, without holding them.

    Rows are taken in chunks.  The logits of a chunk are made in the type of the hidden states, their gradient takes
    their place, and what it gives for hidden, weight and bias is added up at once, in the forward pass.

    Args:
        head: hidden (..., d), weight (K, d), bias (K,) or None.
        parts: what the logits are compared with; a target may be a teacher's `Head`.
        chunk: rows of a chunk; by default as many as have 16 million logits.

    Returns:
        A scalar with gradient, and a scalar for each part.

    Raises:
        InputError: as `joint`.

    Example:
        >>> from limbeck.losses.fused import Hard, Soft, joint
        >>> head, teacher = Head(torch.randn(8, 3), torch.randn(10, 3)), Head(torch.randn(8, 4), torch.randn(10, 4))
        >>> hard = Hard(torch.randint(10, (8,)), 0.1 / 8)
        >>> total, sums = joint_of_head(head, [hard, Soft(teacher, 4.0, coefficient=0.9 / 8)])
        >>> whole = [hard, Soft(teacher.logits(slice(None)), 4.0, coefficient=0.9 / 8)]
        >>> torch.isclose(total, joint(head.logits(slice(None)), whole)[0])
        tensor(True)
    """
    dtype = compute_dtype(head.hidden[:0], "hidden").dtype
    hidden, weight, bias = head.flat("student")
    flat = [part.flat(tuple(head.hidden.shape[:-1]), len(weight), dtype) for part in parts]
    for part in flat:
        if isinstance(part, Soft) and not usable(part):
            raise InputError(
                f"divergence {part.divergence.name}: cannot be computed in chunks; use losses.kd on whole logits"
            )
    rows = max(1, _CHUNK // len(weight)) if chunk is None else chunk
    checks.at_least("chunk", rows, 1)
    total, *sums = _OfHead.apply(hidden, weight, bias, flat, rows, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return total, sums


@checked
def fused_linear_kd(
    student: tuple[Tensor, ...],
    teacher: tuple[Tensor, ...] | TopK | Sampled,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    divergence: Divergence = KL,
    mask: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Compute the loss of `losses.kd` on logits hidden · weightᵀ + bias of both models, without holding the logits.

    Rows are taken in chunks.  The logits of a chunk are made, their gradient takes their place, and what it gives for
    hidden, weight and bias is added up at once, in the forward pass.  Sums and counts are additive over places, so the
    result equals that of whole logits, to rounding.

    Args:
        student: (hidden (..., d), weight (K, d)), and as a third the bias (K,) if there is one.
        teacher: the same of the teacher, with as many rows and classes and a width of its own; or stored answers.
        labels: (...) int64 in [0, K), or `UNLABELLED` (-100).  Without labels only the soft term is computed.
        temperature: T > 0.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: weight of the hard term, instead of `alpha`; not negative.
        soft_weight: weight of the soft term, instead of `alpha`; not negative.
        divergence: of teacher and student, from `limbeck.losses`; one that compares masses of classes.
        mask: (...) bool, False for padding.
        chunk: rows of a chunk; by default as many as have 16 million logits.

    Returns:
        A scalar, in nats for KL.

    Raises:
        InputError: if shapes disagree, a value is out of range, or nothing is left to compute.

    Example:
        >>> import limbeck as lb
        >>> hidden, weight, bias, labels = torch.randn(6, 3), torch.randn(9, 3), torch.zeros(9), torch.arange(6)
        >>> of_teacher = torch.randn(6, 4), torch.randn(9, 4)
        >>> found = lb.losses.fused_linear_kd((hidden, weight, bias), of_teacher, labels, temperature=2.0)
        >>> whole = lb.losses.kd(hidden @ weight.T + bias, of_teacher[0] @ of_teacher[1].T, labels, temperature=2.0)
        >>> torch.allclose(found, whole)
        True

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531; Hsu et al. (2024), "Liger Kernel", arXiv:2410.10989, and
        Wijmans et al. (2024), "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009, for the chunks.
    """
    weights = kd_weights(alpha, hard_weight, soft_weight)
    own = _head("student", student)
    other = teacher if isinstance(teacher, TopK | Sampled) else _head("teacher", teacher)
    parts = parts_of_kd(other, labels, weights, temperature=temperature, divergence=divergence, mask=mask)
    return joint_of_head(own, parts, chunk=chunk)[0]


def _head(name: Literal["student", "teacher"], given: Sequence[Tensor]) -> Head:
    if len(given) not in (2, 3):
        raise InputError(f"{name}: found {len(given)} tensors, expected hidden, weight and perhaps bias")
    head = Head(*given)
    head.flat(name)
    return head


class _OfHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        parts: Sequence[Part],
        rows: int,
        differentiable: bool,
    ) -> tuple[Tensor, ...]:
        own = Head(hidden, weight, bias).detach()
        wanted = [each and differentiable for each in ctx.needs_input_grad[:3]]
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        narrow = wide_enough(hidden.dtype)
        by_hidden = torch.empty_like(own.hidden, dtype=narrow) if wanted[0] else None
        by_weight = torch.zeros_like(own.weight, dtype=wide) if wanted[1] else None
        by_bias = torch.zeros(len(weight), dtype=wide, device=weight.device) if wanted[2] else None
        sums = [torch.zeros((), dtype=wide, device=hidden.device) for _ in parts]
        with torch.autocast(hidden.device.type, enabled=False):
            factors = own.weight.to(narrow) if by_hidden is not None else None
            own = own._replace(weight=own.weight.to(hidden.dtype))
            for start in range(0, len(own.hidden), rows):
                where = slice(start, min(start + rows, len(own.hidden)))
                logits = own.logits(where).to(narrow)
                slope = logits if any(wanted) else None
                values = native(logits, _of_rows(parts, where), slope)
                for total, value in zip(sums, values, strict=True):
                    total += value.sum()
                if slope is None:
                    continue
                if by_hidden is not None and factors is not None:
                    torch.mm(slope, factors, out=by_hidden[where])
                if by_weight is not None:
                    some = own.hidden[where].to(narrow)
                    by_weight.addmm_(slope.T, some) if narrow == wide else by_weight.add_(slope.T @ some)
                if by_bias is not None:
                    by_bias.add_(slope.sum(0, dtype=wide))
        ctx.save_for_backward(by_hidden, by_weight, by_bias)
        ctx.types = [None if each is None else each.dtype for each in (hidden, weight, bias)]
        ctx.mark_non_differentiable(*sums)
        total = sum((part.coefficient * value for part, value in zip(parts, sums, strict=True)), hidden.new_zeros(()))
        return (total.to(wide), *sums)

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "fused_linear_kd: found a second derivative, but its gradient is made in the forward pass and has none;"
                " use losses.kd on whole logits with backend='plain'"
            )
        as_they_are = not on_accelerator(by_total) and float(by_total) == 1.0
        found = [
            None if each is None else (each if as_they_are else each * by_total.to(each.dtype)).to(dtype)
            for each, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return (*found, None, None, None)


def _of_rows(parts: Sequence[Part], where: slice) -> list[Part]:
    """Return the parts of some rows; a teacher's logits that several compare with are made once."""
    made: dict[tuple[int, int], Tensor] = {}
    found: list[Part] = []
    for part in parts:
        if isinstance(part, Soft) and isinstance(part.target, Head):
            known = (part.target.hidden.data_ptr(), part.target.weight.data_ptr())
            if known not in made:
                made[known] = part.target.logits(where)
            some: Part = replace(part, target=made[known], mask=None if part.mask is None else part.mask[where])
        else:
            some = part.rows(where)
        found.append(some)
    return found
