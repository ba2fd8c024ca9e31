"""Where sets come from: digits, IDX files, archives and image folders, whole and damaged."""

import contextlib
import gzip
import inspect
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from idx_files import FILES, idx_bytes, idx_content, one_line, written
from limbeck.data import (
    LazySet,
    Loader,
    Splits,
    TensorSet,
    digits,
    idx,
    image_folder,
    kinds,
    npz,
    read_idx,
)
from limbeck.errors import DataError, InputError
from walk import over


def everything(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)


# --------------------------------------------------------------------------------------------------------- the registry


def test_every_kind_has_typed_parameters_and_returns_splits():
    assert sorted(kinds()) == [
        "bundled", "chat", "cifar10", "cifar100", "digits", "factory", "fashion_mnist", "glue", "idx", "images",
        "interactions", "mapped", "mnist", "npz", "parquet", "ptb", "saved_dataset", "sentences", "seq2seq", "shards",
        "synthetic", "synthetic_interactions", "synthetic_sentences", "synthetic_text", "table", "token_stream",
    ]  # fmt: skip
    for source in kinds().values():
        types = typing.get_type_hints(source)
        assert types["return"] is Splits
        for name, parameter in inspect.signature(source).parameters.items():
            assert name in types
            assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


# --------------------------------------------------------------------------------------------------------------- digits


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = digits()
    assert data.name == "digits"
    assert (data.train.name, data.test.name) == ("digits/train", "digits/test")
    for part in (data.train, data.test):
        batch = everything(part)
        assert batch.inputs.dtype == torch.float32
        assert np.array_equal(batch.inputs.numpy(), (images / 16).reshape(-1, 1, 8, 8)[batch.index].astype(np.float32))
        assert np.array_equal(batch.labels.numpy(), labels[batch.index])
        assert part.classes == 10
    assert sorted(data.train.index.tolist() + data.test.index.tolist()) == list(range(1797))
    expected = np.floor(np.bincount(labels) * 0.2 + 0.5)
    assert np.array_equal(torch.bincount(data.test.labels).numpy(), expected)


def test_digits_are_the_same_in_every_place_that_they_were_read_in_before():
    first = everything(digits().train).inputs
    with torch.device("meta"), contextlib.suppress(DataError):
        digits()
    with torch.inference_mode():
        digits().train.inputs.zero_()
    again = everything(digits().train).inputs
    assert torch.equal(first, again)
    assert not again.is_inference()


def test_digits_split_follows_its_seed():
    assert torch.equal(digits().test.index, digits(seed=0).test.index)
    assert not torch.equal(digits().test.index, digits(seed=1).test.index)
    assert len(digits(test_share=0.5).test) == pytest.approx(898, abs=5)
    for share in (0.0, 1.0, -0.5, "half", True):
        with pytest.raises(InputError, match="test_share"):
            digits(test_share=share)


# ------------------------------------------------------------------------------------------------------------ IDX files


@over("shape", [(5,), (3, 4), (2, 3, 4)])
@over("gzipped", [True, False])
def test_read_idx(tmp_path, shape, gzipped):
    array = np.random.default_rng(1).integers(0, 256, shape)
    data = idx_bytes(array)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(data) if gzipped else data)
    found = read_idx(path)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), array)


DAMAGED = {
    "empty": (b"", "begins with nothing"),
    "no header": (b"\x89PNG\r\n\x1a\n", "begins with 89504e47"),
    "no dimensions": (b"\0\0\x08\0", "expected an IDX header"),
    "floats": (idx_bytes(np.zeros((2, 2)), kind=0x0D), "IDX type 0x0d, expected 0x08"),
    "half a header": (idx_bytes(np.zeros((2, 2)))[:7], "7 bytes, expected"),
    "truncated": (idx_bytes(np.zeros((2, 2)))[:-1], "15 bytes, expected 16"),
    "too long": (idx_bytes(np.zeros((2, 2))) + b"\0", "17 bytes, expected 16"),
    "no samples": (idx_bytes(np.zeros((0, 2))), "at least one sample"),
    "half a gzip": (gzip.compress(bytes(range(256)) * 9)[:-40], "truncated or corrupt"),
    "corrupt gzip": (gzip.compress(idx_bytes(np.zeros((2, 2))))[:-8] + bytes(8), "cannot be read|corrupt"),
}


@over("damage", DAMAGED)
def test_damaged_idx_files_are_named(tmp_path, damage):
    data, line = DAMAGED[damage]
    path = tmp_path / "train-images"
    path.write_bytes(data)
    with pytest.raises(DataError, match=line) as caught:
        read_idx(path)
    assert str(path) in one_line(caught)


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(DataError, match="No such file") as caught:
        read_idx(tmp_path / "absent")
    assert "absent" in one_line(caught)


@pytest.mark.parametrize("gzipped", [True, False])
def test_idx_folder(tmp_path, gzipped):
    data = idx(str(written(tmp_path / "own", idx_content(), gzipped=gzipped)))
    assert data.name == "own"
    assert (len(data.train), len(data.test)) == (12, 5)
    assert data.train.input_shape == (1, 4, 3)
    assert data.train.classes == data.test.classes == 10
    assert isinstance(data.train, TensorSet)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.labels.tolist() == [*range(10), 0, 1]
    assert data.train.source != data.test.source
    raw = np.frombuffer(idx_content()[FILES[2]][16:], np.uint8).reshape(5, 1, 4, 3)
    assert np.array_equal(everything(data.test).inputs.numpy(), raw.astype(np.float32) / np.float32(255))


def test_idx_folder_with_parts_that_do_not_fit(tmp_path):
    content = idx_content()
    with pytest.raises(DataError, match="has no file t10k-labels") as caught:
        idx(str(written(tmp_path / "missing", {file: content[file] for file in FILES[:3]})))
    one_line(caught)
    with pytest.raises(DataError, match="12 samples but labels of shape"):
        idx(str(written(tmp_path / "fewer", {**content, FILES[1]: idx_bytes(np.zeros(11))})))
    with pytest.raises(DataError, match="rank 1, expected 3"):
        idx(str(written(tmp_path / "flat", {**content, FILES[0]: idx_bytes(np.zeros(12))})))
    with pytest.raises(DataError, match="differ in size"):
        idx(str(written(tmp_path / "sizes", {**content, FILES[2]: idx_bytes(np.zeros((5, 3, 4)))})))
    with pytest.raises(DataError, match="sample 4 has label 99, expected 0 to 9"):
        idx(str(written(tmp_path / "label", {**content, FILES[3]: idx_bytes(np.array([0, 1, 2, 3, 99]))})))
    with pytest.raises(DataError, match="sample 3 has label 3, expected 0 to 2"):
        idx(str(written(tmp_path / "classes", content)), classes=3)


# ------------------------------------------------------------------------------------------------------------- archives


def archive(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


INPUTS = np.random.default_rng(2).random((20, 3))
LABELS = np.arange(20) % 2


def test_npz_with_a_test_part(tmp_path):
    path = archive(
        tmp_path / "a.npz",
        inputs=INPUTS,
        labels=LABELS.astype(np.uint8),
        test_inputs=INPUTS[:4],
        test_labels=LABELS[:4],
        class_names=np.array(["cat", "dog"]),
    )
    data = npz(path)
    assert (len(data.train), len(data.test)) == (20, 4)
    assert data.train.class_names == data.test.class_names == ("cat", "dog")
    assert np.array_equal(everything(data.train).inputs.numpy(), INPUTS.astype(np.float32))
    assert np.array_equal(everything(data.train).labels.numpy(), LABELS)


def test_npz_without_a_test_part_is_split(tmp_path):
    path = archive(tmp_path / "a.npz", inputs=INPUTS, labels=LABELS)
    data = npz(path)
    assert torch.bincount(data.test.labels).tolist() == [2, 2]
    assert sorted(data.train.index.tolist() + data.test.index.tolist()) == list(range(20))
    assert data.train.source == data.test.source
    assert torch.equal(npz(path).test.index, data.test.index)
    assert not torch.equal(npz(path, seed=1).test.index, data.test.index)
    assert len(npz(path, test_share=0.5).test) == 10


@over(
    ("dtype", "kept"),
    [("uint8", torch.uint8), ("float16", torch.float32), (">f8", torch.float32), ("int32", torch.int64)],
)
def test_npz_types(tmp_path, dtype, kept):
    path = archive(tmp_path / "a.npz", inputs=np.ones((10, 4)).astype(dtype), labels=LABELS[:10])
    assert npz(path).train.inputs.dtype == kept


NPZ_WRONG = {
    "misspelt": ({"input": INPUTS, "labels": LABELS}, "unknown array 'input'; did you mean 'inputs'?"),
    "missing": ({"inputs": INPUTS}, "has no array 'labels'; it has: inputs"),
    "half a test": ({"inputs": INPUTS, "labels": LABELS, "test_labels": LABELS}, "has no array 'test_inputs'"),
    "objects": ({"inputs": np.array([{}], dtype=object), "labels": LABELS[:1]}, "contains Python objects"),
    "text": ({"inputs": np.array([["a"], ["b"]]), "labels": LABELS[:2]}, "array 'inputs' is <U1, expected numbers"),
    "labels": ({"inputs": INPUTS, "labels": LABELS * 1.0}, "array 'labels' is float64, expected whole numbers"),
    "lengths": ({"inputs": INPUTS, "labels": LABELS[:9]}, "20 samples but labels of shape"),
    "nan": ({"inputs": INPUTS * np.nan, "labels": LABELS}, "NaN or infinite"),
    "names": ({"inputs": INPUTS, "labels": LABELS, "class_names": np.array(3)}, "array 'class_names' is int64"),
    "few names": ({"inputs": INPUTS, "labels": LABELS, "class_names": np.array(["a"])}, "label 1, expected 0 to 0"),
    "shapes": (
        {"inputs": INPUTS, "labels": LABELS, "test_inputs": INPUTS[:, :2], "test_labels": LABELS},
        r"inputs are \(3,\) each, test_inputs \(2,\)",
    ),
}  # fmt: skip


@over("wrong", NPZ_WRONG)
def test_npz_that_is_no_set_is_refused(tmp_path, wrong):
    arrays, line = NPZ_WRONG[wrong]
    path = archive(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=line.replace("?", r"\?")) as caught:
        npz(path)
    assert path in one_line(caught)


def test_npz_files_that_are_damaged_are_named(tmp_path):
    path = Path(archive(tmp_path / "a.npz", inputs=INPUTS, labels=LABELS))
    whole = path.read_bytes()
    corrupt = bytearray(whole)
    corrupt[200] ^= 0xFF
    for content in (whole[:-30], whole[:100], b"", b"plain text", b"PK\x03\x04", bytes(corrupt)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"damaged|cannot be read") as caught:
            npz(str(path))
        assert str(path) in one_line(caught)
    with pytest.raises(DataError, match="No such file"):
        npz(str(tmp_path / "absent.npz"))
    np.save(tmp_path / "single.npy", INPUTS)
    with pytest.raises(DataError, match="single array"):
        npz(str(tmp_path / "single.npy"))


def test_npz_never_unpickles(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="pickled data"):
        npz(str(tmp_path / "a.npz"))
    path = archive(tmp_path / "b.npz", inputs=np.array([Trap()], dtype=object), labels=LABELS[:1])
    with pytest.raises(DataError, match="never unpickled"):
        npz(path)
    assert not (tmp_path / "sprung").exists()


# -------------------------------------------------------------------------------------------------------------- images


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes, told by colour, in a train and a test part and in several formats."""
    for part, count in (("train", 4), ("test", 2)):
        for number in range(count):
            ending = ("png", "bmp", "PNG", "webp")[number]
            picture(tmp_path / part / "red" / f"{number}.{ending}", (200, 0, 0))
            picture(tmp_path / part / "blue" / f"{number}.{ending}", (0, 0, 100 + number))
    (tmp_path / "train" / "red" / "notes.txt").write_text("no image")
    return tmp_path


def test_image_folder(folder):
    data = image_folder(str(folder), size=(8, 5))
    assert data.train.class_names == data.test.class_names == ("blue", "red")
    assert data.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.train.input_shape == (3, 8, 5)
    assert isinstance(data.train, TensorSet)
    assert data.train.inputs[0, :, 0, 0].tolist() == [0, 0, 100]
    assert data.test.inputs[2, :, 7, 4].tolist() == [200, 0, 0]


def test_image_folder_in_grey(folder):
    data = image_folder(str(folder), size=(4, 6), grey=True)
    assert data.train.input_shape == (1, 4, 6)
    assert data.test.inputs[2].unique().tolist() == [round(200 * 0.299)]


def test_images_keep_their_orientation(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    for part in ("train", "test"):
        (tmp_path / part / "one").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / part / "one" / "a.png")
    data = image_folder(str(tmp_path), size=(4, 6))
    assert np.array_equal(data.train.inputs[0].numpy(), pixels.transpose(2, 0, 1))


def test_image_folder_without_parts_is_split(folder):
    data = image_folder(str(folder / "train"), size=(4, 4), test_share=0.25)
    assert torch.bincount(data.test.labels).tolist() == [1, 1]
    assert sorted(data.train.index.tolist() + data.test.index.tolist()) == list(range(8))
    again = image_folder(str(folder / "train"), size=(4, 4), test_share=0.25)
    assert torch.equal(again.test.index, data.test.index)


@pytest.mark.thorough
def test_images_that_do_not_fit_are_read_as_needed(folder):
    whole = image_folder(str(folder), size=(4, 6))
    lazy = image_folder(str(folder), size=(4, 6), limit_bytes=100)
    assert isinstance(lazy.train, LazySet)
    assert len({lazy.train.source, lazy.test.source, whole.train.source}) == 3
    assert torch.equal(everything(lazy.train).inputs, everything(whole.train).inputs)
    helped = list(Loader(lazy.train, 3, seed=0, workers=1).epoch(0))
    alone = list(Loader(whole.train, 3, seed=0).epoch(0))
    assert all(torch.equal(one.inputs, two.inputs) for one, two in zip(helped, alone, strict=True))
    assert image_folder(str(folder), size=(4, 6), limit_bytes=100).train.source == lazy.train.source
    picture(folder / "train" / "red" / "more.png", (200, 0, 0))
    assert image_folder(str(folder), size=(4, 6), limit_bytes=100).train.source != lazy.train.source


@pytest.mark.parametrize("limit_bytes", [2**31, 0])
def test_a_damaged_image_is_named(folder, limit_bytes):
    path = folder / "train" / "red" / "0.png"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no image at all"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as an image") as caught:
            everything(image_folder(str(folder), size=(4, 6), limit_bytes=limit_bytes).train)
        assert str(path) in one_line(caught)


def test_images_of_16_bits_are_refused(folder):
    path = folder / "train" / "red" / "deep.png"
    Image.fromarray(np.full((4, 6), 40000, dtype=np.uint16)).save(path)
    with pytest.raises(DataError, match="8 bits a channel") as caught:
        image_folder(str(folder), size=(4, 6))
    assert str(path) in one_line(caught)


def test_folders_that_are_not_as_they_should_be_are_named(folder):
    with pytest.raises(DataError, match="is not a folder"):
        image_folder(str(folder / "absent"), size=(4, 4))
    with pytest.raises(DataError, match="has no class folders"):
        image_folder(str(folder / "train" / "red"), size=(4, 4))
    (folder / "half" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="has train/ but no test/"):
        image_folder(str(folder / "half"), size=(4, 4))
    (folder / "empty" / "one").mkdir(parents=True)
    with pytest.raises(DataError, match="has no images"):
        image_folder(str(folder / "empty"), size=(4, 4))
    picture(folder / "test" / "green" / "0.png", (0, 9, 0))
    with pytest.raises(DataError, match="green: is a class that"):
        image_folder(str(folder), size=(4, 4))


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, 4, 3), (4.0, 4)])
def test_sizes_that_are_none_are_refused(folder, size):
    with pytest.raises(InputError, match="size"):
        image_folder(str(folder), size=size)
