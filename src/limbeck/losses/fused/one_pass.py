"""One autograd function for all parts of a loss that read the same logits, and the choice of what computes it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.devices import on_accelerator
from limbeck.errors import InputError, one_of
from limbeck.losses.fused.compiled import compiled
from limbeck.losses.fused.native import native, require_native
from limbeck.losses.fused.parts import Hard, Part, Soft, usable
from limbeck.losses.fused.room import room_like, wide_enough
from limbeck.losses.fused.small import FewCalls, few
from limbeck.losses.fused.tiles import tiled
from limbeck.losses.reduction import compute_dtype

__all__ = ["Backend", "in_one_pass", "joint"]

Backend = Literal["auto", "plain", "native", "eager", "compile", "triton"]
"""What computes a loss on logits: "plain" the formulas of `limbeck.losses`, the others in one pass."""

ONE_PASS_FROM = 2**16
"""Elements from which one pass is faster than the plain formulas: below, calls cost more than memory."""


def in_one_pass(
    logits: Tensor, parts: Sequence[Part], backend: Backend = "auto", *, small: bool = True
) -> tuple[Tensor, list[Tensor]] | None:
    """Return what `joint` returns, where that is faster than the plain formulas or asked for; otherwise None.

    small: also compute small logits in few calls, if the parts are KL or cross-entropy beside hard labels and every row
    counts.  Their values round as logarithms do; those of the plain formulas are exact however small they are.
    """
    if backend == "plain" or (backend == "auto" and in_transform(logits)):
        return None
    if backend != "auto" or logits.numel() >= ONE_PASS_FROM:
        return joint(logits, parts, backend=backend)
    found = few(logits, parts) if small else None
    if found is None:
        return None
    total, *sums = FewCalls.apply(logits, found)  # type: ignore[no-untyped-call]
    if not math.isfinite(float(total.detach())):  # of classes that are ruled out
        return None
    if isinstance(parts[0], Hard):  # sums of soft targets come first
        sums.reverse()
    return total, sums


def in_transform(logits: Tensor) -> bool:
    """Return whether logits are inside a transform of `torch.func`, which takes the plain formulas alone.

    >>> seen = []
    >>> _ = torch.func.vmap(lambda row: seen.append(in_transform(row)) or row)(torch.zeros(2, 3))
    >>> in_transform(torch.zeros(2)), seen
    (False, [True])
    """
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(logits))  # noqa: SLF001 - it has no public name


def joint(logits: Tensor, parts: Sequence[Part], *, backend: Backend = "auto") -> tuple[Tensor, list[Tensor]]:
    """Return Σ coefficient · sum over what counts, of all parts, and each part's own sum without gradient.

    The gradient is made with the value and is the only tensor of the logits' size that is kept.  Values and gradients
    agree with the plain formulas to about 1e-6 of the largest logit (float32); rows with classes of probability 0 are
    computed by the plain formulas.

    Args:
        logits: (..., K) floating point, the student's.
        parts: what they are compared with.
        backend: "auto" takes Triton on CUDA where it is installed.  On a processor it takes "native" for float32, a
            kernel in C that the system's compiler makes once; and tiles of eager operations for all else, or where
            there is no compiler.

    Returns:
        A scalar with gradient, and a scalar for each part.

    Raises:
        InputError: if shapes disagree, a label is out of range, a back end is not there, or the result is
            differentiated twice.

    Example:
        >>> from limbeck.losses.fused import Hard, Soft, joint
        >>> student, teacher = torch.randn(8, 10), torch.randn(8, 10)
        >>> parts = [Hard(torch.randint(10, (8,)), 0.1 / 8), Soft(teacher, 4.0, coefficient=0.9 / 8)]
        >>> total, sums = joint(student, parts, backend="eager")
        >>> torch.isclose(total, (0.1 * sums[0] + 0.9 * sums[1]) / 8)
        tensor(True)

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531; Hsu et al. (2024), "Liger Kernel", arXiv:2410.10989, for the
        gradient that is made in the forward pass.
    """
    dtype = compute_dtype(logits[:0]).dtype
    leading, classes = tuple(logits.shape[:-1]), logits.shape[-1]
    flat = [part.flat(leading, classes, dtype) for part in parts]
    refused = next((part for part in flat if isinstance(part, Soft) and not usable(part)), None)
    if refused is not None:
        raise InputError(f"divergence {refused.divergence.name}: cannot be computed in one pass; use backend='plain'")
    total, *sums = _Joint.apply(logits, flat, _chosen(logits, backend))  # type: ignore[no-untyped-call]
    return total, sums


_Compute = Callable[[Tensor, Sequence[Part], Tensor | None], list[Tensor]]


def _triton(logits: Tensor, parts: Sequence[Part], gradient: Tensor | None) -> list[Tensor]:
    from limbeck.losses.fused.triton_kernels import on_cuda

    return on_cuda(logits, parts, gradient)


def _required(logits: Tensor, parts: Sequence[Part], gradient: Tensor | None) -> list[Tensor]:
    require_native(logits, parts, gradient)
    return native(logits, parts, gradient)


_BACKENDS: Mapping[str, _Compute] = {"native": _required, "eager": tiled, "compile": compiled, "triton": _triton}


def _chosen(logits: Tensor, backend: Backend) -> _Compute:
    if backend == "triton" or (backend == "auto" and logits.is_cuda):
        from limbeck.losses.fused.triton_kernels import has_triton

        if has_triton():
            return _triton
        if backend == "triton":
            raise InputError("backend: found 'triton', but Triton is not installed; use eager, compile or auto")
    if backend not in _BACKENDS and backend != "auto":
        raise InputError(f"backend: there is no '{backend}'; {one_of(backend, ('auto', 'plain', *_BACKENDS))}")
    return native if backend == "auto" else _BACKENDS[backend]


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, parts: Sequence[Part], compute: _Compute) -> tuple[Tensor, ...]:
        wanted = ctx.needs_input_grad[0]
        rows = logits.detach().reshape(-1, logits.shape[-1])
        gradient = room_like(rows, wide_enough(logits.dtype)) if wanted else None
        with torch.autocast(logits.device.type, enabled=False):
            values = compute(rows, parts, gradient)
        sums = [value.sum() for value in values]
        total = sum((part.coefficient * value for part, value in zip(parts, sums, strict=True)), rows.new_zeros(()))
        ctx.mark_non_differentiable(*sums)
        ctx.dtype = logits.dtype
        if gradient is not None:
            ctx.save_for_backward(gradient.view(logits.shape))
        return (total.to(sums[0].dtype), *sums)

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise InputError(
                "loss: found a second derivative, but its gradient is made in one pass and has none; use"
                " backend='plain'"
            )
        (gradient,) = ctx.saved_tensors
        if on_accelerator(by_total) or float(by_total) != 1.0:
            gradient = gradient * by_total.to(gradient.dtype)
        return gradient.to(ctx.dtype), None, None
