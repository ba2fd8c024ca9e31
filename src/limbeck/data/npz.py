"""A set of one's own in one NumPy archive."""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.data.content import channels_last, check_fits, narrowed
from limbeck.data.names import listed
from limbeck.data.sets import Splits, TensorSet
from limbeck.errors import DataError, one_of
from limbeck.tasks import Need, Task, task_named

__all__ = ["npz", "read_array", "read_arrays"]

_IMAGE_AXES = 4  # samples, channels, height, width


TaskName = Literal["classification", "binary", "multilabel", "dense", "regression"]


@checked
def npz(
    path: str,
    test_share: float = 0.2,
    seed: int = 0,
    task: TaskName = "classification",
    inputs: str = "inputs",
    labels: str = "labels",
    test_inputs: str = "test_inputs",
    test_labels: str = "test_labels",
    validation_inputs: str = "validation_inputs",
    validation_labels: str = "validation_labels",
    class_names: str = "class_names",
) -> Splits:
    """Return the arrays of an .npz archive, which is never unpickled.

    Args:
        path: the archive, with `inputs` (n, ...) and `labels` (n,), and optionally `test_inputs`, `test_labels`,
            `validation_inputs`, `validation_labels` and `class_names`.  Inputs: uint8 pixels, channels first, are
            divided by 255 in batches; floating point becomes float32, and is refused if samples would become equal;
            other whole numbers are token ids, int64.
        test_share: without test arrays, the share of each class that is held out for testing, in (0, 1).
        seed: of the split.
        task: what a label is.  "binary": 0 or 1, (n,); "multilabel": 0 or 1, (n, C); "dense": class numbers, (n, H, W);
            "regression": numbers to predict, (n,) or (n, D), in any unit.  No label is -100 among whole numbers and NaN
            among others.  `class_names` name the classes, or the numbers to predict.
        inputs: the name that this array has in the archive, such as x_train; the same holds for the keys below.  Where
            any array has another name than usual, arrays without a part are left out, which a note says.
        labels: the name of the labels.
        test_inputs: the name of the test inputs.
        test_labels: the name of the test labels.
        validation_inputs: the name of the inputs for choices.
        validation_labels: the name of the labels for choices.
        class_names: the name of the classes' names.

    Returns:
        Training and test set, and the validation set if there is one.

    Raises:
        DataError: if an array is missing or the archive is damaged.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["npz"] is data.npz
        True
    """
    path = str(Path(path).expanduser())
    names = {
        "inputs": inputs,
        "labels": labels,
        "test_inputs": test_inputs,
        "test_labels": test_labels,
        "validation_inputs": validation_inputs,
        "validation_labels": validation_labels,
        "class_names": class_names,
    }
    arrays, left = _named(path, names, read_arrays(path))
    class_texts, kind = _class_names(path, arrays), task_named(task)
    train = _part(path, "", arrays, None, class_texts, kind)
    others = {
        part: _part(path, f"{part}_", arrays, train.classes, class_texts, kind)
        for part in ("test", "validation")
        if f"{part}_inputs" in arrays
    }
    for part, samples in others.items():
        if train.input_shape != samples.input_shape:
            raise DataError(
                f"{path}: inputs are {train.input_shape} each, {part}_inputs {samples.input_shape}, expected the same"
            )
    if "test" in others:
        splits = Splits(train, others["test"], path)
    else:
        splits = Splits.held_out(replace(train, name=path), test_share, seed)
    splits = replace(splits, validation=others.get("validation"))
    doubts, notes = _notes(path, splits)
    notes += [f"{path}: arrays that are left out: {listed(left)}"] if left else []
    return splits.noting(doubts, warn=True).noting(notes, warn=False)


def _named(path: str, names: Mapping[str, str], found: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the arrays by what they are, and the names of those that are left out; DataError where one is missing.

    names: what each array is called in the archive.
    """
    renamed = [key for key, name in names.items() if name != key]
    left = [name for name in found if name not in names.values()]
    if left and not renamed:
        raise DataError(
            f"{path}: unknown array '{left[0]}'; {one_of(left[0], list(names))}. Under another name, give it with"
            f" its key: inputs: {left[0]}"
        )
    needed = ["inputs", "labels", *renamed]
    for part in ("test", "validation"):
        pair = [f"{part}_inputs", f"{part}_labels"]
        needed += pair if any(names[key] in found for key in pair) else []
    for key in needed:
        if names[key] not in found:
            raise DataError(f"{path}: has no array '{names[key]}'; it has: {', '.join(sorted(found)) or 'none'}")
    return {key: found[name] for key, name in names.items() if name in found}, left


def _part(
    path: str, prefix: str, arrays: dict[str, Any], classes: int | None, class_names: list[str] | None, task: Task
) -> TensorSet:
    inputs = _inputs(path, f"{prefix}inputs", arrays)
    labels = _labels(path, f"{prefix}labels", arrays, task)
    name = f"{path}:{prefix}inputs"
    return TensorSet.of(inputs, labels, classes=classes, class_names=class_names, name=name, task=task)


def read_arrays(path: str) -> dict[str, Any]:
    """Read every array of the archive, none of which may hold Python objects."""
    import numpy as np

    try:
        with Path(path).open("rb") as file:
            start = file.read(6)
            if start == np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{path}: is a single array, expected an .npz archive (numpy.savez)")
            if start.startswith(b"PK"):
                with zipfile.ZipFile(file) as unread:
                    _check_sizes(path, unread)
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            return {key: _array(path, archive, key) for key in archive.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile, its decompressors and NumPy's parser have no error in common
        reason = "pickled data" if "pickle" in str(error) else " ".join(str(error).split())
        raise DataError(
            f"{path}: is damaged or not an .npz archive ({reason}); write it again with numpy.savez"
        ) from None


def read_array(path: str, key: str | None = None) -> Any:
    """Read one array of an archive: the one of a name, else `inputs`, else the only one; DataError otherwise."""
    arrays = read_arrays(path)
    wanted = key or ("inputs" if "inputs" in arrays or len(arrays) != 1 else next(iter(arrays)))
    if wanted not in arrays:
        names = ", ".join(sorted(arrays)) or "none"
        raise DataError(f"{path}: has no array '{wanted}'; it has: {names}. Name one with --key (in Python key=)")
    return arrays[wanted]


def _check_sizes(path: str, archive: zipfile.ZipFile) -> None:
    """Require that the arrays fit into memory, and that each is as long as its header promises before it is read."""
    from numpy.lib import format as npy

    check_fits(path, sum(entry.file_size for entry in archive.infolist()))
    for entry in archive.infolist():
        with archive.open(entry) as file:
            if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
                continue
            version = (*file.read(2), 0, 0)[:2]
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
            size = math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and size != entry.file_size - file.tell():
                raise ValueError(f"'{entry.filename}' should have {size} bytes and has {entry.file_size - file.tell()}")


def _array(path: str, archive: Any, key: str) -> Any:
    try:
        return archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{path}: array '{key}' contains Python objects, which are never unpickled; save it as numbers or text"
        ) from None


def _class_names(path: str, arrays: dict[str, Any]) -> list[str] | None:
    if "class_names" not in arrays:
        return None
    array = arrays["class_names"]
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(
            f"{path}: array 'class_names' is {array.dtype} {array.shape}, expected text, one for each class"
        )
    return [str(name).encode(errors="backslashreplace").decode() for name in array]


def _inputs(path: str, key: str, arrays: dict[str, Any]) -> Tensor:
    array = arrays[key]
    if array.dtype.kind not in "uif":
        raise DataError(f"{path}: array '{key}' is {array.dtype}, expected numbers")
    if array.dtype == "uint8":
        return torch.from_numpy(array)
    if array.dtype.kind == "f":
        return _floating(path, key, array)
    if array.ndim >= _IMAGE_AXES:
        raise DataError(
            f"{path}: array '{key}' is {array.dtype} {array.shape}; whole numbers are token ids unless they are uint8; "
            "save pixels as uint8, and other numbers as float32"
        )
    return _whole(path, key, array)


def _floating(path: str, key: str, array: Any) -> Tensor:
    """Return an array of floating-point numbers as float32; DataError where that would lose how the samples differ."""
    narrow = array.dtype.itemsize <= 4
    return narrowed(f"{path}: array '{key}'", torch.from_numpy(array.astype("float32" if narrow else "float64")))


def _whole(path: str, key: str, array: Any) -> Tensor:
    if array.dtype == "uint64" and array.size and array.max() >= 2**63:
        raise DataError(f"{path}: array '{key}' holds {array.max()}, expected whole numbers below 2^63 (int64)")
    return torch.from_numpy(array.astype("int64"))


def _labels(path: str, key: str, arrays: dict[str, Any], task: Task) -> Tensor:
    array = arrays[key]
    if array.dtype.kind not in task.array_kinds:
        raise DataError(f"{path}: array '{key}' is {array.dtype}, expected whole numbers (int64)")
    return torch.from_numpy(array.astype("float64")) if array.dtype.kind in "fb" else _whole(path, key, array)


def _notes(path: str, splits: Splits) -> tuple[list[str], list[str]]:
    """Return what looks damaged, and what else there is to say of arrays that are a set."""
    doubts, notes = [], []
    train, shape = splits.train, (len(splits.train), *splits.train.input_shape)
    if channels_last(shape):
        doubts.append(
            f"{path}: inputs have shape {shape[1:]} each, taken as channels, height and width; are they last?"
        )
    if Need.SEVERAL_CLASSES in train.task.meets:
        empty = [name for name, count in zip(train.class_names, train.class_counts(), strict=True) if not count]
        if empty:
            notes.append(
                f"{path}: {len(empty):,} of {train.classes:,} classes have no sample to train on: {listed(empty)}"
            )
    return doubts, notes
