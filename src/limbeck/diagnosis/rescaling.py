"""How distillation rescales the gradient of each example (Tang et al. 2020, section 3.2)."""

import torch
from torch import Tensor

from limbeck import checks
from limbeck.errors import InputError
from limbeck.evaluation.scores import chunks
from limbeck.losses.reduction import check_labels

__all__ = ["log_others", "rescaling_factor"]


def log_others(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log(1 - p_t), the log of what softmax(logits) gives to all classes but the label's: (n,).

    logits: (n, K).  labels: (n,) int64 in [0, K).  It is the sum over the others in log space, so that nothing is lost
    where p_t is 1 in floating point.

    >>> log_others(torch.tensor([[200.0, 0.0]], dtype=torch.float64), torch.tensor([0]))
    tensor([-200.], dtype=torch.float64)
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.logsumexp(1) - logits.logsumexp(1)


@torch.no_grad()
def rescaling_factor(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    hard_weight: float,
    soft_weight: float,
) -> Tensor:
    """Return by how much distillation rescales the gradient of each example: (n,) float64.

    For L = hard_weight·H(y, q) + soft_weight·T²·KL(p̃ ‖ q̃), with q = softmax(z), q̃ = softmax(z/T), p̃ = softmax(v/T) and
    the true class t,

        w = hard_weight + soft_weight·T·(q̃_t - p̃_t)/(q_t - 1) = Σ_{i≠t} ∂L/∂z_i / Σ_{i≠t} ∂H(y, q)/∂z_i

    (Tang et al. 2020, proposition 2, whose λ is soft_weight = 1 - hard_weight; the paper's λ/T is for a loss without
    T²).  Above 1 the example weighs more than under hard labels, below 0 it is pushed away from its label.

    student_logits, teacher_logits: (n, K), K ≥ 2.  labels: (n,) int64, each labelled.  Computed in float64 and in log
    space, exact also where q_t rounds to 1; infinite where the factor is beyond float64.

    >>> teacher = torch.tensor([[5.0, 0.0], [0.5, 0.0]])  # sure of the first example, in doubt about the second
    >>> rescaling_factor(torch.zeros(2, 2), teacher, torch.tensor([0, 0]),
    ...     temperature=2.0, hard_weight=0.0, soft_weight=1.0)
    tensor([1.6966, 0.2487], dtype=torch.float64)
    """
    checks.positive("temperature", temperature)
    checks.non_negative("hard_weight", hard_weight)
    checks.non_negative("soft_weight", soft_weight)
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    if student_logits.dim() != 2 or student_logits.shape[1] < 2:
        raise InputError(f"student_logits: found shape {tuple(student_logits.shape)}, expected (n, K) with K ≥ 2")
    check_labels(labels, student_logits.shape[:1])
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < student_logits.shape[1]:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise InputError(f"labels: found {found}, expected 0 to {student_logits.shape[1] - 1}")
    pieces = [
        _factor(student_logits[rows].double(), teacher_logits[rows].double(), labels[rows], temperature)
        for rows in chunks(len(labels), student_logits.shape[1])
    ]
    soft = torch.cat(pieces) if pieces else student_logits.new_zeros(0, dtype=torch.float64)
    return hard_weight + soft_weight * temperature * soft


def _factor(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return (p̃_t - q̃_t)/(1 - q_t), as the difference of what student and target leave for the others."""
    rest = log_others(student, labels)
    answer, target = (log_others(each / temperature, labels) for each in (student, teacher))
    larger = torch.maximum(answer, target)
    difference = (answer - larger).exp() - (target - larger).exp()
    return torch.where(difference == 0, 0.0, difference * (larger - rest).exp())
