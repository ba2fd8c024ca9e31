"""Correlation coefficients of tensors, in float64."""

import torch
from torch import Tensor

from limbeck import checks
from limbeck.errors import InputError

__all__ = ["pearson", "ranks", "spearman", "spearman_rows"]


def pearson(first: Tensor, second: Tensor) -> float | None:
    """Return Pearson's correlation of two samples (n,); None where either does not vary or n < 2.

    >>> round(pearson(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])), 4)
    0.982
    """
    checks.shapes_match("first", first.shape, "second", second.shape)
    if first.dim() != 1:
        raise InputError(f"first: found shape {tuple(first.shape)}, expected (n,)")
    for name, values in (("first", first), ("second", second)):
        if not bool(values.isfinite().all()):
            raise InputError(f"{name}: found NaN or infinity, expected numbers; look at the model or its data")
    if len(first) < 2:
        return None
    value = float(_rows(first.double()[None], second.double()[None])[0])
    return None if value != value else value


def spearman(first: Tensor, second: Tensor) -> float | None:
    """Return Spearman's rank correlation of two samples (n,), ties with their mean rank; None as for `pearson`.

    >>> round(spearman(torch.tensor([1.0, 2.0, 40.0]), torch.tensor([1.0, 2.0, 3.0])), 12)
    1.0
    """
    checks.shapes_match("first", first.shape, "second", second.shape)
    if first.dim() != 1:
        raise InputError(f"first: found shape {tuple(first.shape)}, expected (n,)")
    return pearson(ranks(first[None])[0], ranks(second[None])[0])


def spearman_rows(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each row of two (n, m) tensors: (n,) float64, NaN where it is undefined."""
    checks.shapes_match("first", first.shape, "second", second.shape)
    return _rows(ranks(first), ranks(second))


def ranks(values: Tensor) -> Tensor:
    """Return the ranks of each row of (n, m), counted from 0, ties with their mean rank: float64.

    >>> ranks(torch.tensor([[3.0, 1.0, 3.0]]))
    tensor([[1.5000, 0.0000, 1.5000]], dtype=torch.float64)
    """
    from scipy.stats import rankdata

    if bool(values.isnan().any()):
        raise InputError("values: found NaN, which has no rank, expected numbers; look at the model or its data")
    return torch.from_numpy(rankdata(values.detach().double().cpu().numpy(), axis=1) - 1).to(values.device)


def _rows(first: Tensor, second: Tensor) -> Tensor:
    x = first.double() - first.double().mean(1, keepdim=True)
    y = second.double() - second.double().mean(1, keepdim=True)
    scale = x.norm(dim=1) * y.norm(dim=1)
    flat = (x.norm(dim=1) <= 1e-12 * _size(first)) | (y.norm(dim=1) <= 1e-12 * _size(second))
    value = ((x * y).sum(1) / scale).clamp(-1.0, 1.0)
    return torch.where(flat, torch.nan, value)


def _size(values: Tensor) -> Tensor:
    """Return the largest value of each row, against which rounding is no variation."""
    return values.double().abs().amax(1) if values.shape[1] else values.new_zeros(len(values), dtype=torch.float64)
