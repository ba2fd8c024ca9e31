"""What sets are made of: normalisation whatever its type, labels of lazy sets, names, and how large a label may be."""

import numpy as np
import pytest
import torch

from bounded import bounded
from limbeck.data import LazySet, TensorSet
from limbeck.data.content import narrowed
from limbeck.data.names import MOST_CLASSES
from limbeck.errors import DataError, InputError, nearest
from limbeck.tasks import REGRESSION
from walk import over

PIXELS = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)


def batch(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0).inputs


@over("kind", [list, tuple, np.float64, np.float32, np.float16, torch.float64, torch.float32])
def test_batches_are_float32_whatever_the_type_of_mean_and_std(kind):
    mean, std = [0.25, 0.5, 0.125], [0.5, 0.25, 1.0]  # exact in each type
    given = [
        kind(each) if kind in (list, tuple) else torch.tensor(each, dtype=kind) if isinstance(kind, torch.dtype)
        else np.array(each, dtype=kind)
        for each in (mean, std)
    ]  # fmt: skip
    samples = TensorSet.of(PIXELS, mean=given[0], std=given[1])
    plain = TensorSet.of(PIXELS, mean=mean, std=std)
    assert samples.mean.dtype == samples.std.dtype == batch(samples).dtype == torch.float32
    shape = (3, 1, 1)
    expected = (PIXELS.double() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    torch.testing.assert_close(batch(samples).double(), expected, rtol=0, atol=1e-6)
    assert samples.source == plain.source
    listed = [np.float64(each) for each in mean]
    assert TensorSet.of(PIXELS, mean=listed, std=std).source == plain.source


@over(
    ("mean", "std", "said"),
    [
        ([0.0, 0.0, 1e9], [1.0, 1.0, 1.0], "mean 1e+09 is so far from 0 that float32 loses a std of 1"),
        ([0.0] * 3, [1.0, 1.0, 1e-60], "std: found 1e-60, expected"),
        ([0.0] * 3, [1.0, 1.0, 1e60], "std: found 1e+60, expected"),
        ([0.0, 0.0, "x"], [1.0] * 3, "mean: found [0.0, 0.0, 'x'], expected a number"),
        (0.5, [1.0] * 3, "mean: found 0.5, expected a list of numbers"),
        (np.array(0.5), [1.0] * 3, "mean: found a ndarray, expected a list of numbers"),
        (np.zeros((3, 1)), [1.0] * 3, "mean: found a ndarray, expected a number"),
    ],
)
def test_a_normalisation_that_float32_cannot_hold_is_refused(mean, std, said):
    with pytest.raises(InputError) as caught:
        TensorSet.of(PIXELS, mean=mean, std=std)
    assert said in str(caught.value)


def test_what_float32_would_round_away_is_refused():
    times = 1.7e9 + torch.arange(50, dtype=torch.float64)
    with pytest.raises(DataError, match=r"differ by 14\.4, which is lost in float32; subtract their mean"):
        narrowed("times", times)
    with pytest.raises(DataError, match="labels: values near"):
        TensorSet.of(torch.zeros(50, 2), times, task=REGRESSION)
    wide = torch.zeros(50, 3000, dtype=torch.float64)
    wide[:, 2999] = times
    with pytest.raises(DataError, match="lost in float32"):
        narrowed("times", wide)
    kept = torch.stack([times - 1.7e9, torch.full_like(times, 0.1), (times - 1.7e9) * 1e30], 1)
    assert torch.equal(narrowed("fine", kept), kept.float())
    assert narrowed("one", times[:1]).dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------ lazy sets


def rows_with(label):
    return [(torch.zeros(3), 0), (torch.ones(3), label)]


@over(
    "label",
    [1, np.int64(1), np.uint8(1), torch.tensor(1), torch.tensor([1]), np.array(1), torch.tensor(1).to(torch.int8)],
)
def test_any_whole_number_is_a_label_of_a_lazy_set(label):
    assert LazySet.of(rows_with(label)).labels.tolist() == [0, 1]


@over(
    ("label", "said"),
    [
        ("cat", "label 'cat', expected the number of a class"),
        ("1", "label '1', expected the number of a class"),
        (0.7, "for several labels, masks or numbers to predict use TensorSet"),
        (1.0, "label 1.0, expected"),
        (np.float32(0.5), "label 0.5, expected"),
        (torch.tensor(0.5), "label 0.5, expected"),
        (float("nan"), "label nan, expected"),
        (True, "label True, expected"),
        (torch.tensor([1, 0, 1]), r"label of shape (3,), expected"),
        (np.zeros((2, 2)), r"label of shape (2, 2), expected"),
        (torch.zeros(0), r"label of shape (0,), expected"),
        ([1, 0], "label [1, 0], expected"),
        ({"class": 1}, "label {'class': 1}, expected"),
        (2**70, "expected the number of a class"),
        (1j, "label 1j, expected"),
        (2**40, "has label 1099511627776, expected the number of a class below 1,048,576"),
        (-3, "sample 1 has label -3, expected 0 to 0, or -100 for none"),
    ],
)
def test_what_is_no_label_of_a_lazy_set_is_one_line(label, said):
    with pytest.raises(DataError) as caught:
        LazySet.of(rows_with(label), name="mine")
    assert said in str(caught.value)
    assert "mine: sample 1 has label" in str(caught.value)


def test_a_label_that_changes_its_kind_later_is_one_line():
    rows = rows_with(1)
    samples = LazySet.of(rows)
    rows[1] = (torch.ones(3), "cat")
    with pytest.raises(DataError, match="sample 1 has label 'cat'"):
        batch(samples)


# ----------------------------------------------------------------------------------------------------- names and bounds


@over(
    ("names", "said"),
    [
        (["a", "a"], "class name 'a' occurs twice"),
        (["\u00e9", "e\u0301"], "occurs twice, in two Unicode forms"),
        (["a", 3], "class_names: found ['a', 3], expected text"),
        (["a", "b\nc"], r"class name 'b\nc' holds the unprintable character U+000A"),
        (["a", "\u202eb"], "U+202E"),
        (["a", "x" * 257], "has 257 letters, expected at most 256; shorten it"),
    ],
)
def test_names_are_each_ones_own_and_can_be_printed(names, said):
    with pytest.raises((DataError, InputError)) as caught:
        TensorSet.of(torch.zeros(2, 2), torch.tensor([0, 1]), class_names=names)
    assert said in str(caught.value)
    with pytest.raises((DataError, InputError), match=r"group name|^group_names"):
        TensorSet.of(torch.zeros(2, 2), torch.tensor([0, 1]), groups=[0, 1], group_names=names)


@pytest.mark.parametrize("label", [MOST_CLASSES, 2**31 - 1, 2**62])
def test_one_large_label_is_refused_before_names_are_made(label):
    with bounded():
        with pytest.raises(DataError, match=f"sample 1 has label {label}, expected the number of a class below"):
            TensorSet.of(torch.zeros(2, 2), torch.tensor([0, label]))
        with pytest.raises(DataError, match=r"classes, expected at most 1,048,576"):
            TensorSet.of(torch.zeros(2, 2), torch.tensor([0, 1]), classes=label + 1)


def test_the_nearest_of_long_or_many_names_is_found_in_bounded_time():
    with bounded():
        assert nearest("x" * 10_000, ["x" * 10_000 + "y"] * 50 + ["xy"]) is None
        assert nearest("colum_7", [f"column_{place}" for place in range(200_000)]) == "column_7"
