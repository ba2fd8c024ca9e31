"""Arrays as people save them: pixels in other whole numbers, channels last, values far from zero, labels with gaps."""

import warnings

import numpy as np
import pytest
import torch

from bounded import bounded
from limbeck.config import Recipe
from limbeck.data import LazySet, TensorSet, npz, table
from limbeck.errors import DataError, DataWarning, ModelError
from limbeck.experiment.vetting import vet
from walk import over

LABELS = np.arange(60) % 3


def saved(tmp_path, inputs, labels=LABELS, **more):
    np.savez(tmp_path / "d.npz", inputs=inputs, labels=labels, **more)
    return str(tmp_path / "d.npz")


def read(path, **keys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return npz(path, **keys)


@over("dtype", ["int64", "int32", "int16", "int8", "uint16", "uint32", "uint64"])
def test_pixels_in_other_whole_numbers_than_uint8_are_refused(tmp_path, dtype):
    pixels = np.random.default_rng(0).integers(0, 100, (60, 1, 8, 8)).astype(dtype)
    with pytest.raises(DataError, match=rf"array 'inputs' is {dtype} \(60, 1, 8, 8\); .*; save pixels as uint8"):
        npz(saved(tmp_path, pixels))
    assert npz(saved(tmp_path, pixels.reshape(60, 64))).train.inputs.dtype == torch.int64


def test_token_ids_in_a_model_of_numbers_are_named(tmp_path):
    path = saved(tmp_path, np.random.default_rng(0).integers(0, 100, (60, 7)))
    keys = {"data": {"kind": "npz", "path": path}, "student": {"model": {"kind": "mlp", "hidden": [4]}}}
    with pytest.raises(
        ModelError, match="inputs are int64, which are token ids; save pixels as uint8 and other numbers"
    ):
        vet(Recipe.parse({"name": "r", **keys, "training": {"batch_size": 8}}))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_are_last_are_refused_of_pixels_and_said_of_numbers(tmp_path, channels):
    pixels = np.zeros((60, 32, 28, channels), dtype=np.uint8)
    with pytest.raises(DataError, match=rf"shape \(60, 32, 28, {channels}\), whose channels are last; expected"):
        npz(saved(tmp_path, pixels))
    with pytest.raises(DataError, match="whose channels are last"):
        TensorSet.of(torch.from_numpy(pixels))
    with pytest.raises(DataError, match=r"sample 0: inputs have shape .* whose channels are last"):
        LazySet.of([(torch.from_numpy(pixels[0]), 0)] * 2)
    with pytest.warns(DataWarning, match=r"taken as channels, height and width; are they last\?"):
        npz(saved(tmp_path, pixels.astype("float32")))
    assert npz(saved(tmp_path, pixels.transpose(0, 3, 1, 2))).train.input_shape == (channels, 32, 28)
    assert npz(saved(tmp_path, pixels[:, :4, :4])).train.input_shape == (4, 4, channels)


@over("dtype", ["float64", "float16", ">f8", "longdouble"])
def test_values_that_differ_less_than_float32_tells_are_refused(tmp_path, dtype):
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(dtype)
    found = read(saved(tmp_path, rows))
    kept = found.train.inputs
    assert kept.dtype == torch.float32
    assert np.array_equal(kept.numpy(), rows.astype("float32"))
    if dtype != "float16":
        rows[:, 1] += 1.7e9
        with pytest.raises(DataError, match=r"array 'inputs': values near 1\.7e\+09 differ by .*subtract their mean"):
            npz(saved(tmp_path, rows))
        with pytest.raises(DataError, match="labels: values near"):
            npz(saved(tmp_path, np.zeros((60, 3)), rows[:, 1]), task="regression")


def test_whole_numbers_beyond_int64_do_not_turn_negative(tmp_path):
    large = np.full((60, 2), 2**63, dtype="uint64")
    with pytest.raises(DataError, match="array 'inputs' holds 9223372036854775808, expected whole numbers below"):
        npz(saved(tmp_path, large))
    with pytest.raises(DataError, match="array 'labels' holds 9223372036854775808"):
        npz(saved(tmp_path, np.zeros((60, 2)), large[:, 0]))


def test_classes_that_no_sample_has_are_said(tmp_path):
    found = npz(saved(tmp_path, np.zeros((60, 2)), np.where(LABELS == 2, 9, LABELS)))
    assert any(
        "7 of 10 classes have no sample to train on: '2', '3', '4', '5', '6' and 2 more" in n for n in found.notes
    )
    assert not npz(saved(tmp_path, np.zeros((60, 2)))).notes
    masks = np.where(
        np.arange(60 * 4).reshape(60, 2, 2) % 5 == 0, 255, 0
    )  # 255 where there is none, as some tools write
    found = npz(saved(tmp_path, np.zeros((60, 1, 2, 2)), masks), task="dense")
    assert any("254 of 256 classes have no sample to train on" in note for note in found.notes)


def test_one_large_label_is_refused_before_names_are_made(tmp_path):
    labels = LABELS.copy()
    labels[7] = 2**31 - 1
    said = "sample 7 has label 2147483647, expected the number of a class below 1,048,576"
    with bounded(), pytest.raises(DataError, match=said):
        npz(saved(tmp_path, np.zeros((60, 2)), labels))


@over("names", [["a", "b", "b"], ["a", "b", "x" * 300], ["a", "b", "\u202ec"], ["a", "b", "c\n"]])
def test_class_names_that_are_no_names_are_refused(tmp_path, names):
    with pytest.raises(DataError, match="class name"):
        npz(saved(tmp_path, np.zeros((60, 2)), class_names=np.array(names)))


def test_the_names_of_many_columns_are_compared_in_bounded_time(tmp_path):
    """To count each of 60,000 names among all of them took three minutes."""
    names = [f"c{place}" for place in range(60_000)]
    (tmp_path / "w.csv").write_text(f"{','.join(names)}\n" + f"{'1,' * 59_999}1\n" * 2)
    with bounded(), pytest.raises(DataError, match="label: there is no column 'c6000O' in"):
        table(str(tmp_path / "w.csv"), "c6000O")
