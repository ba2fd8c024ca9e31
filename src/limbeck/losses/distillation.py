"""The losses one writes in a training loop: on hard labels, on soft targets, on both, and on the logits themselves."""

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.dense import soften
from limbeck.losses.divergences import (
    CROSS_ENTROPY,
    KL,
    REVERSE_KL,
    TOTAL_VARIATION,
    Divergence,
    jensen_shannon,
    skewed,
)
from limbeck.losses.reduction import Reduction, check_labels, check_mask, compute_dtype, only_counted, reduce
from limbeck.losses.weights import kd_weights

__all__ = [
    "cross_entropy",
    "js",
    "kd",
    "kl",
    "logit_matching",
    "reverse_kl",
    "skewed_kl",
    "soft_cross_entropy",
    "total_variation",
]


@checked
def cross_entropy(
    logits: Tensor, labels: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Compute H(y, q) = -log q_y, the loss on hard labels.

    logits: (..., K).  labels: (...) int64 in [0, K), or `UNLABELLED` (-100), which counts nowhere.
    mask: (...) bool, False where an example is padding.  Returns nats: a scalar, or (...) for reduction "none".
    Raises InputError when shapes disagree or a label is out of range (on a GPU, a device-side assertion).

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, -100]))
    tensor(1.3863)
    """
    check_labels(labels, logits.shape[:-1])
    if mask is not None:
        check_mask(mask, labels.shape)
        labels = torch.where(mask, labels, UNLABELLED)
    labelled = labels != UNLABELLED
    logits = compute_dtype(only_counted(logits, labelled))
    try:
        flat = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=UNLABELLED, reduction="none"
        )
    except IndexError:
        known = labels[labels != UNLABELLED]
        raise InputError(
            f"labels: found {int(known.min())} to {int(known.max())}, expected 0 to {logits.shape[-1] - 1} "
            f"for logits of {logits.shape[-1]} classes (or {UNLABELLED})"
        ) from None
    return reduce(flat.reshape(labels.shape), labelled, reduction)


@checked
def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute H(p̃, q̃) = -Σ p̃ log q̃, with p̃ = softmax(teacher/T) and q̃ = softmax(student/T).

    Both logits: (..., K).  No factor T²: `kd` applies it.  Equals H(p̃), not 0, when student and teacher agree.

    >>> soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor(0.6931)
    """
    return _divergence(CROSS_ENTROPY, student_logits, teacher_logits, temperature, mask, reduction)


@checked
def kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute KL(p̃ ‖ q̃), with p̃ = softmax(teacher/T) and q̃ = softmax(student/T).

    Both logits: (..., K).  No factor T²: `kd` applies it.  Its gradient with respect to the student is (q̃ - p̃)/T.

    >>> logits = torch.randn(8, 10)
    >>> kl(logits, logits, temperature=4.0)
    tensor(0.)
    """
    return _divergence(KL, student_logits, teacher_logits, temperature, mask, reduction)


@checked
def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute KL(q̃ ‖ p̃), with p̃ = softmax(teacher/T) and q̃ = softmax(student/T).

    Both logits: (..., K).  No factor T²: `REVERSE_KL` declares it.  It is infinite where a class is -inf for
    the teacher alone.

    >>> reverse_kl(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]))
    tensor(0.4338)
    """
    return _divergence(REVERSE_KL, student_logits, teacher_logits, temperature, mask, reduction)


@checked
def js(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute JSD_β = β·KL(p̃ ‖ m) + (1-β)·KL(q̃ ‖ m), where m = β·p̃ + (1-β)·q̃ (Agarwal et al. 2024).

    Both logits: (..., K).  beta: above 0 and below 1; JSD_β/β → KL(p̃ ‖ q̃) as β → 0, and JSD_β/(1-β) → KL(q̃ ‖ p̃) as
    β → 1.  No factor T²: `jensen_shannon` declares it.

    >>> js(torch.tensor([[0.0, 100.0]]), torch.tensor([[100.0, 0.0]]))
    tensor(0.6931)
    """
    return _divergence(jensen_shannon(beta), student_logits, teacher_logits, temperature, mask, reduction)


@checked
def skewed_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute KL(p̃ ‖ a·p̃ + (1-a)·q̃), a being `skew` (Lee 1999; Ko et al. 2024).

    Both logits: (..., K).  skew: in [0, 1); at 0 it is KL.  No factor T²: `skewed` declares it.

    >>> skewed_kl(torch.tensor([[0.0, 100.0]]), torch.tensor([[100.0, 0.0]]), skew=0.5)
    tensor(0.6931)
    """
    return _divergence(skewed(skew), student_logits, teacher_logits, temperature, mask, reduction)


@checked
def total_variation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute ½·Σ |p̃ - q̃|, in [0, 1], with p̃ = softmax(teacher/T) and q̃ = softmax(student/T).

    Both logits: (..., K).  No factor T: `TOTAL_VARIATION` declares it.  Where p̃ = q̃, the gradient of |p̃ - q̃| is
    taken as 0.

    >>> total_variation(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]))
    tensor(0.3808)
    """
    return _divergence(TOTAL_VARIATION, student_logits, teacher_logits, temperature, mask, reduction)


@checked
def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute hard_weight·H(y, q) + soft_weight·T²·KL(p̃ ‖ q̃) (Hinton, Vinyals & Dean 2015).

    Both logits: (..., K).  labels: (...) int64, `UNLABELLED` where there is none; without labels only the soft term.
    `alpha` is sugar: hard_weight = alpha, soft_weight = 1 - alpha; the default is alpha = 0.1.  Each term is the mean
    over what it counts: labelled examples for the hard one, all unmasked examples for the soft one.  A term of weight 0
    is not computed.  Returns a scalar.

    >>> student, teacher = torch.randn(8, 10), torch.randn(8, 10)
    >>> soft_only = kd(student, teacher, temperature=4.0, soft_weight=1.0)
    >>> torch.isclose(soft_only, 16 * kl(student, teacher, temperature=4.0))
    tensor(True)
    """
    hard_weight, soft_weight = kd_weights(alpha, hard_weight, soft_weight)
    checks.positive("temperature", temperature)
    if soft_weight == 0:
        if labels is None:
            raise InputError(
                "labels: found None, but soft_weight is 0, so that nothing is left; give labels or a soft_weight"
            )
        return hard_weight * cross_entropy(student_logits, labels, mask=mask)
    soft = kl(student_logits, teacher_logits, temperature=temperature, mask=mask)
    soft = soft_weight * KL.factor(temperature) * soft
    if labels is None or hard_weight == 0:
        return soft
    return hard_weight * cross_entropy(student_logits, labels, mask=mask) + soft


@checked
def logit_matching(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    zero_mean: bool = False,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute ½·Σ_i (z_i - v_i)²/K, the regression of the teacher's logits (Bucila 2006; Ba & Caruana 2014).

    Both logits: (..., K).  With `zero_mean`, the mean over the classes is taken out of both first, per example: the
    high-temperature limit of T²·KL (Hinton, Vinyals & Dean 2015, section 2.1).  A class that is -inf in both (a padded
    vocabulary) is no class: it counts neither in the sum nor in K.

    >>> logit_matching(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
    tensor(1.)
    """
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    student, teacher = (only_counted(logits, mask) for logits in (student_logits, teacher_logits.detach()))
    student, teacher = compute_dtype(student), compute_dtype(teacher)
    absent = torch.isneginf(student) & torch.isneginf(teacher)
    classes = (~absent).sum(-1, keepdim=True)
    difference = torch.where(absent, 0.0, student - teacher)
    if zero_mean:
        difference = torch.where(absent, 0.0, difference - difference.sum(-1, keepdim=True) / classes)
    return reduce(0.5 * (difference * difference).sum(-1) / classes.squeeze(-1), mask, reduction)


def _divergence(
    divergence: Divergence,
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    mask: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    target = soften(teacher_logits, temperature)
    return reduce(divergence.per_example(student_logits, target, temperature), mask, reduction)
