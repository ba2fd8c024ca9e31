"""MNIST, Fashion-MNIST and other sets in the IDX format: read from a folder, or downloaded once and kept."""

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.data.content import check_fits
from limbeck.data.download import download, kept_under, own_folder
from limbeck.data.sets import Splits, TensorSet
from limbeck.errors import DataError

__all__ = ["fashion_mnist", "idx", "mnist", "read_idx"]

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_ADDRESSES = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
}

# SHA-256 of each published file, gzipped and as it is inside.
_CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        "train-labels-idx1-ubyte": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "t10k-images-idx3-ubyte": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        "t10k-labels-idx1-ubyte": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "train-labels-idx1-ubyte": (
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "t10k-images-idx3-ubyte": (
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "t10k-labels-idx1-ubyte": (
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
}

_MOST_AXES = 8

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@checked
def mnist(folder: str | None = None) -> Splits:
    """Return MNIST: 60,000 and 10,000 uint8 images (1, 28, 28) of ten digits.

    Args:
        folder: with the four IDX files.  By default $LIMBECK_DATA/mnist if it exists, else a download that is kept
            under $XDG_CACHE_HOME/limbeck/data/mnist.  Every file must have the published checksum.

    Returns:
        Training and test set.

    Raises:
        DataError: if the files are damaged or cannot be obtained.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["mnist"] is data.mnist
        True

    Reference:
        LeCun et al. (1998), "Gradient-based learning applied to document recognition".
    """
    return _published("mnist", folder, None)


@checked
def fashion_mnist(folder: str | None = None) -> Splits:
    """Return Fashion-MNIST: 60,000 and 10,000 uint8 images (1, 28, 28) of ten classes.

    Args:
        folder: with the four IDX files.  By default $LIMBECK_DATA/fashion-mnist if it exists, else a download that is
            kept under $XDG_CACHE_HOME/limbeck/data/fashion-mnist.  Every file must have the published checksum.

    Returns:
        Training and test set.

    Raises:
        DataError: if the files are damaged or cannot be obtained.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["fashion_mnist"] is data.fashion_mnist
        True

    Reference:
        Xiao, Rasul & Vollgraf (2017), "Fashion-MNIST", arXiv:1708.07747.
    """
    return _published("fashion-mnist", folder, _FASHION_CLASSES)


@checked
def idx(folder: str, classes: int | None = None) -> Splits:
    """Return your own set from four files in MNIST's format, each gzipped (.gz) or plain.

    Args:
        folder: with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte.
        classes: their number; by default the largest training label plus one.

    Returns:
        Training and test set of uint8 images (1, H, W).

    Raises:
        DataError: if a file is missing or damaged.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["idx"] is data.idx
        True
    """
    place = Path(folder).expanduser()
    return _read(place.name or "idx", _found(place), classes, None)


@checked
def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """Read one IDX file of unsigned bytes, gzipped or plain.

    Args:
        path: the file.

    Returns:
        uint8 in the shape that the header gives.

    Raises:
        DataError: if the file is missing, truncated, corrupt or of another type.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        >>> read_idx(file)
        tensor([7, 2, 1], dtype=torch.uint8)
    """
    try:
        with Path(path).open("rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = _content(path, gzip.GzipFile(fileobj=file) if gzipped else file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an IDX file ({error.strerror or error})") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip stream is truncated or corrupt ({error}); download the file again") from None
    return content


def _content(path: str | os.PathLike[str], file: BinaryIO | gzip.GzipFile) -> Tensor:
    """Read the header, then as much as it promises and no more, whatever a stream may unpack to."""
    content = bytearray(file.read(2**20))
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[3] == 0:
        raise DataError(f"{path}: begins with {magic.hex() or 'nothing'}, expected an IDX header (0000 type rank)")
    if magic[2] != 0x08:
        raise DataError(f"{path}: holds IDX type 0x{magic[2]:02x}, expected 0x08 (unsigned bytes)")
    start = 4 + 4 * magic[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    expected = start + math.prod(shape)
    shown = shape if len(shape) <= 8 else f"of {len(shape)} axes"
    check_fits(str(path), expected)
    while len(content) <= expected and (more := file.read(min(2**20, expected + 1 - len(content)))):
        content += more
    if len(content) != expected:
        over = "at least " if len(content) > expected else ""
        raise DataError(
            f"{path}: holds {over}{len(content)} bytes, expected {expected} for shape {shown}; download it again"
        )
    if expected == start:
        raise DataError(f"{path}: has shape {shown}, expected at least one sample")
    if len(shape) > _MOST_AXES:
        raise DataError(f"{path}: has shape {shown}, expected at most {_MOST_AXES}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(shape)


def _published(name: str, folder: str | None, class_names: tuple[str, ...] | None) -> Splits:
    place = own_folder(name, folder)
    if place is None:
        place = kept_under(name)
        for file in _FILES:
            download(f"{file}.gz", place, _ADDRESSES[name], _CHECKSUMS[name][file][0])
    paths = _found(place)
    for file, path in zip(_FILES, paths, strict=True):
        gzipped, plain = _CHECKSUMS[name][file]
        if hashlib.sha256(path.read_bytes()).hexdigest() != (gzipped if path.suffix == ".gz" else plain):
            raise DataError(f"{path}: wrong checksum, not the published {name} file; delete it and download it again")
    return _read(name, paths, 10, class_names)


def _found(folder: Path) -> list[Path]:
    """Return the four files' paths, gzipped or plain, or raise DataError naming the first that is missing."""
    paths = []
    for file in _FILES:
        path = next((path for path in (folder / f"{file}.gz", folder / file) if path.is_file()), None)
        if path is None:
            raise DataError(f"{folder}: has no file {file}.gz or {file}; place {', '.join(_FILES)} there (or with .gz)")
        paths.append(path)
    return paths


def _read(name: str, paths: list[Path], classes: int | None, class_names: tuple[str, ...] | None) -> Splits:
    train_images, train_labels, test_images, test_labels = (read_idx(path) for path in paths)
    for path, images in ((paths[0], train_images), (paths[2], test_images)):
        if images.dim() != 3:
            raise DataError(f"{path}: holds images of rank {images.dim()}, expected 3: samples, rows, columns")
    if train_images.shape[1:] != test_images.shape[1:]:
        sizes = f"{tuple(train_images.shape[1:])} and {tuple(test_images.shape[1:])}"
        raise DataError(f"{name}: training and test images differ in size: {sizes}")
    train = TensorSet.of(
        train_images[:, None], train_labels, classes=classes, class_names=class_names, name=f"{name}/train"
    )
    test = TensorSet.of(
        test_images[:, None], test_labels, classes=train.classes, class_names=class_names, name=f"{name}/test"
    )
    return Splits(train, test, name)
