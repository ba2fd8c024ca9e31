"""Decoupled distillation: the true class against the rest, and the rest among itself (Zhao et al. 2022)."""

from typing import NamedTuple

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.devices import on_accelerator
from limbeck.errors import InputError
from limbeck.losses import logspace
from limbeck.losses.reduction import Reduction, check_labels, check_mask, compute_dtype, only_counted, reduce

__all__ = ["dkd"]


@checked
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float | Tensor = 8.0,
    temperature: float = 4.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute T²·(α·KL(b^p ‖ b^q) + β·KL(p̂ ‖ q̂)), the soft part of DKD.

    b = (p̃_t, 1-p̃_t) splits the true class t from the other classes; p̂ = p̃_i/(1-p̃_t), i ≠ t, is the distribution
    over the other classes.  With α = 1 and β = 1-p̃_t the loss is T²·KL(p̃ ‖ q̃).  1-p̃_t is summed in log space and
    never rounds to 0.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        labels: (...) int64 in [0, K), or `UNLABELLED` (-100), which is not counted.
        alpha: α, weight of the true class against the rest; finite, not negative.
        beta: β, weight of the other classes; finite, not negative.  A number, or a tensor (...) with one weight an
            example.
        temperature: T > 0.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Nats: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, a label or value is out of range, or both weights are 0.

    Example:
        >>> student, teacher = torch.randn(8, 10), torch.randn(8, 10)
        >>> labels = torch.randint(10, (8,))
        >>> rest = 1 - (teacher / 4).softmax(-1).gather(1, labels[:, None]).squeeze(1)
        >>> from limbeck.losses import kl
        >>> torch.isclose(dkd(student, teacher, labels, beta=rest), 16 * kl(student, teacher, temperature=4.0))
        tensor(True)

    Reference:
        Zhao et al. (2022), "Decoupled Knowledge Distillation", arXiv:2203.08679.
    """
    checks.positive("temperature", temperature)
    checks.non_negative("alpha", alpha)
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    labelled = _labelled(labels, student_logits, mask)
    beta = _beta(beta, labels, labelled)
    if not isinstance(beta, Tensor):
        checks.some_weight({"alpha": alpha, "beta": beta})
    true = torch.where(labelled, labels, 0).unsqueeze(-1)
    student = _decoupled(only_counted(student_logits, labelled), true, temperature)
    teacher = _decoupled(only_counted(teacher_logits.detach(), labelled), true, temperature)
    split = logspace.rows(student.split, torch.log_softmax(teacher.split, -1), logspace.kl)
    among = logspace.rows(student.rest, torch.log_softmax(teacher.rest, -1), logspace.kl)
    among = torch.where(teacher.alone, 0.0, torch.where(student.alone, torch.inf, among))
    return temperature * temperature * reduce(_weighted(alpha, split) + _weighted(beta, among), labelled, reduction)


def _weighted(weight: float | Tensor, part: Tensor) -> Tensor:
    """Return weight·part; a part of weight 0 does not count, even if it is infinite."""
    if isinstance(weight, Tensor):
        return torch.where(weight == 0, 0.0, weight * part)
    return weight * part if weight else torch.zeros_like(part)


class _Decoupled(NamedTuple):
    """Logits of (the true class, all the others together), (..., 2), and of the others among themselves, (..., K).

    alone: (...), where there is no other class; the logits of the others are then all 0.
    """

    split: Tensor
    rest: Tensor
    alone: Tensor


def _decoupled(logits: Tensor, true: Tensor, temperature: float) -> _Decoupled:
    scaled = compute_dtype(logits) / temperature
    absent = torch.isneginf(scaled).scatter(-1, true, True)
    alone = absent.all(-1, keepdim=True)  # one class, or no other that there could be
    others = torch.where(alone, 0.0, torch.where(absent, -torch.inf, scaled))
    together = torch.where(alone, -torch.inf, others.logsumexp(-1, keepdim=True))
    return _Decoupled(torch.cat([scaled.gather(-1, true), together], -1), others, alone.squeeze(-1))


def _labelled(labels: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return which examples have a label and are no padding."""
    check_labels(labels, logits.shape[:-1])
    labelled = labels != UNLABELLED
    if mask is not None:
        check_mask(mask, labels.shape)
        labelled = labelled & mask
    if on_accelerator(labels):  # to look at them would wait for the device
        return labelled
    known = labels[labelled]
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < logits.shape[-1]:
        raise InputError(
            f"labels: found {int(known.min())} to {int(known.max())}, expected 0 to {logits.shape[-1] - 1} "
            f"for logits of {logits.shape[-1]} classes (or {UNLABELLED})"
        )
    return labelled


def _beta(beta: float | Tensor, labels: Tensor, labelled: Tensor) -> float | Tensor:
    if not isinstance(beta, Tensor):
        checks.non_negative("beta", beta)
        return beta
    checks.shapes_match("beta", beta.shape, "labels", labels.shape)
    return torch.where(labelled, compute_dtype(beta), 0.0)
