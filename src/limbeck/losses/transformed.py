"""A teacher's distribution to a power, and how much that says of an example."""

import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.losses.distillation import kl
from limbeck.losses.reduction import Reduction, compute_dtype, only_counted, reduce

__all__ = ["wttm"]


@checked
def wttm(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    gamma: float = 0.1,
    weighted: bool = True,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute transformed teacher matching, (Σ_k p_k^γ)·KL(P ‖ q), P = p^γ/Σ p^γ.

    P is the teacher's distribution at temperature 1/γ, and q the student's at temperature 1: the student alone is not
    softened.  The factor gives an example more weight the less sure the teacher is; without it, it is TTM.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        gamma: γ > 0.
        weighted: multiply by Σ p^γ, which lies between 1 and K^(1 - γ) for γ ≤ 1.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Nats: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or gamma is not above 0.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0, -1.0]])
        >>> wttm(0.5 * logits, logits, gamma=0.5).abs() < 1e-6
        tensor(True)

    Reference:
        Zheng & Yang (2024), "Knowledge Distillation Based on Transformed Teacher Matching", arXiv:2402.11148.
    """
    checks.positive("gamma", gamma)
    log_p = F.log_softmax(only_counted(compute_dtype(teacher_logits.detach()), mask), -1)
    each = kl(student_logits, gamma * log_p, mask=mask, reduction="none")
    if weighted:
        each = each * (gamma * log_p).logsumexp(-1).exp()
    return reduce(each, mask, reduction)
