"""Batches that another library makes, as a DataLoader does, and streams of samples: used in their own order."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data.augment import Augment
from limbeck.data.generators import generator_states, generators_kept, restore_generators, seed_generators
from limbeck.data.items import Inputs, check_batch, class_numbers, inputs_of, parts_of
from limbeck.data.sources import Source, batch_of, joined_labels, sample_of, stacked
from limbeck.data.token_rows import of_tokens, token_labels
from limbeck.errors import DataError, DataWarning, InputError, LimbeckError, lacks_memory, one_line, warn
from limbeck.randomness import derive_seed

__all__ = ["LoaderSource", "StreamSource"]

_END = object()


class LoaderSource(Source):
    """Batches of a `DataLoader`, or of another object that gives them each time it is iterated over, as they come."""

    kind = "a DataLoader"
    instead = "give its dataset, with batch_size"

    def __init__(self, name: str, loader: Iterable[Any]) -> None:
        super().__init__(name)
        self.loader = loader
        if self.steps == 0:
            raise DataError(
                f"{name}: it gives no batch, expected at least one; check drop_last if there are few samples"
            )

    @property
    def steps(self) -> int | None:
        """Batches in an epoch; None where that is not known."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:  # of an IterableDataset
            return None

    @property
    def size(self) -> int | None:
        """How many samples an epoch has, where the loader tells."""
        own: Any = getattr(self.loader, "batch_size", None)
        sampler: Any = getattr(self.loader, "sampler", None)
        if not isinstance(own, int) or not hasattr(sampler, "__len__"):
            return None
        count = len(sampler)
        return count - count % own if getattr(self.loader, "drop_last", False) else count

    def batches(self, batch_size: int, *, seed: int, shuffle: bool, workers: int) -> "_LoaderBatches":
        """Return the loader's own batches, in its own order."""
        del shuffle, workers
        return _LoaderBatches(self, batch_size, seed)

    def raw(self, batch_size: int) -> Iterable[Any]:
        """Return what gives the batches."""
        del batch_size
        return self.loader

    def batch_size(self, asked: int | None, otherwise: int) -> int:
        """Return the loader's own size; InputError where another is asked for."""
        own = getattr(self.loader, "batch_size", None)
        if asked is not None and asked != own:
            has = f"has batches of {own}" if isinstance(own, int) else "makes its own batches"
            raise InputError(
                f"batch_size: found {asked}, but {self.name} is {self.kind} that {has}; leave batch_size out, or"
                f" {self.instead}={asked}"
            )
        return own if isinstance(own, int) else otherwise

    def check(self, *, augment: Augment, accumulate: int, workers: int) -> None:
        """Refuse what would need other batches, and say what is not as exact as with a set."""
        for key, found, usual in (("accumulate", accumulate, 1), ("workers", workers, 0), ("augment", augment, None)):
            if found != usual and not (isinstance(found, Augment) and not found.active):
                raise InputError(
                    f"{key}: found {found if usual is not None else 'augmentation'}, but the batches of {self.name},"
                    f" {self.kind}, are used as they come; {self.instead}"
                )
        warn(
            f"{self.name}: the batches of {self.kind} are used as they come. Their order, and what is random in them,"
            " follow the seed only as far as they are drawn from the generators of torch, NumPy and Python; their"
            " samples have no identity, so there are no stored answers and no clean view; and a training with them is"
            f" not resumed. {self.instead[0].upper()}{self.instead[1:]}, to have all of that",
            DataWarning,
        )

    def warn_of_absent(self) -> None:
        """Warn of the samples that `drop_last` leaves out."""
        if self.size is not None and getattr(self.loader, "drop_last", False):
            absent = len(self.loader.sampler) - self.size  # type: ignore[attr-defined]
            if absent:
                warn(
                    f"{self.name}: drop_last leaves {absent} samples out of what is measured; switch it off",
                    DataWarning,
                )

    def digest(self) -> str:
        """Refuse: what a loader will give is not known before it is read."""
        raise InputError(
            f"folder: {self.name} is {self.kind}, whose content is not known before it is read, so that a training with"
            f" it cannot be resumed; {self.instead}, or train without a folder"
        )


class StreamSource(LoaderSource):
    """An `IterableDataset`: its samples are put together to batches in their own order."""

    kind = "an IterableDataset"
    instead = "give a map-style dataset, with batch_size"

    @property
    def size(self) -> int | None:
        """How many samples an epoch has, where the dataset has a length."""
        return super().steps

    @property
    def steps(self) -> int | None:
        """Not known before the size of a batch is."""
        return self.size

    def batch_size(self, asked: int | None, otherwise: int) -> int:
        """Return the size that was asked for."""
        return otherwise if asked is None else asked

    def raw(self, batch_size: int) -> Iterable[Any]:
        """Return what gives the batches."""
        return _Chunks(self.name, self.loader, batch_size)


class _Chunks:
    """The samples of a stream, so many at a time."""

    def __init__(self, name: str, samples: Iterable[Any], size: int) -> None:
        self.name, self.samples, self.size = name, samples, size

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor | None]]:
        number, rest = 0, iter(self.samples)
        while items := list(islice(rest, self.size)):
            samples, labels = [], []
            for item in items:
                where = f"{self.name}: sample {number}"
                inputs, label = sample_of(where, item)
                samples.append(inputs)
                labels.append(label)
                number += 1
            yield stacked(where, samples), joined_labels(where, labels)


class _LoaderBatches:
    """Batches as a loader gives them, drawn with random numbers of their own."""

    def __init__(self, source: LoaderSource, batch_size: int, seed: int) -> None:
        self.source, self.raw, self.seed = source, source.raw(batch_size), seed
        steps = source.steps
        self._steps = -(-steps // batch_size) if steps is not None and isinstance(source, StreamSource) else steps

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        if self._steps is None:
            raise InputError(
                f"{self.source.name}: found {self.source.kind} without a length, expected one whose epochs have a known"
                " number of steps, by which the learning rate falls; give it a __len__"
            )
        return self._steps

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on; InputError in one of several processes."""
        del rank
        if world > 1:
            raise InputError(
                f"{self.source.name}: {self.source.kind} cannot be shared by {world} processes; {self.source.instead}"
            )
        return islice(self._batches(epoch), start, None)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        number = count = 0
        for number, item in enumerate(self._drawn(epoch), start=1):
            where = f"{self.source.name}: batch {number}"
            if number - 1 == self._steps:
                raise DataError(f"{where}: it has a length of {self._steps} batches and gives more; fix its __len__")
            inputs, labels = parts_of(where, item)
            inputs = inputs_of(where, inputs)
            check_batch(where, inputs)
            size = _length(where, inputs)
            if of_tokens(inputs, labels):
                numbers: Tensor | None = token_labels(where, labels)
            else:
                numbers = None if labels is None else class_numbers(where, labels, size)
            yield batch_of(self.source, where, torch.arange(count, count + size), epoch, inputs, numbers)
            count += size
        if number == 0 or (self._steps is not None and number != self._steps):
            raise DataError(
                f"{self.source.name}: gave {number} batches in an epoch, expected {self._steps or 'at least one'}"
            )

    def _drawn(self, epoch: int) -> Iterator[Any]:
        """Yield what the loader gives, which draws random numbers of its own: dropout's stay as they are."""
        with generators_kept():
            seed_generators(derive_seed(self.seed, "loader", epoch))
            rest = self._asked(lambda: iter(self.raw))
            own = generator_states()
        while True:
            with generators_kept():
                restore_generators(own)
                item = self._asked(lambda: next(rest, _END))
                own = generator_states()
            if item is _END:
                return
            yield item

    def _asked(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except LimbeckError:
            raise
        except Exception as error:
            if lacks_memory(error):
                raise
            raise DataError(
                f"{self.source.name}: reading a batch raised {type(error).__name__}: {one_line(error)}; fix what reads"
                " it"
            ) from error


def _length(where: str, inputs: Inputs) -> int:
    sizes = {len(each) for each in (inputs.values() if isinstance(inputs, dict) else [inputs])}
    if len(sizes) != 1:
        raise DataError(
            f"{where}: found columns of {', '.join(map(str, sorted(sizes)))} samples, expected the same number in each"
        )
    return sizes.pop()
