"""Sets of texts: token ids of unequal lengths in one flat tensor, padded batch by batch."""

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
from limbeck.data.content import Inputs, checked_labels, raw_bytes
from limbeck.data.ragged import Ragged, RaggedSet
from limbeck.errors import DataError
from limbeck.tasks import CLASSIFICATION, Task
from limbeck.tokenizers import Tokenizer

__all__ = ["TextSet"]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TextSet(RaggedSet):
    """Texts, or pairs of texts, with a label each.

    A batch's inputs are {"input_ids", "attention_mask"} (N, L) int64, of pairs "token_type_ids" too.  L is the length
    of the longest text of the batch, rounded up to 8 but not above `max_length`.  The further attributes are those of
    `SampleSet`; create one with `TextSet.of`.

    Attributes:
        rows: the token ids of the root set.
        types: the token types of the root set, of pairs; otherwise None.

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

    def gather(self, positions: Tensor) -> Inputs:
        """Return the tokens at `positions` within this set, padded: a mapping of (N, L) int64."""
        rows = self.index.index_select(0, positions)
        ids, there = self.padded(self.rows, rows)
        inputs = {"input_ids": ids, "attention_mask": there.long()}
        if self.types is not None:
            inputs["token_type_ids"] = self.types.padded(rows, 0, ids.shape[1])[0]
        return inputs

    def assemble(
        self, gathered: Inputs, positions: Tensor, augment: Augment | None, seed: int, view: int, clean_view: bool
    ) -> Batch:
        """Return the batch of samples that `gather` gave; DataError if random views are asked for."""
        return self.batch_of(gathered, positions, augment, clean_view=clean_view)

    def to(self, device: torch.device | str) -> Self:
        """Return the set with all its tensors on `device`."""
        types = None if self.types is None else self.types.to(device)
        return replace(super().to(device), rows=self.rows.to(device), types=types)

    def texts(self, positions: Sequence[int]) -> list[str]:
        """Return the samples at some positions as text, special tokens left out."""
        return self.written(self.rows, positions)
