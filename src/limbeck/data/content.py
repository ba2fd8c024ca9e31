"""Checks of what a set is made of, each with one line that says what was found and what is allowed."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck import checks
from limbeck.batch import UNLABELLED
from limbeck.data.names import MOST_CLASSES, checked_names
from limbeck.errors import DataError, InputError
from limbeck.tasks import CLASSIFICATION, Task

__all__ = [
    "Inputs",
    "channels_last",
    "check_fits",
    "check_inputs",
    "checked_group_names",
    "checked_groups",
    "checked_labels",
    "checked_vocabulary",
    "memory_bytes",
    "narrowed",
    "normalisation",
    "raw_bytes",
]

Inputs = Tensor | dict[str, Tensor]
"""What a model is handed: one tensor, or several by the names of its arguments."""

_MOST_ROUNDED = 0.05
"""How much of its deviation a value may lose to rounding before that is refused."""

_SMALLEST_SIDE = 8
"""Of an image whose channels may be last, so that a few small feature maps are not taken for one."""

_AT_ONCE = 2**22
"""How many values are looked at together, so that a large array needs no second one of its size."""

_CONSTANT = 2e-15
"""The share of a value below which its deviation is taken for the rounding of a constant."""


def check_fits(name: str, size: int) -> None:
    """Require that so many bytes, of which a file or a recipe only tells as yet, fit into this machine's memory."""
    memory = memory_bytes()
    if size > memory:
        raise DataError(f"{name}: needs {size:,} bytes, but this machine has {memory:,}; make it smaller")


def memory_bytes() -> int:
    """Return how many bytes this machine has."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import psutil  # type: ignore[import-untyped]  # on Windows; Accelerate needs it as well

    return int(psutil.virtual_memory().total)


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's values as bytes, without a copy where they lie in order on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def checked_labels(
    name: str,
    size: int,
    labels: Tensor | None,
    classes: int | None,
    class_names: Sequence[str] | None,
    task: Task = CLASSIFICATION,
) -> tuple[Tensor, int, tuple[str, ...]]:
    """Return labels as a task has them, the number of classes and their names; DataError saying what is wrong."""
    if size == 0:
        raise DataError(f"{name}: found 0 samples, expected at least one")
    if labels is None:
        labels = task.no_labels(name, size)
    if labels.dim() not in task.dims or len(labels) != size or not labels.numel():
        expected = task.shape.replace("(n", f"({size}")
        raise DataError(f"{name}: {size} samples but labels of shape {tuple(labels.shape)}, expected {expected}")
    labels = task.kept(name, labels)
    if labels.is_floating_point():
        labels = _numbers_kept(name, labels)
    if classes is None:
        classes = task.count_classes(labels) if class_names is None else len(class_names)
    task.check_classes(name, classes, labels)
    if classes > MOST_CLASSES:
        raise DataError(_too_many(name, labels, classes))
    names = (
        tuple(str(label) for label in range(classes))
        if class_names is None
        else checked_names(name, task.outputs_are[0], class_names)
    )
    if len(names) != classes:
        raise DataError(f"{name}: {classes} classes but {len(names)} class names; give one for each")
    if not labels.is_floating_point():
        _check_range(name, labels, task.alternatives(classes) - 1)
    return labels, classes, names


def _numbers_kept(name: str, labels: Tensor) -> Tensor:
    """Return numbers to predict (n, D) as float32; DataError where they are infinite there, or no longer differ."""
    labels = narrowed(f"{name}: labels", labels)
    if bool(labels.isinf().any()):
        position = int(labels.isinf().any(1).nonzero()[0])
        raise DataError(
            f"{name}: sample {position} has an infinite label, expected finite numbers, or NaN for no label"
        )
    return labels


def _too_many(name: str, labels: Tensor, classes: int) -> str:
    if not labels.is_floating_point() and int(labels.max()) >= MOST_CLASSES:
        place = int((labels >= MOST_CLASSES).nonzero()[0, 0])
        return (
            f"{name}: sample {place} has label {int(labels.max())}, expected the number of a class below "
            f"{MOST_CLASSES:,}; number the classes from 0"
        )
    return f"{name}: {classes:,} classes, expected at most {MOST_CLASSES:,}"


def _check_range(name: str, labels: Tensor, highest: int) -> None:
    wrong = ((labels != UNLABELLED) & ((labels < 0) | (labels > highest))).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        where = "" if len(place) == 1 else f" at {place[1:]}"
        raise DataError(
            f"{name}: sample {place[0]} has label {int(labels[place])}{where}, "
            f"expected 0 to {highest}, or {UNLABELLED} for none"
        )


def checked_groups(name: str, groups: Sequence[int] | None, classes: int) -> tuple[int, ...] | None:
    """Return the group of each class, or raise DataError when they are not one whole number from 0 on for each."""
    if groups is None:
        return None
    if len(groups) != classes:
        raise DataError(f"{name}: {classes} classes but groups for {len(groups)}; give one for each")
    for label, group in enumerate(groups):
        if isinstance(group, bool) or not isinstance(group, int) or group < 0:
            raise DataError(f"{name}: class {label} has group {group!r}, expected a whole number from 0 on")
    return tuple(groups)


def checked_group_names(
    name: str, group_names: Sequence[str] | None, groups: tuple[int, ...] | None
) -> tuple[str, ...]:
    """Return the groups' names, or raise DataError when they are not one for each group; empty where none are given."""
    if group_names is None:
        return ()
    count = 0 if groups is None else max(groups) + 1
    if len(group_names) != count:
        raise DataError(f"{name}: {count} groups but {len(group_names)} group names; give one for each")
    return checked_names(name, "group", group_names)


def checked_vocabulary(name: str, vocabulary: Sequence[str], inputs: Tensor) -> tuple[str, ...]:
    """Return the names that whole-number inputs are the numbers of; DataError for inputs that have none."""
    names = checked_names(name, "input", vocabulary)
    if inputs.dtype != torch.int64:
        raise DataError(f"{name}: vocabulary: found with inputs of {inputs.dtype}; expected int64, numbers of names")
    least, most = (int(each) for each in inputs.aminmax())
    if least < 0 or most >= len(names):
        raise DataError(
            f"{name}: inputs: found {least} to {most}; expected 0 to {len(names) - 1}, for the vocabulary has "
            f"{len(names):,} names"
        )
    return names


def check_inputs(name: str, inputs: Tensor) -> None:
    """Require samples of a kept type, at least one, all finite; raise DataError otherwise."""
    if inputs.is_meta or inputs.layout != torch.strided:
        raise DataError(f"{name}: found inputs of {inputs.layout} on {inputs.device}; expected a dense tensor")
    if inputs.dtype not in (torch.uint8, torch.float32, torch.int64):
        raise DataError(
            f"{name}: inputs are {inputs.dtype}, expected uint8 (pixels), float32 or int64 (token ids); convert them"
        )
    if inputs.dim() < 2:
        raise DataError(
            f"{name}: inputs have shape {tuple(inputs.shape)}, expected (samples, ...) with a sample's shape"
        )
    if inputs.numel() == 0:
        raise DataError(
            f"{name}: inputs have shape {tuple(inputs.shape)}, which is empty; expected at least one sample"
        )
    if inputs.dtype == torch.uint8 and channels_last(inputs.shape):
        raise DataError(
            f"{name}: inputs have shape {tuple(inputs.shape)}, whose channels are last; expected (samples, channels, "
            "height, width), such as transpose(0, 3, 1, 2) makes of it"
        )
    if inputs.is_floating_point() and not bool(torch.isfinite(torch.stack(inputs.aminmax())).all()):
        position = int((~torch.isfinite(inputs.flatten(1)).all(dim=1)).nonzero()[0])
        raise DataError(f"{name}: sample {position} has a value that is NaN or infinite")


def channels_last(shape: Sequence[int]) -> bool:
    """Return whether inputs (n, ...) look like images (n, height, width, channels) of one, three or four channels.

    >>> channels_last((60, 32, 32, 3)), channels_last((60, 3, 32, 32)), channels_last((60, 4, 4, 1))
    (True, False, False)
    """
    return len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) >= _SMALLEST_SIDE


def narrowed(what: str, values: Tensor) -> Tensor:
    """Return values (n, ...) as float32; DataError where that would round away how the samples differ.

    Times in seconds since 1970, say, differ by less than the 128 seconds to which float32 knows them.

    >>> narrowed("times", torch.tensor([1.7e9, 1.7e9 + 10], dtype=torch.float64))
    Traceback (most recent call last):
    limbeck.errors.DataError: times: values near 1.7e+09 differ by 5, which is lost in float32; subtract their mean
    """
    rounded = values.to(torch.float32)
    if values.dtype in (torch.float32, torch.float16, torch.bfloat16) or len(values) < 2:
        return rounded
    before, after = values.reshape(len(values), -1), rounded.reshape(len(values), -1)
    for start in range(0, before.shape[1], step := max(1, _AT_ONCE // len(values))):
        exact = before[:, start : start + step].double()
        exact = exact.masked_fill(~exact.isfinite(), torch.nan)
        error = (after[:, start : start + step].double() - exact).abs().nan_to_num(0.0).amax(0)
        centre = exact.nanmean(0)
        spread = (exact - centre).square().nanmean(0).sqrt()
        lost = (error > _MOST_ROUNDED * spread) & (spread > _CONSTANT * centre.abs())
        if bool(lost.any()):
            first = int(lost.nonzero()[0])
            raise DataError(
                f"{what}: values near {float(centre[first]):.3g} differ by {float(spread[first]):.3g}, which is "
                "lost in float32; subtract their mean"
            )
    return rounded


def normalisation(
    name: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[Tensor, Tensor] | None:
    """Return mean and std as (C, 1, ...) float32 for samples of `shape`, None without them; InputError if wrong."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise InputError(f"{name}: give both mean and std, or neither")
    if dtype == torch.int64:
        raise InputError(f"{name}: whole-number inputs (token ids) cannot be normalised; leave mean and std out")
    mean, std = _numbers(f"{name}: mean", mean), _numbers(f"{name}: std", std)
    if not len(mean) == len(std) == shape[0]:
        raise InputError(f"{name}: mean has {len(mean)} and std {len(std)} values, expected one for each of {shape[0]}")
    held = torch.finfo(torch.float32)
    for value, deviation in zip(mean, std, strict=True):
        checks.finite(f"{name}: mean", value)
        checks.positive(f"{name}: std", deviation)
        if not held.tiny <= deviation <= held.max:
            raise InputError(
                f"{name}: std: found {deviation!r}, expected {held.tiny:.3g} to {held.max:.3g}, as float32"
            )
        if abs(value) * held.eps > _MOST_ROUNDED * deviation:
            raise InputError(
                f"{name}: mean {value:g} is so far from 0 that float32 loses a std of {deviation:g}; subtract "
                "the mean in float64 beforehand"
            )
    ones = (1,) * (len(shape) - 1)
    return tuple(torch.tensor(values, dtype=torch.float32).view(-1, *ones) for values in (mean, std))  # type: ignore[return-value]


def _numbers(name: str, values: Any) -> list[float]:
    """Return the numbers of a list, an array or a tensor as Python's."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list | tuple):
        raise InputError(f"{name}: found {checks.shown(listed)}, expected one number for each channel")
    return [value.item() if hasattr(value, "item") else value for value in listed]
