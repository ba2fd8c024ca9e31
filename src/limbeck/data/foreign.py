"""Data as other libraries hold it (arrays, datasets, loaders), read in place of a set of limbeck's own."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from limbeck.arguments import as_tensor
from limbeck.data.content import narrowed
from limbeck.data.items import class_numbers
from limbeck.data.sets import SampleSet, Splits, TensorSet
from limbeck.data.sources import DatasetSource, Source
from limbeck.data.streams import LoaderSource, StreamSource
from limbeck.errors import DataError, InputError
from limbeck.tasks import CLASSIFICATION, Task

__all__ = ["samples_of"]

_FORMS = "a SampleSet, a Dataset, a DataLoader, or a pair of arrays (inputs, labels)"


def samples_of(name: str, data: Any, task: Task = CLASSIFICATION) -> "SampleSet | Source":
    """Return what can be trained or measured on, of data in any form.

    Args:
        name: what error lines call the data.
        data: a `SampleSet`; a pair of arrays (inputs, labels), or inputs alone; a `TensorDataset`, or a `Subset` of
            one, which are arrays too; a map-style dataset of torch, of the library `datasets`, or a list of samples;
            a `DataLoader`, or another object that gives batches each time it is iterated over; an `IterableDataset`.
        task: what a label of arrays is.

    Returns:
        A `SampleSet` of what is in memory, and a `Source` of what is read as it is needed.

    Raises:
        InputError: for anything else.
        DataError: for arrays that are no samples.

    Example:
        >>> samples_of("train_set", ([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1]))
        TensorSet('train_set', 3 samples (2,), 2 classes)
    """
    if isinstance(data, SampleSet | Source):
        return data
    found, mend = _other(data)
    if found:
        raise InputError(f"{name}: found {found}, expected {_FORMS}{mend}")
    if isinstance(data, DataLoader):
        return LoaderSource(name, data)
    if isinstance(data, IterableDataset):
        return StreamSource(name, data)
    arrays = _arrays(name, data, task)
    if arrays is not None:
        return arrays
    if hasattr(data, "__getitem__"):
        return DatasetSource(name, data)
    return LoaderSource(name, data)


def _other(data: Any) -> tuple[str, str]:
    """Return what an object is that is no data, and the mend; nothing where it may be data."""
    kind = type(data).__name__
    if isinstance(data, nn.Module):
        return f"a network ({kind})", "; the teacher is given by its name: fit(student, data, teacher=network)"
    if isinstance(data, Splits):
        return "Splits", "; take one of its sets, splits.train or splits.test"
    if isinstance(data, Mapping):
        names = ", ".join(map(str, list(data)[:4]))
        return f"a {kind} of {names or 'nothing'}", "; take one of its parts, or give a pair of its arrays"
    if data is None or isinstance(data, str | bytes | int | float | complex | type):
        return repr(data)[:60], ""
    if isinstance(data, Tensor) or hasattr(data, "__array__") or isinstance(data, list | tuple):
        return "", ""
    if isinstance(data, Iterator):
        return f"a {kind}", "; it can be read once, and each epoch reads it anew"
    if isinstance(data, Iterable) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return "", ""
    return f"a {kind}", "; give it __len__" if hasattr(data, "__getitem__") else ""


def _arrays(name: str, data: Any, task: Task) -> TensorSet | None:
    """Return a set of arrays; None for data that is none."""
    if type(data) is Subset:
        whole = _arrays(name, data.dataset, task)
        return None if whole is None else whole.subset(torch.as_tensor(list(data.indices), dtype=torch.int64))
    if type(data) is TensorDataset:
        if len(data.tensors) > 2:
            raise DataError(
                f"{name}: found a TensorDataset of {len(data.tensors)} tensors, expected inputs and labels; leave the"
                " others out"
            )
        return _set_of(name, task, *data.tensors)
    if isinstance(data, Tensor) or hasattr(data, "__array__"):
        return _set_of(name, task, data)
    if isinstance(data, tuple):
        if len(data) not in (1, 2):
            raise InputError(f"{name}: found a tuple of {len(data)}, expected a pair of arrays (inputs, labels)")
        return _set_of(name, task, *data)
    if isinstance(data, list) and not (data and isinstance(data[0], tuple | Mapping)) and not _are_images(data):
        pair = len(data) == 2 and (hasattr(data[0], "__len__") and not isinstance(data[0], str))
        return _set_of(name, task, *data) if pair else _set_of(name, task, data)
    return None


def _are_images(data: list[Any]) -> bool:
    return bool(data) and hasattr(data[0], "getbands")


def _set_of(name: str, task: Task, inputs: Any, labels: Any = None) -> TensorSet:
    tensor = as_tensor(f"{name}: inputs", inputs)
    if tensor.dtype == torch.float64:
        tensor = narrowed(f"{name}: inputs", tensor)
    elif tensor.dtype in (torch.float16, torch.bfloat16, torch.bool):
        tensor = tensor.to(torch.float32)
    elif not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.uint8:
        tensor = tensor.to(torch.int64)
    if labels is not None and task == CLASSIFICATION:
        labels = class_numbers(name, labels, len(labels) if hasattr(labels, "__len__") else 0)
    elif labels is not None:
        labels = as_tensor(f"{name}: labels", labels)
    return TensorSet.of(tensor, labels, name=name, task=task)
