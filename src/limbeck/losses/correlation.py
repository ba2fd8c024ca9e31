"""Pearson's correlation between what student and teacher say: over the classes of an example, over examples of a class.

DIST (Huang et al. 2022) asks the student for the teacher's relations instead of its probabilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.losses.reduction import Reduction, check_mask, compute_dtype, reduce

__all__ = ["column_loss", "dist", "inter_class", "intra_class", "row_loss"]


def inter_class(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute 1 - Pearson's correlation of p̃ and q̃ over the classes of each example (Huang et al. 2022).

    Both logits: (..., K).  An example whose student or teacher gives all classes the same has correlation 0 and no
    gradient.  The gradient does not shrink as the temperature grows.

    >>> logits = torch.tensor([[1.0, 2.0, 4.0]])
    >>> float(inter_class(10 * logits, logits, temperature=1000.0)) < 1e-3
    True
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    return reduce(row_loss(log_q, log_p), mask, reduction)


def intra_class(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Compute 1 - Pearson's correlation of p̃_i and q̃_i over the examples of a batch, mean over classes i.

    Both logits: (..., K); all axes but the last count as examples.  mask: (...) bool, False where there is none.
    It relates the examples of a batch to each other: the loss of a batch is not the mean over its parts.  A class whose
    probability is the same in all examples has correlation 0 and no gradient; so have all classes of a single example.

    >>> intra_class(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.tensor([[5.0, 6.0], [5.0, 7.0]])).abs().round()
    tensor(0.)
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    if mask is not None:
        check_mask(mask, log_q.shape[:-1])
        log_q, log_p = log_q[mask], log_p[mask]
    return column_loss(log_q.reshape(-1, log_q.shape[-1]), log_p.reshape(-1, log_p.shape[-1]))


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
    """Compute inter_weight·(inter-class loss) + intra_weight·(intra-class loss), the soft part of DIST (Huang 2022).

    Both logits: (..., K).  inter_weight, intra_weight: β and γ of the paper.  tau_squared: multiply by T², as the
    paper's published code does; its text does not, and the gradient does not need it.

    >>> logits = torch.randn(8, 10)
    >>> dist(3.0 * logits + 1.0, logits, temperature=1e4) < 1e-3
    tensor(True)
    """
    checks.non_negative("inter_weight", inter_weight)
    checks.non_negative("intra_weight", intra_weight)
    inter = inter_class(student_logits, teacher_logits, temperature=temperature, mask=mask)
    intra = intra_class(student_logits, teacher_logits, temperature=temperature, mask=mask)
    factor = temperature * temperature if tau_squared else 1.0
    return factor * (inter_weight * inter + intra_weight * intra)


def row_loss(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Return 1 - correlation of each row of two tables of log-probabilities (..., K): (...)."""
    return 1.0 - _correlation(log_q.exp(), log_p.exp(), _present(log_q, log_p))


def column_loss(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Return 1 - correlation of each column of two tables of log-probabilities (n, K), mean over the columns.

    A column that is -inf in both tables throughout is no class; with n = 0 the loss is 0.
    """
    if not len(log_q):
        return log_q.exp().sum()
    present = _present(log_q, log_p).any(0)
    everywhere = torch.ones_like(log_q.t(), dtype=torch.bool)
    return reduce(1.0 - _correlation(log_q.exp().t(), log_p.exp().t(), everywhere), present, "mean")


def _correlation(a: Tensor, b: Tensor, present: Tensor) -> Tensor:
    """Return Pearson's correlation of each row of a with that of b (..., M) over what is present: (...).

    A row without spread, up to rounding, has correlation 0 and no gradient.
    """
    a, b = _centred(a, present), _centred(b, present)
    squares = (a * a).sum(-1) * (b * b).sum(-1)
    defined = squares > 0
    return torch.where(defined, (a * b).sum(-1) / torch.where(defined, squares, 1.0).sqrt(), 0.0)


def _centred(rows: Tensor, present: Tensor) -> Tensor:
    """Return rows without their mean, scaled to a largest value of 1; zeros where only rounding would be left."""
    rows = torch.where(present, rows, 0.0)
    mean = rows.sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp_min(1)
    centred = torch.where(present, rows - mean, 0.0)
    spread, size = (each.detach().abs().amax(-1, keepdim=True) for each in (centred, rows))
    flat = spread <= 8 * torch.finfo(rows.dtype).eps * size
    return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, spread))


def _present(log_q: Tensor, log_p: Tensor) -> Tensor:
    return ~(torch.isneginf(log_q) & torch.isneginf(log_p))


def _log_probs(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    checks.positive("temperature", temperature)
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    student, teacher = compute_dtype(student_logits), compute_dtype(teacher_logits.detach())
    return F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
