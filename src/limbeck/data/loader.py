"""From a set to batches: the order, the share of each rank and where to resume, all functions of (seed, epoch)."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Protocol

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.data.augment import Augment
from limbeck.data.content import Inputs
from limbeck.data.lazy import LazySet
from limbeck.data.sets import SampleSet
from limbeck.data.workers import Workers
from limbeck.errors import InputError

__all__ = ["Batches", "Loader", "part_of"]


class Batches(Protocol):
    """Where a training's batches come from."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield a rank's part of each batch of an epoch, from batch `start` on."""


class Loader:
    """Batches of a set, epoch by epoch.

    Args:
        samples: the set.
        batch_size: samples in a batch, of all ranks together.
        seed: of the order and the augmentation.
        shuffle: draw the order of each epoch at random.
        augment: random views of the samples; None for none.
        clean_view: add the unaugmented samples to each batch as `views["clean"]`.
        drop_last: omit the last batch of an epoch if it is smaller than the others.
        workers: processes that fetch the samples of a `LazySet`; other sets are in memory and need none.
        views: how many random views each sample has: epoch e shows view 1 + e mod views.  None for a new view in every
            epoch.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> from limbeck.data import TensorSet
        >>> loader = Loader(TensorSet.of(torch.zeros(10, 3)), 4, seed=0)
        >>> [len(batch) for batch in loader.epoch(0)]
        [4, 4, 2]
    """

    @checked
    def __init__(
        self,
        samples: SampleSet,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        augment: Augment | None = None,
        clean_view: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        views: int | None = None,
    ) -> None:
        checks.at_least("batch_size", batch_size, 1)
        checks.at_least("workers", workers, 0)
        if views is not None:
            checks.at_least("views", views, 1)
        if drop_last and batch_size > len(samples):
            raise InputError(
                f"batch_size: {batch_size} is more than the {len(samples)} samples of '{samples.name}', "
                "and drop_last leaves no batch; use a smaller batch, or drop_last=False"
            )
        self.samples = samples
        self.batch_size = batch_size if samples.lanes is None else samples.lanes
        self.seed = seed
        self.shuffle = shuffle
        self.augment = augment
        self.clean_view = clean_view
        self.drop_last = drop_last
        self.workers = workers
        self._readers = Workers(samples.to("cpu").gather, workers) if isinstance(samples, LazySet) else None
        self.views = views

    @property
    def steps(self) -> int:
        """Batches in an epoch, the same for every rank."""
        full, rest = divmod(len(self.samples), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield this rank's part of each batch of an epoch, from batch `start` on.

        The ranks' parts of a batch are contiguous and their sizes differ by at most one.  A rank that has no part gets
        one sample with a mask that is False, so that every rank takes every step.  Samples are augmented with
        view = epoch + 1, or 1 + epoch mod `views`.
        """
        checks.at_least("epoch", epoch, 0)
        checks.at_least("start", start, 0)
        checks.at_least("world", world, 1)
        checks.at_least("rank", rank, 0)
        if rank >= world:
            raise InputError(f"rank: found {rank}, expected 0 to {world - 1}")
        if start > self.steps:
            raise InputError(f"start: found {start}, expected 0 to {self.steps}, the batches of an epoch")
        return self._batches(epoch, start, rank, world)

    def _batches(self, epoch: int, start: int, rank: int, world: int) -> Iterator[Batch]:
        samples = self.samples.at_epoch(self.seed, epoch) if self.shuffle else self.samples
        shuffled = self.shuffle and samples.lanes is None
        order = samples.order(self.seed, epoch, self.batch_size) if shuffled else torch.arange(len(samples))
        chunks = order.split(self.batch_size)[start : self.steps]
        parts = [part_of(chunk, rank, world) for chunk in chunks]
        number = epoch if self.views is None else epoch % self.views
        view = number + 1 if self.augment is not None and self.augment.active else 0
        device = samples.index.device
        needed = [positions for positions, _ in parts]
        if view and self.augment is not None and self.augment.mixes:
            needed = [samples.needed(here.to(device), self.augment, self.seed, view).cpu() for here in needed]
        with closing(self._gathered(samples, needed)) as gathered:
            for (positions, present), fetched_ones in zip(parts, gathered, strict=True):
                here = positions.to(device)
                batch = samples.assemble(fetched_ones, here, self.augment, self.seed, view, self.clean_view)
                if not present:
                    batch.mask = torch.zeros(batch.places, dtype=torch.bool, device=device)
                yield batch

    def _gathered(self, samples: SampleSet, parts: list[Tensor]) -> Generator[Inputs]:
        """Yield the stored samples of each part, in order, read ahead by worker processes where there are any."""
        device = samples.index.device
        if self.workers and self._readers is not None:
            for answer in self._readers.fetch(parts):
                yield _placed(answer, device)
            return
        for positions in parts:
            yield samples.gather(positions.to(device))


def _placed(answer: Inputs, device: torch.device) -> Inputs:
    if isinstance(answer, Tensor):
        return answer.to(device, non_blocking=True)
    return {name: each.to(device, non_blocking=True) for name, each in answer.items()}


def part_of(chunk: Tensor, rank: int, world: int) -> tuple[Tensor, bool]:
    """Return a rank's positions of a batch, and whether they count: one sample that does not where it has none."""
    least, more = divmod(len(chunk), world)
    first = rank * least + min(rank, more)
    part = chunk[first : first + least + (rank < more)]
    return (part, True) if len(part) else (chunk[:1], False)
