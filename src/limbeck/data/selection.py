"""What of a data set a recipe uses: some of its samples and classes, and the part that is held out."""

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.data.interactions import hold_out
from limbeck.data.pooling import Pooling
from limbeck.data.sets import SampleSet, Splits, TensorSet
from limbeck.errors import InputError
from limbeck.randomness import uniform
from limbeck.tasks import Need

__all__ = ["HeldOut", "Selection", "evenly"]


@checked_fields
@dataclass(frozen=True)
class Selection:
    """The classes and samples of a data set that a recipe uses.

    Attributes:
        only_classes: the classes to keep, by number or name; labels are renumbered in this order, in every part.  Empty
            for all.
        first: use only the first training samples, this many; None for all.
        pool: average images over squares of this many pixels a side; their values are then in [0, 1].  1 for none.
        label_noise: share of the training labels in [0, 1] that are replaced by a random class.  The held-out part and
            the test set keep their labels.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(4, 2), torch.tensor([0, 1, 2, 2]))
        >>> Selection(only_classes=(2, 0), first=2).apply(Splits(samples, samples, "small")).train.labels
        tensor([1, 0])
    """

    only_classes: tuple[int | str, ...] = ()
    first: int | None = None
    pool: int = 1
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        if len(self.only_classes) == 1:
            raise InputError(f"only_classes: found {list(self.only_classes)}, expected two or more")
        if self.first is not None:
            checks.at_least("first", self.first, 2)
        checks.at_least("pool", self.pool, 1)
        checks.unit_interval("label_noise", self.label_noise)

    def apply(self, splits: Splits) -> Splits:
        """Return the sets with the kept classes and the first samples alone; InputError where there are fewer."""
        train, test, validation = splits.train, splits.test, splits.validation
        if self.only_classes:
            numbers = train.class_numbers(self.only_classes)
            train, test = (part.only_classes(numbers).relabelled(numbers) for part in (train, test))
            validation = validation and validation.only_classes(numbers).relabelled(numbers)
        if self.first is not None:
            if train.lanes is not None:
                raise InputError(
                    f"first: found {self.first:,} samples of a stream, expected tokens; use most, the number of tokens"
                )
            if self.first > len(train):
                raise InputError(f"first: found {self.first:,}, expected at most {len(train):,} training samples")
            train = train.subset(torch.arange(self.first))
        if self.pool > 1:
            train, test = (_pooled(part, self.pool) for part in (train, test))
            validation = validation and _pooled(validation, self.pool)
        return replace(splits, train=train, test=test, validation=validation)

    def noisy(self, samples: SampleSet) -> SampleSet:
        """Return samples with the share of wrong labels; which, and to what, depends on each sample's index alone."""
        if not self.label_noise:
            return samples
        samples.task.require(Need.ONE_LABEL, what="label_noise: wrong labels need", mend="leave it out")
        draws = uniform(0, "label noise", torch.zeros_like(samples.index), samples.index, 2)
        drawn = (draws[:, 1] * samples.classes).long().clamp_max(samples.classes - 1)
        return replace(samples, labels=torch.where(draws[:, 0] < self.label_noise, drawn, samples.labels))


def _pooled(samples: SampleSet, side: int) -> TensorSet:
    """Return images as the means of their squares, float32 in [0, 1]; each keeps its place in the root set."""
    images = samples.gather_one(torch.arange(len(samples)))
    pooling = Pooling(side, samples.input_shape, str(images.dtype).removeprefix("torch."))
    pooled = pooling.apply(images)
    inputs = pooled.new_zeros(int(samples.index.max()) + 1, *pooled.shape[1:])
    inputs[samples.index] = pooled
    kept = {each.name: getattr(samples, each.name) for each in fields(SampleSet)}
    changed = {
        "name": f"{samples.name}, pooled",
        "source": hashlib.sha256(f"{samples.source} pooled {side}".encode()).hexdigest(),
        "input_shape": tuple(pooled.shape[1:]),
        "pooling": pooling,
    }
    return TensorSet(**{**kept, **changed}, inputs=inputs)


@dataclass(frozen=True)
class HeldOut:
    """Which training samples are held out for choices; in a ranking, which items of each of them.

    Attributes:
        size: their number, or their share in (0, 1).  In a ranking, of the items of each user.
        place: "random", or the "first" or "last" ones of the set.  In a ranking the oldest or newest items of a user.
            Of a stream of text the end is held out.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> HeldOut(0.1).place
        'random'
    """

    size: float | int
    place: Literal["random", "first", "last"] = "random"

    def count(self, samples: int) -> int:
        """Return how many of so many samples are held out.

        >>> HeldOut(0.1).count(1797), HeldOut(500, "last").count(1797)
        (180, 500)
        """
        return self.size if isinstance(self.size, int) else round(self.size * samples)

    def split(self, samples: SampleSet) -> tuple[SampleSet, SampleSet]:
        """Return the rest and the held-out part; InputError where either would be empty."""
        if samples.task.parts_held_out:
            return hold_out(samples, self.size, self.place)
        size, count = len(samples), self.count(len(samples))
        if not 0 < count < size:
            raise InputError(
                f"found {self.size!r}, which is {count} of {size} training samples;"
                " expected at least one held out and one left"
            )
        if samples.lanes is not None and self.place == "first":
            raise InputError(f"found the first {self.size!r} of a stream; expected its end: hold out the last ones")
        if self.place == "random" or samples.lanes is not None:
            return samples.split(count, seed=0)
        places = torch.arange(size)
        border = count if self.place == "first" else size - count
        before, after = samples.subset(places[:border]), samples.subset(places[border:])
        return (after, before) if self.place == "first" else (before, after)


def evenly(size: int, most: int) -> Tensor:
    """Return positions that are spread evenly over so many, not more than `most`.

    >>> evenly(9, 3)
    tensor([0, 4, 8])
    """
    spread = torch.linspace(0, size - 1, min(size, most), dtype=torch.float64)
    positions: Tensor = spread.round().long().unique()
    return positions
