"""Intervals for one set of examples: the bootstrap, and Wilson's for a share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError
from limbeck.randomness import derive_seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Estimate", "bootstrap_mean", "wilson"]

_FEW = 64  # distinct values up to which resamples are drawn as counts
_DRAWS_A_CHUNK = 2**22


@checked_fields
@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    Attributes:
        value: the estimate.
        low: the lower end.
        high: the upper end.

    Example:
        >>> wilson(1, 2).value
        0.5
    """

    value: float
    low: float
    high: float


@checked
def bootstrap_mean(
    values: Tensor, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0, purpose: str = "bootstrap"
) -> Estimate:
    """Return a mean over examples with its percentile bootstrap interval.

    The interval is over examples like these and says nothing about other training seeds.  Values with few levels (right
    or wrong) are resampled as counts, which gives the same distribution at a cost that does not grow with n.

    Args:
        values: (n,) floating point.
        resamples: of the bootstrap.
        confidence: of the interval, in (0, 1).
        seed: of the random numbers.
        purpose: a name that separates these random numbers from others of the same seed.

    Returns:
        The mean and its interval.

    Raises:
        InputError: if there is no value, or a setting is out of range.

    Example:
        >>> bootstrap_mean(torch.tensor([1.0, 1.0, 1.0]))
        Estimate(value=1.0, low=1.0, high=1.0)

    Reference:
        Efron (1979), "Bootstrap Methods: Another Look at the Jackknife".
    """
    import numpy as np

    checks.at_least("resamples", resamples, 1)
    _check_confidence(confidence)
    if values.dim() != 1 or len(values) == 0:
        raise InputError(f"values: found shape {tuple(values.shape)}, expected (n,) with at least one value")
    sample = values.detach().cpu().double()
    generator = np.random.default_rng(derive_seed(seed, purpose))
    levels, counts = sample.unique(return_counts=True)
    if len(levels) <= _FEW:
        drawn = generator.multinomial(len(sample), (counts / len(sample)).numpy(), size=resamples)
        means = drawn @ levels.numpy() / len(sample)
    else:
        means = np.concatenate(list(_resampled(sample.numpy(), resamples, generator)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Estimate(float(sample.mean()), float(low), float(high))


def _resampled(
    sample: "NDArray[np.float64]", resamples: int, generator: "np.random.Generator"
) -> Iterator["NDArray[np.float64]"]:
    step = max(1, _DRAWS_A_CHUNK // len(sample))
    for start in range(0, resamples, step):
        drawn = generator.integers(len(sample), size=(min(step, resamples - start), len(sample)))
        yield sample[drawn].mean(axis=1)


@checked
def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> Estimate:
    """Return a share with Wilson's score interval, which is valid at 0 and 1 too.

    Args:
        successes: 0 to `trials`.
        trials: 1 or more.
        confidence: of the interval, in (0, 1).

    Returns:
        The share in [0, 1] and its interval.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> found = wilson(10, 10)
        >>> found.value, round(found.low, 4), found.high
        (1.0, 0.7225, 1.0)

    Reference:
        Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest

    checks.at_least("trials", trials, 1)
    checks.at_least("successes", successes, 0)
    _check_confidence(confidence)
    if successes > trials:
        raise InputError(
            f"successes: found {successes} of {trials} trials, expected at most as many successes as trials"
        )
    interval = binomtest(successes, trials).proportion_ci(confidence, "wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence: found {confidence!r}, expected a number between 0 and 1")
