"""From one loss per example to what the caller wants: nothing done, the sum, or the mean over what counts."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.devices import on_accelerator
from limbeck.errors import InputError

__all__ = ["Reduction", "check_labels", "check_mask", "compute_dtype", "counts_all", "only_counted", "reduce"]

Reduction = Literal["none", "sum", "mean"]


def compute_dtype(tensor: Tensor, name: str = "logits") -> Tensor:
    """Return the tensor in the precision that losses are computed in: at least float32."""
    if not tensor.is_floating_point():
        raise InputError(f"{name}: found {tensor.dtype}, expected floating-point numbers; convert them with .float()")
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_labels(labels: Tensor, leading: Sequence[int]) -> None:
    """Require class indices: int64, one for each row of logits."""
    checks.shapes_match("labels", labels.shape, "logits without the class axis", leading)
    if labels.dtype != torch.int64:
        raise InputError(f"labels: found {labels.dtype}, expected torch.int64 class indices")


def check_mask(mask: Tensor, shape: Sequence[int]) -> None:
    """Require a bool mask with one entry for each loss; nothing is broadcast."""
    checks.shapes_match("mask", mask.shape, "the loss per example", shape)
    if mask.dtype != torch.bool:
        raise InputError(f"mask: found {mask.dtype}, expected torch.bool; give mask.bool()")


def only_counted(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return logits (..., K) with 0 where the mask (...) is False, so that NaN there reaches neither loss nor gradient.

    To be done before any arithmetic: afterwards the gradient of a masked NaN is 0·NaN.  None counts all.

    >>> only_counted(torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]]), torch.tensor([True, False]))
    tensor([[1., 2.],
            [0., 0.]])
    """
    if mask is None:
        return logits
    check_mask(mask, logits.shape[:-1])
    if counts_all(mask):
        return logits
    return torch.where(mask.unsqueeze(-1), logits, 0.0)


def counts_all(mask: Tensor) -> bool:
    """Return whether a mask is known to be True everywhere, so that rows of a large vocabulary need no copy.

    On an accelerator it is not looked at, since that would wait for the device.
    """
    return not on_accelerator(mask) and bool(mask.all())


@checked
def reduce(per_example: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce one loss per example to a scalar.

    Args:
        per_example: any shape, floating point.
        mask: bool of the same shape; False excludes an example.  None counts all.
        reduction: "none", "sum" or "mean".  The mean is over the counted examples.

    Returns:
        A scalar; under "none" the losses, with 0 where the mask is False.  The mean over no example is 0.

    Raises:
        InputError: if the mask has another shape or is not bool, or the reduction is unknown.

    Example:
        >>> reduce(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([True, True, False]), "mean")
        tensor(2.)
    """
    if mask is not None:
        check_mask(mask, per_example.shape)
        per_example = torch.where(mask, per_example, 0.0)
    if reduction == "none":
        return per_example
    if reduction == "sum":
        return per_example.sum()
    if reduction == "mean":
        count = per_example.numel() if mask is None else mask.sum()
        return per_example.sum() / (max(count, 1) if isinstance(count, int) else count.clamp_min(1))
    raise InputError(f"reduction: found {reduction!r}, expected one of: mean, none, sum")
