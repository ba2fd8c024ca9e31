"""Sets that need not fit into memory: arrays read by row, images within tar files; exact and resumable."""

import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import limbeck as lb
from limbeck.data import Augment, LazySet, Loader, MappedSet, TensorSet, file_digests, mapped, shards
from limbeck.data.file_digests import file_digest
from limbeck.errors import DataError, InputError, RunError
from small_recipe import refusal

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (30, 3, 6, 5), dtype=np.uint8)
LABELS = np.arange(30) % 3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def folder_of(place, **arrays):
    place.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    return str(place)


def pixels_of(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0).inputs


# --------------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "int64", "int32"])
def test_rows_in_a_file_are_those_of_the_array(tmp_path, dtype):
    inputs = IMAGES if dtype == "uint8" else RANDOM.integers(0, 50, (30, 7)).astype(dtype)
    place = folder_of(tmp_path / "set", inputs=inputs, labels=LABELS, test_inputs=inputs[:6], test_labels=LABELS[:6])
    np.savez(tmp_path / "set.npz", inputs=inputs, labels=LABELS, test_inputs=inputs[:6], test_labels=LABELS[:6])
    kept = {"uint8": torch.uint8, "float32": torch.float32, "float16": torch.float32}.get(dtype, torch.int64)
    whole = TensorSet.of(torch.from_numpy(inputs).to(kept), torch.from_numpy(LABELS))
    for path in (place, str(tmp_path / "set.npz")):
        splits = mapped(path)
        assert isinstance(splits.train, MappedSet)
        assert len(splits.test) == 6
        for alone, other in zip(
            Loader(whole, 7, seed=1).epoch(2), Loader(splits.train, 7, seed=1).epoch(2), strict=True
        ):
            assert torch.equal(alone.inputs, other.inputs)
            assert torch.equal(alone.labels, other.labels)
            assert torch.equal(alone.index, other.index)


@pytest.mark.thorough
def test_an_array_in_a_file_trains_as_one_in_memory_and_resumes(tmp_path):
    place = folder_of(tmp_path / "set", inputs=IMAGES, labels=LABELS)
    splits = mapped(place)
    whole = TensorSet.of(torch.from_numpy(IMAGES), torch.from_numpy(LABELS)).subset(splits.train.index)

    def train(samples, **settings):
        torch.manual_seed(0)
        student = lb.models.mlp((3, 6, 5), 3, hidden=(4,), dropout=0.2)
        settings = {"epochs": 3, "batch_size": 8, "augment": Augment(shift=1), "checkpoint_seconds": 0.0, **settings}
        lb.fit(student, samples, method=lb.methods.hard(), **settings)
        return [tensor.tolist() for tensor in student.state_dict().values()]

    def stop(progress):
        if progress.epoch == 2:
            raise RuntimeError("stopped")

    wanted = train(whole)
    assert train(splits.train) == wanted
    assert train(splits.train, workers=1) == wanted
    with pytest.raises(RuntimeError, match="stopped"):
        train(splits.train, folder=tmp_path / "run", watch=stop)
    assert train(splits.train, folder=tmp_path / "run") == wanted
    np.save(tmp_path / "set" / "inputs.npy", IMAGES[::-1].copy())
    with pytest.raises(RunError, match="data"):
        train(mapped(place).train, folder=tmp_path / "run")


def test_a_set_can_be_sent_to_another_process(tmp_path):
    samples = mapped(folder_of(tmp_path / "set", inputs=IMAGES, labels=LABELS)).train
    pixels_of(samples)
    other = pickle.loads(pickle.dumps(samples))  # noqa: S301
    assert torch.equal(pixels_of(other), pixels_of(samples))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"inputs": IMAGES}, "has no array 'labels'; expected inputs and labels, and found inputs"),
        ({"inputs": IMAGES, "labels": LABELS[:-1]}, "30 samples but labels of shape (29,)"),
        ({"inputs": np.zeros((30, 8, 8, 3), "uint8"), "labels": LABELS}, "channels are last"),
        ({"inputs": IMAGES.astype("int64"), "labels": LABELS}, "save pixels as uint8"),
        ({"inputs": IMAGES.astype("float64"), "labels": LABELS}, "holds float64; expected float32"),
        ({"inputs": np.asfortranarray(IMAGES), "labels": LABELS}, "its columns are stored first"),
        ({"inputs": IMAGES.astype(">f4"), "labels": LABELS}, "expected uint8 (pixels), float32"),
        ({"inputs": IMAGES[:0], "labels": LABELS[:0]}, "at least one sample"),
        ({"inputs": IMAGES, "labels": LABELS, "test_inputs": IMAGES}, "has no test_labels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_are_no_set_are_refused_in_one_line(tmp_path, arrays, expected):
    place = folder_of(tmp_path / "set", **arrays)
    assert expected in refusal(mapped, place, error=DataError)


def test_a_damaged_or_compressed_file_is_refused_in_one_line(tmp_path):
    place = folder_of(tmp_path / "set", inputs=IMAGES, labels=LABELS)
    content = (tmp_path / "set" / "inputs.npy").read_bytes()
    for damaged, expected in (
        (content[:-1], "should have 2,700 bytes of numbers and has 2,699"),
        (b"\x93NUMPY", "damag"),
    ):
        (tmp_path / "set" / "inputs.npy").write_bytes(damaged)
        assert expected in refusal(mapped, place, error=DataError)
    np.savez_compressed(tmp_path / "packed.npz", inputs=IMAGES, labels=LABELS)
    assert "is compressed" in refusal(mapped, str(tmp_path / "packed.npz"), error=DataError)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "objects.npz", "w") as archive:
        archive.write(tmp_path / "objects.npy", "inputs.npy")
        archive.write(tmp_path / "objects.npy", "labels.npy")
    assert "holds object" in refusal(mapped, str(tmp_path / "objects.npz"), error=DataError)
    assert "does not exist" in refusal(mapped, str(tmp_path / "none"), error=DataError)


def test_values_are_checked_when_they_are_read(tmp_path):
    rows = RANDOM.random((30, 4), dtype=np.float32)
    rows[7, 2] = np.nan
    samples = mapped(folder_of(tmp_path / "set", inputs=rows, labels=LABELS), test_share=0.1).train
    with pytest.raises(DataError, match="sample 7 has a value that is NaN or infinite"):
        pixels_of(samples)


@pytest.mark.slow
def test_reading_200_mb_takes_little_memory(tmp_path):
    """An epoch over 200 MB in a process of its own, whose peak is compared before and after."""
    np.lib.format.open_memmap(tmp_path / "inputs.npy", "w+", "uint8", (65_536, 3, 32, 32)).flush()
    np.save(tmp_path / "labels.npy", np.arange(65_536) % 10)
    script = (
        "import resource, sys\nfrom limbeck.data import Loader, mapped\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "loader = Loader(mapped(sys.argv[1]).train, 256, seed=0)\n"
        "next(loader.epoch(0)); before = peak()\n"
        "print(sum(len(batch) for batch in loader.epoch(1)), peak() - before)\n"
    )
    told = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True, text=True).stdout
    read, grown = map(int, told.split())
    assert read > 50_000
    assert grown < 60_000


# --------------------------------------------------------------------------------------------------------------- shards


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data) if data else info.size
            archive.addfile(info, io.BytesIO(data))
    return path


def members_of(numbers, ending="cls"):
    for number in numbers:
        label = int(LABELS[number])
        yield f"part/{number:04d}.png", png(IMAGES[number])
        yield (
            f"part/{number:04d}.{ending}",
            (json.dumps({"label": label}) if ending == "json" else f"{label}\n").encode(),
        )
        yield f"part/{number:04d}.txt", b"a caption"


@pytest.fixture
def packed(tmp_path):
    place = tmp_path / "packed"
    tar(place / "train-000.tar", members_of(range(10)))
    tar(place / "train-001.tar", members_of(range(10, 24), "json"))
    tar(place / "test.tar", members_of(range(24, 30)))
    return place


def test_images_in_tar_files_are_read_in_any_order(packed):
    splits = shards(str(packed), size=(6, 5), classes=("a", "b", "c"))
    whole = TensorSet.of(torch.from_numpy(IMAGES[:24]), torch.from_numpy(LABELS[:24]), classes=3)
    assert isinstance(splits.train, LazySet)
    assert splits.train.class_names == splits.test.class_names == ("a", "b", "c")
    assert torch.equal(pixels_of(splits.test), torch.from_numpy(IMAGES[24:]).float().div(255))
    for options in ({}, {"start": 2}, {"rank": 1, "world": 2}):
        loaders = (Loader(samples, 5, seed=3) for samples in (whole, splits.train))
        for alone, other in zip(*(loader.epoch(1, **options) for loader in loaders), strict=True):
            assert torch.equal(alone.inputs, other.inputs)
            assert torch.equal(alone.labels, other.labels)


def test_tar_files_without_parts_are_split_and_known_by_their_content(packed):
    (packed / "test.tar").rename(packed / "zz.tar")
    for number in range(2):
        (packed / f"train-00{number}.tar").rename(packed / f"aa-{number}.tar")
    splits = shards(str(packed), size=(6, 5))
    assert (len(splits.train), len(splits.test)) == (24, 6)
    assert shards(str(packed), size=(6, 5)).train.source == splits.train.source
    assert shards(str(packed), size=(6, 4)).train.source != splits.train.source
    tar(packed / "zz.tar", members_of(range(23, 29)))
    assert shards(str(packed), size=(6, 5)).train.source != splits.train.source


def test_a_list_of_a_tar_file_is_made_once(packed, monkeypatch):
    module = sys.modules["limbeck.data.shards"]
    monkeypatch.setattr(module, "_MANY", 1)
    first = shards(str(packed), size=(6, 5)).train
    monkeypatch.setattr(module, "_samples", None)
    again = shards(str(packed), size=(6, 5)).train
    assert torch.equal(pixels_of(first), pixels_of(again))


def link(kind):
    info = tarfile.TarInfo("part/0000.png")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def vast():
    info = tarfile.TarInfo("part/0000.png")
    info.size = 2**40
    return info


IMAGE = png(IMAGES[0])
HOSTILE = {
    "absolute": ([("/etc/0000.png", IMAGE)], "is a path outside of the archive"),
    "parent": ([("../0000.png", IMAGE)], "is a path outside of the archive"),
    "deep parent": ([("part/../../0000.png", IMAGE)], "is a path outside of the archive"),
    "backslash": ([("..\\0000.png", IMAGE)], "is a path outside of the archive"),
    "symbolic link": ([("", link(tarfile.SYMTYPE))], "is a link, a device or sparse"),
    "hard link": ([("", link(tarfile.LNKTYPE))], "is a link, a device or sparse"),
    "device": ([("", link(tarfile.CHRTYPE))], "is a link, a device or sparse"),
    "pipe": ([("", link(tarfile.FIFOTYPE))], "is a link, a device or sparse"),
    "label too long": ([("a.png", IMAGE), ("a.cls", b"1" * 70_000)], "expected 1 to 65,536"),
    "label no number": ([("a.png", IMAGE), ("a.cls", b"cat")], "does not hold the number of a class"),
    "label huge": ([("a.png", IMAGE), ("a.cls", b"9" * 5000)], "does not hold the number of a class"),
    "label deep": ([("a.png", IMAGE), ("a.json", b"[" * 60_000)], "does not hold the number of a class"),
    "labels differ": ([("a.png", IMAGE), ("a.cls", b"1"), ("a.json", b'{"label": 2}')], "says class 2, and another"),
    "no label": ([("a.png", IMAGE)], "'a' has no label"),
    "no image": ([("a.cls", b"1")], "'a' has no image"),
    "two images": ([("a.png", IMAGE), ("a.jpg", IMAGE), ("a.cls", b"1")], "has two images"),
    "apart": ([("a.png", IMAGE), ("b.png", IMAGE), ("a.cls", b"1")], "has no label"),
    "nothing": ([], "hold no images"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_refused_in_one_line(tmp_path, name):
    members, expected = HOSTILE[name]
    tar(tmp_path / "set" / "train.tar", members)
    tar(tmp_path / "set" / "test.tar", members_of(range(3)))
    assert expected in refusal(lambda: shards(str(tmp_path / "set"), size=(6, 5)), error=DataError)


def test_damaged_tar_files_are_refused_in_one_line(packed):
    path = packed / "train-000.tar"
    content = path.read_bytes()
    header = vast().tobuf(tarfile.GNU_FORMAT)
    import gzip

    for damaged, expected in (
        (content[:2000], "damaged"),
        (b"no tar file at all" * 100, "damaged"),
        (header, "damaged|ends within|expected 1 to"),
        (gzip.compress(content), "unpack it to a plain .tar"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=expected) as caught:
            shards(str(packed), size=(6, 5))
        assert "\n" not in str(caught.value)


def test_folders_without_tar_files_are_refused_in_one_line(tmp_path):
    assert "is not a folder" in refusal(lambda: shards(str(tmp_path / "no"), size=(6, 5)), error=DataError)
    assert "has no .tar files" in refusal(lambda: shards(str(tmp_path), size=(6, 5)), error=DataError)
    (tmp_path / "set.tar.gz").write_bytes(b"")
    assert "set.tar.gz is compressed" in refusal(lambda: shards(str(tmp_path), size=(6, 5)), error=DataError)
    tar(tmp_path / "train.tar", members_of(range(3)))
    assert "has no test*.tar" in refusal(lambda: shards(str(tmp_path), size=(6, 5)), error=DataError)
    assert "size" in refusal(lambda: shards(str(tmp_path), size=(0, 5)), error=InputError)


@pytest.mark.thorough
def test_a_student_trains_on_tar_files_with_workers_as_without(packed):
    def train(workers):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(90, 3))
        samples = shards(str(packed), size=(6, 5)).train
        lb.fit(student, samples, method=lb.methods.hard(), epochs=2, batch_size=8, workers=workers)
        return student[1].weight.tolist()

    assert train(1) == train(0)


# -------------------------------------------------------------------------------------------------------------- digests


def test_the_digest_of_a_large_file_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(file_digests, "_LARGE", 10)
    path = tmp_path / "file"
    path.write_bytes(b"first content")
    first = file_digest(path)
    with monkeypatch.context() as patched:
        patched.setattr(file_digests.hashlib, "file_digest", None)
        assert file_digest(path) == first
    path.write_bytes(b"other content, longer")
    assert file_digest(path) != first
    for entry in (tmp_path.parent).rglob("data/digests/*.json"):
        entry.write_text("{")
    assert file_digest(path) != first
    assert "cannot be read" in refusal(file_digest, tmp_path / "none", error=DataError)
