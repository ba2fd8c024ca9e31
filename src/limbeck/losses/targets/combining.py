"""One target out of several: the arithmetic and the geometric mean, with weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.targets.dense import Dense, normalised

__all__ = ["geometric_mean", "mixture"]


@checked
def mixture(targets: Sequence[Dense], weights: Sequence[float] | None = None) -> Dense:
    """Mix targets: Σ λ_m·ρ^m, the arithmetic mean of several teachers (Hinton 2015) or of several ideas (Tang 2020).

    targets: each (..., K).  weights: 0 or above, adding up to 1; equal ones by default.

    >>> certain, unsure = Dense(torch.tensor([1.0, 0.0]).log()), Dense(torch.tensor([0.5, 0.5]).log())
    >>> mixture([certain, unsure], [0.8, 0.2]).log_probs.exp()
    tensor([0.9000, 0.1000])
    """
    parts, logs = _counted(targets, weights)
    return Dense(torch.stack([part + log for part, log in zip(parts, logs, strict=True)]).logsumexp(0))


@checked
def geometric_mean(targets: Sequence[Dense], weights: Sequence[float] | None = None) -> Dense:
    """Return the geometric mean of targets, renormalised: Π (ρ^m)^λ_m / Σ_k Π (ρ^m_k)^λ_m (Hinton 2015).

    targets: each (..., K).  weights: 0 or above, adding up to 1; equal ones by default.  A class that one of them
    rules out is ruled out; InputError where they rule out every class between them.

    >>> certain, unsure = Dense(torch.tensor([0.9, 0.1]).log()), Dense(torch.tensor([0.5, 0.5]).log())
    >>> geometric_mean([certain, unsure]).log_probs.exp()
    tensor([0.7500, 0.2500])
    """
    parts, logs = _counted(targets, weights)
    total = torch.stack([part * math.exp(log) for part, log in zip(parts, logs, strict=True)]).sum(0)
    return normalised(
        total, "geometric mean: the targets rule out every class between them; take the arithmetic mean of these"
    )


def _counted(targets: Sequence[Dense], weights: Sequence[float] | None) -> tuple[list[Tensor], list[float]]:
    """Return the log-probabilities of the targets whose weight is not 0, and the logarithms of their weights."""
    if not targets:
        raise InputError("targets: found none, expected at least one")
    if weights is None:
        weights = [1 / len(targets)] * len(targets)
    checks.shares("weights", weights, count=len(targets))
    for number, target in enumerate(targets[1:], 1):
        checks.shapes_match(
            "the first target", targets[0].log_probs.shape, f"target {number + 1}", target.log_probs.shape
        )
    counted = [(target.log_probs, weight) for target, weight in zip(targets, weights, strict=True) if weight]
    total = math.fsum(weights)
    return [part for part, _ in counted], [math.log(weight / total) for _, weight in counted]
