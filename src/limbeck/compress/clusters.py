"""Weights that share few values: centroids by k-means, and where the weights stand that were not pruned."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.compress.pruning import check_weight
from limbeck.errors import CheckpointError, InputError

__all__ = [
    "Clusters",
    "Gaps",
    "centroid_gradient",
    "gap_bits",
    "gap_cost",
    "gaps",
    "kmeans",
    "places",
    "sharing_rate",
]

_MOST_BITS = 15


class Clusters(NamedTuple):
    """Centroids in rising order, (k,), and the number of the centroid of each value, (n,) int64."""

    centroids: Tensor
    codes: Tensor


class Gaps(NamedTuple):
    """The distances from each kept weight to the one before, where a long one is cut by fillers.

    distances: (n,) int64 from 1 to 2^d.  filler: (n,) bool, True where a zero stands there and no kept weight.
    """

    distances: Tensor
    filler: Tensor


@checked
def kmeans(values: Tensor, bits: int, *, iterations: int = 50) -> Clusters:
    """Find the 2^b centroids of values with the smallest sum of squared distances, from a linear start.

    The start is evenly spaced from the least to the greatest value, so that the rare large ones have centroids of their
    own.  It ends when no value changes its centroid.  A centroid without values stays where it is.  The sums are in
    float64, so that the result is the same everywhere.

    Args:
        values: (n,) finite; at least one.
        bits: b, from 1 to 16.
        iterations: the most rounds.

    Returns:
        The centroids, in the type of the values, and a code for each value.

    Raises:
        InputError: if a value is out of range, or there are no values.

    Example:
        >>> kmeans(torch.tensor([0.0, 0.2, 0.9, 1.0]), 1)
        Clusters(centroids=tensor([0.1000, 0.9500]), codes=tensor([0, 0, 1, 1]))

    Reference:
        Han et al. (2016), "Deep Compression", arXiv:1510.00149.
    """
    checks.at_least("bits", bits, 1, at_most=_MOST_BITS)
    checks.at_least("iterations", iterations, 1)
    check_weight("values", values)
    if values.dim() != 1 or not len(values):
        raise InputError(f"values: found shape {tuple(values.shape)}, expected (n,) with n above 0")
    exact = values.detach().double()
    centroids = torch.linspace(float(exact.min()), float(exact.max()), 2**bits, dtype=torch.float64)
    centroids = centroids.to(exact.device)
    codes = _nearest(exact, centroids)
    for _ in range(iterations):
        counts = torch.bincount(codes, minlength=len(centroids))
        sums = torch.zeros_like(centroids).index_add_(0, codes, exact)
        centroids = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
        before, codes = codes, _nearest(exact, centroids)
        if torch.equal(before, codes):
            break
    return Clusters(centroids.to(values.dtype), codes)


def _nearest(values: Tensor, centroids: Tensor) -> Tensor:
    """Return the number of the nearest centroid of rising ones; of two that are as near, the lower."""
    return torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)


@checked
def centroid_gradient(gradient: Tensor, codes: Tensor, count: int) -> Tensor:
    """Compute ∂L/∂C_k = Σ over the weights of code k of ∂L/∂w.

    Args:
        gradient: ∂L/∂w, (n,).
        codes: (n,) int64 in [0, count).
        count: of the centroids.

    Returns:
        (count,).

    Raises:
        InputError: if the shapes differ, or a code is out of range.

    Example:
        >>> centroid_gradient(torch.tensor([0.1, -0.2, 0.3, 0.4]), torch.tensor([0, 1, 0, 1]), 2)
        tensor([0.4000, 0.2000])
    """
    checks.at_least("count", count, 1)
    checks.shapes_match("gradient", gradient.shape, "codes", codes.shape)
    if codes.dim() != 1 or codes.dtype != torch.int64:
        raise InputError(
            f"codes: found {str(codes.dtype).removeprefix('torch.')} {tuple(codes.shape)}, expected int64 (n,)"
        )
    if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < count:
        raise InputError(f"codes: found {int(codes.min())} to {int(codes.max())}, expected 0 to {count - 1}")
    return gradient.new_zeros(count).index_add(0, codes, gradient)


@checked
def sharing_rate(count: int, bits: int, centroids: int) -> float:
    """Compute n·b/(n·log₂k + k·b), by how much n numbers of b bits shrink as codes of k centroids.

    Args:
        count: n, 1 or above.
        bits: b, of a number before.
        centroids: k, 1 or above.

    Returns:
        The ratio of the sizes.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sharing_rate(16, 32, 4)
        3.2

    Reference:
        Han et al. (2016), arXiv:1510.00149, equation 1.
    """
    for name, value in (("count", count), ("bits", bits), ("centroids", centroids)):
        checks.at_least(name, value, 1)
    return count * bits / (count * math.log2(centroids) + centroids * bits)


@checked
def gaps(mask: Tensor, bits: int) -> Gaps:
    """Return the distance of each kept weight from the one before; one above 2^d is cut by fillers of 2^d.

    Positions are counted from 1, so that each distance is from 1 to 2^d.

    Args:
        mask: of any shape, bool; True for a kept weight.
        bits: d, from 1 to 16.

    Returns:
        The distances, and which of them lead to a filler.

    Raises:
        InputError: if the mask is no bool tensor, or the bits are out of range.

    Example:
        >>> mask = torch.zeros(15, dtype=torch.bool)
        >>> mask[[0, 3, 14]] = True
        >>> gaps(mask, 3)
        Gaps(distances=tensor([1, 3, 8, 3]), filler=tensor([False, False,  True, False]))

    Reference:
        Han et al. (2016), arXiv:1510.00149, figure 2.
    """
    checks.at_least("bits", bits, 1, at_most=_MOST_BITS)
    if mask.dtype != torch.bool:
        raise InputError(f"mask: found {str(mask.dtype).removeprefix('torch.')}, expected bool")
    span = 2**bits
    positions = mask.flatten().nonzero().flatten() + 1
    whole = positions.diff(prepend=positions.new_zeros(1))
    fillers = (whole - 1) // span
    ends = (fillers + 1).cumsum(0)
    distances = whole.new_full((int(ends[-1]) if len(ends) else 0,), span)
    filler = torch.ones_like(distances, dtype=torch.bool)
    distances[ends - 1] = whole - fillers * span
    filler[ends - 1] = False
    return Gaps(distances, filler)


@checked
def places(distances: Tensor, filler: Tensor, count: int) -> Tensor:
    """Undo `gaps`: return the mask of the kept weights.

    Args:
        distances: (n,) int64, 1 or above.
        filler: (n,) bool.
        count: of all weights.

    Returns:
        (count,) bool.

    Raises:
        CheckpointError: if a position lies beyond the last weight.

    Example:
        >>> places(torch.tensor([1, 3]), torch.tensor([False, False]), 5)
        tensor([ True, False, False,  True, False])
    """
    checks.at_least("count", count, 0)
    checks.shapes_match("distances", distances.shape, "filler", filler.shape)
    if distances.dim() != 1 or distances.dtype != torch.int64 or filler.dtype != torch.bool:
        raise InputError(f"distances: found {tuple(distances.shape)}, expected int64 (n,) beside a filler bool (n,)")
    positions = distances.cumsum(0) - 1
    if len(positions) and not (int(distances.min()) >= 1 and int(positions[-1]) < count):
        raise CheckpointError(
            f"stream: it is damaged (a weight at {int(positions[-1])} of {count}); export the model again"
        )
    mask = torch.zeros(count, dtype=torch.bool, device=distances.device)
    mask[positions[~filler]] = True
    return mask


@checked
def gap_cost(density: float, bits: int) -> float:
    """Compute the expected bits of a kept weight's position, d·(1 + f), for weights that are kept at random.

    f = (1-p)^(2^d)/(1 - (1-p)^(2^d)) is the number of fillers for each kept weight.

    Args:
        density: p, the share that is kept, in (0, 1].
        bits: d, of a distance.

    Returns:
        Bits a kept weight.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> [round(gap_cost(0.08, bits), 2) for bits in (4, 5, 8)]
        [5.43, 5.37, 8.0]
    """
    checks.unit_interval("density", density)
    checks.positive("density", density)
    checks.at_least("bits", bits, 1, at_most=_MOST_BITS)
    beyond = float((1 - density) ** (2**bits))
    return bits * (1 + beyond / (1 - beyond))


@checked
def gap_bits(density: float, kept: int) -> int:
    """Return the bits d of a distance with the least expected bytes of all positions and of the code's table, 2^d + 1.

    Args:
        density: p, the share that is kept, in (0, 1].
        kept: how many weights are kept, 1 or above.

    Returns:
        From 1 to 15.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> gap_bits(0.08, 21_414), gap_bits(0.0002, 21)
        (5, 8)
    """
    checks.at_least("kept", kept, 1)
    return min(range(1, _MOST_BITS + 1), key=lambda bits: gap_cost(density, bits) * kept / 8 + 2**bits)
