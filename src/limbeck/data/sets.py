"""Sets of samples in memory, and a data set in its two parts."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from limbeck.arguments import checked, checked_fields
from limbeck.data.columns import Columns
from limbeck.data.content import (
    check_inputs,
    checked_group_names,
    checked_groups,
    checked_labels,
    checked_vocabulary,
    normalisation,
    raw_bytes,
)
from limbeck.data.sample_set import SampleSet
from limbeck.errors import DataError, DataWarning, InputError
from limbeck.errors import warn as warn_of
from limbeck.tasks import CLASSIFICATION, Task

__all__ = ["SampleSet", "Splits", "TensorSet"]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TensorSet(SampleSet):
    """A set whose samples are one tensor in memory.

    The further attributes are those of `SampleSet`; create one with `TensorSet.of`.

    Attributes:
        inputs: (N, ...) uint8 (divided by 255 in batches), float32, or int64 token ids.

    Example:
        >>> images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
        >>> samples = TensorSet.of(images, torch.arange(6) % 2)
        >>> samples.batch(torch.tensor([4, 1]), augment=None, seed=0, view=0).inputs.shape
        torch.Size([2, 1, 8, 8])
    """

    inputs: Tensor

    @classmethod
    @checked
    def of(
        cls,
        inputs: Tensor,
        labels: Tensor | None = None,
        *,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "tensors",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        groups: Sequence[int] | None = None,
        group_names: Sequence[str] | None = None,
        task: Task = CLASSIFICATION,
        columns: Columns | None = None,
        vocabulary: Sequence[str] | None = None,
    ) -> "TensorSet":
        """Check and wrap tensors.

        inputs: (n, ...) uint8, float32 or int64.  labels: (n,) whole numbers, `UNLABELLED` where there is none.
        task: what a label is; for another than classification, labels are shaped as the task says.
        classes: how many there are; else as many as `class_names`, else the largest label plus one.
        mean, std: one value a channel (dimension 1), in units of the scaled inputs; both or neither.  Kept as float32.
        groups: for each class, the number of its group, from 0 on.  group_names: for each group.
        columns: of a table, which have as many numbers as a sample.
        vocabulary: of int64 inputs, the name of each number.
        Raises DataError with one line when the tensors are not such a set, InputError when mean and std are not.
        """
        check_inputs(name, inputs)
        if columns is not None and tuple(inputs.shape[1:]) != (columns.width,):
            raise DataError(
                f"{name}: its columns become {columns.width} numbers, but samples have shape {tuple(inputs.shape[1:])}"
            )
        words = () if vocabulary is None else checked_vocabulary(name, vocabulary, inputs)
        labels, classes, names = checked_labels(name, len(inputs), labels, classes, class_names, task)
        shape = tuple(inputs.shape[1:])
        scale = normalisation(name, inputs.dtype, shape, mean, std)
        scaled = None if scale is None else [values.flatten().tolist() for values in scale]
        digest = hashlib.sha256(f"{inputs.dtype} {tuple(inputs.shape)} {scaled}".encode())
        digest.update(raw_bytes(inputs))
        digest.update(raw_bytes(labels))
        if task != CLASSIFICATION:
            digest.update(task.name.encode())
        if words:
            digest.update("\0".join(words).encode())
        groups = checked_groups(name, groups, classes)
        return cls(
            name=name,
            classes=classes,
            class_names=names,
            source=digest.hexdigest(),
            index=torch.arange(len(inputs), device=inputs.device),
            labels=labels.to(inputs.device),
            input_shape=shape,
            mean=None if scale is None else scale[0].to(inputs.device),
            std=None if scale is None else scale[1].to(inputs.device),
            groups=groups,
            group_names=checked_group_names(name, group_names, groups),
            task=task,
            columns=columns,
            vocabulary=words,
            inputs=inputs.detach(),
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the set with all its tensors, the root's inputs too, on `device`."""
        return replace(super().to(device), inputs=self.inputs.to(device))

    def gather(self, positions: Tensor) -> Tensor:
        """Return the stored samples at `positions` within this set."""
        return self.inputs.index_select(0, self.index.index_select(0, positions))


@checked_fields
@dataclass(frozen=True)
class Splits:
    """A data set in its two parts: one to train on, and one that no choice may depend on.

    Attributes:
        train: training samples, from which held-out samples are taken.
        test: test samples.
        name: of the data set.
        notes: lines on what was left out when it was read, and on values that may be misread.
        validation: samples for choices, where the data set is published with such a part; otherwise None.

    Example:
        >>> from limbeck import data
        >>> splits = data.digits()
        >>> splits.name, len(splits.test)
        ('digits', 359)
    """

    train: SampleSet
    test: SampleSet
    name: str
    notes: tuple[str, ...] = ()
    validation: SampleSet | None = None

    def noting(self, notes: Iterable[str], *, warn: bool) -> "Splits":
        """Return the sets with further notes.

        warn: whether each is a `DataWarning` as well, as it is where data was left out or looks damaged.
        """
        notes = tuple(notes)
        for note in notes if warn else ():
            warn_of(note, DataWarning)
        return replace(self, notes=self.notes + notes)

    @classmethod
    @checked
    def held_out(cls, whole: SampleSet, share: float, seed: int) -> "Splits":
        """Hold out a random share of each class of a set that is published whole; both parts keep its identity."""
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise InputError(f"test_share: found {share!r}, expected a number between 0 and 1")
        try:
            train, test = whole.split(share, seed, stratify=True)
        except InputError as error:
            raise InputError(str(error).replace("split:", "test_share:", 1)) from None
        return cls(replace(train, name=f"{whole.name}/train"), replace(test, name=f"{whole.name}/test"), whole.name)
