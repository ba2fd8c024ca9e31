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
from limbeck.losses.fused.one_pass import Backend, in_one_pass
from limbeck.losses.fused.parts import Soft, parts_of_kd
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

    Args:
        logits: (..., K) floating point.
        labels: (...) int64 in [0, K), or `UNLABELLED` (-100), which is not counted.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Nats: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree or a label is out of range (on a GPU, a device-side assertion).

    Example:
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
    backend: Backend = "auto",
) -> Tensor:
    """Compute H(p̃, q̃) = -Σ p̃ log q̃, with p̃ = softmax(teacher/T) and q̃ = softmax(student/T).

    It equals H(p̃), not 0, when student and teacher agree.  It has the same gradient as `kl`, without the factor T².

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        temperature: T > 0.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".
        backend: as for `kd`; "none" is always computed plainly.

    Returns:
        Nats: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or the temperature is not above 0.

    Example:
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor(0.6931)

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """
    return _divergence(CROSS_ENTROPY, student_logits, teacher_logits, temperature, mask, reduction, backend)


@checked
def kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute KL(p̃ ‖ q̃), with p̃ = softmax(teacher/T) and q̃ = softmax(student/T).

    The factor T² is not included; `kd` applies it.  The gradient with respect to the student's logits is (q̃ - p̃)/T.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        temperature: T > 0.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".
        backend: as for `kd`; "none" is always computed plainly.

    Returns:
        Nats: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or the temperature is not above 0.

    Example:
        >>> logits = torch.randn(8, 10)
        >>> kl(logits, logits, temperature=4.0)
        tensor(0.)

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """
    return _divergence(KL, student_logits, teacher_logits, temperature, mask, reduction, backend)


@checked
def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute KL(q̃ ‖ p̃), with p̃ = softmax(teacher/T) and q̃ = softmax(student/T).

    The factor T² is not included; `REVERSE_KL` declares it.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        temperature: T > 0.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".
        backend: as for `kd`; "none" is always computed plainly.

    Returns:
        Nats: a scalar, or (...) with ``reduction="none"``; infinite where a class is -inf for the teacher alone.

    Raises:
        InputError: if shapes disagree, or the temperature is not above 0.

    Example:
        >>> reverse_kl(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]))
        tensor(0.4338)

    Reference:
        Gu et al. (2024), "MiniLLM: Knowledge Distillation of Large Language Models", arXiv:2306.08543.
    """
    return _divergence(REVERSE_KL, student_logits, teacher_logits, temperature, mask, reduction, backend)


@checked
def js(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute JSD_β = β·KL(p̃ ‖ m) + (1-β)·KL(q̃ ‖ m), where m = β·p̃ + (1-β)·q̃.

    The factor T² is not included; `jensen_shannon` declares it.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        beta: β in (0, 1).  JSD_β/β → KL(p̃ ‖ q̃) as β → 0, and JSD_β/(1-β) → KL(q̃ ‖ p̃) as β → 1.
        temperature: T > 0.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".
        backend: as for `kd`; "none" is always computed plainly.

    Returns:
        Nats: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, the temperature is not above 0, or β is not in (0, 1).

    Example:
        >>> js(torch.tensor([[0.0, 100.0]]), torch.tensor([[100.0, 0.0]]))
        tensor(0.6931)

    Reference:
        Agarwal et al. (2024), arXiv:2306.13649.
    """
    return _divergence(jensen_shannon(beta), student_logits, teacher_logits, temperature, mask, reduction, backend)


@checked
def skewed_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute KL(p̃ ‖ a·p̃ + (1-a)·q̃), where a is `skew`.

    The factor T² is not included; `skewed` declares it.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        skew: a in [0, 1); 0 gives KL.
        temperature: T > 0.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".
        backend: as for `kd`; "none" is always computed plainly.

    Returns:
        Nats, at most log(1/a): a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, the temperature is not above 0, or the skew is not in [0, 1).

    Example:
        >>> skewed_kl(torch.tensor([[0.0, 100.0]]), torch.tensor([[100.0, 0.0]]), skew=0.5)
        tensor(0.6931)

    Reference:
        Lee (1999), "Measures of Distributional Similarity"; Ko et al. (2024), arXiv:2402.03898.
    """
    return _divergence(skewed(skew), student_logits, teacher_logits, temperature, mask, reduction, backend)


@checked
def total_variation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute ½·Σ |p̃ - q̃|, with p̃ = softmax(teacher/T) and q̃ = softmax(student/T).

    The factor T is not included; `TOTAL_VARIATION` declares it.  The gradient of |p̃ - q̃| is 0 where p̃ = q̃.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        temperature: T > 0.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".
        backend: as for `kd`; "none" is always computed plainly.

    Returns:
        A number in [0, 1], or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or the temperature is not above 0.

    Example:
        >>> total_variation(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]))
        tensor(0.3808)

    Reference:
        Wen et al. (2023), "f-Divergence Minimization for Sequence-Level Knowledge Distillation", arXiv:2307.15190.
    """
    return _divergence(TOTAL_VARIATION, student_logits, teacher_logits, temperature, mask, reduction, backend)


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
    backend: Backend = "auto",
) -> Tensor:
    """Compute hard_weight·H(y, q) + soft_weight·T²·KL(p̃ ‖ q̃), the distillation loss with the factor T².

    Each term is the mean over the examples that it counts: labelled ones for the hard term, all unmasked ones for the
    soft term.  A term of weight 0 is not computed.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        labels: (...) int64 in [0, K), or `UNLABELLED` (-100).  Without labels only the soft term is computed.
        temperature: T > 0.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: weight of the hard term, instead of `alpha`; not negative.
        soft_weight: weight of the soft term, instead of `alpha`; not negative.
        mask: (...) bool, False for padding.
        backend: "auto" computes value and gradient of large logits in one pass (see `losses.fused.joint`), which has no
            second derivative, and smaller ones in few calls where every row counts; "plain" is the formulas of `kl` and
            `cross_entropy`, which all others agree with; "native" (a kernel in
            C), "eager", "compile" and "triton" are one pass by that back end.

    Returns:
        A scalar in nats.

    Raises:
        InputError: if shapes disagree, a value is out of range, `alpha` is given beside a weight, or nothing is left to
            compute.

    Example:
        >>> student, teacher = torch.randn(8, 10), torch.randn(8, 10)
        >>> soft_only = kd(student, teacher, temperature=4.0, soft_weight=1.0)
        >>> torch.isclose(soft_only, 16 * kl(student, teacher, temperature=4.0))
        tensor(True)

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """
    hard_weight, soft_weight = kd_weights(alpha, hard_weight, soft_weight)
    checks.positive("temperature", temperature)
    weights = hard_weight, soft_weight
    parts = parts_of_kd(teacher_logits, labels, weights, temperature=temperature, mask=mask)
    if (found := in_one_pass(student_logits, parts, backend)) is not None:
        return found[0]
    if soft_weight == 0:
        assert labels is not None
        return hard_weight * cross_entropy(student_logits, labels, mask=mask)
    soft = kl(student_logits, teacher_logits, temperature=temperature, mask=mask, backend="plain")
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
    """Compute ½·Σ_i (z_i - v_i)²/K, the squared distance between the student's logits z and the teacher's v.

    A class that is -inf in both (a padded vocabulary) counts neither in the sum nor in K.

    Args:
        student_logits: (..., K) floating point.
        teacher_logits: (..., K) floating point; they receive no gradient.
        zero_mean: subtract the mean over the classes from both first.  This is the limit of T²·KL for high
            temperatures.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Squared logits: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree.

    Example:
        >>> logit_matching(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
        tensor(1.)

    Reference:
        Bucila, Caruana & Niculescu-Mizil (2006), "Model Compression"; Ba & Caruana (2014), arXiv:1312.6184; Hinton,
        Vinyals & Dean (2015), section 2.1, arXiv:1503.02531.
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
    backend: Backend,
) -> Tensor:
    checks.positive("temperature", temperature)
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    if reduction != "none":
        coefficient = 1.0 / divergence.factor(temperature)
        part = Soft(teacher_logits, temperature, divergence, coefficient, mask, mean=reduction == "mean")
        if (found := in_one_pass(student_logits, [part], backend, small=False)) is not None:
            return found[0]
    target = soften(teacher_logits, temperature)
    return reduce(divergence.per_example(student_logits, target, temperature), mask, reduction)
