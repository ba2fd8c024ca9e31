"""The CIFAR sets as they are published in rows of bytes, each the labels and then the pixels of one image.

They are read where they lie: a .tar.gz is never unpacked onto the disk, and only its files with the known names are
read.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limbeck.errors import DataError

__all__ = ["Archive", "ArchivePart", "read_archive"]

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class ArchivePart:
    """images: (n, 3, 32, 32) uint8.  labels: (n, kinds of label) uint8, kinds as the files order them."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Archive:
    """The published files of a set.

    file: the .tar.gz.  folder: the one inside that holds all files.  train, test: their names, in order.
    kinds: how many labels an image has.  checksums: SHA-256 of the .tar.gz and of each file.
    pickled: the folder in the archive of the same set's pickled form, which is not read.
    """

    file: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    kinds: int
    checksums: Mapping[str, str]
    pickled: str

    def find(self, place: Path) -> Path:
        """Return the folder of the files or the .tar.gz, as a folder holds them.

        Raises DataError where it holds neither.
        """
        names = (*self.train, *self.test)
        for folder in (place, place / self.folder):
            if any((folder / name).is_file() for name in names):
                return folder
        if (place / self.file).is_file():
            return place / self.file
        bare = [Path(name).stem for name in names]
        others = [folder / name for folder in (place, place / self.pickled) for name in bare]
        for path in (place / self.file.replace("binary", "python"), *others):
            if path.is_file():
                raise DataError(
                    f"{path}: found the pickled version; expected {self.file}. Place that archive in '{place}'"
                )
        raise DataError(f"{place}: found no file of the set; expected {self.file}. Place that archive there")


def read_archive(archive: Archive, found: Path, counts: tuple[int, int]) -> tuple[ArchivePart, ArchivePart]:
    """Read the training and the test part from a folder of files or a .tar.gz.

    counts: how many images each part has.
    Raises DataError naming the file that is missing, damaged, or not the published one.
    """
    parts = [_room(count, archive.kinds) for count in counts]
    places: dict[str, tuple[ArchivePart, int, int]] = {}
    for part, count, names in zip(parts, counts, (archive.train, archive.test), strict=True):
        share = count // len(names)
        places.update({name: (part, number * share, share) for number, name in enumerate(names)})
    limits = {name: share * (archive.kinds + _PIXELS) for name, (_, _, share) in places.items()}
    contents = _from_folder(archive, found, limits) if found.is_dir() else _from_tar(archive, found, limits)
    for name, content in contents:
        part, start, share = places.pop(name)
        rows = torch.frombuffer(content, dtype=torch.uint8).view(share, -1)
        part.labels[start : start + share] = rows[:, : archive.kinds]
        part.images[start : start + share] = rows[:, archive.kinds :].view(share, 3, _SIDE, _SIDE)
    for name in places:
        raise DataError(f"{found}: has no file {name}; place {', '.join(limits)} there")
    return parts[0], parts[1]


def _room(count: int, kinds: int) -> ArchivePart:
    return ArchivePart(
        torch.empty(count, 3, _SIDE, _SIDE, dtype=torch.uint8), torch.empty(count, kinds, dtype=torch.uint8)
    )


def _from_folder(archive: Archive, folder: Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytearray]]:
    for name, size in limits.items():
        path = folder / name
        if not path.is_file():
            continue
        try:
            _check_size(path, path.stat().st_size, size)
            content = bytearray(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        _check_sum(path, hashlib.sha256(content).hexdigest(), archive.checksums[name])
        yield name, content


def _from_tar(archive: Archive, path: Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytearray]]:
    """Yield the known files of a .tar.gz in the order in which it has them, until all were there."""
    wanted = {f"{archive.folder}/{name}": name for name in limits}
    try:
        with path.open("rb") as file:
            _check_sum(path, hashlib.file_digest(file, "sha256").hexdigest(), archive.checksums[archive.file])
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r|gz") as tar:
                for member in tar:
                    name = wanted.get(member.name)
                    if name is None or not member.isreg():
                        continue
                    _check_size(path / name, member.size, limits[name])
                    del wanted[member.name]
                    opened = tar.extractfile(member)
                    yield name, bytearray(b"" if opened is None else opened.read())
                    if not wanted:
                        return
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); download it again") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is truncated or not a .tar.gz archive ({error}); download it again") from None


def _check_sum(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise DataError(f"{path}: wrong checksum, not the published file; delete it and download it again")


def _check_size(path: Path, size: int, needed: int) -> None:
    if size != needed:
        raise DataError(f"{path}: holds {size:,} bytes, expected {needed:,}; download it again")
