"""Parquet files and datasets on disk: the rows of a set in memory, in an order of few row groups at a time."""

import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import limbeck as lb
from limbeck.data import Loader, ParquetSet, TensorSet, parquet, saved_dataset
from limbeck.errors import DataError
from small_recipe import refusal

arrow = pytest.importorskip("pyarrow")
from pyarrow import parquet as writer  # noqa: E402

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.random((40, 3), dtype=np.float32)
LABELS = np.arange(40) % 4
NAMES = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b", "c", "d"]}}}}).encode()}


def table(rows=range(40), label=None, **columns):
    rows = list(rows)
    made = {"inputs": [ROWS[row].tolist() for row in rows], "label": [int(LABELS[row]) for row in rows], **columns}
    return arrow.table(made).replace_schema_metadata(NAMES)


def pixels_of(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0).inputs


def png(number):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, "uint8")).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "set"
    place.mkdir()
    writer.write_table(table(range(20)), place / "train-0.parquet", row_group_size=4)
    writer.write_table(table(range(20, 32)), place / "train-1.parquet", row_group_size=5)
    writer.write_table(table(range(32, 40)), place / "test.parquet")
    return place


def test_rows_of_parquet_files_are_those_of_the_table(folder):
    splits = parquet(str(folder), inputs="inputs")
    assert isinstance(splits.train, ParquetSet)
    assert splits.train.class_names == ("a", "b", "c", "d")
    assert torch.equal(pixels_of(splits.train), torch.from_numpy(ROWS[:32]))
    assert torch.equal(pixels_of(splits.test), torch.from_numpy(ROWS[32:]))
    assert splits.train.labels.tolist() == LABELS[:32].tolist()


def test_an_epoch_takes_few_row_groups_at_a_time_and_is_a_function_of_seed_and_epoch(folder):
    samples = parquet(str(folder), inputs="inputs", window_bytes=1).train
    assert samples.row_groups.window == 1
    order = samples.order(0, 3)
    assert sorted(order.tolist()) == list(range(32))
    assert torch.equal(order, samples.order(0, 3))
    assert not torch.equal(order, samples.order(0, 4))
    assert not torch.equal(order, samples.order(1, 3))
    groups = samples.row_groups.of(order)
    assert 1 + int((groups[1:] != groups[:-1]).sum()) == len(samples.row_groups.groups) == 8
    wide = parquet(str(folder), inputs="inputs").train
    assert len(wide.row_groups.of(wide.order(0, 3))[:8].unique()) > 2
    part = samples.subset(torch.arange(0, 32, 3))
    assert sorted(part.order(0, 1).tolist()) == list(range(11))


def test_each_row_group_is_decoded_once_an_epoch(folder, monkeypatch):
    samples = parquet(str(folder), inputs="inputs", window_bytes=1).train
    read = []
    original = writer.ParquetFile.read_row_group

    def counted(self, *given, **more):
        read.append(given)
        return original(self, *given, **more)

    monkeypatch.setattr(writer.ParquetFile, "read_row_group", counted)
    for _ in Loader(samples, 3, seed=0).epoch(0):
        pass
    assert len(read) == 8


@pytest.mark.thorough
def test_training_is_resumed_at_its_step_and_workers_change_nothing(folder, tmp_path):
    def train(workers=0, **settings):
        torch.manual_seed(0)
        student = nn.Linear(3, 4)
        samples = parquet(str(folder), inputs="inputs", window_bytes=200).train
        more = {"epochs": 3, "batch_size": 6, "checkpoint_seconds": 0.0, "workers": workers, **settings}
        lb.fit(student, samples, method=lb.methods.hard(), **more)
        return student.weight.tolist()

    def stop(progress):
        if progress.epoch == 2:
            raise RuntimeError("stopped")

    wanted = train()
    assert train(workers=1) == wanted
    with pytest.raises(RuntimeError, match="stopped"):
        train(folder=tmp_path / "run", watch=stop)
    assert train(folder=tmp_path / "run") == wanted


def test_images_and_classes_by_name_are_read_from_one_file(tmp_path):
    cells = [{"bytes": png(row), "path": None} for row in range(40)]
    made = arrow.table({"image": cells, "label": ["cat" if row % 2 else "ant" for row in range(40)]})
    writer.write_table(made, tmp_path / "all.parquet", row_group_size=7)
    splits = parquet(str(tmp_path / "all.parquet"), size=(4, 4))
    assert splits.train.class_names == ("ant", "cat")
    inputs = pixels_of(splits.train)[:, 0, 0, 0] * 255
    assert inputs.round().long().tolist() == splits.train.index.tolist()
    assert "expected a size" in refusal(lambda: parquet(str(tmp_path / "all.parquet")), error=DataError)


def saved(place, rows, file="data-00000-of-00001.arrow", **state):
    place.mkdir(parents=True)
    with arrow.OSFile(str(place / file), "wb") as sink, arrow.ipc.new_stream(sink, table(rows).schema) as stream:
        stream.write_table(table(rows), max_chunksize=6)
    files = {"_data_files": [{"filename": file}], "_indices_data_files": None, **state}
    (place / "state.json").write_text(json.dumps(files))


def test_a_saved_dataset_is_read_by_row(tmp_path):
    place = tmp_path / "set"
    saved(place / "train", range(32))
    saved(place / "test", range(32, 40))
    (place / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    splits = saved_dataset(str(place), inputs="inputs")
    assert splits.train.class_names == ("a", "b", "c", "d")
    whole = TensorSet.of(torch.from_numpy(ROWS[:32]), torch.from_numpy(LABELS[:32]))
    pairs = zip(Loader(whole, 5, seed=0).epoch(1), Loader(splits.train, 5, seed=0).epoch(1), strict=True)
    assert all(torch.equal(one.inputs, other.inputs) for one, other in pairs)
    other = pickle.loads(pickle.dumps(splits.test))  # noqa: S301
    assert torch.equal(pixels_of(other), torch.from_numpy(ROWS[32:]))
    assert len(saved_dataset(str(place / "train"), inputs="inputs").test) == 8


def test_the_digest_is_that_of_the_content(folder):
    first = parquet(str(folder), inputs="inputs").train.digest()
    assert parquet(str(folder), inputs="inputs").train.digest() == first
    writer.write_table(table(range(1, 21)), folder / "train-0.parquet", row_group_size=4)
    assert parquet(str(folder), inputs="inputs").train.digest() != first


def test_what_is_no_such_set_is_refused_in_one_line(folder, tmp_path):
    def of(path=folder, **keys):
        return refusal(lambda: parquet(str(path), **{"inputs": "inputs", **keys}), error=DataError)

    assert "found no column 'input'; did you mean 'inputs'" in of(inputs="input")
    assert "has no .parquet files" in of(tmp_path / "none")
    writer.write_table(table(range(4), label=["x", 1.5]).drop_columns("label"), folder / "train-2.parquet")
    assert "label: found no column 'label'" in of()
    writer.write_table(table(range(4)).set_column(1, "label", [[0.5] * 4]), folder / "train-2.parquet")
    assert "row 32: 'label' is '0.5'; expected the number of a class" in of()
    (folder / "train-2.parquet").write_bytes((folder / "train-0.parquet").read_bytes()[:-9])
    assert "cannot be read by pyarrow" in of()
    (folder / "train-2.parquet").unlink()
    (folder / "test.parquet").unlink()
    assert "has no test*.parquet" in of()

    for number, (state, expected) in enumerate(
        [
            ({"_data_files": [{"filename": "../data.arrow"}]}, "names files outside of the folder"),
            ({"_data_files": [{"filename": "/etc/passwd"}]}, "names files outside of the folder"),
            ({"_indices_data_files": [{"filename": "i.arrow"}]}, "call flatten_indices"),
            ({"_data_files": 3}, "is no dataset of the library datasets"),
        ]
    ):
        place = tmp_path / f"saved-{number}"
        saved(place, range(8), **state)
        assert expected in refusal(lambda place=place: saved_dataset(str(place), inputs="inputs"), error=DataError)
