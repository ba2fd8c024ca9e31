"""CIFAR: small sets of its kind, whole and damaged; and the real one if LIMBECK_DATA has it."""

import gzip
import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.config.sections import parse
from limbeck.data import TensorSet, cifar, cifar10, cifar100
from limbeck.data.cifar_files import read_archive
from limbeck.errors import DataError, InputError, RecipeError
from small_cifar import COUNTS, Small, idx_gz, sheets, tar_bytes, webp, write

SHEETS = Path(os.environ.get("LIMBECK_DATA", "")) / "cifar-100"


def published_as(monkeypatch, name, content):
    """Let the set be published with this content of files and .tar.gz."""
    published = getattr(cifar, name)
    sums = {file: hashlib.sha256(data).hexdigest() for file, data in content.items()}
    archive = replace(published.archive, checksums={**published.archive.checksums, **sums})
    monkeypatch.setattr(cifar, name, replace(published, counts=COUNTS, archive=archive))
    return archive


@pytest.fixture(autouse=True)
def _nothing_at_hand(monkeypatch, tmp_path):
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar, "_ADDRESSES", (f"{(tmp_path / 'publisher').as_uri()}/",))


every_set = pytest.mark.parametrize("name", ["_CIFAR10", "_CIFAR100"])
READERS = {"_CIFAR10": cifar10, "_CIFAR100": cifar100}


def check(found, small, *, labels="fine"):
    for part, samples in enumerate((found.train, found.test)):
        assert samples.inputs.dtype == torch.uint8
        assert samples.inputs.is_contiguous()
        assert np.array_equal(samples.inputs.numpy(), small.images[part])
        assert np.array_equal(samples.labels.numpy(), getattr(small, labels)[part])


# --------------------------------------------------------------------------------------------------------------- files


@every_set
@pytest.mark.parametrize("lies", ["beside", "in its folder", "in its archive"])
def test_the_published_files_are_read_where_they_lie(tmp_path, monkeypatch, name, lies):
    small = Small(getattr(cifar, name))
    archive = getattr(cifar, name).archive
    content = small.files(archive)
    whole = tar_bytes(archive.folder, content)
    published_as(monkeypatch, name, {**content, archive.file: whole})
    if lies == "beside":
        place = write(tmp_path / "own", content)
    elif lies == "in its folder":
        write(tmp_path / "own" / archive.folder, content)
        place = str(tmp_path / "own")
    else:
        place = write(tmp_path / "own", {archive.file: whole})
    before = sorted(path.name for path in (tmp_path / "own").rglob("*"))
    found = READERS[name](place)
    check(found, small)
    assert found.name == getattr(cifar, name).name
    assert found.train.name == f"{found.name}/train"
    assert sorted(path.name for path in (tmp_path / "own").rglob("*")) == before  # nothing was unpacked


@pytest.fixture
def hundred(monkeypatch):
    monkeypatch.setattr(cifar, "_CIFAR100", replace(cifar._CIFAR100, counts=COUNTS))
    return Small(cifar._CIFAR100)


def test_sheets_are_cut_row_by_row(tmp_path, hundred):
    check(cifar100(write(tmp_path / "own", sheets(hundred))), hundred)


def test_a_set_is_found_in_the_folder_of_data_sets(tmp_path, monkeypatch, hundred):
    write(tmp_path / "sets" / "cifar-100", sheets(hundred))
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "sets"))
    check(cifar100(), hundred)


@every_set
def test_a_download_is_kept_and_not_repeated(tmp_path, monkeypatch, name):
    small = Small(getattr(cifar, name))
    archive = getattr(cifar, name).archive
    whole = tar_bytes(archive.folder, small.files(archive))
    published_as(monkeypatch, name, {archive.file: whole})
    publisher = Path(write(tmp_path / "publisher", {archive.file: whole}))
    check(READERS[name](), small)
    (publisher / archive.file).unlink()
    check(READERS[name](), small)
    kept = tmp_path / "cache" / "limbeck" / "data" / getattr(cifar, name).name
    assert [path.name for path in kept.iterdir()] == [archive.file]


def test_what_cannot_be_fetched_is_named_with_the_mend():
    with pytest.raises(
        DataError, match=r"cifar-100-binary.tar.gz: could not be downloaded from .*; place the file in "
    ) as caught:
        cifar100()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ labels and keys


def test_fine_labels_know_their_groups_and_keep_them(tmp_path, hundred):
    data = cifar100(write(tmp_path / "own", sheets(hundred)))
    for part, samples in enumerate((data.train, data.test)):
        assert samples.classes == 100
        assert samples.class_names[:3] == ("apple", "aquarium_fish", "baby")
        assert samples.class_names[-1] == "worm"
        assert samples.group_names[0] == "aquatic_mammals"
        assert samples.group_names[-1] == "vehicles_2"
        for one in (samples, samples.subset(torch.tensor([1, 0])), samples.to("cpu"), samples.without_labels()):
            assert one.groups == samples.groups
            assert one.group_names == samples.group_names
        groups = torch.tensor(samples.groups)
        assert np.array_equal(groups[samples.labels].numpy(), hundred.coarse[part])
        assert groups.bincount().tolist() == [5] * 20


def test_coarse_labels_are_the_groups(tmp_path, hundred):
    data = cifar100(write(tmp_path / "own", sheets(hundred)), labels="coarse")
    check(data, hundred, labels="coarse")
    assert data.train.classes == 20
    assert data.train.class_names[4] == "fruit_and_vegetables"
    assert data.train.groups is None
    assert data.train.group_names == ()
    fine = cifar100(str(tmp_path / "own"))
    assert data.train.source != fine.train.source


def test_classes_are_five_to_a_group_and_in_the_order_of_the_alphabet():
    assert list(cifar._FINE) == sorted(set(cifar._FINE))
    assert list(cifar._GROUP_NAMES) == sorted(cifar._GROUP_NAMES)
    assert len(cifar._FINE) == 100
    assert cifar._GROUP_OF[cifar._FINE.index("cattle")] == 11


@pytest.mark.parametrize("normalise", [True, False])
def test_batches_are_normalised_unless_told_not_to(tmp_path, hundred, normalise):
    data = cifar100(write(tmp_path / "own", sheets(hundred)), normalise=normalise)
    found = data.train.batch(torch.arange(20), augment=None, seed=0, view=0).inputs
    expected = torch.from_numpy(hundred.images[0]).double() / 255
    if normalise:
        for channel, (mean, std) in enumerate(
            zip((0.5070752, 0.4865489, 0.4409178), (0.2673343, 0.2564385, 0.2761505), strict=True)
        ):
            expected[:, channel] = (expected[:, channel] - mean) / std
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_other_labels_are_refused():
    with pytest.raises(InputError, match="labels: found 'fin'; did you mean 'fine'"):
        cifar100(labels="fin")
    with pytest.raises(RecipeError, match=r"data.labels: found 'fin', expected 'fine' or 'coarse'"):
        parse(cifar100, {"labels": "fin"}, "data")


def test_group_names_are_one_for_each_group():
    inputs, labels = torch.zeros(4, 2), torch.arange(4)
    samples = TensorSet.of(inputs, labels, groups=[0, 1, 1, 0], group_names=["a", "b"])
    assert samples.group_names == ("a", "b")
    for groups, names in (([0, 1, 1, 0], ["a"]), (None, ["a"]), ([0, 1, 2, 0], ["a", "b"])):
        with pytest.raises(DataError, match="give one for each"):
            TensorSet.of(inputs, labels, groups=groups, group_names=names)


# -------------------------------------------------------------------------------------------------------------- damage


def refusal(name, place):
    with pytest.raises(DataError) as caught:
        READERS[name](str(place))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_a_set_says_what_to_place_there(tmp_path):
    (tmp_path / "train").mkdir()  # a folder of that name is no file of the pickled version
    for name in READERS:
        for place in (tmp_path, tmp_path / "absent"):
            assert f"found no file of the set; expected {getattr(cifar, name).archive.file}" in refusal(name, place)


@every_set
def test_a_missing_file_is_named(tmp_path, monkeypatch, name):
    archive = getattr(cifar, name).archive
    content = Small(getattr(cifar, name)).files(archive)
    del content[archive.test[0]]
    whole = tar_bytes(archive.folder, content)
    published_as(monkeypatch, name, {**content, archive.file: whole})
    assert f"has no file {archive.test[0]}" in refusal(name, write(tmp_path / "files", content))
    assert f"has no file {archive.test[0]}" in refusal(name, write(tmp_path / "tar", {archive.file: whole}))


@every_set
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch, name):
    archive = getattr(cifar, name).archive
    content = Small(getattr(cifar, name)).files(archive)
    whole = tar_bytes(archive.folder, content)
    published_as(monkeypatch, name, {**content, archive.file: whole})
    other = {**content, archive.train[0]: content[archive.train[0]][:-1] + b"\0"}
    assert f"{archive.train[0]}: wrong checksum" in refusal(name, write(tmp_path / "files", other))
    assert f"{archive.file}: wrong checksum" in refusal(name, write(tmp_path / "tar", {archive.file: whole[:-1]}))


@every_set
def test_a_truncated_archive_is_named_whatever_its_checksum(tmp_path, monkeypatch, name):
    archive = getattr(cifar, name).archive
    whole = tar_bytes(archive.folder, Small(getattr(cifar, name)).files(archive))
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"no archive at all"):
        published_as(monkeypatch, name, {archive.file: damaged})
        line = refusal(name, write(tmp_path / "own", {archive.file: damaged}))
        assert archive.file in line
        assert "download it again" in line


@every_set
def test_rows_of_another_length_are_named(tmp_path, monkeypatch, name):
    archive = getattr(cifar, name).archive
    content = Small(getattr(cifar, name)).files(archive)
    for data in (content[archive.test[0]][:-1], content[archive.test[0]] + b"\0", b""):
        damaged = {**content, archive.test[0]: data}
        published_as(monkeypatch, name, damaged)
        assert f"holds {len(data):,} bytes, expected " in refusal(name, write(tmp_path / "own", damaged))


def test_a_file_much_too_long_is_not_read(tmp_path, monkeypatch):
    content = Small(cifar._CIFAR100).files(cifar._CIFAR100.archive)
    published_as(monkeypatch, "_CIFAR100", content)
    place = Path(write(tmp_path / "own", content))
    with (place / "train.bin").open("r+b") as file:
        file.truncate(2**40)  # without taking room on the disk
    assert "train.bin: holds 1,099,511,627,776 bytes" in refusal("_CIFAR100", place)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("_CIFAR10", "cifar-10-python.tar.gz"),
        ("_CIFAR10", "cifar-10-batches-py/data_batch_2"),
        ("_CIFAR100", "train"),
        ("_CIFAR100", "cifar-100-python/test"),
    ],
)
def test_who_has_the_pickled_version_is_told_which_one_is_read(tmp_path, name, file):
    write((tmp_path / file).parent, {Path(file).name: b"\x80\x02}."})
    archive = getattr(cifar, name).archive.file
    assert refusal(name, tmp_path).endswith(
        f"{file}: found the pickled version; expected {archive}. Place that archive in '{tmp_path}'"
    )


def test_labels_that_do_not_agree_are_named(tmp_path, monkeypatch):
    small = Small(cifar._CIFAR100)
    for wrong in (np.full(10, 100), np.full(10, 0)):
        small.fine[1], small.coarse[1] = wrong, np.full(10, 19)
        content = small.files(cifar._CIFAR100.archive)
        published_as(monkeypatch, "_CIFAR100", content)
        assert "fine and coarse labels disagree" in refusal("_CIFAR100", write(tmp_path / "own", content))


def test_of_an_archive_only_plain_files_of_the_known_names_are_read(tmp_path, monkeypatch):
    small, archive = Small(cifar._CIFAR100), cifar._CIFAR100.archive
    content = small.files(archive)
    wrong = bytes(len(content["train.bin"]))
    extra = [
        (tarfile.TarInfo(name), wrong)
        for name in ("../cifar-100-binary/train.bin", "/cifar-100-binary/train.bin", "train.bin")
    ]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        member = tarfile.TarInfo("cifar-100-binary/train.bin")
        member.type, member.linkname = kind, "/etc/passwd"
        extra.append((member, b""))
    whole = tar_bytes(archive.folder, content, extra)
    published_as(monkeypatch, "_CIFAR100", {archive.file: whole})
    check(cifar100(write(tmp_path / "own", {archive.file: whole})), small)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cifar-100-binary.tar.gz", "own"]


def test_a_member_much_too_long_is_not_read(tmp_path, monkeypatch):
    archive = cifar._CIFAR100.archive
    whole = tar_bytes(archive.folder, {"train.bin": bytes(2**27)})
    assert len(whole) < 2**20
    archive = published_as(monkeypatch, "_CIFAR100", {archive.file: whole})
    write(tmp_path, {archive.file: whole})
    with pytest.raises(DataError, match=r"train.bin: holds 134,217,728 bytes"):
        read_archive(archive, tmp_path / archive.file, COUNTS)


@pytest.mark.miniature(4)
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train-images-01.webp": None}, "has no file train-images-01.webp; sheets are numbered from 00"),
        ({"test-images-00.webp": None}, "has no file test-images-00.webp"),
        ({"train-fine-labels-idx1-ubyte.gz": None}, "train-fine-labels-idx1-ubyte.gz: cannot be read"),
        ({"train-fine-labels-idx1-ubyte.gz": idx_gz(np.zeros(19))}, "train has 20 images and 19 fine labels"),
        ({"test-coarse-labels-idx1-ubyte.gz": idx_gz(np.zeros(11))}, "test has 10 images and 11 coarse labels"),
        ({"test-images-00.webp": b"RIFF"}, "test-images-00.webp: cannot be read as a WebP image"),
        (
            {"test-images-00.webp": webp(np.zeros((12, 3, 32, 32), np.uint8), 4)},
            "test has 12 images and 10 coarse labels",
        ),
    ],
)
def test_damaged_sheets_are_named(tmp_path, hundred, change, line):
    content = {name: data for name, data in {**sheets(hundred), **change}.items() if data is not None}
    assert line in refusal("_CIFAR100", write(tmp_path / "own", content))


def test_a_sheet_that_is_cut_off_or_of_broken_tiles_is_named(tmp_path, hundred):
    content = sheets(hundred)
    cut = content["test-images-00.webp"][:-200]
    assert "test-images-00.webp: " in refusal(
        "_CIFAR100", write(tmp_path / "cut", {**content, "test-images-00.webp": cut})
    )
    file = io.BytesIO()
    Image.new("RGB", (100, 64)).save(file, "WEBP", lossless=True)
    line = refusal("_CIFAR100", write(tmp_path / "odd", {**content, "test-images-00.webp": file.getvalue()}))
    assert "is 100×64 pixels, expected whole tiles of 32×32" in line


def test_fewer_images_than_published_are_refused(tmp_path, monkeypatch, hundred):
    place = write(tmp_path / "own", sheets(hundred))
    monkeypatch.setattr(cifar, "_CIFAR100", replace(cifar._CIFAR100, counts=(21, 10)))
    assert "cifar-100/train: holds 20 images, expected 21" in refusal("_CIFAR100", place)


# ------------------------------------------------------------------------------------------------------------ the real


@pytest.fixture(scope="module")
def real():
    if not (SHEETS / "train-images-00.webp").is_file():
        pytest.skip("needs cifar-100: set LIMBECK_DATA to the folder that holds cifar-100/")
    return cifar100(str(SHEETS))


@pytest.mark.slow
def test_the_real_set_has_the_published_counts_and_moments(real):
    assert (len(real.train), len(real.test)) == (50_000, 10_000)
    assert real.train.labels.bincount().tolist() == [500] * 100
    assert real.test.labels.bincount().tolist() == [100] * 100
    shades = torch.arange(256, dtype=torch.float64) / 255
    for channel in range(3):
        counts = real.train.inputs[:, channel].flatten().bincount(minlength=256).double()
        mean = (counts * shades).sum() / counts.sum()
        assert float(mean) == pytest.approx(cifar._CIFAR100.mean[channel], abs=1e-9)
        assert float((counts * (shades - mean) ** 2).sum() / counts.sum()) ** 0.5 == pytest.approx(
            cifar._CIFAR100.std[channel], abs=1e-9
        )


@pytest.mark.thorough
def test_the_real_set_has_the_classes_of_its_file_names(real):
    for part, samples in (("train", real.train), ("test", real.test)):
        lines = gzip.decompress((SHEETS / f"{part}-filenames.txt.gz").read_bytes()).decode().split()
        assert [samples.class_names[label] for label in samples.labels.tolist()] == [
            line.split("/")[0] for line in lines
        ]


def test_the_real_set_holds_the_first_image_of_the_published_one(real):
    lines = gzip.decompress((SHEETS / "train-filenames.txt.gz").read_bytes()).decode().split()
    image = real.train.inputs[lines.index("cattle/bos_taurus_s_000507.png")].permute(1, 2, 0)
    assert image[0, :2].tolist() == [[255, 255, 255], [255, 255, 255]]
    assert image[0, -3:].tolist() == [[195, 205, 193], [212, 224, 204], [182, 194, 167]]
    assert image[-3, :3].tolist() == [[148, 185, 79], [142, 182, 57], [140, 179, 60]]
    assert image[-3, -3:].tolist() == [[30, 17, 1], [65, 62, 15], [76, 77, 20]]
