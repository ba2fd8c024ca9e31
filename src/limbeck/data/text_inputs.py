"""Raw texts for a trained model: what a user hands over, and the set that the model is asked about."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from limbeck.checks import shown
from limbeck.data.cells import is_blank
from limbeck.data.chat_set import ChatSet
from limbeck.data.chat_template import prompt_tokens
from limbeck.data.pair_set import PairSet
from limbeck.data.ragged import Ragged
from limbeck.data.sets import SampleSet
from limbeck.data.stream_set import TokenStream
from limbeck.data.text import TextSet
from limbeck.errors import DataError
from limbeck.tasks import UNLABELLED
from limbeck.tokenizers import Tokenizer

__all__ = ["blank_texts", "context", "prompts", "read_texts", "text_samples"]

_BLANK = ("", "")

Texts = list[tuple[str, str | None]]
"""Texts, each with its second text or None."""


def read_texts(inputs: Any, form: str) -> Texts:
    """Return texts, or pairs of texts, of what a user hands over; DataError in one line for anything else.

    inputs: a text or a list of them; pairs as a list of two texts each; or rows (mappings, or a data frame) with the
    columns `text` and, of pairs, `pair`.  A single column of another name stands for `text`.

    >>> read_texts(["a film", "a book"], "sentences")
    [('a film', None), ('a book', None)]
    >>> read_texts([{"text": "a film", "pair": "a movie"}], "pairs")
    [('a film', 'a movie')]
    """
    wanted = "a text, or a list of texts" if form != "pairs" else "a list of pairs of texts"
    if isinstance(inputs, Mapping) or hasattr(inputs, "columns"):
        names = list(inputs) if isinstance(inputs, Mapping) else list(map(str, inputs.columns))
        columns = {str(name): inputs[name] for name in names}
        columns = {name: each.tolist() if hasattr(each, "tolist") else each for name, each in columns.items()}
        if not all(isinstance(each, list | tuple) for each in columns.values()):
            raise DataError(f"inputs: found {shown(inputs)}; expected {wanted}, or columns of them")
        inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(inputs, str):
        inputs = [inputs]
    if hasattr(inputs, "tolist"):
        inputs = inputs.tolist()
    if not isinstance(inputs, list | tuple):
        raise DataError(f"inputs: found {type(inputs).__name__}; expected {wanted}")
    if not inputs:
        raise DataError(f"inputs: found none; expected {wanted}")
    if form == "pairs" and len(inputs) == 2 and all(isinstance(each, str) for each in inputs):
        raise DataError(
            "inputs: found two texts; expected a list of pairs of texts. Give one pair as [(first, second)]"
        )
    return [_text(number, each, form) for number, each in enumerate(inputs)]


def _text(number: int, given: Any, form: str) -> tuple[str, str | None]:
    if isinstance(given, Mapping):
        parts = _cells(number, given, form)
    elif form == "pairs":
        parts = list(given) if isinstance(given, list | tuple) else [given]
    else:
        parts = [given]
    wanted = 2 if form == "pairs" else 1
    if len(parts) != wanted or not all(isinstance(part, str) for part in parts):
        expected = "two texts" if form == "pairs" else "a text"
        raise DataError(f"inputs: text {number}: found {shown(given)}; expected {expected}")
    for part in parts:
        if is_blank(part) and form != "stream":
            raise DataError(f"inputs: text {number} is empty; expected a text. Leave it out")
    return parts[0], parts[1] if form == "pairs" else None


def _cells(number: int, row: Mapping[str, Any], form: str) -> list[Any]:
    names = ["text", "pair"] if form == "pairs" else ["text"]
    if len(row) == 1 and form != "pairs":
        return list(row.values())
    for name in names:
        if name not in row:
            raise DataError(f"inputs: row {number} has no column '{name}'; there are: {', '.join(map(repr, row))}")
    return [row[name] for name in names]


def text_samples(like: SampleSet, texts: Texts) -> TextSet:
    """Return texts as a set without labels, encoded as the samples of a set."""
    tokenizer = _tokenizer(like)
    pairs = None if not texts or texts[0][1] is None else [str(second) for _, second in texts]
    made = TextSet.of(
        [first for first, _ in texts],
        tokenizer=tokenizer,
        pairs=pairs,
        max_length=like.max_length,
        class_names=like.class_names or None,
        classes=like.classes,
        name=like.name,
        task=like.task,
    )
    return replace(made, groups=like.groups, group_names=like.group_names, source="")


def blank_texts(form: str, tokenizer: Tokenizer, max_length: int, **fields: Any) -> SampleSet:
    """Return a set of two blank samples of a form; fields: those of `SampleSet` that the form does not decide."""
    fields = {**fields, "tokenizer": tokenizer, "max_length": max_length, "vocabulary": tokenizer.names}
    if form == "stream":
        stream = TokenStream.of(torch.zeros(5, dtype=torch.int64), tokenizer=tokenizer, lanes=2, length=2)
        return replace(stream, **fields)
    if form == "seq2seq":
        return replace(PairSet.of(_BLANK, _BLANK, tokenizer=tokenizer), **fields)
    if form == "chat":
        rows, answers, labels = Ragged.of([[0, 0]] * 2), Ragged.of([[0, 1]] * 2), torch.tensor([[0, UNLABELLED]] * 2)
        return ChatSet(**fields, index=torch.arange(2), labels=labels, rows=rows, answers=answers)
    rows, labels = Ragged.of([[0], [0]]), fields["task"].no_labels(fields["name"], 2)
    return TextSet(**fields, index=torch.arange(2), labels=labels, rows=rows, types=rows if form == "pairs" else None)


def _tokenizer(like: SampleSet) -> Tokenizer:
    if like.tokenizer is None:
        raise DataError(f"inputs: '{like.name}' has no tokenizer; expected one to encode texts")
    return like.tokenizer


def prompts(like: SampleSet, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return what a model writes answers to, as its inputs: the sources of an encoder and decoder, or prompts.

    like: a set of the form "seq2seq" or "chat", by which the texts are encoded.
    """
    tokenizer = _tokenizer(like)
    if isinstance(like, PairSet):
        made = PairSet.of(texts, [""] * len(texts), tokenizer=tokenizer, max_length=like.max_length)
        inputs = made.gather(torch.arange(len(texts)))
        if isinstance(inputs, torch.Tensor):
            raise TypeError("pairs gather a mapping")
        return inputs
    rows = Ragged.of([prompt_tokens(tokenizer, [{"role": "user", "content": text}]) for text in texts])
    pad = tokenizer.special.pad
    ids, there = rows.padded(torch.arange(len(texts)), 0 if pad is None else pad)
    return {"input_ids": ids, "attention_mask": there.long()}


def context(tokenizer: Tokenizer, text: str) -> Sequence[int]:
    """Return the tokens after which a language model says what comes next: a sentence end, then the text."""
    end = tokenizer.special.eos if tokenizer.special.eos is not None else tokenizer.special.sep
    return [*([] if end is None else [end]), *tokenizer.encode(text)]
