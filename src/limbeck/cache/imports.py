"""Answers that were made elsewhere, as a store: arrays in .npz, columns in Parquet, lines of JSON from servers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.cache.build import write_rows
from limbeck.cache.encodings import AnyEncoding, DenseEncoding, TopKEncoding, storable
from limbeck.cache.format import Key
from limbeck.cache.plan import Order, input_digest, planned, refuse_unstorable
from limbeck.cache.reader import CachedTeacher
from limbeck.cache.served import likeliest, served_answers
from limbeck.data.file_digests import file_digest
from limbeck.data.foreign import samples_of
from limbeck.data.npz import read_arrays
from limbeck.data.sources import Source
from limbeck.errors import DataError, InputError, one_line, one_of
from limbeck.tasks import DENSE, MULTILABEL, TOKENS

__all__ = ["import_answers"]

_NAMES = ("ids", "log_probs", "logits", "index", "source", "temperature")
_SLACK = 1e-3  # by which probabilities may add up to more than 1


@dataclass(frozen=True)
class _Rows:
    """Answers row by row: all logits (R, K), or ids and log-probabilities (R, k) at T = 1."""

    logits: Tensor | None = None
    ids: Tensor | None = None
    log_probs: Tensor | None = None


@checked
def import_answers(
    file: str | Path,
    samples: Any,
    path: str | Path,
    *,
    clean: bool = False,
    dtype: Literal["fp32", "fp16"] = "fp32",
) -> CachedTeacher:
    """Store answers that were made elsewhere, and return the teacher that reads them.

    Arrays of an .npz file, or columns of a Parquet file, are `logits` (rows, K), or `ids` and `log_probs` (rows, k) of
    the k likeliest classes at temperature 1.  There is a row for each sample in the order of the set, or `index` says
    which sample of the root set each row belongs to; of texts there is a row for each token that is counted, in order.
    `source`, the identity of the set, is compared where there is one.  Each line of a .jsonl file is one sample:
    {"ids": [...], "log_probs": [...]}, or the answer of a server with its log-probabilities (`limbeck.cache.served`).

    Log-probabilities of all classes are logits, for any temperature.  What fewer classes lack to 1 is the mass of all
    others.  It is known at temperature 1 alone, so that a method with another temperature refuses the answers.

    Args:
        file: .npz, .parquet or .jsonl.
        samples: the set that was answered.
        path: a folder for the store.
        clean: use the answers for augmented samples too.
        dtype: in which logits are stored.

    Returns:
        The stored answers.

    Raises:
        DataError: naming the file, the row or line and what is wrong.
        CheckpointError: if the folder holds answers to something else.

    Example:
        >>> import tempfile, limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.randn(2, 3), torch.tensor([0, 1]), classes=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "answers.npz"
        ...     np.savez(file, ids=[[0, 2], [1, 3]], log_probs=np.log([[0.5, 0.25], [0.7, 0.2]]))
        ...     teacher = import_answers(file, samples, Path(folder) / "store")
        ...     answer = teacher(samples.batch(torch.arange(2), augment=None, seed=0, view=0)).sparse
        >>> answer.at(1.0)[1].exp()
        tensor([0.2500, 0.1000])
    """
    file, samples = Path(file).expanduser(), samples_of("samples", samples)
    if isinstance(samples, Source):
        raise InputError("samples: found a dataset or a loader, expected samples with an identity")
    if not samples.task.has_classes or samples.task in (MULTILABEL, DENSE):
        raise InputError(
            f"samples: found '{samples.name}' of the task {samples.task.name}; expected one distribution for each"
            " sample or token. Store the answers of a network (store)"
        )
    refuse_unstorable(samples, None)
    digest = file_digest(file)
    readers = {".npz": _of_npz, ".parquet": _of_parquet}
    key = Key(f"file {digest}", samples.source, input_digest(samples), "", clean, samples.lanes)
    if file.suffix in readers:
        rows = _ordered(file, readers[file.suffix](file), samples)
    elif file.suffix in (".jsonl", ".ndjson"):
        ids, log_probs = served_answers(file, samples)
        rows = _Rows(ids=ids, log_probs=log_probs)
    else:
        raise DataError(f"{file}: found a file of type '{file.suffix}', expected .npz, .parquet or .jsonl")
    encoding, values = _encoded(file, rows, samples.classes, dtype)
    order = Order(samples, encoding, clean=clean)
    header, arrays = planned(order, key, classes=samples.classes)
    count = len(next(iter(values.values())))
    if header.rows != count:
        raise DataError(
            f"{file}: {count:,} answers for the {header.rows:,} {'counted tokens' if header.places else 'samples'} of"
            f" '{samples.name}'; expected one each, in their order"
        )
    return write_rows(Path(path).expanduser(), header, arrays, header.row.pack(values), order.views)


def _of_npz(file: Path) -> dict[str, Any]:
    return dict(read_arrays(str(file)))


def _of_parquet(file: Path) -> dict[str, Any]:
    """Return the columns of a Parquet file as arrays; of unequally many classes in the rows the least number counts."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{file}: needs pyarrow, which is not installed; pip install pyarrow") from None
    try:
        table = parquet.read_table(file, columns=[name for name in parquet.read_schema(file).names if name in _NAMES])
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({one_line(error)}); write it with pyarrow") from None
    found = {name: table[name].to_pylist() for name in table.column_names}
    for name, values in found.items():
        if not values or any(value is None for value in values):
            raise DataError(f"{file}: column '{name}' is empty or has no value in some rows; fill them")
        if name in ("source", "temperature"):
            if any(value != values[0] for value in values):
                raise DataError(f"{file}: column '{name}' has several values; expected the same in each row")
            found[name] = values[0]
    try:
        if "ids" in found and "log_probs" in found:
            found["ids"], found["log_probs"] = _rectangles(file, found["ids"], found["log_probs"])
        return {name: np.array(values) for name, values in found.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: expected numbers, and lists of one length ({one_line(error)})") from None


def _rectangles(file: Path, ids: list[Any], log_probs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the likeliest classes of each row, as many as the row with the fewest has."""
    for row, pair in enumerate(zip(ids, log_probs, strict=True)):
        if not all(isinstance(value, list) for value in pair) or len(pair[0]) != len(pair[1]):
            raise DataError(
                f"{file}: row {row} has no two lists of one length; expected ids and log_probs of k classes"
            )
    return likeliest([list(zip(*pair, strict=True)) for pair in zip(ids, log_probs, strict=True)])


def _ordered(file: Path, found: dict[str, Any], samples: Any) -> _Rows:
    """Return the rows of arrays in the order of a set."""
    for name in found:
        if name not in _NAMES:
            raise DataError(f"{file}: unknown array '{name}'; {one_of(name, _NAMES)}")
    if "source" in found and str(found.pop("source")) != samples.source:
        raise DataError(f"{file}: has answers to another set than '{samples.name}'; answer this set")
    _require_one(file, found.pop("temperature", 1.0))
    own = set(found) - {"index"}
    if own not in ({"logits"}, {"ids", "log_probs"}):
        raise DataError(f"{file}: found {', '.join(sorted(own)) or 'no arrays'}; expected logits, or ids and log_probs")
    arrays = {name: _numbers(file, name, found[name]) for name in own}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1:
        raise DataError(f"{file}: ids and log_probs have the shapes {sorted(shapes)}; expected the same")
    if "index" in found:
        take = _positions(
            file, _numbers(file, "index", found["index"], axes=1), samples, len(next(iter(arrays.values())))
        )
        arrays = {name: array[take] for name, array in arrays.items()}
    return _Rows(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})


def _numbers(file: Path, name: str, array: Any, axes: int = 2) -> np.ndarray[Any, Any]:
    array, whole = np.asarray(array), name in ("ids", "index")
    if array.ndim != axes or array.dtype.kind not in ("ui" if whole else "f") or not array.size:
        expected = f"{'whole numbers' if whole else 'floating point'} {'(rows,)' if axes == 1 else '(rows, k)'}"
        raise DataError(f"{file}: '{name}' is {array.dtype} {array.shape}; expected {expected}")
    numbers: np.ndarray[Any, Any] = array.astype(np.int64 if whole else np.float64)
    return numbers


def _positions(file: Path, index: np.ndarray[Any, Any], samples: Any, rows: int) -> np.ndarray[Any, Any]:
    """Return which row belongs to each sample of a set."""
    if samples.task == TOKENS:
        raise DataError(f"{file}: found index for texts, whose rows are tokens; expected rows in the order of the set")
    if len(index) != rows or len(np.unique(index)) != len(index):
        raise DataError(
            f"{file}: index has {len(np.unique(index))} different places for {rows} rows; expected one each"
        )
    place = {number: row for row, number in enumerate(index.tolist())}
    wanted = samples.index.tolist()
    if missing := [number for number in wanted if number not in place]:
        raise DataError(
            f"{file}: it has no answer to {len(missing):,} of the {len(wanted):,} samples of '{samples.name}',"
            f" the first at place {missing[0]}; add them"
        )
    return np.array([place[number] for number in wanted])


def _require_one(file: Path, temperature: Any) -> None:
    found = np.asarray(temperature)
    if found.size != 1 or found.item() != 1:
        raise DataError(
            f"{file}: found answers at temperature {temperature!s:.40}; expected 1, since the mass of the other classes"
            " at another one says nothing about that at the method's"
        )


def _encoded(
    file: Path, rows: _Rows, classes: int, dtype: Literal["fp32", "fp16"]
) -> tuple[AnyEncoding, dict[str, np.ndarray[Any, Any]]]:
    """Return the encoding of rows, and the values of its fields."""
    if rows.logits is not None:
        if rows.logits.shape[-1] != classes:
            raise DataError(f"{file}: logits {tuple(rows.logits.shape)}; expected (rows, {classes})")
        try:
            storable(rows.logits, dtype, "logits")
        except InputError as error:
            raise DataError(f"{file}: {error}") from None
        return DenseEncoding(dtype), {"logits": rows.logits.numpy()}
    if rows.ids is None or rows.log_probs is None:
        raise TypeError("rows have logits, or ids and log_probs")
    ids, log_probs = rows.ids, rows.log_probs.double()
    _refuse_row(file, (ids < 0) | (ids >= classes), ids, f"class numbers from 0 to {classes - 1}", "ids")
    _refuse_row(file, log_probs.isnan() | (log_probs > _SLACK), log_probs, "log-probabilities, at most 0", "log_probs")
    ordered = ids.sort(-1).values
    _refuse_row(file, ordered[:, 1:] == ordered[:, :-1], ordered[:, 1:], "each class once", "ids")
    total = log_probs.exp().sum(-1, keepdim=True)
    _refuse_row(file, total > 1 + _SLACK, total, "probabilities that add up to 1 at most", "log_probs")
    _refuse_row(file, total == 0, total, "a class of some probability", "log_probs")
    if ids.shape[-1] == classes:
        _refuse_row(file, total < 1 - _SLACK, total, "probabilities of all classes, which add up to 1", "log_probs")
    if ids.shape[-1] == classes and bool(log_probs.isfinite().all()):  # all logits, at any temperature
        return DenseEncoding(dtype), {"logits": torch.empty_like(log_probs).scatter_(-1, ids, log_probs).numpy()}
    rest = torch.log1p(-total.clamp_max(1 - 1e-9))[:, 0]
    if ids.shape[-1] == classes:
        rest = torch.full_like(rest, -torch.inf)
    log_probs, order = log_probs.sort(-1, descending=True)
    most = log_probs[:, :1]
    values = {"ids": ids.gather(-1, order), "logits": log_probs - most, "rest": rest[:, None] - most}
    encoding = TopKEncoding(k=ids.shape[-1], temperatures=(1.0,), dtype=dtype)
    return encoding, {name: value.numpy() for name, value in values.items()}


def _refuse_row(file: Path, wrong: Tensor, values: Tensor, expected: str, name: str) -> None:
    if bool(wrong.any()):
        row = int(wrong.any(-1).nonzero()[0])
        raise DataError(f"{file}: {name}: row {row} holds {values[row][wrong[row]][0].item():g}; expected {expected}")
