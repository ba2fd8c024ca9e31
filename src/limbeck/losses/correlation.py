"""Pearson's correlation between what student and teacher say: over the classes of an example, over examples of a class.

DIST (Huang et al. 2022) asks the student for the teacher's relations instead of its probabilities.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.losses import logspace
from limbeck.losses.reduction import Reduction, check_mask, compute_dtype, reduce

__all__ = ["column_loss", "dist", "inter_class", "intra_class", "row_loss"]


@checked
def inter_class(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute 1 - Pearson's correlation of p̃ and q̃ over the classes of each example.

    p̃ = softmax(teacher/T) and q̃ = softmax(student/T).  An example whose student or teacher gives all classes the same
    probability has correlation 0 and no gradient.  The gradient does not shrink as the temperature grows.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        temperature: T > 0.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        A number in [0, 2], or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or the temperature is not above 0.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0, 4.0]])
        >>> float(inter_class(10 * logits, logits, temperature=1000.0)) < 1e-3
        True

    Reference:
        Huang et al. (2022), arXiv:2205.10536.
    """
    student, teacher = _scaled(student_logits, teacher_logits, temperature)
    return reduce(row_loss(student, F.log_softmax(teacher, -1)), mask, reduction)


@checked
def intra_class(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Compute 1 - Pearson's correlation of p̃_i and q̃_i over the examples of a batch, mean over the classes i.

    It relates the examples of a batch to each other: the loss of a batch is not the mean of the losses of its parts.  A
    class with the same probability in all examples has correlation 0 and no gradient; so has every class in a batch of
    one.

    Args:
        student_logits: (..., K) floating point; all axes but the last count as examples.
        teacher_logits: (..., K) floating point; they receive no gradient.
        temperature: T > 0.
        mask: (...) bool, False for padding.

    Returns:
        A scalar in [0, 2].

    Raises:
        InputError: if shapes disagree, or the temperature is not above 0.

    Example:
        >>> intra_class(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.tensor([[5.0, 6.0], [5.0, 7.0]])).abs().round()
        tensor(0.)

    Reference:
        Huang et al. (2022), arXiv:2205.10536.
    """
    scaled = _scaled(student_logits, teacher_logits, temperature)
    if mask is not None:
        check_mask(mask, student_logits.shape[:-1])
        scaled = scaled[0][mask], scaled[1][mask]
    log_q, log_p = (F.log_softmax(rows, -1).reshape(-1, student_logits.shape[-1]) for rows in scaled)
    return column_loss(log_q, log_p)


@checked
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    inter_weight: float = 2.0,
    intra_weight: float = 2.0,
    tau_squared: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute inter_weight·(inter-class loss) + intra_weight·(intra-class loss), the soft part of DIST.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        temperature: T > 0.
        inter_weight: β of the paper; finite, not negative.
        intra_weight: γ of the paper; finite, not negative.
        tau_squared: multiply by T², as the paper's published code does.  The paper's text does not, and the gradient
            does not need it.
        mask: (...) bool, False for padding.

    Returns:
        A scalar.

    Raises:
        InputError: if shapes disagree, a value is out of range, or both weights are 0.

    Example:
        >>> logits = torch.randn(8, 10)
        >>> dist(3.0 * logits + 1.0, logits, temperature=1e4) < 1e-3
        tensor(True)

    Reference:
        Huang et al. (2022), "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536.
    """
    checks.non_negative("inter_weight", inter_weight)
    checks.non_negative("intra_weight", intra_weight)
    checks.some_weight({"inter_weight": inter_weight, "intra_weight": intra_weight})
    inter = inter_class(student_logits, teacher_logits, temperature=temperature, mask=mask)
    intra = intra_class(student_logits, teacher_logits, temperature=temperature, mask=mask)
    factor = temperature * temperature if tau_squared else 1.0
    return factor * (inter_weight * inter + intra_weight * intra)


def row_loss(scaled: Tensor, log_p: Tensor) -> Tensor:
    """Return 1 - correlation of softmax(scaled) and p over the classes, (..., K) -> (...); p is a constant.

    A class that is -inf in both is no class.
    """
    return logspace.rows(scaled, log_p, _over_classes)


def column_loss(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Return 1 - correlation of each column of two tables of log-probabilities (n, K), mean over the columns.

    A column that is -inf in both tables throughout is no class; with n = 0 the loss is 0.  log_p is a constant.
    """
    if not len(log_q):
        return log_q.exp().sum()
    each = logspace.rows(log_q.t(), log_p.t(), _over_examples)
    return reduce(each, _present(log_q, log_p).any(0), "mean")


def _over_classes(log_a: Tensor, log_b: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    present = _present(log_a, log_b).to(log_a.dtype)
    return _apart(_row(log_a, present), _row(log_b, present), wanted)


def _over_examples(log_a: Tensor, log_b: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    return _apart(_row(log_a, None), _row(log_b, None), wanted)


class _Row(NamedTuple):
    """Rows without their mean and of length 1, (..., M).

    flat: (..., 1), whether a row has no spread, up to rounding; its direction is then 0.
    weight: (..., M), the rows themselves over the length that they have without their mean.
    """

    direction: Tensor
    flat: Tensor
    weight: Tensor


def _apart(a: _Row, b: _Row, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return 1 - Pearson's correlation r of each row of a and b, (...): ½·Σ (â - b̂)².

    Its derivative by log a is -(a/|a - mean a|)·(b̂ - r·â).  A row without spread has correlation 0 and no gradient.
    """
    difference, flat = a.direction - b.direction, a.flat | b.flat
    half = 0.5 * difference.square().sum(-1, keepdim=True)
    value = torch.where(flat, 1.0 + 0.0 * half, half).squeeze(-1)  # NaN of the other row stays
    return value, a.weight * (difference - half * a.direction) * ~flat if wanted else None


def _row(logs: Tensor, present: Tensor | None) -> _Row:
    """Read rows of logarithms (..., M).  present: 1 for the classes of a row that exist and 0 for others; None for all.

    A correlation does not depend on the scale of a row, so that each is divided by its largest value in log space:
    neither the values nor their spread can vanish.
    """
    largest = logs.detach().amax(-1, keepdim=True)
    logs = logs - torch.where(torch.isneginf(largest), 0.0, largest)
    below = logs.expm1()  # of the largest value, which is 1
    if present is None:
        centred = below - below.mean(-1, keepdim=True)
    else:
        below = below * present
        mean = below.sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp_min(1)
        centred = (below - mean) * present
    spread = centred.detach().abs().amax(-1, keepdim=True)
    flat = spread <= 8 * torch.finfo(logs.dtype).eps
    unit = centred / torch.where(flat, torch.inf, spread)
    length = torch.where(flat, 1.0, unit.square().sum(-1, keepdim=True)).sqrt()
    return _Row(unit / length, flat, logs.exp() / (torch.where(flat, torch.inf, spread) * length))


def _present(log_q: Tensor, log_p: Tensor) -> Tensor:
    return ~(torch.isneginf(log_q) & torch.isneginf(log_p))


def _scaled(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    checks.positive("temperature", temperature)
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    student, teacher = compute_dtype(student_logits), compute_dtype(teacher_logits.detach())
    return student / temperature, teacher / temperature
