"""Arrays that stay in their file: rows are read at their place when a batch needs them."""

import hashlib
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Literal, Self

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.data.content import channels_last, checked_labels
from limbeck.data.file_digests import file_digest
from limbeck.data.lazy import LazySet
from limbeck.data.sets import Splits
from limbeck.errors import DataError
from limbeck.tasks import UNLABELLED, Task, task_named

__all__ = ["MappedSet", "RowFile", "mapped"]

_IMAGE_AXES = 4
_DTYPES = {"|u1": torch.uint8, "<f4": torch.float32, "<f2": torch.float32, "<i8": torch.int64, "<i4": torch.int64}
_OF_LABELS = {**_DTYPES, "<f8": torch.float64}
_MOST_LABELS = 2**30

TaskName = Literal["classification", "binary", "multilabel", "regression"]


@dataclass(frozen=True)
class RowFile:
    """The rows of an array in a .npy file, or in an uncompressed member of an .npz archive.

    They are read by their position and not mapped into memory, so that what was read does not count as the process's
    memory, and can be sent to worker processes.

    Attributes:
        path: of the file.
        offset: where the first row begins, in bytes.
        shape: of the array.
        dtype: NumPy's name of its type.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/rows.npy", np.arange(6, dtype="float32").reshape(3, 2))
        ...     RowFile.of(Path(folder, "rows.npy")).rows([2, 0])
        tensor([[4., 5.],
                [0., 1.]])
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, path: Path, member: str | None = None) -> Self:
        """Read where the rows are; DataError where they are not plain numbers in order, or the file is cut short.

        member: of an .npz archive; None for a .npy file.
        """
        try:
            with path.open("rb") as file:
                end = path.stat().st_size
                if member is not None:
                    end = _to_member(path, file, member)
                return cls(path, *_header(path if member is None else f"{path}:{member}", file, end))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.rows([row])[0], UNLABELLED

    def rows(self, positions: Sequence[int]) -> Tensor:
        """Return rows (n, ...): uint8, float32 or int64.  DataError where the file has become shorter."""
        import numpy as np

        found = np.empty((len(positions), *self.shape[1:]), self.dtype)
        flat = found.reshape(len(positions), -1).view(np.uint8)
        size = flat.shape[1]
        try:
            with FileIO(self.path) as file:
                for place, position in enumerate(positions):
                    file.seek(self.offset + position * size)
                    if file.readinto(flat[place]) != size:
                        raise DataError(f"{self.path}: ends within row {position}; it has changed since it was listed")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error}); put it back") from None
        return torch.from_numpy(found).to(_DTYPES[self.dtype])

    def whole(self) -> Tensor:
        """Return the whole array, uint8 as int64: labels, say."""
        import numpy as np

        numbers = np.fromfile(self.path, self.dtype, math.prod(self.shape), offset=self.offset).reshape(self.shape)
        found = torch.from_numpy(numbers).to(_OF_LABELS[self.dtype])
        return found.to(torch.int64) if found.dtype == torch.uint8 else found


def _to_member(path: Path, file: BinaryIO, member: str) -> int:
    """Go to where a member of an archive begins, and return where it ends."""
    try:
        with zipfile.ZipFile(file) as archive:
            entry = archive.getinfo(f"{member}.npy")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise DataError(
                    f"{path}: array '{member}' is compressed, so its rows cannot be read at their place; write the"
                    " archive with numpy.savez, or read it whole with kind: npz"
                )
            archive.open(entry).close()  # which checks the member's own header
            file.seek(entry.header_offset + 26)
            begin = entry.header_offset + 30 + sum(int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(begin)
            return begin + entry.file_size
    except KeyError:
        raise DataError(f"{path}: has no array '{member}'; expected inputs and labels") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(f"{path}: is damaged or not an .npz archive ({error}); write it with numpy.savez") from None


def _header(name: object, file: BinaryIO, end: int) -> tuple[int, tuple[int, ...], str]:
    """Read the header of a .npy file; return where its rows begin, the shape and the type."""
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # noqa: BLE001 - NumPy's parser has no error of its own
        raise DataError(f"{name}: is damaged or not a .npy file ({' '.join(str(error).split())})") from None
    if dtype.str not in _OF_LABELS:
        kinds = "uint8 (pixels), float32, float16, int64 or int32"
        raise DataError(f"{name}: holds {dtype}; expected {kinds}, little-endian. Convert it with astype")
    if fortran and len(shape) > 1:
        raise DataError(f"{name}: its columns are stored first; expected rows. Save numpy.ascontiguousarray of it")
    if len(shape) < 1 or any(type(size) is not int or size < 1 for size in shape):
        raise DataError(f"{name}: has shape {shape}; expected (samples, ...) with at least one sample")
    begin, size = file.tell(), math.prod(shape) * dtype.itemsize
    if end - begin != size:
        raise DataError(f"{name}: should have {size:,} bytes of numbers and has {end - begin:,}; copy it again")
    return begin, tuple(shape), dtype.str


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MappedSet(LazySet):
    """A `LazySet` whose samples are the rows of an array in a file, read together for each batch.

    The further attributes are those of `LazySet`.

    Attributes:
        file: where the rows are.

    Example:
        >>> issubclass(MappedSet, LazySet)
        True
    """

    file: RowFile

    def gather(self, positions: Tensor) -> Tensor:
        """Read the samples at `positions` within this set; DataError for a value that is NaN or infinite."""
        roots = self.index[positions].tolist()
        samples = self.file.rows(roots)
        if samples.is_floating_point() and not bool(torch.isfinite(torch.stack(samples.aminmax())).all()):
            wrong = int((~torch.isfinite(samples.flatten(1)).all(dim=1)).nonzero()[0])
            raise DataError(f"{self.name}: sample {roots[wrong]} has a value that is NaN or infinite")
        return samples.to(self.index.device)


@checked
def mapped(path: str, test_share: float = 0.2, seed: int = 0, task: TaskName = "classification") -> Splits:
    """Return arrays that need not fit into memory: rows are read from the file when a batch needs them.

    Args:
        path: a folder with `inputs.npy` (n, ...) and `labels.npy` (n,), and optionally `test_inputs.npy`,
            `test_labels.npy`, `validation_inputs.npy` and `validation_labels.npy`; or an uncompressed .npz archive
            (`numpy.savez`) with arrays of these names.  Inputs: uint8 pixels, channels first, are divided by 255 in
            batches; float32 and float16; int64 and int32 token ids.
        test_share: without test arrays, the share of each class that is held out for testing, in (0, 1).
        seed: of the split.
        task: what a label is, as for `npz`; labels are read into memory.

    Returns:
        Training and test set, and the validation set if there is one.

    Raises:
        DataError: if an array is missing, of another type, compressed or cut short.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["mapped"] is data.mapped
        True
    """
    place, kind = Path(path).expanduser(), task_named(task)
    present = _arrays_in(place)
    for name in ("inputs", "labels"):
        if name not in present:
            there = ", ".join(present) or "none"
            raise DataError(f"{place}: has no array '{name}'; expected inputs and labels, and found {there}")
    train = _part(place, "", None, kind)
    others = {}
    for part in ("test", "validation"):
        own = [f"{part}_inputs", f"{part}_labels"]
        for name in own:
            if name not in present and any(each in present for each in own):
                raise DataError(f"{place}: has no {name}; expected both {own[0]} and {own[1]}, or neither")
        if own[0] in present:
            others[part] = _part(place, f"{part}_", train.classes, kind)
    for part, samples in others.items():
        if train.input_shape != samples.input_shape or train.dtype != samples.dtype:
            raise DataError(
                f"{place}: inputs are {train.dtype} {train.input_shape} each, {part}_inputs {samples.dtype}"
                f" {samples.input_shape}; expected the same"
            )
    if "test" not in others:
        splits = Splits.held_out(replace(train, name=str(place)), test_share, seed)
        return replace(splits, validation=others.get("validation"))
    return Splits(train, others["test"], str(place), validation=others.get("validation"))


def _arrays_in(place: Path) -> list[str]:
    if place.is_dir():
        return sorted(each.stem for each in place.glob("*.npy") if each.is_file())
    try:
        with zipfile.ZipFile(place) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist())
    except FileNotFoundError:
        raise DataError(f"{place}: does not exist; expected a folder of .npy files, or an .npz archive") from None
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f"{place}: is no folder and no .npz archive ({error}); write it with numpy.savez") from None


def _part(place: Path, prefix: str, classes: int | None, task: Task) -> MappedSet:
    """Return the arrays of a part as a set; its labels are read."""
    name = f"{place}:{prefix}inputs"
    files = {key: _file(place, f"{prefix}{key}") for key in ("inputs", "labels")}
    rows, stored = files["inputs"], files["labels"]
    if len(rows.shape) < 2:
        raise DataError(f"{name}: has shape {rows.shape}; expected (samples, ...) with a sample's shape")
    if rows.dtype not in _DTYPES:
        raise DataError(f"{name}: holds float64; expected float32, which models compute in. Convert it with astype")
    if rows.dtype.startswith("<i") and len(rows.shape) >= _IMAGE_AXES:
        raise DataError(f"{name}: is {rows.dtype[1:]} {rows.shape}; save pixels as uint8, and other numbers as float32")
    if rows.dtype == "|u1" and channels_last(rows.shape):
        raise DataError(
            f"{name}: has shape {rows.shape}, whose channels are last; expected (samples, channels, height, width)."
            " Save it transposed (0, 3, 1, 2)"
        )
    if math.prod(stored.shape) > _MOST_LABELS:
        raise DataError(f"{place}: {prefix}labels: has {math.prod(stored.shape):,} numbers; expected a label a sample")
    labels, count, names = checked_labels(name, len(rows), stored.whole(), classes, None, task)
    digest = hashlib.sha256(f"mapped {rows.dtype} {rows.shape} {task.name}".encode())
    for file in files.values():
        digest.update(f"\0{file.offset} {file_digest(file.path)}".encode())
    return MappedSet(
        name=name,
        classes=count,
        class_names=names,
        source=digest.hexdigest(),
        index=torch.arange(len(rows)),
        labels=labels,
        input_shape=rows.shape[1:],
        task=task,
        fetch=rows.__getitem__,
        dtype=_DTYPES[rows.dtype],
        file=rows,
    )


def _file(place: Path, key: str) -> RowFile:
    return RowFile.of(place / f"{key}.npy") if place.is_dir() else RowFile.of(place, key)
