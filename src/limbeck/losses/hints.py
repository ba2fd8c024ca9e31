"""A hint: the teacher's feature itself, as a projection of the student's has to give it."""

from typing import Literal

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.losses.maps import same_shape
from limbeck.losses.reduction import Reduction, reduce

__all__ = ["hint"]


@checked
def hint(
    student: Tensor, teacher: Tensor, *, norm: Literal["mean", "half_sum"] = "mean", reduction: Reduction = "mean"
) -> Tensor:
    """Compute the squared error of the student's projected feature r(F) and the teacher's G.

    "mean" is mean (r(F) - G)² over all axes of an example, with the gradient 2(r(F) - G)/(C·H·W).  "half_sum" is the
    paper's ½·‖r(F) - G‖².  Neither normalises: the value grows with the square of the features' scale.

    Args:
        student: r(F), (N, ...) floating point.
        teacher: G, (N, ...) of the same shape.
        norm: "mean" or "half_sum".
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the shapes differ, or the norm is unknown.

    Example:
        >>> hint(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(5.)

    Reference:
        Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.
    """
    checks.choice("norm", norm, ("mean", "half_sum"))
    student, teacher = same_shape(student, teacher)
    squares = (student - teacher).square().flatten(1)
    return reduce(squares.mean(1) if norm == "mean" else 0.5 * squares.sum(1), None, reduction)
