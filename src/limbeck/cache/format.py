"""The files of a store of answers: a header in JSON, arrays, and shards of rows, each with a checksum.

`docs/stores.md` documents the format, so that NumPy alone can read it.  Everything that is read is checked before it is
believed: what is no store, is damaged or belongs to another store is refused in one line that names the file.
"""

import hashlib
import json
import os
import secrets
import socket
import stat
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.cache.layout import SIZES, Layout
from limbeck.errors import CheckpointError, RunError, one_line
from limbeck.records import as_json, read_as, sealed, unsealed

__all__ = [
    "FORMAT",
    "VERSION",
    "ArrayFile",
    "Header",
    "Key",
    "array_bytes",
    "open_shard",
    "read_array",
    "read_header",
    "shard_is_there",
    "shard_name",
    "sweep",
    "write_array",
    "write_header",
    "write_shard",
]

FORMAT, VERSION = "limbeck store", 1
_HEADER = "header.json"
_MOST_HEADER = 2**20
_MOST = 2**48
_MAGIC = b"limbeck\x01"
_FOOTER = struct.Struct("<8s32sQQQQ32s")
_CHUNK = 2**22
_OLD = 3600.0  # seconds after which what another machine has left half-written is swept away
_ARRAYS = {"index": ("<i8", 1), "first": ("<i8", 1), "offsets": ("<i8", 1), "class_vectors": ("<f4", 2)}


@dataclass(frozen=True)
class Key:
    """Whose answers to what a store holds.

    teacher: its fingerprint.  source: of the set.  input: how samples become inputs (`digest` of the normalisation).
    augmentation: `Augment.identity` of the random views; empty for unaugmented samples.  clean: whether the answers to
    unaugmented samples serve augmented ones.  lanes: of a stream.
    """

    teacher: str
    source: str
    input: str
    augmentation: str
    clean: bool
    lanes: int | None


@dataclass(frozen=True)
class ArrayFile:
    """An array beside the shards: NumPy's type, shape and the SHA-256 of its bytes; the file is NAME.bin."""

    type: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Header:
    """What a store holds and how.

    Attributes:
        format: always the same words.
        version: of the format.
        key: whose answers to what.
        encoding: {"kind": ..., its keys}.
        task: of the samples.
        classes: the length of the class axis.
        shape: the places of one row, before the class axis.
        places: whether a row is one place (token) of a sample; otherwise it is a sample.
        samples: how many there are.
        rows: how many rows a view has.
        shard_samples: samples in a shard; the last has the rest.
        row: stride and fields.
        arrays: {name: array beside the shards}.
        members: of an ensemble's dense answers {"weights": ..., "mean": ...}; otherwise None.
        features: {name: shape of one row} of stored features.
    """

    format: str
    version: int
    key: Key
    encoding: dict[str, Any]
    task: str
    classes: int
    shape: tuple[int, ...]
    places: bool
    samples: int
    rows: int
    shard_samples: int
    row: Layout
    arrays: dict[str, ArrayFile]
    members: dict[str, Any] | None
    features: dict[str, tuple[int, ...]]

    @property
    def shards(self) -> int:
        """How many shards a view has."""
        return -(-self.samples // self.shard_samples)

    @property
    def digest(self) -> bytes:
        """The checksum of the header, which every shard repeats."""
        return bytes.fromhex(sealed(asdict(self))["sha256"])


def refused(path: Path, what: str, mend: str = "delete the folder and build the store again") -> CheckpointError:
    """Return the error that names a file of a store."""
    return CheckpointError(f"store: '{path}' {what}; {mend}")


def shard_name(view: int, shard: int) -> str:
    """Return the name of the file of a shard of a view.

    >>> shard_name(1, 12)
    'shard-00001-00012.bin'
    """
    return f"shard-{view:05d}-{shard:05d}.bin"


# -------------------------------------------------------------------------------------------------------------- reading


def read_header(folder: Path) -> Header:
    """Return the checked header of a store; CheckpointError naming the file where it is missing, damaged or foreign."""
    path = folder / _HEADER
    size = _regular(path, "build it with limbeck cache build, or name the folder of a store")
    if size > _MOST_HEADER:
        raise refused(path, f"has {size:,} bytes; expected at most {_MOST_HEADER:,}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise refused(path, "is no header of a store", "name the folder of a store")
        if content.get("version") != VERSION:
            raise refused(
                path,
                f"has version {content.get('version')!r}; expected {VERSION}",
                "build the store again with this version of limbeck",
            )
        header = read_as(Header, unsealed(content))
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise refused(path, f"is damaged ({one_line(error)})") from None
    wrong = _wrong(header)
    if wrong is not None:
        raise refused(path, f"is damaged ({wrong})")
    return header


def _wrong(header: Header) -> str | None:
    """Return what of a header cannot be; None where it is sound."""
    numbers = (header.classes, header.samples, header.shard_samples, *header.shape)
    if min(numbers) < 1 or max(*numbers, header.rows) > _MOST or header.rows < 0:
        return "a count is out of range"
    if header.shards > _MOST >> 24:
        return f"{header.shards:,} shards"
    if not header.places and header.rows != header.samples:
        return f"{header.rows:,} rows for {header.samples:,} samples"
    if header.row.stride < 1 or header.row.stride > _MOST >> 16:
        return f"stride {header.row.stride}"
    if any(field.type not in SIZES or field.offset < 0 for field in header.row.fields):
        return "a field of the row"
    expected = {"index": (header.samples,)}
    if header.places:
        expected |= {"first": (header.samples,), "offsets": (header.samples + 1,)}
    for name, array in header.arrays.items():
        if name not in _ARRAYS or (array.type, len(array.shape)) != _ARRAYS[name]:
            return f"arrays.{name}"
        if name == "class_vectors" and not (array.shape[0] == header.classes and 0 < array.shape[1] <= _MOST >> 24):
            return "arrays.class_vectors"
    for name, shape in expected.items():
        if name not in header.arrays or header.arrays[name].shape != shape:
            return f"arrays.{name}"
    if header.key.lanes is not None and not 1 <= header.key.lanes <= header.samples:
        return "key.lanes"
    return None


def read_array(folder: Path, name: str, header: Header) -> np.ndarray[Any, Any]:
    """Return an array that the header names; CheckpointError where the file is not what the header says."""
    path, array = folder / f"{name}.bin", header.arrays[name]
    expected = int(np.prod([int(each) for each in array.shape], dtype=object)) * np.dtype(array.type).itemsize
    size = _regular(path)
    if size != expected:
        raise refused(path, f"has {size:,} bytes; expected {expected:,}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise refused(path, f"cannot be read ({error.strerror})", "make it readable") from None
    if hashlib.sha256(content).hexdigest() != array.sha256:
        raise refused(path, "is damaged (wrong checksum)")
    return np.frombuffer(content, array.type).reshape(array.shape)


def shard_is_there(folder: Path, view: int, shard: int, rows: int, header: Header) -> bool:
    """Return whether a shard is there in its whole length; its checksum is compared when it is opened."""
    path = folder / shard_name(view, shard)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refused(path, f"cannot be read ({error.strerror})", "make it readable") from None
    if not stat.S_ISREG(found.st_mode):
        _regular(path)
    _require_size(path, found.st_size, rows, header)
    return True


def open_shard(
    folder: Path, view: int, shard: int, rows: int, header: Header, *, check: bool
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the rows (rows, stride) uint8 of a shard, mapped into memory.

    check: compare the checksum of the whole.  Raises CheckpointError for a shard that is missing, damaged, of another
    store or in another's place.
    """
    path = folder / shard_name(view, shard)
    _require_size(path, _regular(path, "build the rest with the same command"), rows, header)
    length = rows * header.row.stride
    try:
        whole = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise refused(path, f"cannot be read ({one_line(error)})", "make it readable") from None
    if len(whole) != length + _FOOTER.size:  # it was changed in between
        raise refused(path, f"has {len(whole):,} bytes; expected {length + _FOOTER.size:,}")
    footer = bytes(whole[length:])
    magic, digest, *place, checksum = _FOOTER.unpack(footer)
    again = "delete it and build it again with the same command"
    if magic != _MAGIC:
        raise refused(path, "is damaged (it does not end as a shard)", again)
    if digest != header.digest:
        raise refused(path, "belongs to another store", again)
    if place != [view, shard, rows, header.row.stride]:
        raise refused(path, f"holds shard {place[1]} of view {place[0]}", again)
    if check:
        found = hashlib.sha256()
        for start in range(0, length, _CHUNK):
            found.update(whole[start : min(start + _CHUNK, length)].data)
        found.update(footer[: -len(checksum)])
        if found.digest() != checksum:
            raise refused(path, "is damaged (wrong checksum)", again)
    return whole[:length].reshape(rows, header.row.stride)


def _require_size(path: Path, size: int, rows: int, header: Header) -> None:
    expected = rows * header.row.stride + _FOOTER.size
    if size != expected:
        raise refused(
            path, f"has {size:,} bytes; expected {expected:,}", "delete it and build it again with the same command"
        )


def _regular(path: Path, mend: str = "delete the folder and build the store again") -> int:
    """Return the size of a file that is one, and no folder, pipe or link; CheckpointError otherwise."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise refused(path, "is missing", mend) from None
    except (OSError, ValueError) as error:
        raise refused(path, f"cannot be read ({one_line(error)})", "name another folder") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a link" if stat.S_ISLNK(found.st_mode) else "no file"
        raise refused(path, f"is {kind}; expected a file", "put the file there, or build the store again")
    return found.st_size


# -------------------------------------------------------------------------------------------------------------- writing


def array_bytes(values: np.ndarray[Any, Any], name: str) -> tuple[ArrayFile, bytes]:
    """Return what the header says of an array, and its bytes."""
    content = np.ascontiguousarray(values, _ARRAYS[name][0]).tobytes()
    return ArrayFile(_ARRAYS[name][0], tuple(values.shape), hashlib.sha256(content).hexdigest()), content


def write_array(folder: Path, name: str, content: bytes) -> None:
    """Write an array beside the shards, unless it is there."""
    path = folder / f"{name}.bin"
    if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
        _write(path, content)


def write_header(folder: Path, header: Header) -> None:
    """Write the header; arrays come first, so that a header that is there is complete."""
    _write(folder / _HEADER, (as_json(sealed(asdict(header))) + "\n").encode())


def write_shard(folder: Path, view: int, shard: int, rows: np.ndarray[Any, Any], header: Header) -> None:
    """Write a shard of rows (n, stride) uint8: aside, with its checksum at the end, then renamed."""
    payload = np.ascontiguousarray(rows, np.uint8)
    place = _FOOTER.pack(_MAGIC, header.digest, view, shard, len(rows), header.row.stride, b"")[:-32]
    checksum = hashlib.sha256(payload.data)
    checksum.update(place)
    _write(folder / shard_name(view, shard), payload.data, place, checksum.digest())


def _write(path: Path, *parts: Any) -> None:
    """Write a file aside, let the disk have it, then give it its name."""
    aside = path.with_name(f".aside-{_host()}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with aside.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise RunError(
            f"store: cannot write '{path}' ({error.strerror or error}); free space or name another folder, then run the"
            " same command again, which builds what is missing"
        ) from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    with suppress(OSError):  # a file system that cannot
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sweep(folder: Path) -> None:
    """Delete what builders that were killed have left half-written."""
    for path in folder.glob(".aside-*"):
        with suppress(OSError, ValueError):
            host, pid, _ = path.name.removeprefix(".aside-").rsplit("-", 2)
            gone = not _alive(int(pid)) if host == _host() else time.time() - path.stat().st_mtime > _OLD
            if gone:
                path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return "".join(letter for letter in socket.gethostname() if letter.isalnum())[:32] or "host"


def first_difference(found: Any, wanted: Any, where: str = "") -> str | None:
    """Return the first key in which two headers differ, with both values; None where they are equal."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for name in [*wanted, *(name for name in found if name not in wanted)]:
            place = f"{where}.{name}" if where else str(name)
            if (told := first_difference(found.get(name), wanted.get(name), place)) is not None:
                return told
        return None
    if found == wanted:
        return None
    return f"{where} is {_short(found)} there, {_short(wanted)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
