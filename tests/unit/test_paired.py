"""Paired tests, resampling and the Pareto set against scipy and by simulation."""

import itertools
import operator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from limbeck import evaluation
from limbeck.errors import InputError
from limbeck.evaluation import Point, bootstrap_mean, class_gains, mcnemar, paired_difference, pareto, wilson
from walk import over

flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def columns(pairs):
    first, second = zip(*pairs, strict=True)
    return torch.tensor(first), torch.tensor(second)


@given(flags)
def test_mcnemar_is_the_exact_binomial_test(pairs):
    first, second = columns(pairs)
    found = mcnemar(first, second)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    assert (found.first_better, found.second_better, found.examples) == (b, c, len(pairs))
    assert found.p_value == pytest.approx(stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0)
    turned = mcnemar(second, first)
    assert turned.p_value == found.p_value
    assert turned.first_better == c


def test_mcnemar_takes_large_counts():
    first = torch.zeros(1_000_000, dtype=torch.bool)
    second = first.clone()
    first[:100_000], second[100_000:201_500] = True, True
    found = mcnemar(first, second)
    assert found.p_value == pytest.approx(stats.binomtest(100_000, 201_500, 0.5).pvalue, rel=1e-6)


def test_seeds_are_compared_example_by_example():
    first = torch.tensor([[True, False, True], [True, False, False], [True, True, False]])
    second = torch.tensor([[True, True, False], [True, True, False]])
    found = mcnemar(first, second)
    assert (found.examples, found.first_better, found.second_better) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    thrice = torch.tensor([[True], [False], [False]])
    six = torch.tensor([[True], [False], [False], [True], [False], [False]])
    assert mcnemar(thrice, six) == evaluation.McNemar(1, 0.0, 0.0, 1.0)  # 1/3 is 2/6
    repeated = mcnemar(torch.tensor([[True, False]] * 50), torch.tensor([[False, False]] * 50))
    assert repeated.p_value == 1.0  # one example is one example, however many seeds saw it


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(0, 9999))
def test_over_seeds_it_is_the_randomisation_test(one, two, n, seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(one, n, generator=generator) < 0.4
    second = torch.rand(two, n, generator=generator) < 0.7
    difference = [
        Fraction(int(b), two) - Fraction(int(a), one) for a, b in zip(first.sum(0), second.sum(0), strict=True)
    ]
    sums = [abs(sum(map(operator.mul, signs, difference))) for signs in itertools.product((-1, 1), repeat=n)]
    found = mcnemar(first, second)
    assert found.p_value == pytest.approx(sum(each >= abs(sum(difference)) for each in sums) / 2**n)
    assert found.second_better - found.first_better == pytest.approx(float(sum(difference)))


def test_under_no_difference_the_p_value_over_seeds_is_rarely_small():
    generator = torch.Generator().manual_seed(0)
    small = 0
    for _ in range(400):
        easy = torch.rand(120, generator=generator)  # examples differ, models do not
        first, second = (torch.rand(3, 120, generator=generator) < easy for _ in range(2))
        small += mcnemar(first, second).p_value <= 0.05
    assert small <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


@given(flags, st.integers(0, 99))
def test_the_paired_difference_lies_in_its_interval_and_repeats(pairs, seed):
    first, second = columns(pairs)
    found = paired_difference(first, second, resamples=300, seed=seed)
    assert found.value == pytest.approx(float(second.double().mean() - first.double().mean()))
    assert -1 <= found.low <= found.high <= 1
    assert found == paired_difference(first, second, resamples=300, seed=seed)


def test_pairing_makes_the_interval_narrower():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(500, generator=generator) < 0.7
    second = first ^ (torch.rand(500, generator=generator) < 0.05)
    paired = paired_difference(first, second)
    apart = paired_difference(first, second[torch.randperm(500, generator=generator)])
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


# ---------------------------------------------------------------------------------------------------- one model's


def test_the_bootstrap_is_that_of_scipy():
    values = torch.randn(200, dtype=torch.float64).exp()
    found = bootstrap_mean(values, resamples=20_000)
    expected = stats.bootstrap((values.numpy(),), np.mean, method="percentile", n_resamples=20_000, rng=0)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(expected.confidence_interval.low, rel=0.01)
    assert found.high == pytest.approx(expected.confidence_interval.high, rel=0.01)


def test_resampling_counts_is_the_same_distribution():
    right = (torch.arange(300) < 240).double()
    counted = bootstrap_mean(right, resamples=20_000)
    low, high = stats.binom.ppf([0.025, 0.975], 300, 0.8) / 300
    assert (counted.low, counted.high) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))
    drawn = bootstrap_mean(right + torch.arange(300) * 1e-9, resamples=20_000)  # too many levels to count
    assert (drawn.low, drawn.high) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))


def test_the_bootstrap_is_a_function_of_its_seed():
    right = (torch.arange(100) < 70).double()
    assert bootstrap_mean(right, seed=3) == bootstrap_mean(right, seed=3) == bootstrap_mean(right.flip(0), seed=3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    bootstrap_mean(right)
    assert torch.equal(state, torch.get_rng_state())


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_that_of_scipy(trials, share, confidence):
    successes = round(share * trials)
    found = wilson(successes, trials, confidence=confidence)
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))
    assert found.low <= found.value <= found.high


# ------------------------------------------------------------------------------------------------------ by class


def test_gain_and_harm_of_a_class():
    labels = torch.tensor([0] * 4 + [2] * 3)
    first = torch.tensor([True, True, False, False, True, True, True])
    second = torch.tensor([False, True, True, True, True, True, True])
    zero, two = class_gains(first, second, labels, classes=3)
    assert (zero.label, zero.examples, zero.first, zero.second) == (0, 4, 0.5, 0.75)
    assert (zero.gained, zero.harmed, zero.difference.value) == (0.5, 0.25, 0.25)
    shift, n = 1 / 6, 6  # Agresti & Min: b, c = 1, 2, with half an example in each cell
    half = 1.959964 * np.sqrt((2 + 1 + 1) / n - shift**2) / np.sqrt(n)
    assert zero.difference.low == pytest.approx(shift - half, abs=1e-6)
    assert zero.difference.high == pytest.approx(shift + half, abs=1e-6)
    assert (two.label, two.first, two.second, two.gained, two.harmed) == (2, 1.0, 1.0, 0.0, 0.0)


def test_the_interval_of_a_class_covers_the_truth():
    generator = torch.Generator().manual_seed(0)
    classes, n = 2000, 30
    labels = torch.arange(classes).repeat_interleave(n)
    first = torch.rand(len(labels), generator=generator) < 0.7
    mended = torch.rand(len(labels), generator=generator) < 0.4
    spoiled = torch.rand(len(labels), generator=generator) < 0.05
    second = torch.where(first, ~spoiled, mended)
    truth = 0.3 * 0.4 - 0.7 * 0.05
    found = class_gains(first, second, labels, classes)
    covered = np.mean([gain.difference.low <= truth <= gain.difference.high for gain in found])
    assert 0.94 <= covered <= 0.985


@given(flags, st.integers(1, 5))
def test_the_classes_add_up(pairs, classes):
    first, second = columns(pairs)
    labels = torch.arange(len(pairs)) % classes
    found = class_gains(first, second, labels, classes)
    assert sum(gain.examples for gain in found) == len(pairs)
    total = sum(gain.difference.value * gain.examples for gain in found)
    assert total == pytest.approx(int(second.sum()) - int(first.sum()))
    for gain in found:
        assert gain.difference.low <= gain.difference.value <= gain.difference.high
        assert gain.second - gain.first == pytest.approx(gain.gained - gain.harmed)


# --------------------------------------------------------------------------------------------------------- pareto

points = st.lists(
    st.builds(Point, st.just("p"), st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=12
)


@given(points)
def test_the_pareto_set_is_its_definition(given_points):
    def beaten(point):
        return any(
            other.accuracy >= point.accuracy
            and other.cost <= point.cost
            and (other.accuracy, other.cost) != (point.accuracy, point.cost)
            for other in given_points
        )

    found = pareto(given_points)
    key = lambda point: (point.cost, point.accuracy)  # noqa: E731
    assert sorted(found, key=key) == sorted((point for point in given_points if not beaten(point)), key=key)
    assert list(found) == sorted(found, key=lambda point: point.cost)


@over(
    ("call", "said"),
    [
        (lambda: mcnemar(torch.ones(3), torch.ones(3)), "expected bool"),
        (lambda: mcnemar(torch.ones(3) > 0, torch.ones(4) > 0), "must be the same"),
        (lambda: class_gains(torch.ones(1) > 0, torch.ones(1) > 0, torch.tensor([3]), 2), "labels: found 3 to 3"),
        (lambda: bootstrap_mean(torch.zeros(0)), "values: found shape (0,)"),
        (lambda: bootstrap_mean(torch.zeros(2), confidence=1.0), "confidence: found 1.0"),
        (lambda: wilson(4, 3), "successes: found 4 of 3"),
        (lambda: pareto([Point("odd", float("nan"), 1.0)]), "point 'odd'"),
    ],
)
def test_a_mistake_is_one_line(call, said):
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value)


def test_everything_is_public():
    assert all(hasattr(evaluation, name) for name in evaluation.__all__)
