"""From a set to batches: the order, the share of each rank and where to resume, all functions of (seed, epoch)."""

import pickle
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.data.augment import Augment
from limbeck.data.content import Inputs
from limbeck.data.lazy import LazySet
from limbeck.data.sets import SampleSet
from limbeck.errors import InputError, LimbeckError, one_line

__all__ = ["Batches", "Loader", "fetched", "part_of"]

_Fetched = TypeVar("_Fetched")


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
        with closing(_gathered(samples, needed, self.workers)) as gathered:
            for (positions, present), fetched_ones in zip(parts, gathered, strict=True):
                here = positions.to(device)
                batch = samples.assemble(fetched_ones, here, self.augment, self.seed, view, self.clean_view)
                if not present:
                    batch.mask = torch.zeros(batch.places, dtype=torch.bool, device=device)
                yield batch


def part_of(chunk: Tensor, rank: int, world: int) -> tuple[Tensor, bool]:
    """Return a rank's positions of a batch, and whether they count: one sample that does not where it has none."""
    least, more = divmod(len(chunk), world)
    first = rank * least + min(rank, more)
    part = chunk[first : first + least + (rank < more)]
    return (part, True) if len(part) else (chunk[:1], False)


def _gathered(samples: SampleSet, parts: list[Tensor], workers: int) -> Generator[Inputs]:
    """Yield the stored samples of each part, in order, fetched ahead by worker processes where that can help."""
    device = samples.index.device
    if isinstance(samples, LazySet) and workers:
        for answer in fetched(samples.to("cpu").gather, parts, workers):
            yield (
                answer.to(device) if isinstance(answer, Tensor) else {k: each.to(device) for k, each in answer.items()}
            )
        return
    yield from fetched(lambda positions: samples.gather(positions.to(device)), parts, 0)


def _placed(answer: Inputs, device: torch.device) -> Inputs:
    if isinstance(answer, Tensor):
        return answer.to(device)
    return {name: each.to(device) for name, each in answer.items()}


def fetched(gather: Callable[[Tensor], _Fetched], parts: Sequence[Tensor], workers: int) -> Generator[_Fetched]:
    """Yield what `gather` gives for each part, in order, fetched ahead by worker processes where there are any."""
    if not (workers and parts):
        for positions in parts:
            yield gather(positions)
        return
    sampler: Any = parts
    answers: DataLoader[Any] = DataLoader(
        _Remote(gather),
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # else it takes a number from the framework's, and dropout would depend on workers
    )
    for answer in _begun(answers, workers):
        if isinstance(answer, LimbeckError):
            raise answer
        yield answer


def _begun(answers: "DataLoader[Any]", workers: int) -> Iterator[Any]:
    """Return the answers of workers that have begun; InputError where a set cannot be sent to them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's longer word on the same
            return iter(answers)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workers: found {workers}, but the set's function or dataset cannot be sent to another process "
            f"({one_line(error)}); define it at the top level of a module, or set workers=0"
        ) from error


class _Remote(Dataset[Any], Generic[_Fetched]):
    """A set as worker processes see it; errors travel back as values, since torch turns raised ones into tracebacks."""

    def __init__(self, gather: Callable[[Tensor], _Fetched]) -> None:
        self.gather = gather

    def __getitem__(self, positions: Tensor) -> _Fetched | LimbeckError:
        try:
            return self.gather(positions)
        except LimbeckError as error:
            return error


def _as_it_is(value: Any) -> Any:
    return value
