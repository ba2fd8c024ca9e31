"""Contrast of an example's embedding with those of others, which a bank holds for the whole training set."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import product, require_axes, unit
from limbeck.losses.reduction import Reduction, compute_dtype, reduce

__all__ = ["bank_rows", "contrast_constant", "crd"]


@checked
def crd(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.07,
    constants: tuple[float | Tensor, float | Tensor] | None = None,
    size: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute contrastive representation distillation, noise-contrastive estimation against two banks.

    The student's embedding a is scored against the rows of the teacher's bank, s = M_T·a/τ, and the teacher's b against
    those of the student's.  With l = s - ln Z - ln(m/n) a side is softplus(-l of the positive) + Σ softplus(l of a
    negative), which is the published form without its 1e-7.  All rows of the banks given are scored by one product of
    matrices, of which the wanted scores are read: N·n numbers in place of N·(m+1)·d.

    Args:
        student: a, (N, d) floating point, of length 1.
        teacher: b, (N, d), of length 1; both embeddings are learned, so it receives a gradient.
        student_bank: M_S, (n, d); it receives no gradient.
        teacher_bank: M_T, (n, d); it receives no gradient.
        positives: (N,) int64, each example's own row.
        negatives: (N, m) int64, the rows of others.
        temperature: τ > 0.
        constants: Z of the student's and of the teacher's side, as `contrast_constant` gives them for the first batch
            of a training; None computes them from this one.
        size: n of the whole banks, where those given are the part of their rows that is scored; None where they are
            whole.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        Nats: a scalar, or (N,) with ``reduction="none"``.  If all scores are equal and Z is of them, each side is
        ln(1 + m) + m·ln(1 + 1/m).

    Raises:
        InputError: if shapes disagree, a row is outside the bank, or the temperature is not above 0.

    Example:
        >>> a, bank = torch.eye(4)[:2], torch.eye(4)
        >>> others = torch.tensor([[2, 3], [3, 2]])
        >>> crd(a, a, bank, bank, torch.tensor([0, 1]), others) < crd(a, a, bank, bank, torch.tensor([1, 0]), others)
        tensor(True)

    Reference:
        Tian, Krishnan & Isola (2020), "Contrastive Representation Distillation", arXiv:1910.10699.
    """
    checks.positive("temperature", temperature)
    checks.shapes_match("student_bank", student_bank.shape[:1], "teacher_bank", teacher_bank.shape[:1])
    rows = _rows_of(positives, negatives, len(student), len(student_bank))
    scores = (
        _scores("student", student, teacher_bank, rows, temperature),
        _scores("teacher", teacher, student_bank, rows, temperature),
    )
    size = _size(size, student_bank)
    if constants is None:
        constants = _constant(scores[0], size), _constant(scores[1], size)
    per_example = _noise_contrast(scores[0], size, constants[0]) + _noise_contrast(scores[1], size, constants[1])
    return reduce(per_example, None, reduction)


@checked
def contrast_constant(
    embeddings: Tensor,
    bank: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.07,
    size: int | None = None,
) -> Tensor:
    """Compute Z = n·mean exp(s) over the scores of a batch, which a training of `crd` fixes at its first step.

    Args:
        embeddings: (N, d) floating point.
        bank: of the other side, (n, d).
        positives: (N,) int64.
        negatives: (N, m) int64.
        temperature: τ > 0.
        size: n of the whole bank, as in `crd`.

    Returns:
        A scalar without gradient.

    Raises:
        InputError: if shapes disagree or a row is outside the bank.

    Example:
        >>> bank = torch.ones(6, 2)
        >>> contrast_constant(torch.zeros(1, 2), bank, torch.tensor([0]), torch.tensor([[1, 2]]))
        tensor(6.)

    Reference:
        Tian, Krishnan & Isola (2020), arXiv:1910.10699 (its published code).
    """
    checks.positive("temperature", temperature)
    rows = _rows_of(positives, negatives, len(embeddings), len(bank))
    return _constant(_scores("embeddings", embeddings.detach(), bank, rows, temperature), _size(size, bank))


@checked
def bank_rows(rows: Tensor, embeddings: Tensor, *, momentum: float = 0.5) -> Tensor:
    """Compute the new rows of a bank, momentum·row + (1 - momentum)·embedding at length 1.

    Args:
        rows: of the examples in the bank, (N, d) floating point.
        embeddings: of the examples now, (N, d).
        momentum: in [0, 1].

    Returns:
        (N, d) without gradient.

    Raises:
        InputError: if shapes disagree or the momentum is out of range.

    Example:
        >>> bank_rows(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([[0.7071, 0.7071]])

    Reference:
        Tian, Krishnan & Isola (2020), arXiv:1910.10699.
    """
    checks.unit_interval("momentum", momentum)
    checks.shapes_match("rows", rows.shape, "embeddings", embeddings.shape)
    return unit(torch.lerp(compute_dtype(embeddings.detach(), "embeddings").to(rows.dtype), rows.detach(), momentum))


def _rows_of(positives: Tensor, negatives: Tensor, examples: int, size: int) -> Tensor:
    """Return the rows that each example is scored against, its own first: (N, 1 + m)."""
    checks.shapes_match("positives", positives.shape, "one for each example", (examples,))
    if negatives.dim() != 2 or len(negatives) != examples or not negatives.shape[1]:
        raise InputError(f"negatives: found shape {tuple(negatives.shape)}, expected ({examples}, m) with m above 0")
    rows = torch.cat([positives[:, None], negatives], dim=1)
    if len(rows) and not (0 <= int(rows.amin()) and int(rows.amax()) < size):
        raise InputError(f"positives, negatives: found a row outside the bank, expected rows from 0 to {size - 1}")
    return rows


def _size(size: int | None, bank: Tensor) -> int:
    if size is None:
        return len(bank)
    checks.at_least("size", size, 1)
    return size


def _scores(name: str, embeddings: Tensor, bank: Tensor, rows: Tensor, temperature: float) -> Tensor:
    embeddings, bank = compute_dtype(embeddings, name), compute_dtype(bank.detach(), "bank")
    require_axes(name, embeddings, 2, "an embedding for each example, (N, d)")
    checks.shapes_match(f"bank of the other side of the {name}", bank.shape[1:], f"{name} (d,)", embeddings.shape[1:])
    dtype = torch.promote_types(embeddings.dtype, bank.dtype)
    return product(embeddings.to(dtype), bank.to(dtype).T).gather(1, rows) / temperature


def _constant(scores: Tensor, size: int) -> Tensor:
    return size * scores.detach().exp().mean()


def _noise_contrast(scores: Tensor, size: int, constant: float | Tensor) -> Tensor:
    """Return the loss of each example from its scores (N, 1 + m), the positive's first."""
    share = math.log((scores.shape[1] - 1) / size)
    log_constant = torch.as_tensor(constant, dtype=scores.dtype, device=scores.device).log()
    signs = torch.ones_like(scores[0])
    signs[0] = -1.0
    return F.softplus((scores - (log_constant + share)) * signs).sum(1)
