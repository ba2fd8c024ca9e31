"""Intervals over seeds: Student's t against scipy, and the share of the gap closed against a jackknife of its own."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from limbeck.errors import InputError
from limbeck.evaluation import Interval, gap_closed, t_interval
from walk import over

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def jackknife(teacher, alone, distilled, confidence=0.95):
    """The share and its half-width by leaving out one pair at a time, in numpy."""
    alone, distilled = np.asarray(alone, float), np.asarray(distilled, float)
    n = len(alone)

    def share(a, d):
        return (a.mean() - d.mean()) / (a.mean() - teacher)

    parts = np.array([share(np.delete(alone, i), np.delete(distilled, i)) for i in range(n)])
    pseudo = n * share(alone, distilled) - (n - 1) * parts
    return share(alone, distilled), stats.t.ppf(0.5 + confidence / 2, n - 1) * pseudo.std(ddof=1) / math.sqrt(n)


# ------------------------------------------------------------------------------------------------------------ Student's


@given(st.lists(numbers, min_size=2, max_size=20), st.sampled_from([0.5, 0.8, 0.95, 0.99]))
def test_the_interval_of_a_mean_is_scipys(values, confidence):
    found = t_interval(values, confidence=confidence)
    spread = np.std(values, ddof=1)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    if spread == 0:
        assert found.half_width == pytest.approx(0.0, abs=1e-9)
        return
    low, high = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found.low == pytest.approx(low, rel=1e-9, abs=1e-6)
    assert found.high == pytest.approx(high, rel=1e-9, abs=1e-6)


def test_one_value_allows_no_interval():
    found = t_interval([3])
    assert found == Interval(3.0, None, 1)
    assert (found.low, found.high) == (3.0, 3.0)


@pytest.mark.parametrize(("values", "mean"), [([1.0, math.inf], math.inf), ([math.nan, 1.0], math.nan)])
def test_the_interval_of_values_that_are_not_finite_is_not_finite(values, mean):
    found = t_interval(values)
    assert (repr(found.mean), repr(found.half_width), found.n) == (repr(mean), "nan", 2)


def test_no_value_is_refused():
    with pytest.raises(InputError, match="values: found none, expected at least one"):
        t_interval([])


@over("confidence", [0.0, 1.0, 95, -0.1, math.nan])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    with pytest.raises(InputError, match=r"confidence: found .*, expected a number between 0 and 1"):
        t_interval([1.0, 2.0], confidence=confidence)
    with pytest.raises(InputError, match="confidence: found"):
        gap_closed(0.0, [2.0, 3.0], [1.0, 2.0], confidence=confidence)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 5))
    held = [t_interval(row.tolist(), confidence=0.9) for row in draws]
    share = np.mean([found.low <= 3.0 <= found.high for found in held])
    assert share == pytest.approx(0.9, abs=3 * math.sqrt(0.09 / 2000))


# ------------------------------------------------------------------------------------------------- the share of the gap


@given(st.floats(0, 50), st.lists(st.tuples(st.integers(60, 200), st.integers(0, 250)), min_size=2, max_size=8))
def test_the_share_of_the_gap_is_the_jackknifes(teacher, pairs):
    alone, distilled = zip(*pairs, strict=True)
    found = gap_closed(teacher, list(map(float, alone)), list(map(float, distilled)))
    share, half_width = jackknife(teacher, alone, distilled)
    assert found.n == len(pairs)
    assert found.mean == pytest.approx(share, rel=1e-9, abs=1e-12)
    assert found.half_width == pytest.approx(half_width, rel=1e-6, abs=1e-9)


def test_the_share_by_hand():
    found = gap_closed(10.0, [30.0, 50.0], [20.0, 20.0])
    assert found.mean == pytest.approx((40 - 20) / (40 - 10))
    parts = [(50 - 20) / (50 - 10), (30 - 20) / (30 - 10)]  # the first left out, then the second
    error = math.sqrt(0.5 * sum((part - np.mean(parts)) ** 2 for part in parts))
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 1) * error)


def test_pairs_belong_together():
    """The noise that a pair shares widens nothing; the same figures paired otherwise are less sure."""
    alone, distilled = [30.0, 34.0, 38.0], [20.0, 24.0, 28.0]
    together = gap_closed(10.0, alone, distilled)
    apart = gap_closed(10.0, alone, distilled[::-1])
    assert together.mean == pytest.approx(apart.mean)
    assert together.half_width < apart.half_width


@given(st.floats(0.1, 10), st.lists(st.tuples(st.floats(60, 100), st.floats(0, 100)), min_size=1, max_size=5))
def test_the_share_does_not_depend_on_the_unit(factor, pairs):
    alone, distilled = zip(*pairs, strict=True)
    plain = gap_closed(10.0, alone, distilled)
    scaled = gap_closed(10.0 * factor, [a * factor for a in alone], [d * factor for d in distilled])
    assert scaled.mean == pytest.approx(plain.mean, rel=1e-6, abs=1e-9)


@over(("distilled", "share"), [([30.0, 40.0], 0.0), ([10.0, 10.0], 1.0), ([0.0, 0.0], 35 / 25), ([60.0, 60.0], -1.0)])
def test_nothing_all_more_and_less_than_nothing_are_told_apart(distilled, share):
    assert gap_closed(10.0, [30.0, 40.0], distilled).mean == pytest.approx(share)


@pytest.mark.parametrize("alone", [[10.0, 10.0], [9.0, 8.0], [0.0]])
def test_without_a_gap_there_is_no_share(alone):
    assert gap_closed(10.0, alone, [5.0] * len(alone)) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2))
def test_of_two_values_both_are_written_and_drawn(values):
    """An interval of two values is 12.7 times as wide as they lie apart, which tells nothing."""
    found = t_interval(values)
    low, high = found.ends
    assert [low, high] == pytest.approx(sorted(values), rel=1e-9, abs=1e-6)
    assert found.written("{:.3e}", 2.0).split(" and ") == [f"{2 * low:.3e}", f"{2 * high:.3e}"]
    assert "±" not in found.written()


def test_from_three_values_on_the_interval_is_written_and_of_one_the_value():
    assert t_interval([1.0, 2.0, 3.0]).written("{:+.1f}") == "+2.0 ± 2.5"
    assert t_interval([1.0, 2.0, 3.0]).ends == (t_interval([1.0, 2.0, 3.0]).low, t_interval([1.0, 2.0, 3.0]).high)
    assert t_interval([1.25]).written("{:.1f}", 100) == "125.0"


def test_one_seed_allows_no_interval_and_a_gap_that_hangs_on_one_seed_allows_none_either():
    assert gap_closed(10.0, [30.0], [20.0]) == Interval(0.5, None, 1)
    found = gap_closed(10.0, [30.0, 8.0], [20.0, 8.0])
    assert (found.mean, found.half_width, found.n) == (pytest.approx(5 / 9), None, 2)


@pytest.mark.parametrize(("alone", "distilled"), [([], []), ([1.0], []), ([1.0, 2.0], [1.0])])
def test_unpaired_figures_are_refused(alone, distilled):
    with pytest.raises(InputError, match=r"alone, distilled: found .* expected the same number, paired"):
        gap_closed(0.0, alone, distilled)


@given(st.lists(st.floats(20, 100), min_size=2, max_size=6))
def test_equal_shares_of_every_seed_have_no_width(alone):
    assume(len(set(alone)) > 1)
    found = gap_closed(10.0, alone, [10.0 + 0.25 * (value - 10.0) for value in alone])
    assert found.mean == pytest.approx(0.75)
    assert found.half_width == pytest.approx(0.0, abs=1e-9)
