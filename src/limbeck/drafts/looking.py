"""A look at data: a file or folder, from which the keys of `data` follow."""

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from limbeck.data.arrow_rows import arrow, is_arrow, reading
from limbeck.data.images import images_below
from limbeck.data.npz import read_arrays
from limbeck.data.pictures import size_and_mode
from limbeck.data.table_files import read_rows
from limbeck.data.text_files import JSON_ENDINGS
from limbeck.drafts.guesses import ColumnFacts, facts_of, label_of, says_nothing, text_of
from limbeck.drafts.looked import Looked
from limbeck.errors import DataError, InputError, nearest, one_of

__all__ = ["look"]

_PARTS = ("train", "test")
_SIGNS = (",", ";", "\t", "|")
_LOOKED_AT = 50  # images
_LARGEST = 64  # pixels of a side
_SMALL_IMAGE = 40
_SIDE = 32
_INPUTS = ("inputs", "x_train", "train_x", "train_images", "train_data", "x", "images", "data", "features")
_TARGETS = ("labels", "y_train", "train_y", "train_labels", "y", "targets", "target", "label")
_BUILT_IN = {
    "digits": Looked("images", {"kind": "digits"}, 1_400, ("scikit-learn's digits, 8×8 pixels",), side=8),
    "mnist": Looked("images", {"kind": "mnist"}, 60_000, ("MNIST, 28×28 pixels",), side=28),
    "fashion_mnist": Looked("images", {"kind": "fashion_mnist"}, 60_000, ("Fashion-MNIST, 28×28 pixels",), side=28),
    "cifar10": Looked("images", {"kind": "cifar10"}, 50_000, ("CIFAR-10, 32×32 pixels",), side=32, colour=True),
    "cifar100": Looked("images", {"kind": "cifar100"}, 50_000, ("CIFAR-100, 32×32 pixels",), side=32, colour=True),
}


def look(place: str, *, label: str | None = None) -> Looked:
    """Return what lies at a path, or what a name of built-in data stands for.

    Args:
        place: a CSV, TSV, JSON-lines, Parquet, npz or text file; a folder of images, of IDX or Parquet files, or of the
            library `datasets`; or the name of data that limbeck knows, such as digits.
        label: the column or array to predict; None for the one that is probably meant.

    Returns:
        What it is, and the keys of `data`, with the path as it was given.

    Raises:
        DataError: if there is nothing, or nothing that a recipe can name.

    Example:
        >>> look("digits").keys
        {'kind': 'digits'}
    """
    path = Path(place).expanduser()
    if not path.exists():
        if place in _BUILT_IN:
            return _BUILT_IN[place]
        close = nearest(place, _BUILT_IN)
        mend = f"did you mean '{close}'?" if close else f"or a name: {', '.join(_BUILT_IN)}"
        raise DataError(f"data: there is no file or folder '{place}'; {mend}")
    if path.suffix.lower() == ".npz":
        return _arrays(place, label)
    if is_arrow(path) or (path.is_dir() and any(path.glob("*.parquet"))):
        return _parquet(place, path, label)
    if path.is_dir():
        return _folder(place, path)
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending in (".txt", ".text", ".tokens"):
        return _stream(place, path)
    if ending in (".csv", ".tsv", *JSON_ENDINGS):
        sign = "," if ending in JSON_ENDINGS else _delimiter(path, ending)
        return _rows(place, sign, "\t" if ending == ".tsv" else ",", label)
    raise DataError(
        f"data: '{place}' ends in {ending or 'nothing'}; expected .csv, .tsv, .jsonl, .parquet, .npz, .txt, or a folder"
        " of images. Or write data: {factory: package.module:function} and read it yourself"
    )


def _delimiter(path: Path, ending: str) -> str:
    """Return the sign that stands most often in the first line."""
    if ending == ".tsv":
        return "\t"
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    return max(_SIGNS, key=first.count)


def _rows(place: str, sign: str, usual: str, label: str | None) -> Looked:
    """Look at rows of named columns: a table, or sentences."""
    header, rows = read_rows(str(Path(place).expanduser()), sign, [])
    columns = facts_of({name: [row[number] for row in rows] for number, name in enumerate(header)})
    by_name = {each.name: each for each in columns}
    chosen = label_of(columns) if label is None else label
    if label is not None and label not in by_name:
        raise DataError(f"label: there is no column '{label}' in '{place}'; {one_of(label, header)}")
    if chosen is None:
        raise DataError(f"label: no column of '{place}' can be predicted; expected one with numbers or few names")
    text = text_of([each for each in columns if each.name != chosen])
    others = [each for each in columns if each.name not in (chosen, text) and says_nothing(each) is None]
    labels = tuple(each.name for each in columns if each.can_be_label)
    if text is not None and len(others) <= 1:
        keys = {"kind": "sentences", "path": place, "text": text, "label": chosen}
        keys |= {"delimiter": sign} if sign not in (usual, ",") else {}
        facts = [f"{len(rows):,} texts; the text is in '{text}', {_of_label(by_name[chosen])}"]
        keys |= {"task": "regression"} if by_name[chosen].is_amount else {}
        return Looked("sentences", keys, len(rows), tuple(facts), _task_of(by_name[chosen]), labels=labels)
    return _table(place, sign, columns, by_name[chosen], len(rows), labels)


def _table(
    place: str, sign: str, columns: Sequence[ColumnFacts], label: ColumnFacts, rows: int, labels: tuple[str, ...]
) -> Looked:
    inputs = [each for each in columns if each is not label]
    reasons = {each.name: reason for each in inputs if (reason := says_nothing(each)) is not None}
    kept = [each for each in inputs if each.name not in reasons]
    if not kept:
        raise DataError(f"data: '{place}' has no column beside the label '{label.name}' to predict it from; add some")
    keys: dict[str, Any] = {"kind": "table", "path": place, "label": label.name}
    facts = [f"{rows:,} rows and {len(columns)} columns; {_of_label(label)}"]
    if sign != ",":
        keys["delimiter"] = sign
    if label.is_amount:
        keys["task"] = "regression"
    if reasons:
        keys["drop"] = list(reasons)
        facts.append(f"left out: {'; '.join(reasons.values())}")
    if gaps := [each.name for each in kept if each.missing]:
        keys["missing"] = "impute"
        facts.append(f"cells are missing in {', '.join(gaps[:5])}: they get the mean or the most frequent value")
    return Looked("table", keys, rows, tuple(facts), _task_of(label), labels=labels)


def _task_of(label: ColumnFacts) -> str:
    return "regression" if label.is_amount else "classification"


def _of_label(label: ColumnFacts) -> str:
    what = "a number to predict" if label.is_amount else f"{label.distinct:,} classes"
    return f"the label is '{label.name}', {what}"


def _arrays(place: str, label: str | None) -> Looked:
    """Look at the arrays of an npz archive."""
    arrays = read_arrays(str(Path(place).expanduser()))
    inputs = _named(arrays, _INPUTS) or max(
        (name for name, each in arrays.items() if each.ndim > 1), key=lambda name: arrays[name].size, default=None
    )
    if inputs is None:
        raise DataError(
            f"data: '{place}' has no array of inputs (n, ...); it has: {', '.join(sorted(arrays)) or 'none'}"
        )
    found = arrays[inputs]
    fitting = {
        name: each for name, each in arrays.items() if name != inputs and len(each.shape) and len(each) == len(found)
    }
    targets = label if label is not None else _named(fitting, _TARGETS) or next(iter(fitting), None)
    if targets is None or targets not in fitting:
        wanted = f"'{label}'" if label is not None else "labels"
        raise DataError(
            f"label: '{place}' has no array {wanted} of {len(found):,} rows; {one_of(label or '', fitting)}"
        )
    answers = arrays[targets]
    names = {"inputs": inputs, "labels": targets}
    for key, own in (("test_inputs", inputs), ("test_labels", targets)):
        other = own.replace("train", "test") if "train" in own else f"test_{own}"
        names |= {key: other} if other in arrays else {}
    keys = {"kind": "npz", "path": place, **{key: name for key, name in names.items() if name != key}}
    task = _task(answers, found)
    keys |= {} if task == "classification" else {"task": task}
    shape = " × ".join(map(str, found.shape[1:])) or "one number"
    facts = [f"{len(found):,} samples of {shape} ({found.dtype}) in '{inputs}', labels in '{targets}'"]
    if found.dtype.kind in "ui" and found.dtype != "uint8":
        raise DataError(
            f"data: array '{inputs}' of '{place}' is {found.dtype}, which npz takes as token ids; save pixels as uint8,"
            " and other numbers as float32"
        )
    images = found.ndim == 4 and found.shape[1] in (1, 3)
    if found.ndim >= 3 and not images:
        facts.append("no axis of channels comes first, so that networks of images do not fit; images are (n, C, H, W)")
    side = min(found.shape[2:]) if images else 0
    colour = images and found.shape[1] == 3
    return Looked("images" if images else "vectors", keys, len(found), tuple(facts), task, side=side, colour=colour)


def _named(arrays: Mapping[str, Any], names: Sequence[str]) -> str | None:
    by_name = {name.casefold(): name for name in arrays}
    return next((by_name[name] for name in names if name in by_name), None)


def _task(labels: Any, inputs: Any) -> str:
    """Return what the labels of an array are."""
    if labels.dtype.kind == "f":
        return "regression"
    if labels.ndim == 3 and labels.shape[1:] == inputs.shape[2:]:
        return "dense"
    return "multilabel" if labels.ndim == 2 else "classification"


def _parquet(place: str, path: Path, label: str | None) -> Looked:
    """Look at Parquet files, or at a folder of the library `datasets`: images, lists of numbers, or rows."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        return _rows(place, ",", ",", label)
    with reading(files[0]):
        file = arrow("parquet").ParquetFile(files[0])
        kinds = {each.name: str(each.type) for each in file.schema_arrow}
        rows = file.metadata.num_rows
    images = [name for name, kind in kinds.items() if "binary" in kind]
    lists = [name for name, kind in kinds.items() if kind.startswith(("list", "large_list", "fixed_size_list"))]
    if not images and not lists:
        if path.is_dir():
            raise DataError(f"data: the Parquet files of '{place}' have plain columns; expected one file, so name it")
        return _rows(place, ",", ",", label)
    inputs = (images or lists)[0]
    others = [
        name
        for name in kinds
        if name != inputs and kinds[name] in ("string", "int64", "int32", "int16", "uint8", "int8")
    ]
    chosen = label or _named(dict.fromkeys(others), _TARGETS) or next(iter(others), None)
    if chosen not in others:
        raise DataError(f"label: '{place}' has no column of classes named '{chosen}'; {one_of(chosen or '', others)}")
    keys: dict[str, Any] = {"kind": "parquet", "path": place, "inputs": inputs, "label": chosen}
    facts = [f"{rows:,} rows; the inputs are in '{inputs}', the classes in '{chosen}'"]
    if images:
        keys["size"] = [_SIDE, _SIDE]
        return Looked("images", keys, rows, tuple(facts), side=_SIDE, colour=True, labels=tuple(others))
    return Looked("vectors", keys, rows, tuple(facts), labels=tuple(others))


def _folder(place: str, path: Path) -> Looked:
    """Look at a folder: images in a folder for each class, or files in MNIST's format."""
    if any(path.glob("*-idx3-ubyte*")):
        return Looked("images", {"kind": "idx", "folder": place}, 60_000, ("four files in MNIST's format",), side=28)
    parts = [path / part for part in _PARTS if (path / part).is_dir()]
    images = images_below(parts[0] if parts else path)
    classes = sorted({each.parent.name for each in images if each.parent not in (path, *parts)})
    if not images or len(classes) < 2:
        found = f"{len(images):,} images in {len(classes)} class folders" if images else "no images"
        raise DataError(
            f"data: '{place}' has {found}; expected a folder of images for each class, perhaps below train and test."
            " For text files name one file"
        )
    step = max(1, len(images) // _LOOKED_AT)
    sizes, modes = zip(*(size_and_mode(each) for each in images[::step]), strict=True)
    side = round(median(min(size) for size in sizes))
    same = len(set(sizes)) == 1 and max(sizes[0]) <= _SMALL_IMAGE
    size = list(sizes[0]) if same else [_SIDE if side <= _SMALL_IMAGE else _LARGEST] * 2
    grey = set(modes) <= {"1", "L"}
    keys = {"kind": "images", "folder": place, "size": size, **({"grey": True} if grey else {})}
    facts = [
        f"{len(images):,} {'grey' if grey else 'colour'} images of {len(classes)} classes, about {side} pixels a side"
    ]
    if not same:
        facts.append(f"every image is resized to {size[0]} × {size[1]}; a larger size costs time and may help")
    return Looked("images", keys, len(images), tuple(facts), side=min(size), colour=not grey)


def _stream(place: str, path: Path) -> Looked:
    """Look at running text."""
    words = path.stat().st_size // 6
    if words < 1_000:
        raise InputError(f"data: '{place}' holds about {words:,} words; expected 1,000 or more for a language model")
    lanes = 20 if words > 100_000 else 4
    keys = {"kind": "token_stream", "path": place, "lanes": lanes, "length": 35, "evaluation_lanes": lanes}
    return Looked("stream", keys, words, (f"running text, about {words:,} words: a language model predicts the next",))
