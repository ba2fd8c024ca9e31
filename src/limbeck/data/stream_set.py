"""A stream of text: one tensor of token ids, cut into chunks along lanes that a recurrent state follows."""

import hashlib
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch, Lanes
from limbeck.data.augment import Augment
from limbeck.data.content import Inputs, raw_bytes
from limbeck.data.ragged import refuse_views
from limbeck.data.sets import SampleSet
from limbeck.errors import DataError, InputError
from limbeck.randomness import normal, uniform
from limbeck.tasks import TOKENS, UNLABELLED
from limbeck.tokenizers import Tokenizer

__all__ = ["TokenStream"]

_Stream = TypeVar("_Stream", bound="TokenStream")

_SHORT_SHARE, _SPREAD, _LEAST = 0.05, 5.0, 5
"""Of lengths that vary: how often the mean is half of `length`, the standard deviation, and the least length."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TokenStream(SampleSet):
    """A stream of token ids for a language model, whose task is the next token (`tokens`).

    The n tokens are cut into lanes of ⌊(n-1)/lanes⌋ tokens, and each lane into chunks.  Sample c·lanes + b is chunk c
    of lane b; a batch has one chunk of every lane, and the next batch continues it.  Inputs are (N, L) int64, labels
    (N, L) the tokens one place further; the index of a sample is the position of its first token in the root stream.
    The further attributes are those of `SampleSet`; create one with `TokenStream.of`.

    Attributes:
        ids: (n,) int32, the root stream.
        start: the position at which this part of the root stream begins.
        stop: the position at which it ends.
        rows: the number of lanes.
        length: of a chunk in tokens; the last one may be shorter.
        sizes: (samples,) int64, the length of each chunk.
        moving: whether the chunks of each epoch begin elsewhere, a function of (seed, epoch).
        varying: whether chunks have lengths of their own in each epoch, a function of (seed, epoch, chunk).
        evaluation: lanes and length of parts that are held out.

    Example:
        >>> from limbeck.tokenizers import Words
        >>> words = Words().fit(["a b c d e f g"])
        >>> stream = TokenStream.of(torch.arange(7), tokenizer=words, lanes=2, length=2)
        >>> batch = stream.batch(torch.tensor([0, 1]), augment=None, seed=0, view=0)
        >>> batch.inputs, batch.labels
        (tensor([[0, 1],
                [3, 4]]), tensor([[1, 2],
                [4, 5]]))
    """

    ids: Tensor
    start: int
    stop: int
    rows: int
    length: int
    sizes: Tensor
    moving: bool = False
    varying: bool = False
    evaluation: tuple[int, int] = (1, 35)

    @classmethod
    @checked
    def of(
        cls,
        ids: Tensor,
        *,
        tokenizer: Tokenizer,
        lanes: int = 20,
        length: int = 35,
        moving: bool = False,
        varying: bool = False,
        evaluation: tuple[int, int] | None = None,
        name: str = "stream",
    ) -> "TokenStream":
        """Cut token ids (n,) of whole numbers into chunks along lanes.

        evaluation: lanes and length of parts that are held out; by default those of the set itself.
        Raises DataError for ids that the tokenizer does not have, or too few of them; InputError for a wrong setting.
        """
        lanes_of_parts, length_of_parts = (lanes, length) if evaluation is None else evaluation
        for key, value in (("lanes", lanes), ("length", length)):
            checks.at_least(key, value, 1)
        for key, value in (("evaluation_lanes", lanes_of_parts), ("evaluation_length", length_of_parts)):
            checks.at_least(key, value, 1)
        if ids.dim() != 1 or ids.is_floating_point() or ids.dtype == torch.bool or ids.is_complex():
            raise DataError(f"{name}: found ids {ids.dtype} {tuple(ids.shape)}; expected whole numbers (n,)")
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(tokenizer):
            raise DataError(
                f"{name}: found ids from {int(ids.min())} to {int(ids.max())}; expected 0 to {len(tokenizer) - 1}, the"
                " tokens of the vocabulary"
            )
        ids = ids.detach().to(torch.int32)
        digest = hashlib.sha256(f"{tokenizer.fingerprint} {len(ids)}".encode())
        digest.update(raw_bytes(ids))
        blank = torch.zeros(0, dtype=torch.int64)
        whole = cls(
            name=name,
            classes=len(tokenizer),
            class_names=tokenizer.names,
            source=digest.hexdigest(),
            index=blank,
            labels=blank,
            input_shape=(length,),
            task=TOKENS,
            vocabulary=tokenizer.names,
            max_length=2 * length if varying else length,
            tokenizer=tokenizer,
            ids=ids,
            start=0,
            stop=len(ids),
            rows=lanes,
            length=length,
            sizes=blank,
            moving=moving,
            varying=varying,
            evaluation=(lanes_of_parts, length_of_parts),
        )
        return _cut(whole)

    @property
    def form(self) -> str:
        """A stream."""
        return "stream"

    @property
    def lanes(self) -> int:
        """The number of lanes, which is the number of samples in a batch."""
        return self.rows

    @property
    def kept_dtype(self) -> torch.dtype:
        """The type of the samples that a model gets."""
        return torch.int64

    @property
    def tokens(self) -> int:
        """How many tokens are to be predicted."""
        return int(self.sizes.sum())

    def __len__(self) -> int:
        return len(self.index)

    def at_epoch(self, seed: int, epoch: int) -> Self:
        """Return the stream as an epoch has it: cut elsewhere if it is `moving` or `varying`, into as many chunks."""
        if not (self.moving or self.varying):
            return self
        return _cut(self, (seed, epoch))

    def digest(self) -> str:
        """Return the SHA-256 of all that a training sees of the set."""
        settings = (self.start, self.stop, self.rows, self.length, self.moving, self.varying)
        return hashlib.sha256(f"{super().digest()} {settings}".encode()).hexdigest()

    def require_repeatable(self) -> None:
        """Require nothing: the tokens are in memory."""

    def order(self, seed: int, epoch: int, batch_size: int = 1) -> Tensor:
        """Return the positions in their order: a stream is never shuffled."""
        return torch.arange(len(self))

    def gather(self, positions: Tensor) -> Inputs:
        """Return the tokens at `positions`, (N, L) int64, L being the length of the longest chunk among them."""
        begin = self.index.index_select(0, positions)
        width = int(self.sizes.index_select(0, positions).max()) if len(positions) else 1
        places = begin[:, None] + torch.arange(width, device=begin.device)
        return self.ids[places.clamp_max(len(self.ids) - 1)].long()

    def needed(self, positions: Tensor, augment: Augment | None, seed: int, view: int) -> Tensor:
        """Return the positions themselves; DataError if random views are asked for."""
        refuse_views(self.name, augment)
        return positions

    def assemble(
        self, gathered: Inputs, positions: Tensor, augment: Augment | None, seed: int, view: int, clean_view: bool
    ) -> Batch:
        """Return the batch of what `gather` gave, with the lanes that its rows continue."""
        refuse_views(self.name, augment)
        if not isinstance(gathered, Tensor):
            raise TypeError("a stream gathers one tensor")
        index, sizes = self.index.index_select(0, positions), self.sizes.index_select(0, positions)
        width = gathered.shape[1]
        return Batch(
            index=index,
            view=torch.zeros_like(index),
            inputs=gathered,
            labels=self.labels.index_select(0, positions)[:, :width],
            mask=torch.arange(width, device=index.device) < sizes[:, None],
            views={"clean": gathered} if clean_view else {},
            source=self.source,
            task=self.task,
            lanes=Lanes(positions % self.rows, positions < self.rows),
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the set with all its tensors on `device`."""
        return replace(super().to(device), ids=self.ids.to(device), sizes=self.sizes.to(device))

    def part(self, start: int, stop: int, *, held_out: bool = False) -> Self:
        """Return the tokens of the root stream from `start` to `stop`, cut anew.

        held_out: whether they are for measuring: cut plainly, with the lanes and length of `evaluation`.
        """
        changed = replace(self, start=start, stop=stop)
        if held_out:
            rows, length = self.evaluation
            changed = replace(
                changed, rows=rows, length=length, max_length=length, input_shape=(length,), moving=False, varying=False
            )
        return _cut(changed)

    def subset(self, positions: Tensor) -> Self:
        """Return whole chunks of all lanes, one behind the other; DataError for other samples, which have no lanes."""
        positions = torch.as_tensor(positions, device=self.index.device)
        if torch.equal(positions, torch.arange(len(self), device=positions.device)):
            return self
        whole = len(positions) % self.rows == 0 and len(positions) > 0 and int(positions[0]) % self.rows == 0
        if not whole or bool((positions.diff() != 1).any()) or int(positions[-1]) >= len(self) or int(positions[0]) < 0:
            raise DataError(
                f"{self.name}: found samples here and there of a stream; expected whole chunks of its {self.rows} lanes"
                " in their order. Take a share of the stream instead (fraction, split, or most in the recipe)"
            )
        parts = {name: getattr(self, name)[positions] for name in ("index", "labels", "sizes")}
        return replace(self, **parts, moving=False, varying=False)

    def fraction(self, share: float, seed: int) -> Self:
        """Return the first share of the stream, in (0, 1]."""
        checks.positive("fraction", share)
        checks.unit_interval("fraction", share)
        return self.part(self.start, self.start + round(share * (self.stop - self.start)))

    def split(self, share_or_count: float, seed: int, *, stratify: bool = False) -> tuple[Self, Self]:
        """Hold out the end of the stream: return (rest, held out), the second with the lanes of `evaluation`.

        share_or_count: a share in (0, 1), or a whole number of samples, whose tokens are held out.
        Raises InputError when either part would be empty.
        """
        size = self.stop - self.start
        known = isinstance(share_or_count, int | float) and not isinstance(share_or_count, bool)
        share = share_or_count if isinstance(share_or_count, float) else 0.0
        count = round(share * size) if share else int(share_or_count) * self.length if known else 0
        if not 0 < count < size or not known:
            raise InputError(
                f"split: found {share_or_count!r} of {len(self)} samples, expected a share in (0, 1) or a whole number"
                " that leaves samples in both parts"
            )
        border = self.stop - count
        return self.part(self.start, border), self.part(border, self.stop, held_out=True)


def _cut(stream: _Stream, drawn: tuple[int, int] | None = None) -> _Stream:
    """Return the stream in chunks; drawn: the seed and epoch of what is random, None for a plain cut."""
    usable = stream.stop - stream.start - 1 - (stream.length - 1 if stream.moving else 0)
    lane = usable // stream.rows
    if lane < 1:
        raise DataError(
            f"{stream.name}: found {stream.stop - stream.start:,} tokens; expected at least"
            f" {stream.stop - stream.start - usable + stream.rows:,} for {stream.rows} lanes and chunks of"
            f" {stream.length}. Use fewer lanes, shorter chunks or more text"
        )
    shift, borders = 0, _borders(stream, lane, drawn)
    if stream.moving and drawn is not None:
        epoch = torch.tensor([drawn[1]])
        shift = int(uniform(drawn[0], "stream start", epoch, torch.zeros_like(epoch)).double() * stream.length)
    sizes = borders.diff().repeat_interleave(stream.rows)
    begin = stream.start + shift + lane * torch.arange(stream.rows)
    index = (borders[:-1, None] + begin).flatten().to(stream.ids.device)
    sizes = sizes.to(stream.ids.device)
    place = torch.arange(int(sizes.max()), device=stream.ids.device)
    there = place < sizes[:, None]
    targets = (index[:, None] + place + 1).clamp_max(len(stream.ids) - 1)
    labels = stream.ids[targets].long().masked_fill_(~there, UNLABELLED)
    if stream.labels.numel() and bool((stream.labels == UNLABELLED).all()):
        labels = torch.full_like(labels, UNLABELLED)
    return replace(stream, index=index, labels=labels, sizes=sizes)


def _borders(stream: TokenStream, lane: int, drawn: tuple[int, int] | None) -> Tensor:
    """Return where the chunks of a lane begin, and its end: (chunks + 1,) int64, increasing.

    Lengths that vary are drawn, and then scaled by the same factor so that as many as in every epoch fill the lane.
    """
    if not stream.varying:
        return torch.cat([torch.arange(0, lane, stream.length), torch.tensor([lane])])
    mean = stream.length * (1 - _SHORT_SHARE / 2)
    chunks = min(lane, max(1, -int(-lane // mean)))
    even = torch.arange(chunks + 1) * lane // chunks
    if drawn is None:
        return even
    seed, epoch = drawn
    number = torch.arange(chunks)
    view = torch.full_like(number, epoch)
    short = uniform(seed, "short chunks", view, number)[:, 0] < _SHORT_SHARE
    means = torch.where(short, stream.length / 2, float(stream.length)).double()
    sizes = (means + _SPREAD * normal(seed, "chunk lengths", view, number)[:, 0].double()).floor().long()
    ends = sizes.clamp(min(_LEAST, stream.length), 2 * stream.length).cumsum(0)
    borders = torch.cat([torch.zeros(1, dtype=torch.int64), (ends * lane + ends[-1] // 2) // ends[-1]])
    found = borders.diff()
    return borders if 0 < int(found.min()) and int(found.max()) <= stream.max_length else even
