"""Rounding that learns: the gradients of quantised weights, learned steps and scores of pruned weights."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from limbeck import checks
from limbeck.arguments import checked
from limbeck.compress.pruning import check_weight, top_mask
from limbeck.errors import InputError

__all__ = ["first_step", "learned_steps", "movement", "straight_through"]


@checked
def straight_through(values: Tensor, scale: Tensor, zero: Tensor | None = None, *, lowest: int, highest: int) -> Tensor:
    """Compute s·(clamp(round(x/s) + z) - z) with the gradient 1 inside the range of the clamp and 0 outside.

    Args:
        values: x, floating point.
        scale: s, which broadcasts against x; it receives no gradient.
        zero: z, the code of 0; None for 0.
        lowest: the least code.
        highest: the greatest code.

    Returns:
        Values of x's shape.

    Raises:
        InputError: if the codes are no range.

    Example:
        >>> weight = torch.tensor([0.26, 5.0], requires_grad=True)
        >>> rounded = straight_through(weight, torch.tensor(0.5), lowest=-3, highest=3)
        >>> rounded.sum().backward()
        >>> rounded.detach(), weight.grad
        (tensor([0.5000, 1.5000]), tensor([1., 0.]))

    Reference:
        Bengio et al. (2013), "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv:1308.3432.
    """
    if lowest >= highest:
        raise InputError(f"highest: found {highest}, expected a number above lowest, which is {lowest}")
    return _StraightThrough.apply(values, scale, zero, lowest, highest)  # type: ignore[no-any-return, no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero: Tensor | None, lowest: int, highest: int) -> Tensor:
        rounded = (values / scale).round()
        if zero is None:
            codes = rounded.clamp(lowest, highest)
            ctx.save_for_backward(rounded == codes)
            return scale * codes
        codes = rounded.add(zero).clamp(lowest, highest)
        ctx.save_for_backward(rounded + zero == codes)
        return scale * (codes - zero)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


@checked
def learned_steps(weight: Tensor, step: Tensor, *, lowest: int, highest: int) -> Tensor:
    """Compute s·clamp(round(w/s), -Q_N, Q_P) with gradients for the weights and for the step s.

    ∂/∂w is 1 inside the range and 0 outside; ∂/∂s is round(w/s) - w/s inside, -Q_N or Q_P outside, times 1/√(n·Q_P) for
    the n weights that share a step.

    Args:
        weight: w, floating point.
        step: s, above 0, which broadcasts against w.
        lowest: Q_N, 0 or above.
        highest: Q_P, 1 or above.

    Returns:
        Values of w's shape.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> weight = torch.tensor([-1.3, -0.2, 0.1, 0.45, 0.9])
        >>> step = torch.tensor(0.25, requires_grad=True)
        >>> learned_steps(weight, step, lowest=4, highest=3).detach()
        tensor([-1.0000, -0.2500,  0.0000,  0.5000,  0.7500])

    Reference:
        Esser et al. (2020), "Learned Step Size Quantization", arXiv:1902.08153.
    """
    checks.at_least("lowest", lowest, 0)
    checks.at_least("highest", highest, 1)
    return _LearnedStep.apply(weight, step, lowest, highest)  # type: ignore[no-any-return, no-untyped-call]


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, lowest: int, highest: int) -> Tensor:
        ratio = weight / step
        codes = ratio.round().clamp(-lowest, highest)
        inside = (ratio >= -lowest) & (ratio <= highest)
        ctx.save_for_backward(inside, torch.where(inside, codes - ratio, codes))
        ctx.shape = step.shape
        shared = weight.numel() / max(1, step.numel())
        ctx.factor = 1 / (shared * highest) ** 0.5
        return step * codes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        inside, slopes = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * inside, (gradient * slopes).sum_to_size(ctx.shape) * ctx.factor, None, None


@checked
def first_step(weight: Tensor, *, highest: int, each: bool = False) -> Tensor:
    """Compute 2·mean|w|/√Q_P over the weights that are not 0, from which a learned step starts; 1 where all are 0.

    Weights that are 0, such as pruned ones, are on any grid and say nothing of its step.

    Args:
        weight: w, of any shape.
        highest: Q_P, 1 or above.
        each: whether each last axis has a step of its own.

    Returns:
        A scalar, or (...) of weights (..., n) with `each`.

    Raises:
        InputError: if `highest` is out of range, or a weight is not finite.

    Example:
        >>> first_step(torch.tensor([-0.5, 0.5]), highest=4)
        tensor(0.5000)

    Reference:
        Esser et al. (2020), arXiv:1902.08153.
    """
    checks.at_least("highest", highest, 1)
    check_weight("weight", weight)
    sizes = weight.detach().abs() if each else weight.detach().abs().flatten()
    start = 2 * sizes.sum(-1) / (sizes != 0).sum(-1).clamp_min(1) / highest**0.5
    return torch.where(start > 0, start, torch.ones_like(start))


@checked
def movement(weight: Tensor, scores: Tensor, sparsity: float) -> Tensor:
    """Leave out the weights of the lowest scores, with the gradient ∂L/∂w'·w for each score, kept or not.

    Gradient descent on the scores so accumulates -w·∂L/∂w: weights that move away from 0 stay.  A weight's own gradient
    is 0 while it is left out.

    Args:
        weight: w, floating point.
        scores: of w's shape.
        sparsity: share that is left out, in [0, 1).

    Returns:
        w', of w's shape.

    Raises:
        InputError: if the shapes differ, or the sparsity is out of range.

    Example:
        >>> movement(torch.tensor([1.0, 2.0]), torch.tensor([0.5, -0.5]), 0.5)
        tensor([1., 0.])

    Reference:
        Sanh et al. (2020), "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv:2005.07683.
    """
    checks.shapes_match("weight", weight.shape, "scores", scores.shape)
    return _Movement.apply(weight, scores, top_mask(scores, sparsity))  # type: ignore[no-any-return, no-untyped-call]


class _Movement(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, _scores: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, mask)
        return torch.where(mask, weight, torch.zeros_like(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        weight, mask = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * mask, gradient * weight, None
