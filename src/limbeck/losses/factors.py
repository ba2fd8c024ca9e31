"""Factors of two maps: compact codes that are compared by their direction alone."""

from typing import Literal

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.losses.maps import both, require_axes, same_shape, unit_difference
from limbeck.losses.reduction import Reduction, reduce

__all__ = ["factor_transfer"]


@checked
def factor_transfer(
    student: Tensor,
    teacher: Tensor,
    *,
    of: Literal["factor", "attention"] = "factor",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute mean |φ(factor of the student) - φ(factor of the teacher)|, φ(x) = x/‖x‖ over an example.

    The mean is over the C·H·W numbers of a factor, at most 2/√(C·H·W).  A factor of zeros has φ = 0 and no gradient.

    Args:
        student: the translator's factor, (N, C, H, W) floating point.
        teacher: the paraphraser's factor, (N, C, H, W); it receives no gradient.
        of: "factor", as the paper's authors compute it, or "attention": φ of the factor's mean square over the
            channels, which RepDistiller computes under this name; then C may differ.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A number without unit: a scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the shapes disagree or are no maps, or `of` is unknown.

    Example:
        >>> factor = torch.randn(2, 4, 3, 3)
        >>> factor_transfer(5.0 * factor, factor) < 1e-6
        tensor(True)

    Reference:
        Kim, Park & Kwak (2018), "Paraphrasing Complex Network: Network Compression via Factor Transfer",
        arXiv:1802.04977.
    """
    checks.choice("of", of, ("factor", "attention"))
    student, teacher = both(student, teacher)
    require_axes("student", student, 4, "a factor (N, C, H, W)")
    if of == "attention":
        student, teacher = student.square().mean(1), teacher.square().mean(1)
    student, teacher = same_shape(student, teacher)
    difference = unit_difference(student.flatten(1), teacher.flatten(1))
    return reduce(difference.abs().mean(1), None, reduction)
