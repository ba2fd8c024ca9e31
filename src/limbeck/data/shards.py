"""Images in tar files, in the layout of WebDataset: found once, then read at their place in any order."""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.data.file_digests import file_digest, kept, remember
from limbeck.data.images import ENDINGS, check_size
from limbeck.data.lazy import LazySet
from limbeck.data.names import MOST_CLASSES
from limbeck.data.parting import files_by_part
from limbeck.data.pictures import picture
from limbeck.data.sets import Splits
from limbeck.errors import DataError, one_line

__all__ = ["shards"]

_LARGEST_IMAGE, _LARGEST_LABEL = 2**28, 2**16
_FORMAT = 1
_MANY = 1000  # images in a tar file, whose list is kept; fewer are listed again


@checked
def shards(
    folder: str,
    size: tuple[int, int],
    grey: bool = False,
    classes: tuple[str, ...] = (),
    test_share: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Return the images in the tar files of a folder, in the layout of WebDataset.

    A sample is `KEY.jpg` (or png, jpeg, webp, bmp) and, next to it in the same file, `KEY.cls`, the number of its class
    as text, or `KEY.json` with a number `label`; further members of the key are ignored.  Each tar file is listed once:
    samples are then read at their place, so that batches have the exact order of (seed, epoch), and an interrupted
    training is resumed at its step.

    Args:
        folder: with `train*.tar`, `test*.tar` and perhaps `validation*.tar`, or with other `*.tar`, of which
            `test_share` is held out.
        size: (H, W) in pixels; every image is resized to it as `image_folder` does it.
        grey: one channel instead of three.
        classes: their names, by number; numbers by default.
        test_share: share of each class that is held out for testing, in (0, 1).
        seed: of the split.

    Returns:
        Training and test set of uint8 images (3, H, W), or (1, H, W) if grey, and the validation set if there is one.

    Raises:
        DataError: if a tar file is damaged or compressed, or a member is a link, has a path outside of the archive, or
            is larger than an image or label can be.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["shards"] is data.shards
        True
    """
    check_size(size)
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DataError(f"{folder}: is not a folder; expected one with train*.tar and test*.tar, or *.tar")
    found = sorted(path for path in place.glob("*.tar") if path.is_file())
    if not found:
        packed = next((path.name for path in sorted(place.glob("*.tar.*")) + sorted(place.glob("*.tgz"))), None)
        hint = "" if packed is None else f"; {packed} is compressed: unpack it to a plain .tar, which is read by place"
        raise DataError(f"{folder}: has no .tar files{hint or '; expected train*.tar and test*.tar, or *.tar'}")
    parts, resized = files_by_part(folder, found), (size[0], size[1])
    if not parts:
        return Splits.held_out(_part(place, found, resized, grey, classes), test_share, seed)
    train = _part(place / "train", parts["train"], resized, grey, classes)
    others = {
        part: _part(place / part, files, resized, grey, train.class_names)
        for part, files in parts.items()
        if part != "train"
    }
    return Splits(train, others["test"], place.name, validation=others.get("validation"))


@dataclass(frozen=True)
class _Shards:
    """Images within tar files as a map-style dataset; plain data, so that worker processes can be sent it."""

    files: tuple[Path, ...]
    file: Tensor  # (n,) of each image, the number of its file
    place: Tensor  # (n, 2) int64: where it begins, and its bytes
    labels: Tensor
    size: tuple[int, int]
    grey: bool

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number = int(self.file[index])
        begin, length = self.place[index].tolist()
        name = f"{self.files[number]}:{begin}"
        try:
            with self.files[number].open("rb", buffering=0) as file:
                file.seek(begin)
                content = file.read(length)
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror or error}); put the file back") from None
        if len(content) != length:
            raise DataError(f"{name}: ends within an image; the file has changed since it was listed")
        return picture(Path(name), self.size, self.grey, content)[0], int(self.labels[index])


def _part(name: Path, files: Sequence[Path], size: tuple[int, int], grey: bool, classes: Sequence[str]) -> LazySet:
    rows: list[tuple[int, int, int, int]] = []
    digest = hashlib.sha256(f"shards {size} {grey}".encode())
    for number, path in enumerate(files):
        sha256 = file_digest(path)
        digest.update(f"\0{path.name} {sha256}".encode())
        rows += [(number, *row) for row in _listed(path, sha256)]
    if not rows:
        raise DataError(f"{name}: its tar files hold no images; expected {', '.join(sorted(ENDINGS))} members")
    table = torch.tensor(rows, dtype=torch.int64)
    images = _Shards(tuple(files), table[:, 0], table[:, 1:3].contiguous(), table[:, 3], size, grey)
    source, named = digest.hexdigest(), tuple(classes) or None
    return LazySet.of(images, images.labels, source=source, class_names=named, name=str(name))


def _listed(path: Path, sha256: str) -> list[tuple[int, int, int]]:
    """Return (begin, bytes, label) of each image of a tar file; the list is kept for files of the same content."""
    name = f"{_FORMAT}-{sha256}"
    known = kept("shards", name)
    if known is not None:
        return [(begin, length, label) for begin, length, label in known["images"]]
    images = list(_samples(path))
    if len(images) >= _MANY:
        remember("shards", name, {"images": images})
    return images


def _samples(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, bytes, label) of each sample of a tar file; DataError for anything that is no such file."""
    seen: set[str] = set()
    key, image, label = "", None, None
    end = path.stat().st_size
    with path.open("rb") as content:
        for member in _members(path):
            own, ending = _key(path, member.name)
            if own != key:
                if key:
                    yield _sample(path, key, image, label)
                if own in seen:
                    raise DataError(
                        f"{path}: the members of '{own}' are apart; expected them side by side. Pack it again"
                    )
                seen.add(own)
                key, image, label = own, None, None
            if member.offset_data + member.size > end:
                raise DataError(f"{path}: ends within '{member.name}'; copy it again")
            if ending in ENDINGS:
                if image is not None:
                    raise DataError(f"{path}: '{key}' has two images; expected one a key. Rename one of them")
                _check_size(path, member, _LARGEST_IMAGE)
                image = (member.offset_data, member.size)
            elif ending in (".cls", ".json"):
                _check_size(path, member, _LARGEST_LABEL)
                content.seek(member.offset_data)
                label = _label(path, member.name, content.read(member.size), label)
    if key:
        yield _sample(path, key, image, label)


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar file; DataError for a member that is none, or is named outside of the archive."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
                if member.isdir():
                    continue
                if not member.isfile() or member.issparse():
                    raise DataError(f"{path}: '{member.name}' is a link, a device or sparse; expected plain files")
                yield member
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, EOFError) as error:
        mend = "unpack it to a plain .tar" if _is_packed(path) else "copy or pack it again"
        raise DataError(f"{path}: is damaged or not a plain tar file ({one_line(error)}); {mend}") from None


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5")


def _key(path: Path, name: str) -> tuple[str, str]:
    """Return the key of a member, its path up to the first dot of its file's name, and its ending."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise DataError(f"{path}: '{name}' is a path outside of the archive; expected relative ones. Do not trust it")
    stem, dot, rest = parts.name.partition(".")
    return str(parts.with_name(stem)) if stem else str(parts), f".{rest.rpartition('.')[2].lower()}" if dot else ""


def _check_size(path: Path, member: tarfile.TarInfo, most: int) -> None:
    if not 0 < member.size <= most:
        raise DataError(f"{path}: '{member.name}' has {member.size:,} bytes; expected 1 to {most:,}")


def _label(path: Path, name: str, content: bytes, before: int | None) -> int | None:
    """Return the label that a member says; that of the member before it where it says none."""
    try:
        said = json.loads(content) if name.lower().endswith(".json") else {"label": int(content.decode("ascii"))}
        found = said.get("label") if isinstance(said, dict) else None
        if found is None:
            return before
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < MOST_CLASSES:
            raise ValueError
    except (ValueError, RecursionError):
        raise DataError(f"{path}: '{name}' does not hold the number of a class, from 0 on; correct it") from None
    if before is not None and before != found:
        raise DataError(f"{path}: '{name}' says class {found}, and another member of its key {before}; remove one")
    return found


def _sample(path: Path, key: str, image: tuple[int, int] | None, label: int | None) -> tuple[int, int, int]:
    if image is None:
        raise DataError(f"{path}: '{key}' has no image; expected one of {', '.join(sorted(ENDINGS))} a key")
    if label is None:
        raise DataError(f"{path}: '{key}' has no label; expected {key}.cls, or a number `label` in {key}.json")
    return (*image, label)
