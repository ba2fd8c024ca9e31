"""Sets of texts: token ids of unequal lengths in one flat tensor, padded batch by batch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.data.augment import Augment
from limbeck.data.content import Inputs, checked_labels, raw_bytes
from limbeck.data.sets import SampleSet
from limbeck.errors import DataError, InputError
from limbeck.randomness import permutation
from limbeck.tasks import CLASSIFICATION, Task
from limbeck.tokenizers import Tokenizer

__all__ = ["Ragged", "TextSet", "bucketed", "refuse_views", "rounded_width"]

_MULTIPLE = 8


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal lengths, one behind the other: row i is flat[offsets[i]:offsets[i + 1]].

    flat: (total,) int32.  offsets: (n + 1,) int64, from 0 on.
    """

    flat: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        """Return rows of whole numbers below 2^31.

        >>> Ragged.of([[4, 5], [], [6]]).offsets
        tensor([0, 2, 2, 3])
        """
        lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
        return cls(torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int32), lengths.cumsum(0))

    @property
    def lengths(self) -> Tensor:
        """How long each row is: (n,) int64."""
        return self.offsets.diff()

    def padded(self, rows: Tensor, fill: int, width: int | None = None) -> tuple[Tensor, Tensor]:
        """Return some rows with `fill` behind them, (N, width) int64, and where they are rows and no filling, bool.

        width: by default the length of the longest, and 1 at least.

        >>> Ragged.of([[4, 5], [], [6]]).padded(torch.tensor([2, 0]), fill=0)[0]
        tensor([[6, 0],
                [4, 5]])
        """
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        if width is None:
            width = max(1, int(lengths.max())) if len(rows) else 1
        place = torch.arange(width, device=rows.device)
        there = place < lengths[:, None]
        flat = self.flat if len(self.flat) else self.flat.new_zeros(1)
        values = flat[(starts[:, None] + place).clamp_max(len(flat) - 1)].long()
        return values.masked_fill_(~there, fill), there

    def to(self, device: torch.device | str) -> "Ragged":
        """Return the rows on a device."""
        return Ragged(self.flat.to(device), self.offsets.to(device))

    def digest(self) -> bytes:
        """Return the SHA-256 of the rows."""
        found = hashlib.sha256(raw_bytes(self.offsets))
        found.update(raw_bytes(self.flat))
        return found.digest()


def rounded_width(longest: int, max_length: int) -> int:
    """Return how wide a batch is: the length of its longest text, rounded up to 8, but not above `max_length`.

    >>> rounded_width(13, 64), rounded_width(13, 14)
    (16, 14)
    """
    return min(-(-max(longest, 1) // _MULTIPLE) * _MULTIPLE, max(max_length, longest))


def refuse_views(name: str, augment: Augment | None) -> None:
    """Require that no random views of texts are asked for; DataError otherwise."""
    if augment is not None and (augment.active or augment.other_view):
        raise DataError(
            f"augment: found random views, expected none for '{name}': its samples are texts, which no shift, noise or"
            " mixing makes sense of. Leave augment out"
        )


def bucketed(order: Tensor, lengths: Tensor, seed: int, epoch: int, batch_size: int, pool: int) -> Tensor:
    """Return an order in which batches hold texts of similar length: a function of (seed, epoch, batch_size).

    The order is cut into pools of `pool` batches, each pool is sorted by length and cut into batches, and the batches
    are shuffled.  A smaller batch, if there is one, is the last.

    order: (n,) int64, positions in random order.  lengths: (n,) of each position.
    """
    size = pool * batch_size
    pools = [part[lengths[part].argsort(stable=True)] for part in order.split(size)]
    batches = list(chain.from_iterable(part.split(batch_size) for part in pools))
    last = [batches.pop()] if len(batches[-1]) < batch_size else []
    turns = permutation(seed, "batches", epoch, len(batches)).tolist()
    return torch.cat([*(batches[turn] for turn in turns), *last])


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TextSet(SampleSet):
    """Texts, or pairs of texts, with a label each.

    A batch's inputs are {"input_ids", "attention_mask"} (N, L) int64, of pairs "token_type_ids" too.  L is the length
    of the longest text of the batch, rounded up to 8 but not above `max_length`.  The further attributes are those of
    `SampleSet`; create one with `TextSet.of`.

    Attributes:
        rows: the token ids of the root set.
        types: the token types of the root set, of pairs; otherwise None.
        bucket: how many batches are sorted by length together, so that a batch has little padding; 0 for none.

    Example:
        >>> from limbeck.tokenizers import Words
        >>> texts = ["a good film", "bad"]
        >>> samples = TextSet.of(texts, torch.tensor([1, 0]), tokenizer=Words().fit(texts))
        >>> samples.batch(torch.tensor([0, 1]), augment=None, seed=0, view=0).inputs["input_ids"]
        tensor([[0, 1, 2, 3],
                [4, 3, 3, 3]])
    """

    rows: Ragged
    types: Ragged | None = None
    bucket: int = 0

    @classmethod
    @checked
    def of(
        cls,
        texts: Sequence[str],
        labels: Tensor | None = None,
        *,
        tokenizer: Tokenizer,
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
        bucket: int = 0,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "texts",
        task: Task = CLASSIFICATION,
    ) -> "TextSet":
        """Encode texts with the tokenizer's special tokens.

        texts: one a sample.  labels: (n,), as `TensorSet.of` takes them.
        pairs: the second text of each sample.
        max_length: of a sample in tokens, special tokens included; longer ones are cut, of pairs the longer text first.
            None for the length of the longest.
        bucket: how many batches are sorted by length together; 0 for none.
        classes, class_names, task: as of `TensorSet.of`.
        Raises DataError when the texts are not such a set, InputError when a setting is out of range.
        """
        checks.at_least("bucket", bucket, 0)
        if max_length is not None:
            checks.at_least("max_length", max_length, 1)
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"{name}: found {len(texts)} texts and {len(pairs)} second ones; expected as many")
        labels, classes, names = checked_labels(name, len(texts), labels, classes, class_names, task)
        first = tokenizer.encode_all(texts)
        second = [None] * len(first) if pairs is None else tokenizer.encode_all(pairs)
        framed = [tokenizer.framed(*both, max_length=max_length) for both in zip(first, second, strict=True)]
        rows = Ragged.of([ids for ids, _ in framed])
        types = None if pairs is None else Ragged(Ragged.of([kinds for _, kinds in framed]).flat, rows.offsets)
        longest = max(1, int(rows.lengths.max()))
        digest = hashlib.sha256(f"{tokenizer.fingerprint} {max_length} {task.name} {classes}".encode())
        for each in (rows, types):
            digest.update(b"none" if each is None else each.digest())
        digest.update(raw_bytes(labels))
        return cls(
            name=name,
            classes=classes,
            class_names=names,
            source=digest.hexdigest(),
            index=torch.arange(len(texts)),
            labels=labels,
            input_shape=(max_length or longest,),
            task=task,
            vocabulary=tokenizer.names,
            tokenizer=tokenizer,
            max_length=max_length or longest,
            rows=rows,
            types=types,
            bucket=bucket,
        )

    @property
    def form(self) -> str:
        """Whether samples are single texts ("sentences") or "pairs" of them."""
        return "sentences" if self.types is None else "pairs"

    @property
    def lengths(self) -> Tensor:
        """How many tokens each sample has: (n,) int64."""
        return self.rows.lengths[self.index]

    def digest(self) -> str:
        """Return the SHA-256 of all that a training sees of the set."""
        return hashlib.sha256(f"{super().digest()} {self.bucket}".encode()).hexdigest()

    def require_repeatable(self) -> None:
        """Require nothing: the tokens are in memory."""

    def order(self, seed: int, epoch: int, batch_size: int = 1) -> Tensor:
        """Return the positions of an epoch's samples (len,): a function of (seed, epoch), with buckets of batches."""
        order = permutation(seed, "order", epoch, len(self))
        if not self.bucket:
            return order
        return bucketed(order, self.lengths.cpu(), seed, epoch, batch_size, self.bucket)

    def gather(self, positions: Tensor) -> Inputs:
        """Return the tokens at `positions` within this set, padded: a mapping of (N, L) int64."""
        rows = self.index.index_select(0, positions)
        longest = int(self.rows.lengths[rows].max()) if len(rows) else 1
        width = rounded_width(longest, self.max_length)
        ids, there = self.rows.padded(rows, self._fill, width)
        inputs = {"input_ids": ids, "attention_mask": there.long()}
        if self.types is not None:
            inputs["token_type_ids"] = self.types.padded(rows, 0, width)[0]
        return inputs

    def assemble(
        self, gathered: Inputs, positions: Tensor, augment: Augment | None, seed: int, view: int, clean_view: bool
    ) -> Batch:
        """Return the batch of samples that `gather` gave; DataError if random views are asked for."""
        refuse_views(self.name, augment)
        index = self.index.index_select(0, positions)
        return Batch(
            index=index,
            view=torch.zeros_like(index),
            inputs=gathered,
            labels=self.labels.index_select(0, positions),
            views={"clean": gathered} if clean_view else {},
            source=self.source,
            task=self.task,
        )

    def needed(self, positions: Tensor, augment: Augment | None, seed: int, view: int) -> Tensor:
        """Return the positions themselves; DataError if random views are asked for."""
        refuse_views(self.name, augment)
        return positions

    def to(self, device: torch.device | str) -> Self:
        """Return the set with all its tensors on `device`."""
        types = None if self.types is None else self.types.to(device)
        return replace(super().to(device), rows=self.rows.to(device), types=types)

    @property
    def _fill(self) -> int:
        tokenizer = self.tokenizer
        return 0 if tokenizer is None or tokenizer.special.pad is None else tokenizer.special.pad

    def texts(self, positions: Sequence[int]) -> list[str]:
        """Return the samples at some positions as text, special tokens left out."""
        rows = self.index[torch.as_tensor(positions, dtype=torch.int64)]
        if self.tokenizer is None:
            raise InputError(f"{self.name}: found no tokenizer; expected one to write tokens as text")
        ids, there = self.rows.padded(rows, 0)
        return [self.tokenizer.decode(row[own].tolist()) for row, own in zip(ids, there, strict=True)]
