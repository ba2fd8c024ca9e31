"""Samples that another library holds and limbeck reads as it needs them: what is known of them, and a dataset's."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.batch import UNLABELLED, Batch
from limbeck.data.augment import Augment
from limbeck.data.content import raw_bytes
from limbeck.data.generators import generators_kept, seed_generators
from limbeck.data.items import (
    Inputs,
    check_batch,
    check_range,
    check_sample,
    class_number,
    fetched_item,
    inputs_of,
    parts_of,
    scaled,
)
from limbeck.data.loader import Batches, Loader, part_of
from limbeck.data.sets import SampleSet
from limbeck.data.token_rows import check_no_copies, is_ragged, of_tokens, padded_rows, token_labels
from limbeck.data.workers import Workers
from limbeck.errors import DataError, DataWarning, InputError, warn
from limbeck.randomness import derive_seed, permutation
from limbeck.tasks import CLASSIFICATION, TOKENS, Task

__all__ = ["DatasetSource", "Source", "batch_of", "joined_labels", "one_pass", "sample_of", "stacked"]

Label = int | Tensor | None
"""Of a sample: the number of a class, one for each of its tokens (L,), or none."""

_APART = 0x9E3779B97F4A7C15  # by which the seeds of neighbouring samples differ
_TRIED = 4  # samples that are read twice, to see whether they are the same


class Source(ABC):
    """Samples of another library, of which limbeck knows what it has read.

    name: what error lines call it.  classes: how many there are, once a model's answer has said so.  task: that of the
    first batch that is read, `TOKENS` where its rows have a label for each token.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.classes: int | None = None
        self.task: Task = CLASSIFICATION
        self._read_some = False

    def note(self, where: str, inputs: Inputs, labels: Tensor | None) -> None:
        """Note the task of a batch; DataError where it is not that of those before, or its labels are its inputs."""
        if labels is None:
            return
        task = TOKENS if labels.dim() == 2 else CLASSIFICATION
        if not self._read_some:
            self.task, self._read_some = task, True
            check_no_copies(self.name, inputs, labels)
        if task is not self.task:
            raise DataError(
                f"{where}: found labels of shape {tuple(labels.shape)} behind others for each"
                f" {'token' if self.task is TOKENS else 'sample'}; expected the same in all. Label all alike"
            )

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many samples an epoch has; None where that is not known."""

    @abstractmethod
    def batches(self, batch_size: int, *, seed: int, shuffle: bool, workers: int) -> Batches:
        """Return the batches of a training, or those of one pass in order."""

    @abstractmethod
    def batch_size(self, asked: int | None, otherwise: int) -> int:
        """Return how many samples a batch has; InputError where other batches are asked for than there are."""

    @abstractmethod
    def check(self, *, augment: Augment, accumulate: int, workers: int) -> None:
        """Require settings of a training that hold for such samples, and warn of what is not as exact as with a set."""

    @abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 of the content; InputError where it cannot be known."""

    def warn_of_absent(self) -> None:
        """Warn of samples that one pass leaves out; a dataset's are all read."""
        return

    def to(self, _device: torch.device | str) -> Self:
        """Return itself: batches are placed as they come."""
        return self


def batch_of(source: Source, where: str, index: Tensor, epoch: int, inputs: Inputs, labels: Tensor | None) -> Batch:
    """Return a batch of what was read in an epoch; DataError for a label that no class has."""
    mask = None
    source.note(where, inputs, labels)
    if labels is not None:
        check_range(where, labels, source.classes)
        mask = labels != UNLABELLED if source.task is TOKENS else None
    views = torch.full_like(index, epoch + 1)
    return Batch(
        index=index, view=views, inputs=scaled(inputs), labels=labels, mask=mask, augmented=True, task=source.task
    )


def one_pass(samples: SampleSet | Source, batch_size: int, *, clean_view: bool = False) -> Batches:
    """Return the batches of one pass over samples, unaugmented and in their order."""
    if isinstance(samples, Source):
        return samples.batches(batch_size, seed=0, shuffle=False, workers=0)
    return Loader(samples, batch_size, seed=0, shuffle=False, clean_view=clean_view)


class DatasetSource(Source):
    """A map-style dataset: each sample is read anew in each epoch, with the random numbers of (seed, epoch, sample).

    So a dataset that draws from the generators of torch, NumPy and Python gives the same samples in any process, and
    after an interruption.

    Example:
        >>> source = DatasetSource("train_set", [(torch.zeros(3), 0), (torch.ones(3), 1)])
        >>> [batch.labels.tolist() for batch in source.batches(1, seed=0, shuffle=False, workers=0).epoch(0)]
        [[0], [1]]
    """

    def __init__(self, name: str, dataset: Any) -> None:
        super().__init__(name)
        self.dataset = dataset
        if not len(dataset):
            raise DataError(f"{name}: found 0 samples, expected at least one")

    @property
    def size(self) -> int:
        """How many samples there are."""
        return len(self.dataset)

    def batches(self, batch_size: int, *, seed: int, shuffle: bool, workers: int) -> "_DatasetBatches":
        """Return its batches, in the order that a `SampleSet` of the same length has."""
        return _DatasetBatches(self, batch_size, seed, shuffle, workers)

    def batch_size(self, asked: int | None, otherwise: int) -> int:
        """Return the size that was asked for."""
        return otherwise if asked is None else asked

    def check(self, *, augment: Augment, accumulate: int, workers: int) -> None:
        """Refuse augmentation, and warn of samples that random numbers of other generators decide."""
        del accumulate, workers
        if augment.active:
            raise InputError(
                f"augment: {self.name} is a dataset, which augments its samples itself; put it into its transform, or"
                " give limbeck.data.LazySet.of(dataset), whose samples are the same each time"
            )
        if not self._is_repeatable():
            warn(
                f"{self.name}: samples of the dataset differ each time they are read, though the generators of torch,"
                " NumPy and Python stand the same; a training with them cannot be repeated bit for bit, nor resumed",
                DataWarning,
            )

    def digest(self) -> str:
        """Return the SHA-256 of all samples, as one pass reads them."""
        if not self._is_repeatable():
            raise InputError(
                f"folder: samples of {self.name} differ each time they are read, so that a training with them cannot be"
                " resumed; train without a folder, or let the dataset draw from torch's generator"
            )
        digest = hashlib.sha256(f"dataset {self.size}".encode())
        for position in range(self.size):
            inputs, label = self._read_alike(position)
            said = label.tolist() if isinstance(label, Tensor) else label
            for key, tensor in inputs.items() if isinstance(inputs, Mapping) else (("", inputs),):
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} {said}".encode())
                digest.update(raw_bytes(tensor))
        return digest.hexdigest()

    def gather(self, positions: Tensor, seed: int) -> tuple[Inputs, Tensor | None]:
        """Return the samples at `positions` (n,) and their labels (n,) int64; None where they have none."""
        samples, labels = [], []
        with generators_kept():
            for position in positions.tolist():
                seed_generators((seed + position * _APART) % 2**63)
                inputs, label = self._read(position)
                samples.append(inputs)
                labels.append(label)
        batch = stacked(f"{self.name}: samples {positions[:3].tolist()}", samples)
        try:
            check_batch(self.name, batch)
        except DataError:
            for position, sample in zip(positions.tolist(), samples, strict=True):
                check_sample(f"{self.name}: sample {position}", sample)
            raise
        return batch, joined_labels(f"{self.name}: samples {positions[:3].tolist()}", labels)

    def _is_repeatable(self) -> bool:
        some = torch.linspace(0, self.size - 1, min(self.size, _TRIED)).long().tolist()
        return all(_equal(self._read_alike(each), self._read_alike(each)) for each in some)

    def _read_alike(self, position: int) -> tuple[Inputs, Label]:
        with generators_kept():
            seed_generators(position)
            return self._read(position)

    def _read(self, position: int) -> tuple[Inputs, Label]:
        where = f"{self.name}: sample {position}"
        return sample_of(where, fetched_item(self.name, self.dataset.__getitem__, position))


class _DatasetBatches:
    """Batches of a dataset, as `Loader` has those of a set."""

    def __init__(self, source: DatasetSource, batch_size: int, seed: int, shuffle: bool, workers: int) -> None:
        self.source, self.batch_size, self.seed, self.shuffle = source, batch_size, seed, shuffle
        self._readers = Workers(source.gather, workers)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-self.source.size // self.batch_size)

    def epoch(self, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield this rank's part of each batch of an epoch, from batch `start` on."""
        size = self.source.size
        order = permutation(self.seed, "order", epoch, size) if self.shuffle else torch.arange(size)
        parts = [part_of(chunk, rank, world) for chunk in order.split(self.batch_size)[start:]]
        seed = derive_seed(self.seed, "samples", epoch)
        answers = self._readers.fetch([positions for positions, _ in parts], seed)
        for (positions, present), (inputs, labels) in zip(parts, answers, strict=True):
            batch = batch_of(self.source, self.source.name, positions, epoch, inputs, labels)
            if not present:
                batch.mask = torch.zeros(batch.places, dtype=torch.bool)
            yield batch


def sample_of(where: str, item: Any) -> tuple[Inputs, Label]:
    """Return the inputs and the label of a sample: the number of a class, or one for each of its tokens."""
    inputs, label = parts_of(where, item)
    found = inputs_of(where, inputs)
    if of_tokens(found, label):
        return found, token_labels(where, label)
    return found, None if label is None else class_number(where, label)


def stacked(where: str, samples: Sequence[Inputs]) -> Inputs:
    """Return samples as a batch, rows of tokens padded; DataError where they are not alike."""
    if is_ragged(samples):
        samples = padded_rows(samples)  # type: ignore[arg-type]
    first = samples[0]
    if isinstance(first, Mapping):
        if any(not isinstance(each, Mapping) or each.keys() != first.keys() for each in samples):
            raise DataError(f"{where}: found samples of different columns, expected {', '.join(first)} in each")
        return {name: _stack(where, [each[name] for each in samples]) for name in first}  # type: ignore[index]
    return _stack(where, samples)


def joined_labels(where: str, labels: Sequence[Label]) -> Tensor | None:
    """Return the labels of samples as int64 (n,), or (n, L) of tokens; None where none has any.

    `UNLABELLED` is that of a sample without one, and of padding.
    """
    if all(label is None for label in labels):
        return None
    rows = [label for label in labels if isinstance(label, Tensor)]
    if rows and len(rows) < len(labels):
        raise DataError(
            f"{where}: found labels for each token of some samples and not of others; expected the same in all. Label"
            " all alike"
        )
    if rows:
        return pad_sequence(rows, batch_first=True, padding_value=UNLABELLED)
    return torch.tensor([UNLABELLED if label is None else label for label in labels])


def _stack(where: str, tensors: Sequence[Any]) -> Tensor:
    kinds = {(tuple(each.shape), each.dtype) if isinstance(each, Tensor) else (None, dict) for each in tensors}
    if len(kinds) > 1:
        shapes = " and ".join(f"{str(dtype).removeprefix('torch.')} {shape}" for shape, dtype in list(kinds)[:2])
        raise DataError(
            f"{where}: found samples of {shapes} in one batch, expected one shape and type; resize or pad them"
        )
    return torch.stack(list(tensors))


def _equal(one: tuple[Inputs, Label], other: tuple[Inputs, Label]) -> bool:
    def tensors(sample: tuple[Inputs, Label]) -> list[Tensor]:
        inputs, label = sample
        own = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
        return (
            [*own, label] if isinstance(label, Tensor) else [*own, torch.tensor(UNLABELLED if label is None else label)]
        )

    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)
