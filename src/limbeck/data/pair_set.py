"""Sets of pairs: a source text, and the target that is to be written for it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.data.augment import Augment
from limbeck.data.content import Inputs
from limbeck.data.ragged import Ragged, RaggedSet
from limbeck.errors import DataError, InputError
from limbeck.tasks import TOKENS, UNLABELLED
from limbeck.tokenizers import Tokenizer

__all__ = ["PairSet"]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PairSet(RaggedSet):
    """Pairs of a source and a target for an encoder and decoder, whose task is the next token of the target.

    A batch's inputs are {"input_ids", "attention_mask"} (N, S) of the sources and "decoder_input_ids" (N, L), a token
    that begins each target and then all of it but its last token; labels and mask are (N, L).  S and L are the longest
    of the batch, rounded up to 8.  The further attributes are those of `SampleSet`; create one with `PairSet.of`.

    Attributes:
        sources: the token ids of the root set's sources.
        targets: the token ids of its targets, each with the token that ends it.
        begin: the id that begins a target: of the token for it, or else of the one that ends it.
        max_target: the largest number of tokens of a target.

    Example:
        >>> from limbeck.tokenizers import Characters
        >>> letters = Characters().fit(["abc"])
        >>> pairs = PairSet.of(["bc"], ["abc"], tokenizer=letters)
        >>> batch = pairs.batch(torch.tensor([0]), augment=None, seed=0, view=0)
        >>> batch.inputs["decoder_input_ids"].tolist(), batch.labels.tolist()
        ([[3, 0, 1, 2]], [[0, 1, 2, 3]])
    """

    sources: Ragged
    targets: Ragged
    begin: int
    max_target: int

    @classmethod
    @checked
    def of(
        cls,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        tokenizer: Tokenizer,
        max_length: int | None = None,
        bucket: int = 0,
        name: str = "pairs",
    ) -> "PairSet":
        """Encode pairs, both sides with one tokenizer.

        max_length: of a source and of a target in tokens, special tokens included; longer ones are cut.  None for the
            length of the longest.
        bucket: how many batches are sorted by length together; 0 for none.
        Raises DataError when there are not as many targets as sources, or the tokenizer has no token for an end.
        """
        checks.at_least("bucket", bucket, 0)
        if max_length is not None:
            checks.at_least("max_length", max_length, 2)
        if len(sources) != len(targets) or not sources:
            raise DataError(
                f"{name}: found {len(sources)} sources and {len(targets)} targets; expected as many, and one at least"
            )
        end = tokenizer.special.eos
        if end is None:
            raise DataError(f"{name}: found a tokenizer without a token that ends a text; expected one with eos")
        before = tokenizer.encode_all(sources)
        rows = Ragged.of([tokenizer.framed(each, max_length=max_length)[0] for each in before])
        most = None if max_length is None else max_length - 1
        made = Ragged.of([[*each[:most], end] for each in tokenizer.encode_all(targets)])
        longest, max_target = (max(1, int(each.lengths.max())) for each in (rows, made))
        begin = end if tokenizer.special.bos is None else tokenizer.special.bos
        digest = hashlib.sha256(f"{tokenizer.fingerprint} {max_length} {begin}".encode())
        digest.update(rows.digest())
        digest.update(made.digest())
        index = torch.arange(len(sources))
        return cls(
            name=name,
            classes=len(tokenizer),
            class_names=tokenizer.names,
            source=digest.hexdigest(),
            index=index,
            labels=made.padded(index, UNLABELLED)[0],
            input_shape=(max_length or longest,),
            task=TOKENS,
            vocabulary=tokenizer.names,
            tokenizer=tokenizer,
            max_length=max_length or max(longest, max_target),
            sources=rows,
            targets=made,
            begin=begin,
            max_target=max_target,
            bucket=bucket,
        )

    def with_targets(self, rows: Sequence[Sequence[int]], of: str) -> Self:
        """Return the same sources with other targets, such as generated ones; answers that were stored do not fit.

        rows: token ids for each sample of this set, each with the token that ends it.  of: who made them.
        Raises InputError for another number of targets, an empty one, or ids that the tokenizer does not have.
        """
        if len(rows) != len(self):
            raise InputError(f"targets: found {len(rows)}; expected {len(self)}, one for each sample of '{self.name}'")
        if not all(rows):
            raise InputError("targets: found an empty one; expected at least the token that ends it")
        if self.turn is not None:
            raise InputError(f"targets: found samples of '{self.name}' that repeat; expected each once")
        lowest, highest = min(map(min, rows)), max(map(max, rows))
        if lowest < 0 or highest >= self.classes:
            raise InputError(f"targets: found ids from {lowest} to {highest}; expected 0 to {self.classes - 1}")
        whole: list[Sequence[int]] = [()] * len(self.sources.lengths)
        for place, row in zip(self.index.tolist(), rows, strict=True):
            whole[place] = row
        made = Ragged.of(whole).to(self.index.device)
        digest = hashlib.sha256(self.source.encode() + made.digest())
        return replace(
            self,
            name=f"{self.name}, targets: {of}",
            source=digest.hexdigest(),
            labels=made.padded(self.index, UNLABELLED)[0],
            targets=made,
            max_target=max(map(len, rows)),
        )

    @property
    def form(self) -> str:
        """Sources with their targets."""
        return "seq2seq"

    @property
    def lengths(self) -> Tensor:
        """How many tokens each sample has, source and target together: (n,) int64."""
        return self.sources.lengths[self.index] + self.targets.lengths[self.index]

    def gather(self, positions: Tensor) -> Inputs:
        """Return the tokens at `positions` within this set, padded: a mapping of (N, S) and (N, L) int64."""
        rows = self.index.index_select(0, positions)
        ids, there = self.padded(self.sources, rows)
        target, real = self.padded(self.targets, rows)
        begin = torch.full_like(target[:, :1], self.begin)
        decoder = torch.cat([begin, target[:, :-1]], 1).masked_fill_(~real, self.fill)
        return {"input_ids": ids, "attention_mask": there.long(), "decoder_input_ids": decoder}

    def assemble(
        self, gathered: Inputs, positions: Tensor, augment: Augment | None, seed: int, view: int, clean_view: bool
    ) -> Batch:
        """Return the batch of samples that `gather` gave; DataError if random views are asked for."""
        if isinstance(gathered, Tensor):
            raise TypeError("pairs gather a mapping")
        width = gathered["decoder_input_ids"].shape[1]
        lengths = self.targets.lengths[self.index.index_select(0, positions)]
        mask = torch.arange(width, device=lengths.device) < lengths[:, None]
        return self.batch_of(gathered, positions, augment, clean_view=clean_view, mask=mask)

    def to(self, device: torch.device | str) -> Self:
        """Return the set with all its tensors on `device`."""
        return replace(super().to(device), sources=self.sources.to(device), targets=self.targets.to(device))

    def texts(self, positions: Sequence[int]) -> list[tuple[str, str]]:
        """Return the samples at some positions as text, source and target, special tokens left out."""
        sides = (self.written(side, positions) for side in (self.sources, self.targets))
        return list(zip(*sides, strict=True))
