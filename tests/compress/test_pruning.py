"""Masks by magnitude, the ramp and units, against sorting by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.compress.gradients import movement
from limbeck.compress.pruning import (
    dropout_after_pruning,
    magnitude_masks,
    pruned_count,
    ramp,
    top_mask,
    two_of_four,
    unit_mask,
)
from limbeck.errors import InputError


@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=30), st.integers(0, 99))
def test_exactly_the_floor_of_the_share_goes_the_smallest_first_and_of_equals_the_first(values, percent):
    mask = top_mask(torch.tensor(values).abs(), percent / 100)
    gone = percent * len(values) // 100
    order = sorted(range(len(values)), key=lambda place: (abs(values[place]), place))
    assert [place for place in range(len(values)) if not mask[place]] == sorted(order[:gone])


def test_the_share_is_the_decimal_number_that_is_written():
    assert [pruned_count(share / 100, 100) for share in range(100)] == list(range(100))
    assert int(0.29 * 100) == 28  # which is what rounding down the product gives


def test_one_threshold_over_all_layers_equals_sorting_them_together():
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(4, 5, generator=generator), "b": 0.3 * torch.randn(6, 3, 2, generator=generator)}
    masks = magnitude_masks(weights, 0.6, scope="global")
    every = torch.cat([weight.flatten() for weight in weights.values()]).abs()
    threshold = every.sort().values[int(0.6 * 56)]
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        name: (weight.abs() >= threshold).tolist() for name, weight in weights.items()
    }
    apart = magnitude_masks(weights, 0.6)
    assert [int((~mask).sum()) for mask in apart.values()] == [12, 21]
    assert sum(int((~mask).sum()) for mask in masks.values()) == math.floor(0.6 * 56)


def test_a_layer_that_would_be_empty_is_refused():
    with pytest.raises(InputError, match="which leaves 'b' empty; lower it"):
        magnitude_masks({"a": torch.ones(8), "b": torch.full((4,), 0.1)}, 0.5, scope="global")
    with pytest.raises(InputError, match=r"sparsity: found 1.0, expected a number in \[0, 1\)"):
        magnitude_masks({"a": torch.ones(8)}, 1.0)
    with pytest.raises(InputError, match="a: found NaN or infinity"):
        magnitude_masks({"a": torch.tensor([math.nan])}, 0.5)


def test_two_of_four_keeps_the_two_largest_along_the_input():
    weight = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(1))
    mask = two_of_four(weight)
    for out in range(3):
        for place in range(2):
            for group in range(2):
                four = weight[out, 4 * group : 4 * group + 4, place].abs()
                kept = mask[out, 4 * group : 4 * group + 4, place]
                assert kept.sum() == 2
                assert four[kept].min() >= four[~kept].max()
    with pytest.raises(InputError, match="n a multiple of 4"):
        two_of_four(torch.ones(3, 6))


def test_units_go_by_their_norm():
    weight = torch.tensor([[3.0, 4.0], [0.0, 5.1], [2.0, 2.0], [0.1, 0.1]])
    assert unit_mask(weight, 0.5).tolist() == [True, True, False, False]
    assert unit_mask(weight, 0.5, size=2).tolist() == [True, False]  # norms 7.14 and 2.83
    assert unit_mask(torch.ones(4, 2), 0.5).tolist() == [False, False, True, True]


def test_the_ramp_has_the_numbers_of_the_paper():
    found = [ramp(step, final=0.9, steps=100) for step in (0, 10, 50, 100, 101)]
    assert found == pytest.approx([0.0, 0.2439, 0.7875, 0.9, 0.9], abs=1e-12)


def test_dropout_scales_with_the_root_of_what_is_kept():
    assert dropout_after_pruning(0.5, 25, 100) == 0.25


def test_the_gradient_of_a_score_is_that_of_the_weight_times_the_weight_whether_it_is_kept_or_not():
    weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    slopes = torch.tensor([0.5, 0.25, -1.0], dtype=torch.float64)
    masked = movement(weight, scores, 0.34)
    (masked * slopes).sum().backward()
    assert masked.tolist() == [1.0, -2.0, 0.0]
    assert scores.grad.tolist() == [0.5, -0.5, -3.0]
    assert weight.grad.tolist() == [0.5, 0.25, 0.0]
