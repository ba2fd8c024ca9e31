"""Calibration: whether the probabilities mean what they say, and the one temperature that mends them best."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.errors import DataError, InputError
from limbeck.evaluation.scores import score
from limbeck.losses.reduction import check_labels

__all__ = ["Reliability", "Scheme", "Temperature", "ece", "fit_temperature", "reliability"]

Scheme = Literal["width", "mass"]

COLDEST, HOTTEST = 1e-2, 1e2
"""The range that a fitted temperature is looked for in."""


@checked_fields
@dataclass(frozen=True)
class Reliability:
    """A reliability diagram as data, one entry a bin.

    Attributes:
        lower: lower end of each bin, exclusive.
        upper: upper end of each bin, inclusive.
        count: predictions in each bin.
        confidence: mean confidence; None for an empty bin.
        accuracy: mean accuracy; None for an empty bin.

    Example:
        >>> reliability(torch.tensor([0.6]), torch.tensor([True]), bins=2).count
        (0, 1)
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    count: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]

    @property
    def gaps(self) -> tuple[float, ...]:
        """|accuracy - confidence| of each bin; 0 where it is empty."""
        pairs = zip(self.accuracy, self.confidence, strict=True)
        return tuple(abs(a - c) if a is not None and c is not None else 0.0 for a, c in pairs)

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean of the gaps over the examples (Naeini et al. 2015)."""
        return sum(gap * n for gap, n in zip(self.gaps, self.count, strict=True)) / sum(self.count)


@checked
def reliability(confidence: Tensor, correct: Tensor, *, bins: int = 15, scheme: Scheme = "width") -> Reliability:
    """Group predictions into bins of confidence.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) bool.
        bins: their number.
        scheme: "width" for bins of equal width; "mass" for bins bounded by the quantiles of the confidences, which hold
            equally many predictions, except that ties stay together.

    Returns:
        The diagram.

    Raises:
        InputError: if shapes or values are wrong.

    Example:
        >>> found = reliability(torch.tensor([0.6, 0.9, 0.8]), torch.tensor([False, True, True]), bins=2)
        >>> found.count, found.accuracy[0], round(found.accuracy[1], 3)
        ((0, 3), None, 0.667)

    Reference:
        Guo et al. (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    import numpy as np

    checks.at_least("bins", bins, 1)
    checks.shapes_match("confidence", confidence.shape, "correct", correct.shape)
    if confidence.dim() != 1 or len(confidence) == 0:
        raise InputError(f"confidence: found shape {tuple(confidence.shape)}, expected (n,) with at least one value")
    values = confidence.double()
    if not bool(((values >= 0) & (values <= 1 + 1e-9)).all()):
        raise InputError("confidence: found a value outside [0, 1], expected probabilities")
    steps = torch.arange(bins + 1, dtype=torch.float64, device=values.device) / bins
    if scheme == "width":
        edges = steps
    elif scheme == "mass":
        shares = np.quantile(values.cpu().numpy(), steps.cpu().numpy())  # torch.quantile refuses more than 2^24 values
        edges = torch.from_numpy(shares).to(values.device)
    else:
        raise InputError(f"scheme: found {scheme!r}, expected one of: mass, width")
    place = torch.bucketize(values, edges[1:-1].contiguous())
    count = torch.bincount(place, minlength=bins)
    sums = [torch.bincount(place, weights=part, minlength=bins) for part in (values, correct.double())]
    sizes: list[int] = count.tolist()
    confidences, accuracies = (
        tuple(total / n if n else None for total, n in zip(part.tolist(), sizes, strict=True)) for part in sums
    )
    bounds: list[float] = edges.tolist()
    return Reliability(tuple(bounds[:-1]), tuple(bounds[1:]), tuple(sizes), confidences, accuracies)


@checked
def ece(logits: Tensor, labels: Tensor, *, bins: int = 15, scheme: Scheme = "width") -> float:
    """Return the expected calibration error of the top class: Σ over bins of n_bin/n · |accuracy - confidence|.

    The estimate depends on bins and scheme, and is biased upwards when n is small.

    Args:
        logits: (n, K) floating point; for probabilities give their logarithm.
        labels: (n,) int64; `UNLABELLED` (-100) is not counted.
        bins: their number.
        scheme: "width" or "mass", see `reliability`.

    Returns:
        A number in [0, 1].

    Raises:
        InputError: if shapes, labels or numbers are wrong.
        DataError: if no sample has a label.

    Example:
        >>> ece(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        0.0

    Reference:
        Guo et al. (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    scores = score(logits, labels)
    return reliability(scores.confidence, scores.correct, bins=bins, scheme=scheme).ece


@checked_fields
@dataclass(frozen=True)
class Temperature:
    """A fitted temperature and the evidence that it is optimal.

    Attributes:
        temperature: the fitted value.
        nll_before: mean NLL at temperature 1, in nats.
        nll_after: mean NLL at the fitted temperature, in nats.
        slope: derivative of the mean NLL with respect to 1/temperature, in nats.  The NLL is convex in 1/temperature;
            slope 0 is the optimum.
        at_bound: whether the optimum is outside of the range, so that the end of the range is returned.

    Example:
        >>> fit_temperature(torch.tensor([[6.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])).nll_after < 0.6
        True
    """

    temperature: float
    nll_before: float
    nll_after: float
    slope: float
    at_bound: bool


@torch.no_grad()
@checked
def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature:
    """Return the temperature that minimises the NLL of softmax(logits / temperature).

    Brent's method in float64 finds the root of the derivative with respect to 1/temperature, for temperatures from
    1/100 to 100.  If every prediction is right, the lower end is returned; if the logits are worse than no information,
    the upper end.

    Args:
        logits: (n, K) finite, of samples that are used neither to train nor to measure the model.
        labels: (n,) int64 in [0, K); `UNLABELLED` (-100) is not counted.

    Returns:
        The temperature and the evidence that it is optimal.

    Raises:
        InputError: if shapes, labels or numbers are wrong.
        DataError: if no sample has a label.

    Example:
        >>> fitted = fit_temperature(torch.tensor([[6.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
        >>> round(fitted.temperature, 4), fitted.at_bound  # 3 of 4 are right: p = 3/4 at 6/log 3
        (5.4614, False)

    Reference:
        Guo et al. (2017), "On Calibration of Modern Neural Networks", section 4.2, arXiv:1706.04599.
    """
    from scipy.optimize import brentq

    labels = labels.to(logits.device)
    check_labels(labels, logits.shape[:-1])
    known = labels != UNLABELLED
    if logits.dim() == 2 and labels.dtype == torch.int64 and int(labels.max()) >= logits.shape[1]:
        raise InputError(f"labels: found {int(labels.max())}, expected 0 to {logits.shape[1] - 1}")
    if logits.dim() != 2 or not bool(known.any()):
        raise DataError("temperature: the set has no labels, expected at least one labelled sample")
    rows = logits[known].double()
    if not bool(rows.isfinite().all()):
        raise InputError("logits: found NaN or infinity, expected numbers; look at the model or its data")
    apart = rows - rows.gather(1, labels[known, None])
    before = _nll(apart, 1.0)[0]
    low, high = 1.0 / HOTTEST, 1.0 / COLDEST
    for bound, beyond in ((low, 1), (high, -1)):
        nll, slope = _nll(apart, bound)
        if slope * beyond >= 0:
            return Temperature(1.0 / bound, before, nll, slope, at_bound=True)
    inverse = math.exp(brentq(lambda log: _nll(apart, math.exp(log))[1], math.log(low), math.log(high), xtol=1e-14))
    return Temperature(1.0 / inverse, before, *_nll(apart, inverse), at_bound=False)


def _nll(apart: Tensor, inverse: float) -> tuple[float, float]:
    """Return the mean NLL and its derivative by 1/temperature.  apart: logits less that of the label."""
    scaled = apart * inverse
    log_total = scaled.logsumexp(1)
    shares = (scaled - log_total[:, None]).exp_()
    return float(log_total.mean()), float((shares * apart).sum(1).mean())
