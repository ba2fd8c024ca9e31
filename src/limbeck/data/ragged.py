"""Token ids of unequal lengths: rows in one flat tensor, and what all sets of such rows do."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data.augment import Augment
from limbeck.data.content import Inputs, raw_bytes
from limbeck.data.sample_set import SampleSet
from limbeck.errors import DataError, InputError
from limbeck.randomness import permutation
from limbeck.tasks import UNLABELLED
from limbeck.tokenizers import Tokenizer

__all__ = ["Ragged", "RaggedSet", "bucketed", "refuse_views", "rounded_width"]

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
class RaggedSet(SampleSet):
    """Samples of token ids of unequal lengths, which are padded batch by batch.

    A subclass defines `lengths`, `gather` and `assemble`.

    Attributes:
        bucket: how many batches are sorted by length together, so that a batch has little padding; 0 for none.

    Example:
        >>> from limbeck.data import TextSet
        >>> issubclass(TextSet, RaggedSet)
        True
    """

    bucket: int = 0

    @property
    @abstractmethod
    def lengths(self) -> Tensor:
        """How many tokens each sample has: (n,) int64."""

    @property
    def own_tokenizer(self) -> Tokenizer:
        """The tokenizer that made the token ids; InputError for a set without one."""
        if self.tokenizer is None:
            raise InputError(f"{self.name}: found no tokenizer; expected the one that made its tokens")
        return self.tokenizer

    @property
    def fill(self) -> int:
        """The token id that pads rows: the tokenizer's, or 0."""
        tokenizer = self.tokenizer
        return 0 if tokenizer is None or tokenizer.special.pad is None else tokenizer.special.pad

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

    def needed(self, positions: Tensor, augment: Augment | None, seed: int, view: int) -> Tensor:
        """Return the positions themselves; DataError if random views are asked for."""
        refuse_views(self.name, augment)
        return positions

    def padded(self, side: Ragged, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (N,) of a side of the root set, padded to the width of a batch, and where they are tokens."""
        longest = int(side.lengths[rows].max()) if len(rows) else 1
        return side.padded(rows, self.fill, rounded_width(longest, self.max_length))

    def batch_of(
        self,
        inputs: Inputs,
        positions: Tensor,
        augment: Augment | None,
        *,
        clean_view: bool,
        mask: Tensor | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> Batch:
        """Return a batch of inputs that `gather` gave; DataError if random views are asked for.

        mask: (N, L) of tokens that are counted, to whose width the labels are cut; None for labels of whole samples.
        """
        refuse_views(self.name, augment)
        index, labels = self.index.index_select(0, positions), self.labels.index_select(0, positions)
        if mask is not None:
            width = mask.shape[1]
            labels = torch.nn.functional.pad(labels, (0, max(0, width - labels.shape[1])), value=UNLABELLED)[:, :width]
        return Batch(
            index=index,
            view=torch.zeros_like(index),
            inputs=inputs,
            labels=labels,
            mask=mask,
            views={"clean": inputs} if clean_view else {},
            source=self.source,
            task=self.task,
            extras=dict(extras or {}),
        )

    def written(self, side: Ragged, positions: Sequence[int]) -> list[str]:
        """Return samples of a side at some positions as text, special tokens left out."""
        rows = self.index[torch.as_tensor(positions, dtype=torch.int64)]
        ids, there = side.padded(rows, 0)
        return [self.own_tokenizer.decode(row[own].tolist()) for row, own in zip(ids, there, strict=True)]
