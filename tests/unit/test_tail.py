"""Rare classes: which they are, and what a student changes on them, against counting by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.evaluation import class_gains, tail_gains
from limbeck.records import plain_values


def drawn(seed: int, seeds: int, size: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(seeds, size, generator=generator) < share for share in (0.6, 0.7))
    return first, second, torch.randint(classes, (size,), generator=generator)


@given(
    seed=st.integers(0, 99),
    seeds=st.integers(1, 4),
    size=st.integers(1, 40),
    trained=st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0),
)
def test_rare_and_other_classes_are_counted_apart(seed, seeds, size, trained):
    first, second, labels = drawn(seed, seeds, size, len(trained))
    found = tail_gains(first, second, labels, trained)
    rare = [label for label, count in enumerate(trained) if 2 * count * len(trained) < sum(trained)]
    assert sorted(found.rare) == rare
    assert [trained[label] for label in found.rare] == sorted(trained[label] for label in rare)
    assert found.trained == tuple(trained)
    for gain, chosen in ((found.on_rare, rare), (found.on_others, [c for c in range(len(trained)) if c not in rare])):
        places = [i for i in range(size) if int(labels[i]) in chosen]
        if not places:
            assert gain is None
            continue
        before, after, mended, spoiled = 0.0, 0.0, 0.0, 0.0
        for i in places:
            one, two = (sum(bool(row[i]) for row in rows) / seeds for rows in (first, second))
            before, after = before + one, after + two
            mended, spoiled = mended + max(two - one, 0.0), spoiled + max(one - two, 0.0)
        n = len(places)
        assert gain.examples == n
        assert (gain.first, gain.second) == pytest.approx((before / n, after / n))
        assert (gain.gained, gain.harmed) == pytest.approx((mended / n, spoiled / n))
        assert gain.difference.value == pytest.approx((after - before) / n)
        assert gain.difference.low <= gain.difference.value + 1e-12
        assert gain.difference.high >= gain.difference.value - 1e-12


def test_a_group_of_one_class_has_that_classs_gain():
    first, second, labels = drawn(3, 2, 60, 3)
    gain = class_gains(first, second, labels, 3)[2]
    found = tail_gains(first, second, labels, [100, 100, 4])
    assert (found.rare, found.on_rare.difference) == ((2,), gain.difference)


def test_of_even_classes_none_is_rare():
    first, second, labels = drawn(0, 1, 30, 4)
    assert tail_gains(first, second, labels, [10, 10, 10, 10]).rare == ()
    assert tail_gains(first, second, labels, [12, 9, 10, 5]).rare == ()  # half of the even share, 4.5, is less than 5
    assert tail_gains(first, second, labels, [12, 9, 11, 4]).rare == (3,)
    assert tail_gains(first, second, labels, [10, 10, 10, 0]).rare == (3,)  # left out of the training set


def test_it_can_be_written_as_json():

    first, second, labels = drawn(0, 1, 30, 2)
    told = plain_values(tail_gains(first, second, labels, [9, 1]))
    assert told["rare"] == [1]
    assert set(told["on_rare"]) == {"examples", "first", "second", "gained", "harmed", "difference"}
    assert tail_gains(first, second, labels, [1, 1]).as_dict()["on_rare"] is None


@pytest.mark.parametrize("trained", [[], [0, 0], [3, -1]])
def test_counts_that_cannot_be_are_refused(trained):
    first, second, labels = drawn(0, 1, 5, 1)
    with pytest.raises(InputError, match="trained: found"):
        tail_gains(first, second, labels, trained)


def test_labels_of_no_class_are_refused():
    first, second, _ = drawn(0, 1, 2, 1)
    with pytest.raises(InputError, match="labels: found 0 to 2, expected 0 to 1"):
        tail_gains(first, second, torch.tensor([0, 2]), [3, 3])
