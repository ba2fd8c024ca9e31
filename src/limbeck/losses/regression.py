"""Losses on numbers instead of classes."""

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.reduction import Reduction, check_mask, compute_dtype, only_counted, reduce

__all__ = ["bounded_squared_error", "squared_error"]


@checked
def squared_error(
    student_answers: Tensor, labels: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Compute ½·Σ_d (z_d - y_d)²/D, half the mean squared error of an example.

    Its gradient with respect to the student's answer is (z - y)/D.

    Args:
        student_answers: z, (..., D) floating point.
        labels: y, (..., D) floating point.  An example with a NaN among its labels is not counted.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Squared label units: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or the labels are not floating point.

    Example:
        >>> squared_error(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
        tensor(1.)
    """
    labelled = _labelled(student_answers, labels, mask)
    return reduce(0.5 * _errors(student_answers, labels, labelled), labelled, reduction)


@checked
def bounded_squared_error(
    student_answers: Tensor,
    teacher_answers: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the teacher-bounded regression loss: ½·e(z) where e(z) + margin > e(v), otherwise 0.

    e(x) = Σ_d (x_d - y_d)²/D.  The teacher is a bound and not a target: an example on which the student is nearer to
    the label than the teacher, by the margin, has loss 0.

    Args:
        student_answers: z, (..., D) floating point.
        teacher_answers: v, (..., D) floating point; they receive no gradient.
        labels: y, (..., D) floating point.  An example with a NaN among its labels is not counted.
        margin: in squared label units; finite, not negative.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Squared label units: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, the labels are not floating point, or the margin is negative.

    Example:
        >>> student, teacher = torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0], [2.0]])
        >>> bounded_squared_error(student, teacher, torch.zeros(2, 1), reduction="none")
        tensor([4.5000, 0.0000])

    Reference:
        Chen et al. (2017), "Learning Efficient Object Detection Models with Knowledge Distillation", NeurIPS.
    """
    checks.non_negative("margin", margin)
    checks.shapes_match("student_answers", student_answers.shape, "teacher_answers", teacher_answers.shape)
    labelled = _labelled(student_answers, labels, mask)
    errors = _errors(student_answers, labels, labelled)
    bound = _errors(teacher_answers.detach(), labels, labelled)
    loss = torch.where(errors + margin > bound, 0.5 * errors, 0.0)
    known = (errors + bound).isfinite()  # NaN is above nothing, and nothing is above infinity
    return reduce(torch.where(known, loss, errors + bound), labelled, reduction)


def _labelled(answers: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    checks.shapes_match("answers", answers.shape, "labels", labels.shape)
    if not labels.is_floating_point():
        raise InputError(f"labels: found {labels.dtype}, expected floating point numbers to predict")
    labelled = ~labels.isnan().any(-1)
    if mask is not None:
        check_mask(mask, labelled.shape)
        labelled = labelled & mask
    return labelled


def _errors(answers: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
    """Return e of each example; 0 without a label."""
    answers = compute_dtype(only_counted(answers, labelled))
    difference = answers - only_counted(labels.to(answers.dtype), labelled)
    return (difference * difference).mean(-1)
