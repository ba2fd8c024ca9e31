"""A teacher's features made by a learned module out of the student's: SimKD, SRRL, MGD, VkD."""

import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.losses.hints import hint
from limbeck.losses.maps import require_axes, same_shape
from limbeck.losses.reduction import Reduction, reduce

__all__ = ["mgd", "simkd", "srrl", "vkd"]


@checked
def simkd(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute mean (r(F) - G)² over all axes of an example, the loss of a student with its teacher's classifier.

    Args:
        student: r(F), what the student's projector gives, (N, ...) floating point.
        teacher: G, of the same shape; it receives no gradient.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        Squared units of the features: a scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the shapes disagree.

    Example:
        >>> simkd(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
        tensor(2.)

    Reference:
        Chen et al. (2022), "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001.
    """
    return hint(student, teacher, reduction=reduction)


@checked
def srrl(
    student: Tensor, teacher: Tensor, student_answers: Tensor, teacher_answers: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Compute mean (r(f) - g)² over the features + mean (W_T·r(f) + b_T - v)² over the classes.

    Args:
        student: r(f), the student's features as its projection gives them, (N, d) floating point.
        teacher: g, (N, d); they receive no gradient.
        student_answers: W_T·r(f) + b_T, what the teacher's classifier says of them, (N, K).
        teacher_answers: v, (N, K); they receive no gradient.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree.

    Example:
        >>> srrl(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 3), torch.full((1, 3), 3.0))
        tensor(5.)

    Reference:
        Yang et al. (2021), "Knowledge Distillation via Softmax Regression Representation Learning", ICLR.
    """
    features = simkd(student, teacher, reduction=reduction)
    return features + simkd(student_answers, teacher_answers, reduction=reduction)


@checked
def mgd(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute Σ (generated - G)², the sum over channels and positions of masked generative distillation.

    Args:
        student: what the generator makes of the student's masked map, (N, C, H, W) floating point.
        teacher: G, of the same shape; it receives no gradient.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        Squared units of the features, summed over an example: a scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the shapes disagree.

    Example:
        >>> mgd(torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2))
        tensor(8.)

    Reference:
        Yang et al. (2022), "Masked Generative Distillation", arXiv:2205.01529.
    """
    student, teacher = same_shape(student, teacher)
    return reduce((student - teacher).square().flatten(1).sum(1), None, reduction)


@checked
def vkd(student: Tensor, teacher: Tensor, *, delta: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Compute smooth L1 between projected features and the teacher's, which are standardised over their numbers.

    The teacher's vector has its mean subtracted and is divided by √(its variance + 1e-5), as a layer norm without
    weights does.  The value is a mean over the d numbers.

    Args:
        student: W·f with W orthonormal, (N, d) floating point.
        teacher: g, (N, d); it receives no gradient.
        delta: δ > 0, the difference up to which the loss is quadratic.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the shapes disagree or are no vectors, or delta is not above 0.

    Example:
        >>> vkd(torch.tensor([[-1.0, 1.0]]), torch.tensor([[2.0, 8.0]])) < 1e-6
        tensor(True)

    Reference:
        Miles, Elezi & Deng (2024), "V_kD: Improving Knowledge Distillation using Orthogonal Projections",
        arXiv:2403.06213.
    """
    checks.positive("delta", delta)
    student, teacher = same_shape(student, teacher)
    require_axes("student", student, 2, "a vector for each example, (N, d); name a layer behind the pooling")
    target = F.layer_norm(teacher, teacher.shape[1:])
    return reduce(F.smooth_l1_loss(student, target, reduction="none", beta=delta).mean(1), None, reduction)
