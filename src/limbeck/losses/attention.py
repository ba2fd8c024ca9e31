"""Attention: where in a map a network is active, whatever its channels are."""

from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import both, channels, inverse_largest, pooled, unit_difference
from limbeck.losses.reduction import Reduction, reduce

__all__ = ["attention_transfer"]


@checked
def attention_transfer(
    student: Tensor,
    teacher: Tensor,
    *,
    power: float = 2.0,
    norm: Literal["mean", "l2"] = "mean",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the distance of two attention maps a(F) = Σ_c |F_c|^p, each over its length.

    "mean" is mean (a(F) - a(G))² over the positions, as published code computes it, at most 2/(H·W).  "l2" is the
    paper's ‖a(F) - a(G)‖, at most √2; its factor β/2 is the weight.  The value does not change when channels are
    permuted or change their sign, or when either feature is multiplied by a number.

    Args:
        student: F, a map (N, C, H, W) or tokens (N, L, d).
        teacher: G, with as many axes; other channels are allowed.  Of two map sizes, the larger is reduced by average
            pooling.
        power: p, 1 or above.
        norm: "mean" or "l2".
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.  An example whose map is all zeros, in either, has value 0 and
        gradient 0.

    Raises:
        InputError: if the features have no positions or unlike axes, or a setting is out of range.

    Example:
        >>> attention_transfer(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]]))
        tensor(1.)

    Reference:
        Zagoruyko & Komodakis (2017), "Paying More Attention to Attention", arXiv:1612.03928.
    """
    checks.choice("norm", norm, ("mean", "l2"))
    student, teacher = pooled(*both(student, teacher))
    a, b = (_attention(channels(each, name), power) for each, name in ((student, "student"), (teacher, "teacher")))
    squares = unit_difference(a, b).square()
    if norm == "mean":
        return reduce(squares.mean(-1), None, reduction)
    total = squares.sum(-1)
    equal = total == 0
    return reduce(torch.where(equal, 0.0, torch.where(equal, 1.0, total).sqrt()), None, reduction)


def _attention(features: Tensor, power: float) -> Tensor:
    """Return Σ_c |F_c|^p (N, P) of channels (N, C, P), up to a factor for each example."""
    if not 1 <= power < torch.inf:
        raise InputError(f"power: found {power}, expected a finite number, 1 or above")
    features = features * inverse_largest(features, (1, 2))  # no power overflows
    return (features.square() if power == 2 else features.abs().pow(power)).sum(1)
