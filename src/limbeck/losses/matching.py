"""Weights of a student's layer compared to those of a wider layer of its teacher."""

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.reduction import compute_dtype

__all__ = ["weight_matching"]


@checked
def weight_matching(
    student: Tensor, teacher: Tensor, *, rows: Tensor | None = None, columns: Tensor | None = None
) -> Tensor:
    """Compute ‖P·W_S·R - W_T‖_F² / (number of weights of the teacher's layer).

    It needs no data.  P and R have to be shared along the network (R of a layer is Pᵀ of the layer before it) or fixed:
    free ones reach Σ_{i > rank W_S} σ_i(W_T)² for any W_S of full rank and teach it nothing, and orthonormal ones that
    each layer has for itself teach the spectrum alone.

    Args:
        student: W_S, (out, in, ...) floating point; further axes (a kernel's) are the same as the teacher's.
        teacher: W_T, (out', in', ...); it receives no gradient.
        rows: P, (out', out); None where out = out'.
        columns: R, (in, in'); None where in = in'.

    Returns:
        Squared units of the weights, a scalar.

    Raises:
        InputError: if the shapes do not fit.

    Example:
        >>> weight_matching(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        tensor(2.)

    Reference:
        Lin et al. (2021), "Weight Distillation: Transferring the Knowledge in Neural Network Parameters",
        arXiv:2009.09152, of which it is the direct form.
    """
    own, other = compute_dtype(student, "student"), compute_dtype(teacher.detach(), "teacher")
    if own.dim() < 2 or own.shape[2:] != other.shape[2:] or own.dim() != other.dim():
        raise InputError(
            f"student has shape {tuple(student.shape)}, teacher has shape {tuple(teacher.shape)}; expected weights"
            " (out, in, ...) with the same kernel"
        )
    if rows is not None:
        _require("rows", rows, (other.shape[0], own.shape[0]))
        own = torch.tensordot(compute_dtype(rows, "rows"), own, dims=1)
    if columns is not None:
        _require("columns", columns, (own.shape[1], other.shape[1]))
        own = torch.einsum("oi...,ij->oj...", own, compute_dtype(columns, "columns"))
    if own.shape != other.shape:
        raise InputError(
            f"student has shape {tuple(own.shape)}, teacher has shape {tuple(other.shape)}; give rows (out', out) and"
            " columns (in, in')"
        )
    return (own - other).square().mean()


def _require(name: str, matrix: Tensor, shape: tuple[int, int]) -> None:
    if tuple(matrix.shape) != shape:
        raise InputError(f"{name}: found shape {tuple(matrix.shape)}, expected {shape}")
