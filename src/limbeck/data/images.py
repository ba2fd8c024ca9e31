"""A set of one's own as image files in a folder for each class."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data.content import check_fits
from limbeck.data.lazy import LazySet
from limbeck.data.names import listed, look_alike
from limbeck.data.pictures import LONGEST_SIDE, picture
from limbeck.data.sets import SampleSet, Splits, TensorSet
from limbeck.errors import DataError, InputError, nearest

__all__ = ["ENDINGS", "check_size", "image_folder", "images_below"]

ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
_OTHER_ENDINGS = frozenset(
    {".apng", ".avif", ".dcm", ".dng", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl"}
    | {".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tif", ".tiff"}
)
_FOREIGN = frozenset({"__macosx", "__pycache__", "@eadir", "lost+found", "$recycle.bin", "system volume information"})
"""Folders that programs leave beside a user's."""

_PARTS = frozenset({"dev", "eval", "test", "testing", "train", "training", "val", "valid", "validation"})
_FOR_CHOICES = ("validation", "valid", "val")
_MOST_RESIZED = 2**24


@checked
def image_folder(
    folder: str,
    size: tuple[int, int],
    grey: bool = False,
    limit_bytes: int = 2**31,
    test_share: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Return the images under folder/train/<class>/ and folder/test/<class>/, and perhaps folder/validation/<class>/.

    Files of other types, images in deeper folders and classes without images are left out and listed in `notes`; if
    these are images or classes, there is a `DataWarning` as well.

    Args:
        folder: with png, jpg, jpeg, webp or bmp files.  `validation` may be called `val` or `valid`.  If it has neither
            train nor test, its folders are the classes and `test_share` of each class is held out for testing.  Classes
            are in alphabetical order; hidden folders and those of other programs (__MACOSX, @eaDir) are ignored.
        size: (H, W) in pixels; every image is resized to it (bilinear), after its EXIF orientation is applied.
            Transparent images are put on white; of several frames the first is read.
        grey: one channel instead of three.
        limit_bytes: a decoded part up to this size is kept in memory; a larger one is read as batches need it.
        test_share: share of each class that is held out for testing, in (0, 1).
        seed: of the split.

    Returns:
        Training and test set of uint8 images (3, H, W), or (1, H, W) if grey, and the validation set if there is one.

    Raises:
        DataError: if a file or folder is missing, empty or damaged.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["images"] is data.image_folder
        True
    """
    check_size(size)
    checks.at_least("limit_bytes", limit_bytes, 0)
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(
            f"{folder}: is not a folder; expected train/<class>/ and test/<class>/, or <class>/, with images"
        )
    parts = [part for part in ("train", "test") if (place / part).is_dir()]
    if len(parts) == 1:
        missing = "test" if parts == ["train"] else "train"
        raise DataError(f"{folder}: has {parts[0]}/ but no {missing}/; add it, or put the class folders side by side")
    left = _LeftOut()
    resized = (size[0], size[1])
    if not parts:
        classes = _classes(place, left)
        if all(name.casefold() in _PARTS for name in classes):
            raise DataError(f"{folder}: its folders {listed(classes)} are not classes; name them train and test")
        splits = Splits.held_out(_part(place, classes, resized, grey, limit_bytes, left), test_share, seed)
    else:
        classes = _classes(place / "train", left)
        own = [name for name in _FOR_CHOICES if (place / name).is_dir()]
        if len(own) > 1:
            raise DataError(f"{place}: has {' and '.join(own)}; expected one folder for choices. Remove or rename one")
        others = [path.name for path in sorted(place.iterdir()) if _is_own_folder(path)]
        if others := [name for name in others if name not in (*parts, *own)]:
            left.doubts.append(f"{place}: {', '.join([*parts, *own])} alone are read, and not {listed(others)}")
        for part in ("test", *own):
            if unknown := sorted(set(_classes(place / part, left)) - set(classes)):
                close = nearest(unknown[0], classes)
                mend = f"; did you mean '{close}'?" if close else ""
                raise DataError(f"{place / part / unknown[0]}: is a class that {place / 'train'} does not have{mend}")
        train, test, *rest = (_part(place / part, classes, resized, grey, limit_bytes, left) for part in (*parts, *own))
        splits = Splits(train, test, place.name, validation=rest[0] if rest else None)
    left.doubts += look_alike(f"{place}: class", classes)
    return splits.noting(left.doubts, warn=True).noting(left.notes, warn=False)


def check_size(size: tuple[int, int]) -> None:
    """Require a size (H, W) in pixels that an image can be resized to; InputError otherwise."""
    if len(size) != 2:
        raise InputError(f"size: found {size!r}, expected (height, width)")
    for name, pixels in zip(("height", "width"), size, strict=True):
        checks.at_least(f"size: {name}", pixels, 1)
    if max(size) > LONGEST_SIDE or size[0] * size[1] > _MOST_RESIZED:
        raise InputError(
            f"size: found {tuple(size)}, expected at most {_MOST_RESIZED:,} pixels, and {LONGEST_SIDE:,} a side"
        )


def images_below(folder: Path) -> list[Path]:
    """Return all images below a folder that are a user's own, in order."""
    found = [path for path in _below(folder) if path.suffix.lower() in ENDINGS]
    return sorted(path for path in found if all(_is_own(part) for part in [path, *path.relative_to(folder).parents]))


@dataclass
class _LeftOut:
    """What there is to say of a folder.  doubts: of images and classes; notes: of anything else."""

    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
        return picture(self.paths[index], self.size, self.grey)[0], self.labels[index]


def _is_own(path: Path) -> bool:
    """Return whether a file or folder is a user's: neither hidden nor left there by a program."""
    return not path.name.startswith(".") and path.name.casefold() not in _FOREIGN


def _is_own_folder(path: Path) -> bool:
    return _is_own(path) and path.is_dir()


def _classes(folder: Path, left: _LeftOut) -> tuple[str, ...]:
    entries = list(folder.iterdir())
    names = tuple(sorted(_name(path) for path in entries if _is_own_folder(path)))
    if not names:
        raise DataError(f"{folder}: has no class folders; expected one folder of images for each class")
    if foreign := sorted(path.name for path in entries if path.is_dir() and not _is_own(path)):
        left.notes.append(f"{folder}: hidden and foreign folders are no classes: {listed(foreign)}")
    if loose := sum(_is_image(path) and not path.is_dir() for path in entries):
        left.doubts.append(f"{folder}: {loose:,} images beside the class folders are left out; move them into one")
    return names


def _name(path: Path) -> str:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: the file name is not UTF-8; rename it") from None
    return path.name


def _is_image(path: Path) -> bool:
    return _is_own(path) and path.suffix.lower() in ENDINGS | _OTHER_ENDINGS


def _found(folder: Path, classes: Sequence[str], left: _LeftOut) -> list[tuple[Path, int]]:
    """Return the images in a part's class folders, with the number of the class, and note what lies beside them."""
    found: list[tuple[Path, int]] = []
    endings: Counter[str] = Counter()
    deeper: list[Path] = []
    others = 0
    for label, name in enumerate(classes):
        own = folder / name
        for path in sorted(own.iterdir(), key=_name) if own.is_dir() else ():
            ending = path.suffix.lower()
            if not _is_own(path):
                continue
            if ending in ENDINGS:
                if not path.is_file():  # to open a pipe would wait for somebody to write into it
                    raise DataError(f"{path}: is not a file; remove it")
                found.append((path, label))
            elif path.is_dir():
                deeper += [image for image in _below(path) if _is_image(image)]
            elif ending in _OTHER_ENDINGS:
                endings[ending] += 1
            else:
                others += 1
    if endings:
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in sorted(endings.items()))
        left.doubts.append(f"{folder}: images of other types are left out ({kinds}); convert them to png or jpeg")
    if deeper:
        left.doubts.append(
            f"{folder}: {len(deeper):,} images in deeper folders are left out, the first in {deeper[0].parent}; move "
            "them up into their class folder"
        )
    if others:
        left.notes.append(f"{folder}: {others:,} files that are no images are left out")
    if not found:
        reason = f" ({left.doubts[-1].removeprefix(f'{folder}: ')})" if endings or deeper else ""
        raise DataError(
            f"{folder}: has no images; expected {', '.join(sorted(ENDINGS))} files in its class folders{reason}"
        )
    return found


def _below(folder: Path) -> list[Path]:
    """Return all files below a folder, links to folders aside."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def _part(
    folder: Path, classes: Sequence[str], size: tuple[int, int], grey: bool, limit_bytes: int, left: _LeftOut
) -> SampleSet:
    found = _found(folder, classes, left)
    numbers = {label for _, label in found}
    empty = [name for label, name in enumerate(classes) if label not in numbers and (folder / name).is_dir()]
    if empty:
        left.doubts.append(
            f"{folder}: {len(empty):,} of {len(classes):,} classes have no images: {listed(empty)}; add some, or "
            "remove the folders"
        )
    images = _Images(tuple(path for path, _ in found), tuple(label for _, label in found), size, grey)
    labels = torch.tensor(images.labels)
    decoded = len(images) * size[0] * size[1] * (1 if grey else 3)
    if decoded > limit_bytes:
        source = _identity(folder, images)
        return LazySet.of(images, labels, source=source, class_names=classes, name=str(folder))
    check_fits(str(folder), decoded)
    pictures = [picture(path, size, grey) for path in images.paths]
    if animated := sum(frames > 1 for _, frames in pictures):
        left.notes.append(f"{folder}: {animated:,} images have several frames, of which the first is read")
    inputs = torch.stack([pixels for pixels, _ in pictures])
    return TensorSet.of(inputs, labels, class_names=classes, name=str(folder))


def _identity(folder: Path, images: _Images) -> str:
    """Return the SHA-256 of the files' names and contents, and of how they are decoded."""
    digest = hashlib.sha256(f"{images.size} {images.grey}".encode())
    for path, label in zip(images.paths, images.labels, strict=True):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}); remove or replace it") from None
        digest.update(f"\0{path.relative_to(folder).as_posix()} {content} {label}".encode())
    return digest.hexdigest()
