"""Gradients of what networks say by their inputs, and how far those of student and teacher are apart."""

from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import same_shape, unit_difference
from limbeck.losses.reduction import Reduction, reduce

__all__ = ["input_gradient", "vector_jacobian"]


@checked
def vector_jacobian(outputs: Tensor, inputs: Tensor, cotangents: Tensor, *, differentiable: bool = True) -> Tensor:
    """Compute Jᵀc of each example, the gradient of c·output by its input, for several c.

    The outputs are summed over the batch, not averaged, so that each example has its own gradient.  Where batch
    normalisation uses the statistics of the batch, examples depend on each other and the gradient has their share.

    Args:
        outputs: (N, ...), made from the inputs in a graph.
        inputs: (N, ...), which require a gradient.
        cotangents: c, (V, N, ...) of the outputs' shape.
        differentiable: whether the result can be differentiated again, by the weights of a network.

    Returns:
        (V, N, ...) of the inputs' shape.

    Raises:
        InputError: if the shapes do not fit, or the outputs do not depend on the inputs.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> vector_jacobian(x * x, x, torch.ones(1, 1, 2))
        tensor([[[2., 4.]]], grad_fn=<StackBackward0>)

    Reference:
        Srinivas & Fleuret (2018), "Knowledge Transfer with Jacobian Matching", arXiv:1803.00443.
    """
    if cotangents.shape[1:] != outputs.shape or not len(cotangents):
        shape = ", ".join(map(str, outputs.shape))
        raise InputError(f"cotangents: found {tuple(cotangents.shape)}, expected (V, {shape}) with V above 0")
    if not inputs.requires_grad or not outputs.requires_grad:
        raise InputError("inputs: found a tensor without gradient, expected inputs.requires_grad_() before the forward")
    found = []
    last = len(cotangents) - 1
    for number, cotangent in enumerate(cotangents):
        (gradient,) = torch.autograd.grad(
            outputs,
            inputs,
            cotangent.to(outputs.dtype),
            create_graph=differentiable,
            retain_graph=differentiable or number < last,
            allow_unused=True,
        )
        if gradient is None:
            raise InputError("outputs: found no dependence on the inputs, expected outputs of these inputs")
        found.append(gradient)
    return torch.stack(found)


@checked
def input_gradient(
    student: Tensor,
    teacher: Tensor,
    *,
    normalise: bool = False,
    over: Literal["mean", "sum"] = "mean",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute ‖J_S - J_T‖² per example, summed over the inputs, and the mean or sum over several gradients of it.

    With `normalise` each J is divided by its norm over the inputs: 2 - 2·cos; an
    example whose gradient is all zeros, in either, has value 0.  For
    gradients Jᵀv of V unit vectors v, the mean over v estimates ‖J_S - J_T‖_F²/K; for the K unit vectors of the axes
    the sum is ‖J_S - J_T‖_F² itself.

    Args:
        student: (V, N, ...) floating point, as `vector_jacobian` gives it.
        teacher: (V, N, ...) of the same shape; it receives no gradient.
        normalise: compare directions alone.
        over: "mean" or "sum" over the V gradients.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree or an option is unknown.

    Example:
        >>> input_gradient(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]]), normalise=True)
        tensor(2.)

    Reference:
        Srinivas & Fleuret (2018), arXiv:1803.00443; Czarnecki et al. (2017), "Sobolev Training for Neural Networks",
        arXiv:1706.04859; Zagoruyko & Komodakis (2017), arXiv:1612.03928, for the gradient of the loss.
    """
    checks.choice("over", over, ("mean", "sum"))
    checks.shapes_match("student", student.shape, "teacher", teacher.shape)
    if student.dim() < 3 or not len(student):
        raise InputError(f"student: found shape {tuple(student.shape)}, expected (V, N, ...) with V above 0")
    student, teacher = same_shape(student.flatten(2), teacher.flatten(2))
    difference = unit_difference(student, teacher) if normalise else student - teacher
    square = difference.square().sum(2)
    return reduce(square.mean(0) if over == "mean" else square.sum(0), None, reduction)
