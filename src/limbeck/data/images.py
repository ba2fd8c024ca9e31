"""A set of one's own as image files in a folder for each class."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck import checks
from limbeck.data.content import check_fits
from limbeck.data.lazy import LazySet
from limbeck.data.sets import SampleSet, Splits, TensorSet
from limbeck.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["image_folder"]

_ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # whatever its ending, a file is taken for no other: EPS, say, runs a program
_MOST_PIXELS, _MOST_RESIZED, _LONGEST_SIDE = 2**26, 2**24, 2**15
_RUN_LENGTHS = (1, 2)  # of a bmp: 8 and 4 bits


def image_folder(
    folder: str,
    size: tuple[int, int],
    grey: bool = False,
    limit_bytes: int = 2**31,
    test_share: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Return the images under folder/train/<class>/ and folder/test/<class>/ as uint8 (3, H, W), or (1, H, W) if grey.

    folder: png, jpg, jpeg, webp or bmp files.  Where it has neither train nor test, its folders are the classes and
        `test_share` of each class, drawn by `seed`, is held out for testing.  Classes are in alphabetical order.
    size: (H, W) in pixels; every image is resized to it (bilinear).
    limit_bytes: decoded, a part up to this size is kept in memory; a larger one is read as batches need it.
    Raises DataError naming the file or folder that is missing, empty or damaged.
    """
    if len(size) != 2:
        raise InputError(f"size: found {size!r}, expected (height, width)")
    for name, pixels in zip(("height", "width"), size, strict=True):
        checks.at_least(f"size: {name}", pixels, 1)
    if max(size) > _LONGEST_SIDE or size[0] * size[1] > _MOST_RESIZED:
        raise InputError(
            f"size: found {tuple(size)}, expected at most {_MOST_RESIZED:,} pixels, and {_LONGEST_SIDE:,} a side"
        )
    checks.at_least("limit_bytes", limit_bytes, 0)
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(f"{folder}: is no folder; expected train/<class>/ and test/<class>/, or <class>/, with images")
    parts = [part for part in ("train", "test") if (place / part).is_dir()]
    if len(parts) == 1:
        missing = "test" if parts == ["train"] else "train"
        raise DataError(f"{folder}: has {parts[0]}/ but no {missing}/; add it, or put the class folders side by side")
    classes = _classes(place / "train" if parts else place)
    if parts:
        other = _classes(place / "test")
        if unknown := sorted(set(other) - set(classes)):
            raise DataError(f"{place / 'test' / unknown[0]}: is a class that {place / 'train'} does not have")
        train = _part(place / "train", classes, (size[0], size[1]), grey, limit_bytes)
        return Splits(train, _part(place / "test", classes, (size[0], size[1]), grey, limit_bytes), place.name)
    whole = _part(place, classes, (size[0], size[1]), grey, limit_bytes)
    return Splits.held_out(whole, test_share, seed)


@dataclass(frozen=True)
class _Images:
    """Image files as a map-style dataset; plain data, so that worker processes can be sent it."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    size: tuple[int, int]
    grey: bool

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return _decoded(self.paths[index], self.size, self.grey), self.labels[index]


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(_name(path) for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise DataError(f"{folder}: has no class folders; expected one folder of images for each class")
    return names


def _name(path: Path) -> str:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: its name is not in UTF-8; rename it") from None
    return path.name


def _part(folder: Path, classes: Sequence[str], size: tuple[int, int], grey: bool, limit_bytes: int) -> SampleSet:
    found = [
        (path, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in sorted((folder / name).iterdir(), key=_name)
        if path.suffix.lower() in _ENDINGS
    ]
    for path, _ in found:
        if not path.is_file():  # to open a pipe would wait for somebody to write into it
            raise DataError(f"{path}: is no file; remove it")
    if not found:
        raise DataError(f"{folder}: has no images; expected {', '.join(sorted(_ENDINGS))} files in its class folders")
    images = _Images(tuple(path for path, _ in found), tuple(label for _, label in found), size, grey)
    labels = torch.tensor(images.labels)
    decoded = len(images) * size[0] * size[1] * (1 if grey else 3)
    if decoded > limit_bytes:
        source = _identity(folder, images)
        return LazySet.of(images, labels, source=source, class_names=classes, name=str(folder))
    check_fits(str(folder), decoded)
    inputs = torch.stack([images[index][0] for index in range(len(images))])
    return TensorSet.of(inputs, labels, class_names=classes, name=str(folder))


def _decoded(path: Path, size: tuple[int, int], grey: bool) -> Tensor:
    """Read one image as uint8 (C, H, W)."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PIL about palettes and metadata; what is damaged raises
            with Image.open(path, formats=_FORMATS) as image:
                _check(path, image)
                wanted = image.convert("L" if grey else "RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    except Image.DecompressionBombError:
        raise DataError(f"{path}: claims to have more than {_MOST_PIXELS:,} pixels; make it smaller") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it does not begin as a png, jpeg, webp or bmp file"
        raise DataError(f"{path}: cannot be read as an image ({reason}); remove or replace it") from None
    pixels = torch.from_numpy(np.array(wanted))
    return pixels[None] if grey else pixels.permute(2, 0, 1).contiguous()


def _check(path: Path, image: "ImageFile") -> None:
    """Refuse an image whose pixels are of another kind, or more than its file may cost to read; none is decoded yet."""
    width, height = image.size
    if width * height > _MOST_PIXELS or max(width, height) > _LONGEST_SIDE:
        raise DataError(
            f"{path}: is {width} x {height} pixels, expected at most {_MOST_PIXELS:,}, and {_LONGEST_SIDE:,} a side;"
            " make it smaller"
        )
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path}: has pixels of mode {image.mode}, expected 8 bits a channel; convert it")
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        raise DataError(f"{path}: is a run-length coded bmp, which takes long to read; convert it to png")


def _identity(folder: Path, images: _Images) -> str:
    """Return the SHA-256 of the files' names and lengths, and of how they are decoded; their content is not read."""
    digest = hashlib.sha256(f"{images.size} {images.grey}".encode())
    for path, label in zip(images.paths, images.labels, strict=True):
        digest.update(f"\0{path.relative_to(folder).as_posix()} {path.stat().st_size} {label}".encode())
    return digest.hexdigest()
