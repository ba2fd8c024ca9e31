"""Sets in files of Apache Arrow that need not fit into memory: Parquet, and what the library `datasets` saves."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data.arrow_rows import arrow, joined, names_in, reading, saved_files
from limbeck.data.content import check_fits
from limbeck.data.file_digests import file_digest
from limbeck.data.images import check_size
from limbeck.data.lazy import LazySet
from limbeck.data.parting import files_by_part
from limbeck.data.pictures import picture
from limbeck.data.sets import Splits
from limbeck.errors import DataError, one_of
from limbeck.randomness import permutation

__all__ = ["ParquetSet", "parquet", "saved_dataset"]


@checked
def parquet(
    path: str,
    inputs: str = "image",
    label: str = "label",
    size: tuple[int, int] | None = None,
    grey: bool = False,
    test_share: float = 0.2,
    seed: int = 0,
    window_bytes: int = 2**28,
) -> Splits:
    """Return the rows of Parquet files, which are read row group by row group.

    A row alone cannot be read from a Parquet file.  So each epoch takes the row groups in a random order, and shuffles
    the rows of as many as `window_bytes` holds: still a function of (seed, epoch) alone, which is resumed at any step.

    Args:
        path: a .parquet file, or a folder with `train*.parquet`, `test*.parquet` and perhaps `validation*.parquet`, or
            with others, of which `test_share` is held out.
        inputs: the column of the inputs: encoded images (bytes, or a struct with `bytes`), or lists of numbers of one
            length, which become float32, or int64 token ids.
        label: the column of the class numbers, from 0 on, or of the classes' names.
        size: (H, W) in pixels, to which images are resized; not for lists of numbers.
        grey: one channel instead of three.
        test_share: share of each class that is held out for testing, in (0, 1).
        seed: of the split.
        window_bytes: how much of the decoded file is in memory at a time, in each process that reads; at least one
            row group.

    Returns:
        Training and test set, and the validation set if there is one.

    Raises:
        InputError: if pyarrow is not installed.
        DataError: if a file is damaged, or a column is missing or of another kind.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["parquet"] is data.parquet
        True
    """
    checks.at_least("window_bytes", window_bytes, 1)
    form = _Form(inputs, label, _resized(size), grey)
    place = Path(path).expanduser()
    found = [place] if place.is_file() else sorted(each for each in place.glob("*.parquet") if each.is_file())
    if not found:
        raise DataError(f"{path}: has no .parquet files; expected one, or train*.parquet and test*.parquet")
    parts = files_by_part(path, found) if place.is_dir() else {}
    if not parts:
        return Splits.held_out(_of_parquet(place, found, form, window_bytes), test_share, seed)
    train = _of_parquet(place / "train", parts["train"], form, window_bytes)
    others = {
        part: _of_parquet(place / part, files, form, window_bytes, train.class_names)
        for part, files in parts.items()
        if part != "train"
    }
    return _splits(path, train, others, place.name)


@checked
def saved_dataset(
    folder: str,
    inputs: str = "image",
    label: str = "label",
    size: tuple[int, int] | None = None,
    grey: bool = False,
    test_share: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Return a dataset that the library `datasets` saved with `save_to_disk`, mapped into memory and read by row.

    Args:
        folder: of a `DatasetDict` with `train`, `test` and perhaps `validation`, or of a `Dataset`, of which
            `test_share` is held out.
        inputs: the column of the inputs, as for `parquet`.
        label: the column of the labels, as for `parquet`.
        size: (H, W) in pixels, to which images are resized; not for lists of numbers.
        grey: one channel instead of three.
        test_share: share of each class that is held out for testing, in (0, 1).
        seed: of the split.

    Returns:
        Training and test set, and the validation set if there is one.

    Raises:
        InputError: if pyarrow is not installed.
        DataError: if the folder is no such dataset, a file is damaged, or a column is missing or of another kind.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["saved_dataset"] is data.saved_dataset
        True
    """
    form = _Form(inputs, label, _resized(size), grey)
    place = Path(folder).expanduser()
    if (place / "dataset_dict.json").is_file():
        for part in ("train", "test"):
            if not (place / part / "state.json").is_file():
                raise DataError(f"{folder}: has no part '{part}'; expected train and test. Name the folder of one part")
        train = _saved(place / "train", form)
        there = [part for part in ("test", "validation") if (place / part / "state.json").is_file()]
        others = {part: _saved(place / part, form, train.class_names) for part in there}
        return _splits(folder, train, others, place.name)
    return Splits.held_out(_saved(place, form), test_share, seed)


def _splits(where: str, train: LazySet, others: Mapping[str, LazySet], name: str) -> Splits:
    """Return parts whose samples have one shape and type; others: "test" and perhaps "validation"."""
    for part, samples in others.items():
        if train.input_shape != samples.input_shape or train.dtype != samples.dtype:
            raise DataError(
                f"{where}: inputs of train are {train.dtype} {train.input_shape} each, those of {part}"
                f" {samples.dtype} {samples.input_shape}; expected the same"
            )
    return Splits(train, others["test"], name, validation=others.get("validation"))


def _resized(size: tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    check_size(size)
    return size[0], size[1]


@dataclass(frozen=True)
class _Form:
    """Which columns are samples, and how a cell becomes one."""

    inputs: str
    label: str
    size: tuple[int, int] | None
    grey: bool

    def sample(self, where: str, cell: Any) -> Tensor:
        """Return a cell as a sample; DataError where it is neither an image nor numbers."""
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(content, bytes):
            if self.size is None:
                raise DataError(f"{where}: is an image; expected a size, (H, W) in pixels, to which all are resized")
            return picture(Path(where), self.size, self.grey, content)[0]
        try:
            numbers = torch.tensor(content)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise DataError(f"{where}: column '{self.inputs}' holds neither image bytes nor numbers") from None
        if self.size is not None or self.grey:
            key = "grey" if self.size is None else "size"
            raise DataError(
                f"{where}: {key}: found beside numbers; expected none, which is for images. Leave {key} out"
            )
        return numbers.float() if numbers.is_floating_point() else numbers.to(torch.int64)


@dataclass(frozen=True)
class _Groups:
    """The rows of Parquet files as a map-style dataset; plain data, so that worker processes can be sent it.

    groups: (g, 2) of each row group, its file and its number there.  first: (g,) its first row.  window: how many are
    kept at a time.
    """

    files: tuple[Path, ...]
    groups: tuple[tuple[int, int], ...]
    first: Tensor
    labels: Tensor
    form: _Form
    window: int
    _kept: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        number = int(self.of(torch.tensor([row])))
        cell = self._column(number)[row - int(self.first[number])].as_py()
        where = f"{self.files[self.groups[number][0]]}:{row}"
        return self.form.sample(where, cell), int(self.labels[row])

    def of(self, rows: Tensor) -> Tensor:
        """Return the number of the row group of each row."""
        return torch.bucketize(rows, self.first, right=True) - 1

    def _column(self, number: int) -> Any:
        if number not in self._kept:
            if len(self._kept) >= self.window:
                del self._kept[next(iter(self._kept))]
            file, group = self.groups[number]
            with reading(self.files[file]), arrow("parquet").ParquetFile(self.files[file]) as opened:
                self._kept[number] = opened.read_row_group(group, columns=[self.form.inputs]).column(0)
        return self._kept[number]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ParquetSet(LazySet):
    """A `LazySet` of rows in Parquet files, whose epochs take a few row groups at a time.

    The further attributes are those of `LazySet`.

    Attributes:
        row_groups: the files and their row groups.

    Example:
        >>> issubclass(ParquetSet, LazySet)
        True
    """

    row_groups: Any

    def order(self, seed: int, epoch: int, batch_size: int = 1) -> Tensor:
        """Return the positions of an epoch's samples: row groups at random, shuffled among those of one window."""
        rows = self.row_groups
        present, group = rows.of(self.index.cpu()).unique(return_inverse=True)
        turn = torch.empty(len(present), dtype=torch.int64)
        turn[permutation(seed, "row groups", epoch, len(present))] = torch.arange(len(present))
        window = turn.div(rows.window, rounding_mode="floor")[group]
        shuffled = permutation(seed, "order", epoch, len(self))
        return shuffled[window[shuffled].argsort(stable=True)]


def _of_parquet(
    name: Path, files: Sequence[Path], form: _Form, window_bytes: int, names: tuple[str, ...] = ()
) -> ParquetSet:
    reader = arrow("parquet")
    groups, first, sizes, columns, total = list[tuple[int, int]](), list[int](), list[int](), list[Any](), 0
    digest = hashlib.sha256(f"parquet {form}".encode())
    for number, path in enumerate(files):
        digest.update(f"\0{path.name} {file_digest(path)}".encode())
        with reading(path), reader.ParquetFile(path) as opened:
            _require_columns(path, form, opened.schema_arrow.names)
            names = _same_names(path, names, names_in(opened.schema_arrow.metadata, form.label))
            columns.append(opened.read(columns=[form.label]).column(0).to_pylist())
            for group in range(opened.metadata.num_row_groups):
                found = opened.metadata.row_group(group)
                if found.num_rows:
                    groups.append((number, group))
                    first.append(total)
                    sizes.append(found.total_byte_size)
                    total += found.num_rows
    if not total:
        raise DataError(f"{name}: has no rows; expected at least one")
    check_fits(str(name), max(sizes))
    labels, names = _labels(name, form.label, [cell for column in columns for cell in column], names)
    window = max(1, window_bytes // max(1, *sizes))
    rows = _Groups(tuple(files), tuple(groups), torch.tensor(first), labels, form, window)
    lazy = LazySet.of(rows, labels, source=digest.hexdigest(), class_names=names or None, name=str(name))
    return ParquetSet(**vars(lazy), row_groups=rows)


@dataclass(frozen=True)
class _Saved:
    """The rows of Arrow files as a map-style dataset; each process maps the files itself."""

    files: tuple[Path, ...]
    labels: Tensor
    form: _Form
    _column: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_column": []}

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if not self._column:
            self._column.append(joined(self.files).column(self.form.inputs))
        where = f"{self.files[0].parent}:{row}"
        return self.form.sample(where, self._column[0][row].as_py()), int(self.labels[row])


def _saved(folder: Path, form: _Form, names: tuple[str, ...] = ()) -> LazySet:
    paths = saved_files(folder)
    digest = hashlib.sha256(f"arrow {form}".encode())
    for path in paths:
        digest.update(f"\0{path.name} {file_digest(path)}".encode())
    table = joined(paths)
    _require_columns(folder, form, table.column_names)
    names = _same_names(folder, names, names_in(table.schema.metadata, form.label))
    labels, names = _labels(folder, form.label, table.column(form.label).to_pylist(), names)
    rows = _Saved(paths, labels, form)
    return LazySet.of(rows, labels, source=digest.hexdigest(), class_names=names or None, name=str(folder))


def _require_columns(where: Path, form: _Form, present: Sequence[str]) -> None:
    for key, name in (("inputs", form.inputs), ("label", form.label)):
        if name not in present:
            raise DataError(f"{where}: {key}: found no column '{name}'; {one_of(name, present)}")


def _same_names(where: Path, known: tuple[str, ...], found: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes' names; DataError where a file numbers them otherwise than those before it."""
    if known and found and known != found:
        number = next((n for n, pair in enumerate(zip(known, found, strict=False)) if pair[0] != pair[1]), None)
        told = f"{len(found)} classes" if number is None else f"'{found[number]}' as class {number}"
        expected = f"{len(known)}" if number is None else f"'{known[number]}'"
        raise DataError(f"{where}: found {told}, expected {expected} as in the files before it; number them alike")
    return known or found


def _labels(where: Path, column: str, cells: list[Any], names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """Return class numbers, and the classes' names: those given, or the texts of the column in alphabetical order."""
    if all(isinstance(cell, str) for cell in cells):
        names = names or tuple(sorted(set(cells)))
        numbers = {name: number for number, name in enumerate(names)}
        unknown = next((cell for cell in cells if cell not in numbers), None)
        if unknown is not None:
            raise DataError(f"{where}: column '{column}' has the class '{unknown}', which the training part lacks")
        return torch.tensor([numbers[cell] for cell in cells]), names
    for row, cell in enumerate(cells):
        if isinstance(cell, bool) or not isinstance(cell, int) or not -(2**63) <= cell < 2**63:
            raise DataError(f"{where}: row {row}: '{column}' is {str(cell)[:40]!r}; expected the number of a class")
    return torch.tensor(cells, dtype=torch.int64), names
