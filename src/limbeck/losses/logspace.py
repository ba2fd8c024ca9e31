"""Sums over distributions that are kept as logarithms, with values and gradients defined where a probability is 0."""

import math

import torch
from torch import Tensor

__all__ = ["log_mixture", "mean_difference"]


def mean_difference(log_weights: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return Σ w·(log a - log b) over the classes with a weight w above 0; the others have no gradient either."""
    weights = log_weights.exp()
    present = weights > 0
    difference = torch.where(present, log_a, 0.0) - torch.where(present, log_b, 0.0)
    return (weights * difference).sum(-1)


def log_mixture(share: float, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return log(share·p + (1-share)·q), with -inf and no gradient where both are 0."""
    absent = torch.isneginf(log_p) & torch.isneginf(log_q)
    log_share = math.log(share) if share > 0 else -math.inf
    mixed = torch.logaddexp(
        torch.where(absent, 0.0, log_p) + log_share, torch.where(absent, 0.0, log_q) + math.log1p(-share)
    )
    return torch.where(absent, -math.inf, mixed)
