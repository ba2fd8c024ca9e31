"""Decoupled distillation: the true class against the rest, and the rest among itself (Zhao et al. 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.logspace import mean_difference
from limbeck.losses.reduction import Reduction, check_labels, check_mask, compute_dtype, reduce

__all__ = ["dkd"]


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
    """Compute T²·(α·KL(b^p ‖ b^q) + β·KL(p̂ ‖ q̂)), the soft part of DKD (Zhao et al. 2022).

    b = (p̃_t, 1-p̃_t) splits the true class t from the rest, and p̂ = p̃_i/(1-p̃_t), i ≠ t, is the rest among itself.
    Both logits: (..., K).  labels: (...) int64, `UNLABELLED` (-100) where there is none, which counts nowhere.
    alpha, beta: weights of the two parts, finite and not negative; beta may be a tensor (...), one for each example.
    With α = 1 and β = 1-p̃_t it is T²·KL(p̃ ‖ q̃).  1-p̃_t is summed in log space, so that it is never 0.

    >>> student, teacher = torch.randn(8, 10), torch.randn(8, 10)
    >>> labels = torch.randint(10, (8,))
    >>> rest = 1 - (teacher / 4).softmax(-1).gather(1, labels[:, None]).squeeze(1)
    >>> from limbeck.losses import kl
    >>> torch.isclose(dkd(student, teacher, labels, beta=rest), 16 * kl(student, teacher, temperature=4.0))
    tensor(True)
    """
    checks.positive("temperature", temperature)
    checks.non_negative("alpha", alpha)
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    labelled = _labelled(labels, student_logits)
    if mask is not None:
        check_mask(mask, labels.shape)
        labelled = labelled & mask
    beta = _beta(beta, labels, labelled)
    true = torch.where(labelled, labels, 0).unsqueeze(-1)
    target_q, rest_q = _decoupled(student_logits, true, temperature)
    target_p, rest_p = _decoupled(teacher_logits.detach(), true, temperature)
    per_example = alpha * mean_difference(target_p, target_p, target_q) + beta * mean_difference(rest_p, rest_p, rest_q)
    return temperature * temperature * reduce(per_example, labelled, reduction)


def _decoupled(logits: Tensor, true: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log (p̃_t, 1-p̃_t), shaped (..., 2), and log p̂ (..., K), -inf at the true class."""
    scaled = compute_dtype(logits) / temperature
    log_probs = F.log_softmax(scaled, dim=-1)
    absent = torch.isneginf(scaled).scatter(-1, true, True)
    alone = absent.all(-1, keepdim=True)  # one class, or no other that there could be
    total = torch.logsumexp(torch.where(alone, 0.0, torch.where(absent, -torch.inf, log_probs)), -1, keepdim=True)
    among = F.log_softmax(torch.where(alone, 0.0, torch.where(absent, -torch.inf, scaled)), dim=-1)
    among = torch.where(alone, -torch.inf, among)
    own = log_probs.gather(-1, true)
    return torch.cat([own, torch.where(alone, -torch.inf, total)], -1), among


def _labelled(labels: Tensor, logits: Tensor) -> Tensor:
    check_labels(labels, logits.shape[:-1])
    labelled = labels != UNLABELLED
    known = labels[labelled]
    if not labels.is_cuda and known.numel() and not 0 <= int(known.min()) <= int(known.max()) < logits.shape[-1]:
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
