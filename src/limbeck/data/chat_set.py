"""Sets of chats: token ids, and which of them are answers that a model learns; several may be packed into a row."""

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
from limbeck.data.chat_template import Message, chat_tokens
from limbeck.data.content import Inputs
from limbeck.data.ragged import Ragged, RaggedSet
from limbeck.errors import DataError
from limbeck.tasks import TOKENS, UNLABELLED
from limbeck.tokenizers import Tokenizer

__all__ = ["ChatSet"]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ChatSet(RaggedSet):
    """Chats for a causal language model, whose task is the next token of the answers (`tokens`).

    A batch's inputs are {"input_ids", "attention_mask"} (N, L) int64; labels are the tokens one place further, -100
    outside the answers.  Of packed chats the attention mask is (N, L, L): a token sees its own chat alone, up to
    itself; "position_ids" begin anew with each, and `extras["chat"]` (N, L) has the number of each token's chat in the
    root set.  The further attributes are those of `SampleSet`; create one with `ChatSet.of`.

    Attributes:
        rows: the token ids of the root set.
        answers: 1 for each token that belongs to an answer, otherwise 0.
        chats: of packed chats the number of the chat of each token; otherwise None.

    Example:
        >>> from limbeck.tokenizers import Words
        >>> chat = [{"role": "user", "content": "who"}, {"role": "assistant", "content": "me"}]
        >>> chats = ChatSet.of([chat], tokenizer=Words().fit(["who me"]))
        >>> batch = chats.batch(torch.tensor([0]), augment=None, seed=0, view=0)
        >>> batch.inputs["input_ids"][:, :3], batch.labels[:, :3]
        (tensor([[0, 1, 2]]), tensor([[   1,    2, -100]]))
    """

    rows: Ragged
    answers: Ragged
    chats: Ragged | None = None

    @classmethod
    @checked
    def of(
        cls,
        chats: Sequence[Sequence[Message]],
        *,
        tokenizer: Tokenizer,
        max_length: int | None = None,
        bucket: int = 0,
        name: str = "chats",
    ) -> "ChatSet":
        """Encode chats, by the tokenizer's template if it has one.

        chats: messages {"role", "content"}, of which those of the role "assistant" are answers.
        max_length: of a chat in tokens; longer ones are cut.  None for the length of the longest.
        bucket: how many batches are sorted by length together; 0 for none.
        Raises DataError for a chat without an answer, or one that the template refuses.
        """
        checks.at_least("bucket", bucket, 0)
        if max_length is not None:
            checks.at_least("max_length", max_length, 2)
        rows, answers = [], []
        for number, messages in enumerate(chats):
            ids, own = chat_tokens(tokenizer, messages)
            rows.append(ids[:max_length])
            answers.append(own[:max_length])
            if not any(answers[-1][1:]):
                cut = f" within its first {max_length} tokens" if any(own) else ""
                raise DataError(
                    f"{name}: chat {number} has no answer{cut}; expected one. Leave it out, or raise max_length"
                )
        if not rows:
            raise DataError(f"{name}: found 0 chats, expected at least one")
        return cls._made(Ragged.of(rows), Ragged.of(answers), None, tokenizer, max_length, bucket, name)

    @classmethod
    def _made(
        cls,
        rows: Ragged,
        answers: Ragged,
        chats: Ragged | None,
        tokenizer: Tokenizer,
        max_length: int | None,
        bucket: int,
        name: str,
    ) -> "ChatSet":
        digest = hashlib.sha256(f"{tokenizer.fingerprint} {max_length}".encode())
        for each in (rows, answers, chats):
            digest.update(b"none" if each is None else each.digest())
        longest = int(rows.lengths.max())
        index = torch.arange(len(rows.lengths))
        made = cls(
            name=name,
            classes=len(tokenizer),
            class_names=tokenizer.names,
            source=digest.hexdigest(),
            index=index,
            labels=torch.empty(0),
            input_shape=(max_length or longest,),
            task=TOKENS,
            vocabulary=tokenizer.names,
            tokenizer=tokenizer,
            max_length=max_length or longest,
            rows=rows,
            answers=answers,
            chats=chats,
            bucket=bucket,
        )
        ids, counted = made.rows.padded(index, 0)[0], made.counted(index, longest)
        return replace(made, labels=ids.roll(-1, 1).masked_fill(~counted, UNLABELLED))

    def packed(self) -> Self:
        """Return a set whose samples are rows of several chats: as many as fit into `max_length`, in their order."""
        if self.chats is not None:
            return self
        lengths = self.rows.lengths[self.index].tolist()
        groups: list[list[int]] = []
        filled = self.max_length
        for place, length in enumerate(lengths):
            if filled + length > self.max_length:
                groups.append([])
                filled = 0
            groups[-1].append(place)
            filled += length
        parts: list[list[list[int]]] = [[], [], []]
        for group in groups:
            roots = self.index[torch.tensor(group)]
            row: list[list[int]] = [[], [], []]
            for root in roots.tolist():
                span = slice(int(self.rows.offsets[root]), int(self.rows.offsets[root + 1]))
                row[0] += self.rows.flat[span].tolist()
                row[1] += self.answers.flat[span].tolist()
                row[2] += [root] * (span.stop - span.start)
            for part, own in zip(parts, row, strict=True):
                part.append(own)
        rows, answers, chats = map(Ragged.of, parts)
        return self._made(  # type: ignore[return-value]
            rows, answers, chats, self.own_tokenizer, self.max_length, self.bucket, self.name
        )

    def counted(self, rows: Tensor, width: int) -> Tensor:
        """Return which places of root rows have a target, (N, width): the chat goes on with a token of an answer."""
        answer = self.answers.padded(rows, 0, width)[0]
        following = torch.nn.functional.pad(answer[:, 1:], (0, 1)) == 1
        if self.chats is None:
            return following
        chat = self.chats.padded(rows, -1, width)[0]
        return following & (torch.nn.functional.pad(chat[:, 1:], (0, 1), value=-1) == chat)

    @property
    def form(self) -> str:
        """Chats."""
        return "chat"

    @property
    def lengths(self) -> Tensor:
        """How many tokens each sample has: (n,) int64."""
        return self.rows.lengths[self.index]

    def gather(self, positions: Tensor) -> Inputs:
        """Return the tokens at `positions` within this set, padded: a mapping of (N, L) int64."""
        rows = self.index.index_select(0, positions)
        ids, there = self.padded(self.rows, rows)
        width = ids.shape[1]
        if self.chats is None:
            return {"input_ids": ids, "attention_mask": there.long()}
        chat = self.chats.padded(rows, -1, width)[0]
        before = torch.ones(width, width, dtype=torch.bool, device=chat.device).tril()
        seen = (chat[:, :, None] == chat[:, None, :]) & there[:, :, None] & there[:, None, :] & before
        begins = torch.nn.functional.pad(chat[:, 1:] != chat[:, :-1], (1, 0), value=True)
        place = torch.arange(width, device=chat.device).expand_as(chat)
        positions_of = place - (place * begins).cummax(1).values
        return {"input_ids": ids, "attention_mask": seen.long(), "position_ids": positions_of}

    def assemble(
        self, gathered: Inputs, positions: Tensor, augment: Augment | None, seed: int, view: int, clean_view: bool
    ) -> Batch:
        """Return the batch of samples that `gather` gave; DataError if random views are asked for."""
        if isinstance(gathered, Tensor):
            raise TypeError("chats gather a mapping")
        index = self.index.index_select(0, positions)
        width = gathered["input_ids"].shape[1]
        return self.batch_of(
            gathered,
            positions,
            augment,
            clean_view=clean_view,
            mask=self.counted(index, width),
            extras=None if self.chats is None else {"chat": self.chats.padded(index, -1, width)[0]},
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the set with all its tensors on `device`."""
        chats = None if self.chats is None else self.chats.to(device)
        return replace(super().to(device), rows=self.rows.to(device), answers=self.answers.to(device), chats=chats)

    def texts(self, positions: Sequence[int]) -> list[str]:
        """Return the samples at some positions as text, special tokens left out."""
        return self.written(self.rows, positions)
