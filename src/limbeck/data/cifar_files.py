"""The two forms in which the CIFAR sets are published: rows of bytes, and pickled dicts.

They are read where they lie: a .tar.gz is never unpacked onto the disk, and of what it holds only the files with the
known names are looked at.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limbeck.data.plain_pickle import read_plain_pickle
from limbeck.errors import DataError

__all__ = ["Archive", "Part", "read_archive"]

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_MOST_OVERHEAD = 2**26  # bytes beside the pixels, which a pickle of file names has


@dataclass(frozen=True)
class Part:
    """images: (n, 3, 32, 32) uint8.  labels: (n, kinds of label) uint8, kinds as the files order them."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Archive:
    """One published form of a set.

    file: the .tar.gz.  folder: what all lies in inside.  train, test: the names there, in order.
    keys: of the labels, where the files are pickled dicts; else they are rows of bytes, the labels first.
    checksums: of the .tar.gz and of each file, MD5 or SHA-256.
    """

    file: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    pickled: bool
    keys: tuple[str, ...]
    checksums: Mapping[str, str]

    def find(self, place: Path) -> Path | None:
        """Return where the form is in a folder: the folder of its files, or the .tar.gz; None where it is not."""
        names = (*self.train, *self.test)
        for folder in (place, place / self.folder):
            if any((folder / name).is_file() for name in names):
                return folder
        return place / self.file if (place / self.file).is_file() else None


def read_archive(archive: Archive, found: Path, counts: tuple[int, int]) -> tuple[Part, Part]:
    """Read the training and the test part from a folder of files or a .tar.gz.

    counts: how many images each part has.
    Raises DataError naming the file that is missing, damaged, or not the published one.
    """
    parts = [_room(count, len(archive.keys)) for count in counts]
    places: dict[str, tuple[Part, int, int]] = {}
    for part, count, names in zip(parts, counts, (archive.train, archive.test), strict=True):
        share = count // len(names)
        places.update({name: (part, number * share, share) for number, name in enumerate(names)})
    limits = {name: share * (_PIXELS + len(archive.keys)) for name, (_, _, share) in places.items()}
    contents = _from_folder(archive, found, limits) if found.is_dir() else _from_tar(archive, found, limits)
    for name, content in contents:
        part, start, share = places.pop(name)
        where = str(found / name)
        images, labels = (_from_pickle if archive.pickled else _from_rows)(where, content, archive.keys, share)
        part.images[start : start + share] = images
        part.labels[start : start + share] = labels
    for name in places:
        raise DataError(f"{found}: has no file {name}; place {', '.join(limits)} there")
    return parts[0], parts[1]


def _room(count: int, kinds: int) -> Part:
    return Part(torch.empty(count, 3, _SIDE, _SIDE, dtype=torch.uint8), torch.empty(count, kinds, dtype=torch.uint8))


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
        _check_sum(path, hashlib.new(_algorithm(archive.checksums[name]), content).hexdigest(), archive.checksums[name])
        yield name, content


def _from_tar(archive: Archive, path: Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytearray]]:
    """Yield the known files of a .tar.gz in the order in which it has them, until all were there."""
    wanted = {f"{archive.folder}/{name}": name for name in limits}
    expected = archive.checksums[archive.file]
    try:
        with path.open("rb") as file:
            _check_sum(path, hashlib.file_digest(file, _algorithm(expected)).hexdigest(), expected)
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
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); fetch it again") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is truncated or no .tar.gz archive ({error}); fetch it again") from None


def _algorithm(checksum: str) -> str:
    return {32: "md5", 64: "sha256"}[len(checksum)]


def _check_sum(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise DataError(f"{path}: wrong checksum, not the published file; remove it and fetch it again")


def _check_size(path: Path, size: int, needed: int) -> None:
    if size > needed + _MOST_OVERHEAD:
        raise DataError(f"{path}: holds {size:,} bytes, expected about {needed:,}; fetch it again")


def _from_rows(where: str, content: bytearray, keys: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
    width = len(keys) + _PIXELS
    if len(content) != count * width:
        raise DataError(
            f"{where}: holds {len(content):,} bytes, expected {count * width:,} for {count:,} images; fetch it again"
        )
    rows = torch.frombuffer(content, dtype=torch.uint8).view(count, width)
    return rows[:, len(keys) :].view(count, 3, _SIDE, _SIDE), rows[:, : len(keys)]


def _from_pickle(where: str, content: bytearray, keys: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
    value = read_plain_pickle(content, where)
    if not isinstance(value, dict):
        raise DataError(f"{where}: holds {type(value).__name__}, expected a dict with data and labels; fetch it again")
    batch = {key.decode("latin-1") if isinstance(key, bytes) else key: item for key, item in value.items()}
    for key in ("data", *keys):
        if key not in batch:
            raise DataError(f"{where}: has no '{key}'; it has: {', '.join(sorted(batch)) or 'nothing'}; fetch it again")
    data = batch["data"]
    if not isinstance(data, Tensor) or tuple(data.shape) != (count, _PIXELS):
        shape = tuple(data.shape) if isinstance(data, Tensor) else type(data).__name__
        raise DataError(f"{where}: 'data' is {shape}, expected an array of {count:,} rows of {_PIXELS} bytes")
    for key in keys:
        labels = batch[key]
        if not isinstance(labels, list) or len(labels) != count:
            found = f"{len(labels):,} items" if isinstance(labels, list) else type(labels).__name__
            raise DataError(f"{where}: '{key}' is {found}, expected a list of {count:,} labels")
        if any(type(label) is not int or not 0 <= label < 256 for label in labels):
            raise DataError(f"{where}: '{key}' holds what is no label, expected whole numbers from 0 on")
    columns = [torch.tensor(batch[key], dtype=torch.uint8) for key in keys]
    return data.view(count, 3, _SIDE, _SIDE), torch.stack(columns, dim=1)
