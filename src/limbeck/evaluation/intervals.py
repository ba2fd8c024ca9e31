"""Intervals over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError
from limbeck.records import Number

__all__ = ["Interval", "gap_closed", "t_interval"]


@checked_fields
@dataclass(frozen=True)
class Interval:
    """A mean over n values with its confidence interval.

    Attributes:
        mean: of the values.
        half_width: of the interval; None for a single value.
        n: the number of values.

    Example:
        >>> t_interval([2.0]).half_width is None
        True
    """

    mean: Number
    half_width: float | None
    n: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + (self.half_width or 0.0)

    @property
    def ends(self) -> tuple[float, float]:
        """What a chart draws: the 95 % interval's ends; of two values both, the smaller first.

        >>> t_interval([34.0, 30.0]).ends
        (30.0, 34.0)
        """
        away = (self.half_width or 0.0) / (_quantile(2, 0.95) if self.n == 2 else 1.0)
        return self.mean - away, self.mean + away

    def written(self, pattern: str = "{:.1f}", scale: float = 1.0) -> str:
        """Return the mean with its 95 % interval; of two values both, since an interval of two says next to nothing.

        >>> t_interval([0.25, 0.5, 0.75]).written(scale=100), t_interval([30.0, 34.0]).written("{:+.1f}")
        ('50.0 ± 62.1', '+30.0 and +34.0')
        """
        if self.half_width is None:
            return pattern.format(scale * self.mean)
        if self.n == 2:
            return " and ".join(pattern.format(scale * end) for end in self.ends)
        return f"{pattern.format(scale * self.mean)} ± {pattern.replace('+', '').format(scale * self.half_width)}"


@checked
def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return the mean of independent values with Student's t-interval.

    Args:
        values: one or more numbers.
        confidence: of the interval, in (0, 1).

    Returns:
        The interval; its width is NaN if a value is NaN or infinite, and None for a single value.

    Raises:
        InputError: if there is no value, or the confidence is out of range.

    Example:
        >>> interval = t_interval([1.0, 2.0, 3.0])
        >>> round(interval.mean, 3), round(interval.half_width, 3)
        (2.0, 2.484)
    """
    if not values:
        raise InputError("values: found none, expected at least one")
    if len(values) == 1:
        return Interval(float(values[0]), None, 1)
    if not all(map(math.isfinite, values)):
        return Interval(sum(values) / len(values), math.nan, len(values))
    return Interval(
        fmean(values), _quantile(len(values), confidence) * stdev(values) / math.sqrt(len(values)), len(values)
    )


@checked
def gap_closed(
    teacher: float, alone: Sequence[float], distilled: Sequence[float], *, confidence: float = 0.95
) -> Interval | None:
    """Return the share of the gap between student alone and teacher that distillation closed.

    It is (alone - distilled)/(alone - teacher) of the mean errors, paired by seed, with a jackknife interval.

    Args:
        teacher: its errors.
        alone: errors of the student trained alone, one for each seed.
        distilled: errors of the distilled student, one for each seed, in the same order.
        confidence: of the interval, in (0, 1).

    Returns:
        The share; None if the student alone is not worse than the teacher, so that there is no gap.

    Raises:
        InputError: if the lengths disagree or a value is out of range.

    Example:
        >>> gap_closed(10.0, [30.0, 30.0], [15.0, 15.0])
        Interval(mean=0.75, half_width=0.0, n=2)
    """
    if len(alone) != len(distilled) or not alone:
        raise InputError(
            f"alone, distilled: found {len(alone)} and {len(distilled)} values, expected the same number, paired by"
            " seed"
        )

    def share(skip: int | None) -> float:
        kept = [i for i in range(len(alone)) if i != skip]
        gap = fmean(alone[i] for i in kept) - teacher
        return (fmean(alone[i] for i in kept) - fmean(distilled[i] for i in kept)) / gap if gap > 0 else math.nan

    whole, n = share(None), len(alone)
    if math.isnan(whole):
        return None
    if n == 1:
        return Interval(whole, None, 1)
    parts = [share(skip) for skip in range(n)]
    if any(math.isnan(part) for part in parts):
        return Interval(whole, None, n)
    error = math.sqrt((n - 1) / n * sum((part - fmean(parts)) ** 2 for part in parts))
    return Interval(whole, _quantile(n, confidence) * error, n)


def _quantile(n: int, confidence: float) -> float:
    from scipy.stats import t

    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence: found {confidence!r}, expected a number between 0 and 1")

    return float(t.ppf(0.5 + confidence / 2.0, n - 1))
