"""Similarity of representations: against the definitions in float64, their invariances, and their limits."""

import math

import numpy as np
import pytest
import torch

from limbeck.errors import InputError
from limbeck.evaluation import MinibatchCKA, attention_map, has_attention_map, linear_cka, sparsity_difference


def u(*shape):
    """Return the test tensor u of the specification."""
    n, c, h, w = (
        torch.arange(size).view([-1 if axis == i else 1 for i in range(4)]) for axis, size in enumerate(shape)
    )
    return ((7 * n + 5 * c + 3 * h + 2 * w) % 11) / 5 - 1


def v(*shape):
    """Return the test tensor v of the specification."""
    n, c, h, w = (
        torch.arange(size).view([-1 if axis == i else 1 for i in range(4)]) for axis, size in enumerate(shape)
    )
    return ((5 * n + 3 * c + 7 * h + 4 * w + 2) % 13) / 6 - 1


def pair(n=60, d=7, other=5, seed=0):
    """Return related features with float64 numbers."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    weights = [torch.randn(3, size, generator=generator, dtype=torch.float64) for size in (d, other)]
    noise = [torch.randn(n, size, generator=generator, dtype=torch.float64) for size in (d, other)]
    return shared @ weights[0] + noise[0], shared @ weights[1] + noise[1]


def rotation(size, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def plain_reference(x, y):
    """Return CKA by the definition of Kornblith et al. (2019): HSIC with the centring matrix."""
    centring = np.eye(len(x)) - 1 / len(x)

    def hsic(one, other):
        grams = [side.numpy() @ side.numpy().T for side in (one, other)]
        return np.trace(grams[0] @ centring @ grams[1] @ centring)

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def unbiased_hsic(x, y):
    """Return the estimator of Song et al. (2012), term by term over the Gram matrices without their diagonals."""
    n, one = len(x), np.ones(len(x))
    first, second = (side.numpy() @ side.numpy().T for side in (x, y))
    np.fill_diagonal(first, 0)
    np.fill_diagonal(second, 0)
    value = np.trace(first @ second) + (one @ first @ one) * (one @ second @ one) / ((n - 1) * (n - 2))
    return (value - 2 / (n - 2) * (one @ first @ second @ one)) / (n * (n - 3))


def debiased_reference(parts):
    both = sum(len(x) * unbiased_hsic(x, y) for x, y in parts)
    own = [sum(len(part[side]) * unbiased_hsic(part[side], part[side]) for part in parts) for side in (0, 1)]
    return both / math.sqrt(own[0] * own[1])


def test_it_is_the_definition_plain_debiased_and_over_batches():
    x, y = pair()
    assert linear_cka(x, y) == pytest.approx(plain_reference(x, y), abs=1e-9)
    assert linear_cka(x, y, debiased=True) == pytest.approx(debiased_reference([(x, y)]), abs=1e-9)
    parts = list(zip(x.split(17), y.split(17), strict=True))  # the last one is smaller
    batches = MinibatchCKA()
    for part in parts:
        batches.add(*part)
    assert batches.value == pytest.approx(debiased_reference(parts), abs=1e-9)
    whole = MinibatchCKA()
    whole.add(x, y)
    assert whole.value == pytest.approx(linear_cka(x, y, debiased=True), abs=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
def test_rotations_a_scale_and_a_shift_change_nothing(debiased):
    x, y = pair()
    value = linear_cka(x, y, debiased=debiased)
    for changed in (x @ rotation(7), -3e4 * x, x + 50 * torch.arange(7), x[:, torch.randperm(7)]):
        assert linear_cka(changed, y, debiased=debiased) == pytest.approx(value, abs=1e-9)
        assert linear_cka(y, changed, debiased=debiased) == pytest.approx(value, abs=1e-9)
    assert linear_cka(x, 2 * x + 1, debiased=debiased) == pytest.approx(1, abs=1e-12)
    stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64)  # no rotation, so it may
    assert abs(linear_cka(stretched, y, debiased=debiased) - value) > 0.01


def test_only_the_debiased_value_sees_that_wide_features_are_unrelated():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, 4000, generator=generator) for _ in range(2))
    batches = MinibatchCKA()
    for sides in zip(x.split(20), y.split(20), strict=True):
        batches.add(*sides)
    assert linear_cka(x, y) > 0.9
    assert abs(linear_cka(x, y, debiased=True)) < 0.1
    assert abs(batches.value) < 0.1


def test_maps_and_tokens_are_flattened_and_masked_tokens_averaged():
    x, y = (torch.randn(12, 3, 4, 2).double(), torch.randn(12, 5, 6).double())
    assert linear_cka(x, y) == linear_cka(x.flatten(1), y.flatten(1))
    assert linear_cka(x, x.mean((2, 3))) < 0.99  # where it is active counts
    mask = torch.ones(12, 5, dtype=torch.bool)
    mask[:, 3:] = False
    garbage = y.clone()
    garbage[:, 3:] = math.nan
    expected = linear_cka(x, y[:, :3].mean(1), debiased=True)
    assert linear_cka(x, garbage, debiased=True, mask=mask) == pytest.approx(expected, abs=1e-9)
    channels_last = x.to(memory_format=torch.channels_last)
    assert linear_cka(channels_last, y) == pytest.approx(linear_cka(x, y), abs=1e-12)


def test_features_that_do_not_vary_have_no_cka():
    x, y = pair()
    for constant in (torch.zeros(60, 4), torch.full((60, 4), 0.1, dtype=torch.float64)):
        assert math.isnan(linear_cka(x, constant))
        assert math.isnan(linear_cka(constant, y, debiased=True))
    assert math.isnan(MinibatchCKA().value)


def test_wrong_examples_are_refused():
    x, y = pair()
    for call, line in (
        (lambda: linear_cka(x[:5], y), "teacher: found features of 60 examples, the student has 5"),
        (lambda: linear_cka(x[:3], y[:3], debiased=True), "examples: found 3; expected at least 4"),
        (lambda: MinibatchCKA().add(x[:3], y[:3]), "examples: found 3; expected at least 4"),
        (lambda: linear_cka(x[:, 0], y), r"student: found shape \(60,\)"),
        (lambda: attention_map(x), r"features: found shape \(60, 7\)"),
        (lambda: sparsity_difference(x, y), "student"),
    ):
        with pytest.raises(InputError, match=line):
            call()


def test_an_attention_map_is_the_normalised_energy_of_the_channels():
    features = u(2, 3, 2, 4).double()
    found = attention_map(features)
    energy = (features**2).sum(1)
    assert found.shape == (2, 2, 4)
    assert torch.allclose(found.double(), energy / energy.amax((1, 2), keepdim=True), atol=1e-6)
    assert torch.allclose(attention_map(-7 * features[:, [2, 0, 1]]), found, atol=1e-6)
    assert torch.equal(attention_map(torch.zeros(1, 2, 2, 2)), torch.zeros(1, 2, 2))
    tokens = features.flatten(2).transpose(1, 2)  # (2, 8, 3): no square number of tokens
    assert not has_attention_map(tokens.shape)
    square = torch.randn(2, 9, 5)
    with_class_token = torch.cat([100 * torch.ones(2, 1, 5), square], 1)
    assert torch.equal(attention_map(with_class_token), attention_map(square))
    as_map = square.transpose(1, 2).unflatten(2, (3, 3))
    assert torch.allclose(attention_map(square), attention_map(as_map))


def test_the_share_of_units_whose_activity_differs():
    assert sparsity_difference(u(2, 2, 2, 2), v(2, 2, 2, 2)) == pytest.approx(0.25)
    assert sparsity_difference(u(2, 2, 2, 2), 5 * u(2, 2, 2, 2)) == 0
    assert sparsity_difference(torch.ones(2, 3), torch.zeros(2, 3)) == 1
