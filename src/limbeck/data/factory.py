"""Data that a function of the user's own returns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import as_tensor, checked
from limbeck.checks import shown
from limbeck.data.content import check_fits
from limbeck.data.foreign import samples_of
from limbeck.data.items import fetched_item, inputs_of, parts_of
from limbeck.data.lazy import LazySet
from limbeck.data.npz import TaskName
from limbeck.data.sets import SampleSet, Splits
from limbeck.data.sources import DatasetSource
from limbeck.errors import DataError, ForeignExitError, InputError, lacks_memory, no_exit
from limbeck.identity import Factory
from limbeck.tasks import CLASSIFICATION, Task, task_named

__all__ = ["from_factory"]

_PARTS = ("train", "validation", "test")
_FORMS = "(train, test), (train, validation, test), a mapping of these names, or one set"


@checked
def from_factory(
    factory: str,
    folder: str = "",
    arguments: Mapping[str, Any] | None = None,
    task: TaskName = "classification",
    test_share: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Return the data that a function of one's own returns.

    Args:
        factory: the function, as "package.module:function".  It is imported and called: it can do whatever it likes.
        folder: where its module is looked for first; in a recipe, the recipe's folder.
        arguments: what it is called with.
        task: what a label is, as for `npz`; it is not needed for sets of limbeck, which say so themselves.
        test_share: where it returns one set, the share of each class that is held out for testing, in (0, 1).
        seed: of the split.

    Returns:
        Training and test set, and the validation set if it returns one.  The function returns (train, test), (train,
        validation, test), a mapping of these names, or one set.  Each set is a `SampleSet`, a pair of arrays (inputs,
        labels), a `TensorDataset`, or a map-style dataset; two arrays alone are one set.  A map-style dataset is read
        once to know its content, and then as it is needed.

    Raises:
        DataError: if it cannot be imported, raises, or returns something else.

    Example:
        >>> from_factory("sklearn.datasets:load_wine", arguments={"return_X_y": True}).train
        TensorSet('sklearn.datasets:load_wine/train', 142 samples (13,), 3 classes)
    """
    made_by = Factory("", factory, Path(folder), DataError)
    with made_by.imported() as function:
        try:
            with no_exit(f"factory: '{factory}'"):
                found = function(**(arguments or {}))
            kind = task_named(task)
            sets = {name: _set(f"{factory}/{name}", part, kind) for name, part in _parts(factory, found).items()}
        except (DataError, InputError, ForeignExitError):
            raise
        except Exception as error:
            if lacks_memory(error):
                raise
            raise made_by.failed(error) from error
    sets = _alike(factory, sets)
    if "test" not in sets:
        return Splits.held_out(replace(sets["train"], name=factory), test_share, seed)
    return Splits(sets["train"], sets["test"], factory, validation=sets.get("validation"))


def _parts(factory: str, found: Any) -> dict[str, Any]:
    """Return the sets of what a factory returned, by their names; a single one is "train"."""
    if isinstance(found, Splits):
        parts = {name: getattr(found, name) for name in _PARTS}
        return {name: part for name, part in parts.items() if part is not None}
    if isinstance(found, Mapping) and "train" in found:
        if wrong := [name for name in found if name not in _PARTS]:
            raise DataError(f"factory: '{factory}' returned a part {wrong[0]!r}; expected {', '.join(_PARTS)}")
        return {name: found[name] for name in _PARTS if name in found}
    if isinstance(found, tuple) and not all(map(_is_array, found)):
        if len(found) not in (2, 3):
            raise DataError(f"factory: '{factory}' returned a tuple of {len(found)}; expected {_FORMS}")
        return dict(zip(("train", "test") if len(found) == 2 else _PARTS, found, strict=True))
    if found is None or isinstance(found, str | bytes | int | float | Mapping):
        raise DataError(f"factory: '{factory}' returned {shown(found)}; expected {_FORMS}")
    return {"train": found}


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "__array__")


def _set(name: str, part: Any, task: Task) -> SampleSet:
    """Return a part as a set whose content is known."""
    found = samples_of(name, part, task)
    if isinstance(found, SampleSet):
        return found
    if not isinstance(found, DatasetSource):
        raise DataError(
            f"{name}: found a {type(part).__name__}, whose samples have no place; expected a set with a length and"
            " samples by number. Return the dataset that it reads"
        )
    if task != CLASSIFICATION:
        whole = samples_of(name, _stacked(name, part), task)
        assert isinstance(whole, SampleSet)
        return whole
    lazy = LazySet.of(part, name=name)
    lazy.require_repeatable()
    names = _names(part)
    return replace(lazy, classes=len(names), class_names=names) if len(names) >= lazy.classes else lazy


def _stacked(name: str, dataset: Any) -> tuple[Tensor, Tensor]:
    """Read a dataset whole: the inputs and labels of all its samples, each one tensor."""
    inputs, labels = list[Tensor](), list[Tensor]()
    for number in range(len(dataset)):
        where = f"{name}: sample {number}"
        own, label = parts_of(where, fetched_item(name, dataset.__getitem__, number))
        tensor = inputs_of(where, own)
        if not isinstance(tensor, Tensor) or label is None:
            raise DataError(f"{where}: found no pair of inputs and label; expected one tensor each. Return (x, y)")
        inputs.append(tensor)
        labels.append(as_tensor(f"{where}: label", label))
        if not number:
            check_fits(name, len(dataset) * sum(each.numel() * each.element_size() for each in (tensor, labels[0])))
        for what, rows in (("inputs", inputs), ("label", labels)):
            if rows[-1].shape != rows[0].shape:
                raise DataError(
                    f"{where}: {what} of shape {tuple(rows[-1].shape)}; expected {tuple(rows[0].shape)}, that of sample"
                    " 0. Bring all to one shape"
                )
    if not inputs:
        raise DataError(f"{name}: found no samples; expected at least one")
    return torch.stack(inputs), torch.stack(labels)


def _names(dataset: Any) -> tuple[str, ...]:
    """Return the names of the classes, where a dataset of torchvision or of the library `datasets` has them."""
    names = getattr(dataset, "classes", None)
    feature = (getattr(dataset, "features", None) or {}).get("label") if names is None else None
    names = getattr(feature, "names", None) if names is None else names
    told = isinstance(names, Sequence) and all(isinstance(each, str) for each in names)
    return tuple(names) if told and names is not None and len(set(names)) == len(names) else ()


def _alike(factory: str, sets: dict[str, SampleSet]) -> dict[str, SampleSet]:
    """Return sets with the same classes, where none has names those of the part with most; DataError otherwise."""
    widest = max(sets.values(), key=lambda part: part.classes)
    if all(part.class_names == tuple(map(str, range(part.classes))) for part in sets.values()):
        sets = {
            name: replace(part, classes=widest.classes, class_names=widest.class_names) for name, part in sets.items()
        }
    train = sets["train"]
    for name, part in sets.items():
        for what in ("task", "input_shape", "kept_dtype", "classes", "class_names"):
            found, expected = getattr(part, what), getattr(train, what)
            same = what == "input_shape" and part.kept_dtype is None  # texts of several lengths
            if found != expected and not same:
                raise DataError(
                    f"factory: '{factory}': {what} of {name} is {shown(found)}, of train {shown(expected)}; expected"
                    " the same"
                )
    return sets
