"""The distillation loss of a last linear layer, in chunks, without ever holding all logits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.divergences import KL, Divergence
from limbeck.losses.fused.parts import Hard, Part, Soft
from limbeck.losses.fused.tiles import tiled
from limbeck.losses.reduction import compute_dtype
from limbeck.losses.sparse import Sampled, TopK
from limbeck.losses.weights import kd_weights

__all__ = ["Head", "fused_linear_kd"]

_CHUNK = 2**24
"""Logits of a chunk: 64 MB in float32."""


class Head(NamedTuple):
    """What a model's logits are made of: hidden (..., d), weight (K, d) and bias (K,) or None.

    >>> Head(torch.zeros(2, 3), torch.zeros(5, 3)).logits(slice(0, 2)).shape
    torch.Size([2, 5])
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def flat(self, name: str) -> "Head":
        """Return it with hidden (n, d); InputError where the shapes disagree."""
        hidden, weight, bias = self
        if weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
            raise InputError(
                f"{name}: found hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}, expected (..., d) and"
                " (K, d)"
            )
        if bias is not None:
            checks.shapes_match(f"{name}'s bias", bias.shape, "the weight's rows", weight.shape[:1])
        return Head(hidden.reshape(-1, hidden.shape[-1]), weight, bias)

    def logits(self, where: slice) -> Tensor:
        """Return the logits (n, K) of some rows of a flat one."""
        product = self.hidden[where] @ self.weight.T
        return product if self.bias is None else product.add_(self.bias)


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
    hard_weight, soft_weight = kd_weights(alpha, hard_weight, soft_weight)
    own = _head("student", student)
    dtype = compute_dtype(own.hidden[:0], "hidden").dtype
    leading, classes = own.hidden.shape[:-1], len(own.weight)
    other = teacher if isinstance(teacher, TopK | Sampled) else _head("teacher", teacher)
    if isinstance(other, Head):
        found = (*other.hidden.shape[:-1], len(other.weight))
        checks.shapes_match("student's logits", (*leading, classes), "teacher's logits", found)
    if labels is None and soft_weight == 0:
        raise InputError(
            "labels: found None, but soft_weight is 0, so that there is no term; give labels or a soft_weight"
        )
    if divergence.formula is None:
        raise InputError(f"divergence {divergence.name}: cannot be computed in chunks; use losses.kd on whole logits")
    parts: list[Part] = []
    if labels is not None and hard_weight:
        parts.append(Hard(labels, hard_weight, mask, mean=True).flat(tuple(leading), classes, dtype))
    if soft_weight:
        target = own.hidden.new_zeros(()).expand(*leading, classes) if isinstance(other, Head) else other
        soft = Soft(target, temperature, divergence, soft_weight, mask, mean=True)
        parts.append(soft.flat(tuple(leading), classes, dtype))
    flat = other.flat("teacher") if isinstance(other, Head) else None
    rows = max(1, _CHUNK // classes) if chunk is None else chunk
    checks.at_least("chunk", rows, 1)
    hidden, weight, bias = own.flat("student")
    result: Tensor = _Linear.apply(hidden, weight, bias, flat, parts, rows)  # type: ignore[no-untyped-call]
    return result


def _head(name: Literal["student", "teacher"], given: Sequence[Tensor]) -> Head:
    if len(given) not in (2, 3):
        raise InputError(f"{name}: found {len(given)} tensors, expected hidden, weight and perhaps bias")
    head = Head(*given)
    head.flat(name)
    return head if name == "student" else Head(*(None if each is None else each.detach() for each in head))  # type: ignore[arg-type]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: Head | None,
        parts: Sequence[Part],
        rows: int,
    ) -> Tensor:
        own = Head(hidden.detach(), weight.detach(), None if bias is None else bias.detach())
        by_hidden, by_weight, by_bias = ctx.needs_input_grad[:3]
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        gradients: list[Tensor | None] = [
            torch.empty_like(own.hidden) if by_hidden else None,
            torch.zeros_like(own.weight, dtype=wide) if by_weight else None,
            torch.zeros_like(weight[:, 0], dtype=wide) if by_bias else None,
        ]
        total = torch.zeros((), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(own.hidden), rows):
                where = slice(start, min(start + rows, len(own.hidden)))
                logits = own.logits(where)
                chunk = [_with_teacher(part, teacher, where) for part in parts]
                slope = logits if any(each is not None for each in gradients) else None
                values = tiled(logits, chunk, slope)
                total = sum((part.coefficient * value.sum() for part, value in zip(chunk, values, strict=True)), total)
                if slope is None:
                    continue
                if gradients[0] is not None:
                    torch.mm(slope, own.weight, out=gradients[0][where])
                if gradients[1] is not None:
                    gradients[1].add_(slope.T @ own.hidden[where])
                if gradients[2] is not None:
                    gradients[2].add_(slope.sum(0))
        like = (hidden, weight, bias)
        kept = [
            None if each is None or of is None else each.to(of.dtype) for each, of in zip(gradients, like, strict=True)
        ]
        ctx.save_for_backward(*kept)
        return total

    @staticmethod
    def backward(ctx: Any, by_total: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "fused_linear_kd: found a second derivative, but its gradient is made in the forward pass and has none;"
                " use losses.kd on whole logits with backend='plain'"
            )
        found = [None if each is None else each * by_total.to(each.dtype) for each in ctx.saved_tensors]
        return (*found, None, None, None)


def _with_teacher(part: Part, teacher: Head | None, where: slice) -> Part:
    """Return a part of some rows, the teacher's logits of these rows made if it is given by its last layer."""
    some = part.rows(where)
    if teacher is None or not isinstance(some, Soft):
        return some
    return replace(some, target=teacher.logits(where))
