"""Sets of samples that know who they are: every sample keeps its place in the root set, whatever subset it is in."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend, Mix
from limbeck.checks import shown
from limbeck.data.augment import Augment
from limbeck.data.columns import Columns
from limbeck.data.content import (
    Inputs,
    raw_bytes,
)
from limbeck.data.mixing import partners
from limbeck.data.pooling import Pooling
from limbeck.errors import DataError, InputError, one_of
from limbeck.randomness import derive_seed, permutation
from limbeck.targets import label_positions
from limbeck.tasks import CLASSIFICATION, TOKENS, UNLABELLED, Need, Task
from limbeck.tokenizers import Tokenizer

__all__ = ["SampleSet"]

_FETCHED_TWICE = 32  # of a set's samples, spread over it
_APART = 2**32
"""By how much the views of a repeated sample differ, so that no epoch of one is an epoch of another."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SampleSet(ABC):
    """Samples with an identity.

    A subset has the same class and shares the content of the root set.

    Attributes:
        name: of the set, for error messages and reports.
        classes: the number of classes, or of numbers to predict; 0 if unknown.
        class_names: their names; empty if they have none.
        source: SHA-256 of the root set's content, equal for all its subsets; `index` counts in that root.
        index: (n,) int64, the position of each sample in the root set.
        labels: (n,) int64, `UNLABELLED` for none; for other tasks than classification, as in `Batch`.
        input_shape: the shape of one sample.
        mean: (C, 1, ...), subtracted after augmentation; None without normalisation.
        std: (C, 1, ...), by which inputs are then divided; None without normalisation.
        groups: the group (super-class) number of each class; None if there are no groups.
        group_names: of the groups; empty if they have none.
        task: what a label is.
        turn: (n,) int64, how often the sample occurs before in this set, if a subset repeats samples; otherwise None.
        columns: for a table, how each column becomes numbers; otherwise None.
        pooling: for images that were averaged over squares, what they were before; otherwise None.
        vocabulary: the names that whole-number inputs are the numbers of, such as those of users or of the tokens of a
            text; otherwise empty.
        max_length: the largest number of tokens of a sample; 0 where samples are no texts.
        tokenizer: what made token ids of text; otherwise None.

    Example:
        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> len(samples), samples.classes, samples.input_shape
        (6, 3, (2,))
    """

    HOW_MADE = "TensorSet.of(inputs, labels) makes one of arrays, LazySet.of(dataset) of a Dataset"

    name: str
    classes: int
    class_names: tuple[str, ...]
    source: str
    index: Tensor
    labels: Tensor
    input_shape: tuple[int, ...]
    mean: Tensor | None = None
    std: Tensor | None = None
    groups: tuple[int, ...] | None = None
    group_names: tuple[str, ...] = ()
    task: Task = CLASSIFICATION
    turn: Tensor | None = None
    columns: Columns | None = None
    pooling: Pooling | None = None
    vocabulary: tuple[str, ...] = ()
    max_length: int = 0
    tokenizer: Tokenizer | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} samples {self.input_shape}, {self.classes} classes)"

    @property
    def legend(self) -> Legend:
        """What the labels mean."""
        return Legend(self.class_names, self.groups, labelled=self.labelled_count > 0, task=self.task)

    @property
    def form(self) -> str:
        """How texts become inputs: "sentences", "pairs", "stream", "seq2seq" or "chat"; empty where there are none."""
        return ""

    @property
    def lanes(self) -> int | None:
        """Of a stream of text: how many rows a batch has, each of which continues that of the batch before.

        Its samples are numbered chunk by chunk, sample c·lanes + b being chunk c of lane b, and are never shuffled.
        None for other sets.
        """
        return None

    def at_epoch(self, seed: int, epoch: int) -> Self:
        """Return the set as an epoch of a training has it: a stream may be cut elsewhere, into equally many chunks."""
        return self

    @property
    def labelled_count(self) -> int:
        """How many examples, or places of them, have a label."""
        return int(self.task.count(self.task.labelled(self.labels)))

    def digest(self) -> str:
        """Return the SHA-256 of all that a training sees of the set: content, choice and order, labels, normalisation.

        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(3, 2), torch.tensor([2, 0, 2]))
        >>> samples.digest() == samples.subset(torch.tensor([1, 0, 2])).digest()
        False
        """
        digest = hashlib.sha256(f"{self.source} {self.classes} {self.class_names} {self.task} {self.groups}".encode())
        for tensor in (self.index, self.labels, self.mean, self.std):
            digest.update(b"none" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            if tensor is not None:
                digest.update(raw_bytes(tensor))
        return digest.hexdigest()

    def require_repeatable(self) -> None:
        """Require that a sample is the same each time it is fetched, by fetching some twice; DataError otherwise."""
        some = torch.linspace(0, len(self) - 1, min(len(self), _FETCHED_TWICE)).long()
        first, second = self.gather(some), self.gather(some)
        pairs = zip(_named(first).values(), _named(second).values(), strict=True)
        rows = [(position, *row) for pair in pairs for position, *row in zip(some.tolist(), *pair, strict=True)]
        for position, one, other in rows:
            if not torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)):
                raise DataError(
                    f"{self.name}: sample {int(self.index[position])} differs each time it is fetched, and answers that"
                    " are stored are for one version; use Augment for random changes, or ask the teacher for every"
                    " batch (store: false)"
                )

    def order(self, seed: int, epoch: int, batch_size: int = 1) -> Tensor:
        """Return the positions of an epoch's samples (len,) int64 on the CPU: a function of (seed, epoch) alone.

        batch_size: for sets that put samples of like length into one batch.
        """
        return permutation(seed, "order", epoch, len(self))

    def class_counts(self) -> list[int]:
        """Return how many labelled samples each class has.

        >>> from limbeck.data import TensorSet
        >>> TensorSet.of(torch.zeros(3, 2), torch.tensor([2, 0, 2])).class_counts()
        [1, 0, 2]
        """
        counts: list[int] = torch.bincount(self.labels[self.labels != UNLABELLED], minlength=self.classes).tolist()
        return counts

    @abstractmethod
    def gather(self, positions: Tensor) -> Inputs:
        """Return the stored samples at `positions` within this set: (N, *input_shape) in the type they are kept in.

        Several tensors by name for models that take keywords.
        """

    def gather_one(self, positions: Tensor) -> Tensor:
        """Return what `gather` does for samples that are one tensor each; DataError for others, such as texts."""
        gathered = self.gather(positions)
        if not isinstance(gathered, Tensor):
            raise DataError(
                f"{self.name}: found samples of several tensors ({', '.join(gathered)}); expected one tensor a sample,"
                " such as an image. Leave out what changes or draws inputs"
            )
        return gathered

    @property
    def kept_dtype(self) -> torch.dtype | None:
        """The type in which samples are kept, where each is one tensor; otherwise None."""
        first = self.gather(torch.zeros(1, dtype=torch.int64, device=self.index.device))
        return first.dtype if isinstance(first, Tensor) else None

    @property
    def has_long_answers(self) -> bool:
        """Whether a model answers a text of any length with logits for each token, which are too many to be held."""
        return self.task == TOKENS and (self.lanes is not None or self.kept_dtype is None)

    def to(self, device: torch.device | str) -> Self:
        """Return the set with its tensors on `device`; its batches are made there."""
        mean = None if self.mean is None else self.mean.to(device)
        std = None if self.std is None else self.std.to(device)
        turn = None if self.turn is None else self.turn.to(device)
        return replace(self, index=self.index.to(device), labels=self.labels.to(device), mean=mean, std=std, turn=turn)

    def batch(
        self, positions: Tensor, *, augment: Augment | None, seed: int, view: int, clean_view: bool = False
    ) -> Batch:
        """Return the samples at `positions` (N,) int64 within this set, as float32 (whole numbers as int64).

        view: which augmentation of each sample; 0 is never augmented.  A sample that the set repeats has at each of its
        places a view of its own.
        clean_view: whether `batch.views["clean"]` holds the samples as they are without augmentation.
        """
        positions = positions.to(self.index.device)
        gathered = self.gather(self.needed(positions, augment, seed, view))
        return self.assemble(gathered, positions, augment, seed, view, clean_view)

    def needed(self, positions: Tensor, augment: Augment | None, seed: int, view: int) -> Tensor:
        """Return the positions of all samples that a batch is made of: its own, then those that they are mixed with."""
        if augment is None or not augment.mixes or view == 0:
            return positions
        index = self.index.index_select(0, positions)
        return torch.cat([positions, partners(seed, self._views(positions, view), index, len(self))])

    def _views(self, positions: Tensor, view: int) -> Tensor:
        """Return the view (N,) of each position in a pass over the set: view + 2^32·turn."""
        views = torch.full_like(positions, view)
        return views if self.turn is None else views + self.turn.index_select(0, positions) * _APART

    def assemble(
        self, gathered: Inputs, positions: Tensor, augment: Augment | None, seed: int, view: int, clean_view: bool
    ) -> Batch:
        """Return the batch of samples that `gather` gave of what is `needed`: scaled, augmented, then normalised.

        May reuse `gathered`.  Mixed samples have no clean view, for there is no sample that it would be of.
        """
        if not isinstance(gathered, Tensor):
            raise TypeError(f"{type(self).__name__} gathers several tensors, so it also defines assemble")
        if augment is not None:
            self.task.check_augment(moves=augment.moves, mixes=augment.mixes)
        augmented = augment is not None and augment.active and view > 0
        mixed = augment is not None and augment.mixes and augmented
        needed = self.needed(positions, augment, seed, view)
        index, labels = self.index.index_select(0, needed), self.labels.index_select(0, needed)
        views = self._views(needed, view) if augmented else torch.zeros_like(index)
        clean = gathered.to(torch.float32).div_(255) if gathered.dtype == torch.uint8 else gathered
        inputs, mix, count = clean, None, len(positions)
        further: dict[str, Tensor] = {}
        if augment is not None and augmented:
            if augment.other_view:
                other = augment.apply(clean, seed=derive_seed(seed, "other view"), view=views, index=index)
                further["other"] = self._normalised(other)
            inputs = augment.apply(clean, seed=seed, view=views, index=index)
            if mixed:
                own, other = inputs[:count], inputs[count:]
                inputs, share = augment.mix(own, other, seed=seed, view=views[:count], index=index[:count])
                mix = Mix(index[count:], labels[count:], share)
            inputs = self._normalised(inputs)
        if (clean_view and not mixed) or not augmented:
            clean = self._normalised(clean)
        return Batch(
            index=index[:count],
            view=views[:count],
            inputs=inputs if augmented else clean,
            labels=labels[:count],
            views=further | ({"clean": clean} if clean_view and not mixed else {}),
            source=self.source,
            augmented=augmented,
            task=self.task,
            mix=mix,
            augmentation=augment.identity(seed) if augment is not None and augmented else "",
        )

    def _normalised(self, inputs: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return inputs
        return (inputs - self.mean).div_(self.std)

    @checked
    def subset(self, positions: Tensor) -> Self:
        """Return the samples at `positions` (k,) int64 within this set, in that order; they may repeat.

        Raises InputError for positions that are not whole numbers within the set, DataError when there are none.
        """
        if positions.shape == (0,):  # of an empty list too, which has no type
            raise DataError(f"{self.name}: found an empty subset, expected at least one sample")
        if positions.dtype != torch.int64 or positions.dim() != 1:
            raise InputError(f"positions: found {positions.dtype} {tuple(positions.shape)}, expected int64 (k,)")
        if positions.min() < 0 or positions.max() >= len(self):
            raise InputError(f"positions: found {_range(positions)}, expected 0 to {len(self) - 1} in '{self.name}'")
        positions = positions.to(self.index.device)
        index = self.index[positions]
        return replace(self, index=index, labels=self.labels[positions], turn=_turns(index))

    def without_labels(self) -> Self:
        """Return the same samples, unlabelled."""
        return replace(self, labels=self.task.without_labels(self.labels))

    def fraction(self, share: float, seed: int) -> Self:
        """Return a random share of each class, at least one sample of each, in the set's order.

        share: in (0, 1].  With one seed, a smaller share is part of a larger one.  Unlabelled samples count as one
        class, and so do all samples where they have not one label each.

        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(8, 2), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
        >>> samples.fraction(0.5, seed=0).labels
        tensor([0, 0, 1, 1])
        """
        checks.positive("fraction", share)
        checks.unit_interval("fraction", share)
        seed = checks.seed(seed)
        return self.subset(
            _share_of_each_class(self.task.strata(self.labels), share, permutation(seed, "fraction", 0, len(self)))
        )

    def without_classes(self, classes: Iterable[int]) -> Self:
        """Return the samples whose label is none of `classes`; unlabelled ones stay, labels keep their numbers."""
        return self._where(~self._labelled_as(classes), "no samples outside those classes")

    def only_classes(self, classes: Iterable[int]) -> Self:
        """Return the samples whose label is one of `classes`; labels keep their numbers."""
        return self._where(self._labelled_as(classes), "no samples of those classes")

    @checked
    def class_numbers(self, classes: Sequence[int | str]) -> tuple[int, ...]:
        """Return the numbers of classes that are given by number or name; InputError for an unknown name."""
        for name in classes:
            if isinstance(name, str) and name not in self.class_names:
                raise InputError(f"classes: '{self.name}' has no class {name!r}; {one_of(name, self.class_names)}")
        return tuple(self.class_names.index(each) if isinstance(each, str) else each for each in classes)

    @checked
    def relabelled(self, classes: Sequence[int | str]) -> Self:
        """Return the same samples for a model of a subset of the classes: labels are positions in `classes`.

        classes: by number or name, each once, in the order of the model's outputs.  A sample of another class is left
        without a label (`only_classes` leaves it out).  Raises InputError for none, or one that the set has not.

        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]), class_names=["cat", "dog", "eel"])
        >>> part = samples.relabelled(["eel", "dog"])
        >>> part.labels, part.class_names
        (tensor([-100,    1,    0,    1]), ('eel', 'dog'))
        """
        self.task.require(Need.SEVERAL_CLASSES, what="classes: a subset is of", mend="leave them out")
        numbers = self.class_numbers(classes)
        labels = label_positions(self.labels, numbers, self.classes)
        return replace(
            self,
            classes=len(numbers),
            class_names=tuple(self.class_names[number] for number in numbers),
            groups=None if self.groups is None else tuple(self.groups[number] for number in numbers),
            labels=labels,
        )

    def split(self, share_or_count: float, seed: int, *, stratify: bool = False) -> tuple[Self, Self]:
        """Hold out a random part: return (rest, held out), disjoint, each in the set's order.

        share_or_count: a share in (0, 1), or a whole number of samples to hold out.
        stratify: hold out the share of each class instead of the whole; a class with one sample stays in the rest.
        Raises InputError when either part would be empty.

        >>> from limbeck.data import TensorSet
        >>> rest, held_out = TensorSet.of(torch.zeros(10, 2)).split(3, seed=0)
        >>> len(rest), len(held_out)
        (7, 3)
        """
        size, seed = len(self), checks.seed(seed)
        if not isinstance(stratify, bool):
            raise InputError(f"stratify: found {shown(stratify)}, expected True or False")
        known = isinstance(share_or_count, int | float) and not isinstance(share_or_count, bool)
        share = (share_or_count if isinstance(share_or_count, float) else share_or_count / size) if known else 0.0
        count = round(share * size) if math.isfinite(share) else 0
        if not 0 < share < 1 or not 0 < count < size:
            raise InputError(
                f"split: found {share_or_count!r} of {size} samples, "
                "expected a share in (0, 1) or a whole number that leaves samples in both parts"
            )
        order = permutation(seed, "split", 0, size)
        held = _share_of_each_class(self.task.strata(self.labels), share, order, leave=1) if stratify else order[:count]
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[held] = True
        return self.subset((~chosen).nonzero().squeeze(1)), self.subset(chosen.nonzero().squeeze(1))

    def _labelled_as(self, classes: Iterable[int]) -> Tensor:
        self.task.require(Need.ONE_LABEL, what="classes: samples are chosen by", mend="leave classes out")
        given: Any = classes
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InputError(f"classes: found {shown(given)}, expected numbers of classes, 0 to {self.classes - 1}")
        wanted = tuple(classes)
        for label in wanted:
            if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < self.classes:
                raise InputError(f"class {label!r}: expected 0 to {self.classes - 1} in '{self.name}'")
        return torch.isin(self.labels, torch.tensor(wanted, dtype=torch.int64, device=self.labels.device))

    def _where(self, chosen: Tensor, otherwise: str) -> Self:
        positions = chosen.nonzero().squeeze(1)
        if len(positions) == 0:
            raise DataError(f"{self.name}: it has {otherwise}; nothing is left")
        return self.subset(positions)


def _named(inputs: Inputs) -> Mapping[str, Tensor]:
    return inputs if isinstance(inputs, Mapping) else {"": inputs}


def _turns(index: Tensor) -> Tensor | None:
    """Return for each place how often its sample stood at an earlier one; None where each stands once.

    >>> _turns(torch.tensor([4, 2, 4, 4, 2]))
    tensor([0, 0, 1, 2, 1])
    """
    counts = index.unique(return_counts=True)[1]
    if len(counts) == len(index):
        return None
    order = torch.argsort(index, stable=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    places = torch.arange(len(index), device=index.device)
    return torch.empty_like(index).scatter_(0, order, places - first)


def _range(positions: Tensor) -> str:
    return f"{int(positions.min())} to {int(positions.max())}"


def _share_of_each_class(labels: Tensor, share: float, order: Tensor, *, leave: int = 0) -> Tensor:
    """Return sorted positions: of each label the first round(share * count) in `order`, but one at least."""
    grouped = order[torch.argsort(labels[order], stable=True)]
    counts = labels.unique(return_counts=True)[1]
    quota = torch.minimum((share * counts.double() + 0.5).to(torch.int64).clamp_min(1), counts - leave)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return grouped[rank < quota.repeat_interleave(counts)].sort().values
