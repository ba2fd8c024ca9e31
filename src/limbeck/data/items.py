"""One sample or batch of another library's, taken apart: its inputs as tensors, its label as the number of a class."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import as_tensor
from limbeck.batch import UNLABELLED
from limbeck.checks import shown
from limbeck.data.content import Inputs, check_inputs
from limbeck.errors import DataError, InputError, LimbeckError, one_line

__all__ = [
    "Inputs",
    "check_batch",
    "check_range",
    "check_sample",
    "class_number",
    "class_numbers",
    "fetched_item",
    "inputs_of",
    "parts_of",
    "scaled",
]

_LABEL = ("label", "labels")
_LIKE_LABEL = ("target", "targets", "y", "class", "label_ids", "label_idx")
_IMAGES = ("L", "RGB", "RGBA")


def fetched_item(name: str, fetch: Callable[[int], Any], root: int) -> Any:
    """Return a sample as a dataset gives it; DataError where that raises."""
    try:
        return fetch(root)
    except (LimbeckError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"{name}: fetching sample {root} raised {type(error).__name__}: {one_line(error)}; fix the function that"
            " fetches it"
        ) from error


def parts_of(where: str, item: Any) -> tuple[Any, Any]:
    """Return the inputs and the label of a sample or batch; None for the label where it has none.

    Args:
        where: what error lines call it.
        item: a pair (inputs, label), a mapping whose label is under `label` or `labels`, or inputs alone.

    Raises:
        DataError: if it is none of these, or a mapping leaves open which column is the label.

    Example:
        >>> parts_of("sample 0", {"image": [0.5, 0.1], "label": 3})
        ([0.5, 0.1], 3)
    """
    if isinstance(item, Mapping):
        return _columns(where, item)
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise DataError(
                f"{where}: found a {type(item).__name__} of {len(item)}, expected (inputs, label), a mapping with a"
                " 'label', or only inputs; return one of these"
            )
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _columns(where: str, item: Mapping[Any, Any]) -> tuple[Any, Any]:
    labels = [name for name in _LABEL if name in item]
    inputs = {str(name): value for name, value in item.items() if name not in _LABEL}
    if len(labels) > 1:
        raise DataError(f"{where}: found the columns 'label' and 'labels', expected one of them; remove the other")
    if not inputs:
        raise DataError(f"{where}: found {f'{labels[0]!r} alone' if labels else 'no column'}, expected inputs as well")
    like = [name for name in inputs if name.lower() in _LIKE_LABEL or name.lower().endswith(("_label", "_labels"))]
    if like and not labels:
        raise DataError(
            f"{where}: found the columns {', '.join(map(repr, inputs))}, expected the label under 'label' or 'labels';"
            f" rename {like[0]!r}, or remove it if it is not a label"
        )
    whole = next(iter(inputs.values())) if len(inputs) == 1 and "input_ids" not in inputs else inputs
    return whole, item[labels[0]] if labels else None


def inputs_of(where: str, value: Any) -> Inputs:
    """Return inputs as tensors: float32, uint8 pixels, or int64 for other whole numbers.

    Args:
        where: what error lines call them.
        value: a tensor, an array, a list of numbers or an image of PIL, or a mapping of these for a model that takes
            keywords.

    Raises:
        DataError: if it is something else.
    """
    if isinstance(value, Mapping):
        mend = "convert it, or remove the column"
        return {str(name): _tensor(f"{where}, column {name!r}", each, mend) for name, each in value.items()}
    return _tensor(where, value, "convert it")


def _tensor(where: str, value: Any, mend: str) -> Tensor:
    if isinstance(value, Tensor):
        return _kept(value)
    if hasattr(value, "getbands"):
        return _pixels(where, value)
    if isinstance(value, tuple | list) and any(hasattr(each, "__array__") for each in value):
        raise DataError(
            f"{where}: found a {type(value).__name__} of {len(value)} tensors, expected one; stack a column of lists"
            " (dataset.with_format('torch')), and give several inputs as a mapping by the names of the model's"
            " arguments"
        )
    try:
        return _kept(as_tensor(where, value))
    except InputError as error:
        raise DataError(f"{error}; {mend}") from None


def check_batch(where: str, inputs: Inputs) -> None:
    """Require inputs (n, ...) of at least one number a sample, all finite; DataError otherwise."""
    for name, each in inputs.items() if isinstance(inputs, dict) else [("", inputs)]:
        check_inputs(f"{where}, column {name!r}" if name else where, each)


def check_sample(where: str, inputs: Inputs) -> None:
    """Require the inputs of one sample as `check_batch` does."""
    one = {name: each[None] for name, each in inputs.items()} if isinstance(inputs, dict) else inputs[None]
    check_batch(where, one)


def _pixels(where: str, image: Any) -> Tensor:
    """Return the pixels of an image of PIL as uint8 (C, H, W)."""
    if image.mode not in _IMAGES:
        raise DataError(
            f"{where}: found an image of mode {image.mode!r}, expected {', '.join(_IMAGES)}; image.convert('RGB')"
        )
    import numpy as np

    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def _kept(tensor: Tensor) -> Tensor:
    if tensor.is_complex() or tensor.dtype in (torch.uint8, torch.float32, torch.int64):
        return tensor.detach()
    whole = not tensor.is_floating_point() and tensor.dtype != torch.bool
    return tensor.detach().to(torch.int64 if whole else torch.float32)


def scaled(inputs: Inputs) -> Inputs:
    """Return inputs whose pixels (uint8) are divided by 255, as `SampleSet` does."""
    if isinstance(inputs, Mapping):
        return {name: _scaled(each) for name, each in inputs.items()}
    return _scaled(inputs)


def _scaled(tensor: Tensor) -> Tensor:
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor


def class_number(where: str, label: Any) -> int:
    """Return a sample's label as a whole number; DataError for what is no class's number."""
    array = hasattr(label, "item") and hasattr(label, "shape")
    several = array and math.prod(label.shape) != 1
    found = label.item() if array and not several else label
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 2**63:
        return found
    what = f"of shape {tuple(label.shape)}" if several else shown(found)
    mend = "number the classes from 0"
    if isinstance(found, str):
        mend = "number the classes from 0 and give class_names"
    elif several or isinstance(found, float | bool | list | tuple):
        mend = "for several labels, masks or numbers to predict use TensorSet with its task"
    raise DataError(
        f"{where} has label {what}, expected the number of a class (a whole number from 0 on), or {UNLABELLED} for"
        f" none; {mend}"
    )


def class_numbers(where: str, labels: Any, size: int) -> Tensor:
    """Return the labels of a batch as int64 (n,); DataError for others."""
    numbers = as_tensor(f"{where}, labels", labels)
    if numbers.dim() == 2 and numbers.shape[1] > 1:
        raise DataError(
            f"{where}: labels have shape {tuple(numbers.shape)}, expected ({size},); take argmax(1) of one-hot labels,"
            " and use TensorSet with a task if a sample has several labels"
        )
    if numbers.shape != (size,):
        raise DataError(f"{where}: labels have shape {tuple(numbers.shape)}, expected ({size},), one for each sample")
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise DataError(
            f"{where}: labels are {numbers.dtype}, expected whole numbers (int64); for numbers to predict use TensorSet"
            " with its task"
        )
    return numbers.to(torch.int64)


def check_range(where: str, labels: Tensor, classes: int | None) -> None:
    """Require labels of 0 to `classes` - 1, or `UNLABELLED`; DataError otherwise."""
    wrong = (labels < 0) & (labels != UNLABELLED)
    if classes is not None:
        wrong |= labels >= classes
    if bool(wrong.any()):
        expected = "0 or above" if classes is None else f"0 to {classes - 1}, as the model answers {classes} classes"
        raise DataError(
            f"{where}: found label {int(labels[wrong][0])}, expected {expected}, or {UNLABELLED} for none; number the"
            " classes from 0 on"
        )
