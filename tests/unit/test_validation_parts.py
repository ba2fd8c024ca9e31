"""A validation part of the user's own, in the kinds of data that read files, and arrays under names of their own."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck import data
from limbeck.config import Recipe
from limbeck.errors import DataError
from limbeck.experiment.parts import prepare
from walk import over

arrow = pytest.importorskip("pyarrow")
from pyarrow import parquet as writer  # noqa: E402

SIZES = {"train": 12, "test": 4, "validation": 6}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arrays() -> dict[str, np.ndarray]:
    found = {}
    for part, size in SIZES.items():
        prefix = "" if part == "train" else f"{part}_"
        found[f"{prefix}inputs"] = np.full((size, 3), SIZES[part], "float32")
        found[f"{prefix}labels"] = np.arange(size) % 2
    return found


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), number, "uint8")).save(file, "PNG")
    return file.getvalue()


def npz(place: Path) -> data.Splits:
    np.savez(place / "a.npz", **arrays())
    return data.npz(str(place / "a.npz"))


def mapped(place: Path) -> data.Splits:
    for name, array in arrays().items():
        np.save(place / f"{name}.npy", array)
    return data.mapped(str(place))


def parquet(place: Path) -> data.Splits:
    for part, size in SIZES.items():
        rows = {"x": [[float(size)] * 3] * size, "label": [each % 2 for each in range(size)]}
        writer.write_table(arrow.table(rows), place / f"{part}-00000-of-00001.parquet")
    return data.parquet(str(place), inputs="x")


def saved_dataset(place: Path) -> data.Splits:
    for part, size in SIZES.items():
        (place / part).mkdir()
        rows = arrow.table({"x": [[float(size)] * 3] * size, "label": [each % 2 for each in range(size)]})
        with arrow.OSFile(str(place / part / "data.arrow"), "wb") as file, arrow.ipc.new_stream(file, rows.schema) as s:
            s.write_table(rows)
        (place / part / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (place / "dataset_dict.json").write_text("{}")
    return data.saved_dataset(str(place), inputs="x")


def shards(place: Path) -> data.Splits:
    for part, size in SIZES.items():
        with tarfile.open(place / f"{part}.tar", "w") as archive:
            for number in range(size):
                for name, content in ((f"{number}.png", png(size)), (f"{number}.cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return data.shards(str(place), (2, 2))


def images(place: Path, called: str = "val") -> data.Splits:
    for part, size in SIZES.items():
        for number in range(size):
            folder = place / (called if part == "validation" else part) / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(png(size))
    return data.image_folder(str(place), (2, 2))


KINDS = [npz, mapped, parquet, saved_dataset, shards, images]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_part_is_read_as_it_is(tmp_path, kind):
    place = tmp_path / "set"
    place.mkdir()
    splits = kind(place)
    assert splits.validation is not None
    for part, size in SIZES.items():
        samples = getattr(splits, part)
        assert len(samples) == size
        values = samples.gather(torch.arange(size))
        assert bool((values == size).all()), "the samples of another part"
        assert samples.classes == 2


def test_two_folders_for_choices_are_refused(tmp_path):
    images(tmp_path)
    with pytest.raises(DataError, match="has validation and val; expected one folder for choices"):
        images(tmp_path, "validation")


def test_a_recipe_chooses_by_it_and_trains_on_all_training_samples(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    mlp = {"model": {"kind": "mlp", "hidden": [2]}}
    keys = {"name": "a", "data": {"kind": "npz", "path": "a.npz"}, "student": mlp}
    recipe = Recipe.parse(keys, tmp_path)
    parts = prepare(recipe)
    assert (len(parts.train), len(parts.held_out), len(parts.test)) == (12, 6, 4)


# --------------------------------------------------------------------------------------------------- names of one's own

KERAS = {"inputs": "x_train", "labels": "y_train", "test_inputs": "x_test", "test_labels": "y_test"}


def test_arrays_have_the_names_that_are_given(tmp_path):
    own, path = arrays(), str(tmp_path / "a.npz")
    np.savez(path, **{KERAS[key]: own[key] for key in KERAS}, ids=np.arange(3))
    splits = data.npz(path, **KERAS)
    assert (len(splits.train), len(splits.test)) == (12, 4)
    assert splits.notes == (f"{path}: arrays that are left out: 'ids'",)


@over(
    ("keys", "message"),
    [
        ({}, "Under another name, give it with its key: inputs: x_t"),
        ({"inputs": "x_train", "labels": "y"}, "has no array 'y'; it has: x_test, x_train, y_test, y_train"),
        ({**KERAS, "test_labels": "test_labels"}, "has no array 'test_labels'"),
        ({**KERAS, "validation_inputs": "x_test"}, "has no array 'validation_labels'"),
    ],
)
def test_arrays_that_are_not_there_are_named(tmp_path, keys, message):
    own, path = arrays(), str(tmp_path / "a.npz")
    np.savez(path, **{KERAS[key]: own[key] for key in KERAS})
    with pytest.raises(DataError) as caught:
        data.npz(path, **keys)
    assert message in str(caught.value)
