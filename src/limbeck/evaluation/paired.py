"""Two students on the same examples: does one beat the other, by how much, and on which classes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError
from limbeck.evaluation.resampling import Estimate, bootstrap_mean

__all__ = ["ClassGain", "McNemar", "class_gains", "mcnemar", "paired_difference"]


@checked_fields
@dataclass(frozen=True)
class McNemar:
    """The result of McNemar's exact test.

    Attributes:
        examples: seen by both models.
        first_better: examples that only the first model gets right; with several seeds, the sum over examples of how
            much larger its share of right seeds is.
        second_better: the same for the second model.
        p_value: two-sided: the probability of a difference at least this large if neither model were better.

    Example:
        >>> mcnemar(torch.tensor([True]), torch.tensor([True])).p_value
        1.0
    """

    examples: int
    first_better: float
    second_better: float
    p_value: float


@checked
def mcnemar(first: Tensor, second: Tensor) -> McNemar:
    """Test whether two models differ on the same examples, with the exact binomial test.

    With several seeds it is the exact randomisation test that generalises McNemar's: if neither model were better, the
    difference of each example in its share of right seeds would have either sign with equal probability.  Seeds see the
    same examples and are not counted as further examples.  The test is about these trained models, not about other
    seeds.

    Args:
        first: whether the first model is right, bool (n,), or (seeds, n).
        second: the same for the second model.

    Returns:
        The counts and the p-value; with several seeds a p-value below 1e-12 is reported as 1e-12.

    Raises:
        InputError: if the shapes disagree.

    Example:
        >>> found = mcnemar(torch.tensor([True, False, False]), torch.tensor([True, True, True]))
        >>> found.second_better, found.p_value
        (2, 0.5)

    Reference:
        McNemar (1947), "Note on the sampling error of the difference between correlated proportions or percentages".
    """
    difference = _differences(first, second)
    scale = math.lcm(len(first) if first.dim() == 2 else 1, len(second) if second.dim() == 2 else 1)
    steps = (difference * scale).round().long()
    return McNemar(
        examples=len(difference),
        first_better=_sum(-steps.clamp_max(0), scale),
        second_better=_sum(steps.clamp_min(0), scale),
        p_value=_randomised(steps[steps != 0]),
    )


def _sum(steps: Tensor, scale: int) -> float:
    total = int(steps.sum())
    return total if scale == 1 else total / scale


def _randomised(steps: Tensor) -> float:
    """Return P(|Σ ±step| >= |Σ step|) over fair signs; steps: (m,) whole numbers other than 0."""
    import numpy as np
    from scipy.signal import fftconvolve
    from scipy.stats import binom

    sizes, counts = steps.abs().unique(return_counts=True)
    observed = abs(int(steps.sum()))
    if len(sizes) == 0 or observed == 0:
        return 1.0
    if len(sizes) == 1:  # the sum of m equal steps is a binomial count
        m = int(counts[0])
        return min(1.0, 2.0 * float(binom.cdf((m - observed // int(sizes[0])) // 2, m, 0.5)))
    law = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        part = np.zeros(2 * size * count + 1)
        part[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        law = fftconvolve(law, part)
    centre = len(law) // 2
    return float(min(1.0, max(1e-12, 2.0 * law[centre + observed :].sum())))


@checked
def paired_difference(
    first: Tensor, second: Tensor, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Return the accuracy of the second model minus that of the first, with its paired bootstrap interval.

    Both models are resampled together, example by example, with all their seeds.

    Args:
        first: whether the first model is right, bool (n,), or (seeds, n).
        second: the same for the second model.
        resamples: of the bootstrap.
        confidence: of the interval, in (0, 1).
        seed: of the bootstrap.

    Returns:
        The difference in [-1, 1] and its interval.

    Raises:
        InputError: if the shapes disagree or a value is out of range.

    Example:
        >>> paired_difference(torch.tensor([True, False]), torch.tensor([True, False])).value
        0.0
    """
    difference = _differences(first, second)
    return bootstrap_mean(difference, resamples=resamples, confidence=confidence, seed=seed, purpose="paired")


@checked_fields
@dataclass(frozen=True)
class ClassGain:
    """What the second of two models changes on the examples of one class.

    Attributes:
        label: the class.
        examples: of the class.
        first: accuracy of the first model, in [0, 1].
        second: accuracy of the second model, in [0, 1].
        gained: share of the examples that only the second model gets right; with several seeds, the mean over examples.
        harmed: share of the examples that only the first model gets right, likewise.
        difference: gained - harmed with an interval for this class alone; of many classes, some will differ by chance.

    Example:
        >>> right = torch.tensor([True, False])
        >>> class_gains(right, ~right, torch.tensor([0, 0]), classes=1)[0].gained
        0.5
    """

    label: int
    examples: int
    first: float
    second: float
    gained: float
    harmed: float
    difference: Estimate


@checked
def class_gains(
    first: Tensor, second: Tensor, labels: Tensor, classes: int, *, confidence: float = 0.95
) -> tuple[ClassGain, ...]:
    """Return gain and harm of the second model over the first, for every class that has examples.

    The interval is that of Agresti & Min for paired shares, which has a width above 0 even if no example changed.

    Args:
        first: whether the first model is right, bool (n,), or (seeds, n).
        second: the same for the second model.
        labels: (n,) int64, all labelled.
        classes: K.
        confidence: of the intervals, in (0, 1).

    Returns:
        One entry for each class with examples, in order.

    Raises:
        InputError: if the shapes disagree or a label is out of range.

    Example:
        >>> same = torch.tensor([True, True])
        >>> [found] = class_gains(same, same, torch.tensor([1, 1]), classes=2)
        >>> found.label, found.gained, found.difference.low < 0 < found.difference.high
        (1, 0.0, True)

    Reference:
        Agresti & Min (2005), "Simple improved confidence intervals for comparing matched proportions".
    """
    from scipy.stats import norm

    difference = _differences(first, second)
    checks.shapes_match("labels", labels.shape, "the examples", difference.shape)
    labels = labels.to(difference.device)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(f"labels: found {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}")
    z = float(norm.ppf(0.5 + confidence / 2.0))

    def total(values: Tensor) -> Tensor:
        return torch.bincount(labels, weights=values, minlength=classes)

    count = torch.bincount(labels, minlength=classes).double()
    gained, harmed = total(difference.clamp_min(0)), total(-difference.clamp_max(0))
    squares = total(difference.square())
    shift = (gained - harmed) / (count + 2)
    half = z * ((squares + 1) / (count + 2) - shift.square()).clamp_min(0).sqrt() / (count + 2).sqrt()
    rights = [total(_shares(values)) for values in (first, second)]
    columns = torch.stack([count, *rights, gained, harmed, shift - half, shift + half], 1).tolist()
    found = []
    for label, (n, right_first, right_second, gain, harm, low, high) in enumerate(columns):
        if n:
            interval = Estimate((gain - harm) / n, max(-1.0, low), min(1.0, high))
            found.append(ClassGain(label, int(n), right_first / n, right_second / n, gain / n, harm / n, interval))
    return tuple(found)


def _shares(correct: Tensor) -> Tensor:
    """Return the share of seeds that get each example right: (n,) float64."""
    return correct.double() if correct.dim() == 1 else correct.double().mean(0)


def _differences(first: Tensor, second: Tensor) -> Tensor:
    for name, values in (("first", first), ("second", second)):
        if values.dtype != torch.bool or values.dim() not in (1, 2) or 0 in values.shape:
            found = f"{values.dtype} {tuple(values.shape)}"
            raise InputError(f"{name}: found {found}, expected bool (n,) or (seeds, n), whether each example is right")
    checks.shapes_match("first", first.shape[-1:], "second", second.shape[-1:])
    return _exact(_shares(second) - _shares(first.to(second.device)))


def _exact(difference: Tensor) -> Tensor:
    """Round what is equal but for the order of addition, so that it counts as equal."""
    return (difference * 2**40).round() / 2**40
