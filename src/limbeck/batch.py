"""A batch: samples with the identity that makes caching, exact resume and alignment possible."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import as_tensor, checked
from limbeck.errors import InputError
from limbeck.tasks import CLASSIFICATION, UNLABELLED, Task

__all__ = ["UNLABELLED", "Batch", "Lanes", "Legend", "Mix"]


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _map(item, function) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class Legend:
    """What the labels of a set mean.

    names: of the classes, by number; empty where it is not known how many there are.
    groups: the group of each class, where the set has a hierarchy of them.
    labelled: whether any sample has a label.
    task: what a label is.
    """

    names: tuple[str, ...]
    groups: tuple[int, ...] | None = None
    labelled: bool = True
    task: Task = CLASSIFICATION


@dataclass(frozen=True)
class Mix:
    """What samples were mixed with (mixup, cutmix): each is `share` itself and the rest another sample of its set.

    partner: (N,) int64, position of the other sample in the set that the batch's `index` counts in.
    labels: (N,) int64 of the other sample, `UNLABELLED` where it has none.
    share: (N,) float32 in [0, 1], how much of the inputs is the sample itself.
    """

    partner: Tensor
    labels: Tensor
    share: Tensor


@dataclass(frozen=True)
class Lanes:
    """Which rows of a stream a batch continues, so that a recurrent state can be carried from batch to batch.

    number: (N,) int64, the lane of each row; a batch has whole lanes, the same in every step.
    fresh: (N,) bool, True where the row does not continue the one before, so that its state begins anew.
    """

    number: Tensor
    fresh: Tensor


@dataclass
class Batch:
    """Samples with their identity, as teacher and student receive them.

    Create one with `Batch.of` in your own loop.

    Attributes:
        index: (N,) int64, position of each sample in the set that it came from, in whatever subset or order it was
            drawn.
        view: (N,) int64, the number of the random view; 0 without augmentation.
        inputs: (N, ...) tensor, or a mapping of named tensors for models that take keywords.  "attention_mask" (N, L)
            says which places are no padding.
        labels: (N,) or (N, L) int64 classes, `UNLABELLED` (-100) for none; None if the whole batch has none.  Of other
            tasks: (N, C) of 0 and 1, (N, H, W) classes, or (N, D) floating point with NaN for none.
        mask: bool, shaped as the labels ((N,) in a regression), False for what is not counted; None if all is.
        views: further versions of the same samples by name, such as a clean one for the teacher.
        source: identity of the set that `index` counts in; a stored teacher refuses another.
        augmented: whether `inputs` differ from the stored samples by a random view.
        extras: anything else that a term reads, by name.
        task: what a label is, which decides how a model's answer is read.
        mix: what the samples were mixed with; None without mixing.  `index` and `labels` are the sample's own.  Stored
            answers do not exist for such a batch.
        lanes: for a stream of text, the lanes that the rows continue; otherwise None.
        augmentation: which augmentation and seed the random views are drawn with (`Augment.identity`); empty without
            augmentation.

    Example:
        >>> batch = Batch.of(torch.zeros(4, 3), torch.tensor([0, 1, 2, UNLABELLED]))
        >>> batch.index
        tensor([0, 1, 2, 3])
    """

    index: Tensor
    view: Tensor
    inputs: Any
    labels: Tensor | None = None
    mask: Tensor | None = None
    views: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    augmented: bool = False
    extras: dict[str, Any] = field(default_factory=dict)
    task: Task = CLASSIFICATION
    mix: Mix | None = None
    lanes: Lanes | None = None
    augmentation: str = ""

    HOW_MADE = "limbeck.Batch.of(inputs, labels) makes one"

    def __post_init__(self) -> None:
        self.index, self.view = as_tensor("index", self.index), as_tensor("view", self.view)
        self.labels = None if self.labels is None else as_tensor("labels", self.labels)
        self.mask = None if self.mask is None else as_tensor("mask", self.mask)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def padding(self) -> Tensor | None:
        """Which places of the inputs are real: bool (N, L), from their "attention_mask"; None where there is none.

        >>> Batch.of({"input_ids": [[5, 7], [5, 0]], "attention_mask": [[1, 1], [1, 0]]}).padding
        tensor([[ True,  True],
                [ True, False]])
        """
        given = self.inputs.get("attention_mask") if isinstance(self.inputs, Mapping) else None
        if not isinstance(given, Tensor):
            return None
        return given.bool() if given.dim() == 2 else given.bool().diagonal(dim1=1, dim2=2)  # a real token sees itself

    @property
    def places(self) -> torch.Size:
        """The shape of what is counted: (N,), or a place for each token, pixel or label."""
        if self.mask is not None:
            return self.mask.shape
        return self.index.shape if self.labels is None else self.task.places(self.labels)

    def labelled(self) -> Tensor:
        """Return which places have a label and are no padding: bool, shaped as `places`; of mixed samples, two."""
        if self.labels is None:
            return torch.zeros(self.places, dtype=torch.bool, device=self.index.device)
        labelled = self.task.labelled(self.labels)
        if self.mix is not None:
            labelled = labelled & self.task.labelled(self.mix.labels)
        return labelled if self.mask is None else labelled & self.mask

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            index=move(self.index),
            view=move(self.view),
            inputs=_map(self.inputs, move),
            labels=None if self.labels is None else move(self.labels),
            mask=None if self.mask is None else move(self.mask),
            views=_map(self.views, move),
            extras=_map(self.extras, move),
            mix=self.mix and Mix(move(self.mix.partner), move(self.mix.labels), move(self.mix.share)),
            lanes=self.lanes and Lanes(move(self.lanes.number), move(self.lanes.fresh)),
        )

    def channels_last(self) -> "Batch":
        """Return the batch with its images, inputs and views (N, C, H, W), channels last in memory."""

        def lay(tensor: Tensor) -> Tensor:
            return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

        return replace(self, inputs=_map(self.inputs, lay), views=_map(self.views, lay))

    @classmethod
    @checked
    def of(
        cls, inputs: Any, labels: Tensor | None = None, *, mask: Tensor | None = None, task: Task = CLASSIFICATION
    ) -> "Batch":
        """Wrap plain tensors, arrays or lists, for your own loop.

        Args:
            inputs: (N, ...), or a mapping of names to such inputs.
            labels: (N,) or (N, L) int64 classes, `UNLABELLED` (-100) for none; of other tasks as in `Batch`.
            mask: bool, shaped as the labels, False for padding.
            task: what a label is.

        Returns:
            The batch, with indices 0 to N-1.

        Raises:
            InputError: if the inputs are not numbers, or a single number.

        Example:
            >>> batch = Batch.of(torch.zeros(4, 3), torch.tensor([0, 1, 2, UNLABELLED]))
            >>> len(batch)
            4
        """
        if isinstance(inputs, Mapping) and inputs:
            inputs = {name: as_tensor(f"inputs '{name}'", each) for name, each in inputs.items()}
            first = next(iter(inputs.values()))
        else:
            inputs = first = as_tensor("inputs", inputs)
        if first.dim() == 0:
            raise InputError("inputs: found a single number, expected (N, ...) with a row for each sample")
        index = torch.arange(len(first), device=first.device)
        return cls(index=index, view=torch.zeros_like(index), inputs=inputs, labels=labels, mask=mask, task=task)
