"""Text that a small grammar writes, for tests and demonstrations that need no files."""

from itertools import product

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data.sentences import SentencePart, sentence_splits
from limbeck.data.sets import Splits
from limbeck.data.token_stream import stream_splits
from limbeck.errors import InputError
from limbeck.randomness import uniform
from limbeck.tasks import CLASSIFICATION
from limbeck.tokenizers import TokenizerKind, Words

__all__ = ["grammar_lines", "synthetic_sentences", "synthetic_text"]

_SYLLABLES = tuple("".join(pair) for pair in product("bdfgklmnprstvz", "aeiou"))
_DRAWS = 12
_NEGATED, _OBJECT, _ADVERB = 0.25, 0.6, 0.3  # how often
_FOLLOWERS = 3  # verbs that a noun takes, and objects that a verb takes


@checked
def synthetic_text(
    lines: int = 3000,
    words: int = 40,
    tokenizer: TokenizerKind = Words(),  # noqa: B008 - a frozen value
    lanes: int = 8,
    length: int = 16,
    evaluation_lanes: int = 4,
    test_lanes: int = 1,
    test_share: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Return sentences of a small grammar as a stream of tokens for language models.

    Verbs agree with their subjects and follow from them, as objects follow from verbs, so that a model has something to
    learn.

    Args:
        lines: how many sentences; line i is a function of (seed, i).
        words: nouns of the grammar; there are as many verbs, and half as many adjectives.
        tokenizer: how text becomes tokens.
        lanes: rows of a batch.
        length: tokens of a chunk.
        evaluation_lanes: lanes of held-out parts.
        test_lanes: lanes of the test part.
        test_share: share of the lines that is for testing.
        seed: of the sentences.

    Returns:
        Training and test stream, as of `token_stream`.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> data = synthetic_text(lines=100, words=6, lanes=2)
        >>> data.train.lanes, data.train.task.name
        (2, 'tokens')
    """
    return stream_splits(
        "synthetic text",
        {"train": grammar_lines(lines, words, seed)[0]},
        tokenizer=tokenizer,
        lanes=lanes,
        length=length,
        moving=False,
        varying=False,
        evaluation=(evaluation_lanes, length),
        test_lanes=test_lanes,
        test_share=test_share,
    )


@checked
def synthetic_sentences(
    lines: int = 600,
    words: int = 20,
    tokenizer: TokenizerKind = Words(),  # noqa: B008 - a frozen value
    max_length: int | None = None,
    bucket: int = 0,
    test_share: float = 0.25,
    seed: int = 0,
) -> Splits:
    """Return sentences of a small grammar in two classes: whether their adjectives, negated or not, are good ones.

    Args:
        lines: how many sentences; line i is a function of (seed, i).
        words: nouns of the grammar; there are as many verbs, and half as many adjectives.
        tokenizer: how text becomes tokens.
        max_length: as of `sentences`.
        bucket: as of `sentences`.
        test_share: share of each class that is for testing.
        seed: of the sentences.

    Returns:
        Training and test set, as of `sentences`.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> data = synthetic_sentences(lines=40)
        >>> data.train.class_names, data.train.task.name
        (('bad', 'good'), 'classification')
    """
    texts, labels = grammar_lines(lines, words, seed)
    return sentence_splits(
        "synthetic sentences",
        SentencePart(texts, None, [("bad", "good")[label] for label in labels]),
        {},
        label="class",
        task=CLASSIFICATION,
        tokenizer=tokenizer,
        max_length=max_length,
        bucket=bucket,
        test_share=test_share,
        seed=seed,
        notes=[],
    )


def grammar_lines(count: int, words: int, seed: int) -> tuple[list[str], list[int]]:
    """Return sentences and whether each praises (1) or blames (0); line i is a function of (seed, i) alone.

    >>> grammar_lines(2, 8, seed=1)[0] == grammar_lines(5, 8, seed=1)[0][:2]
    True
    """
    checks.at_least("lines", count, 2)
    checks.at_least("words", words, 2, at_most=len(_SYLLABLES) ** 2 // 4)
    checks.seed(seed)
    if count > 10_000_000:
        raise InputError(f"lines: found {count:,}, expected at most 10,000,000")
    index = torch.arange(count)
    drawn = uniform(seed, "grammar", torch.zeros_like(index), index, _DRAWS).double()
    frequent = torch.arange(1, words + 1, dtype=torch.float64).reciprocal().cumsum(0)  # the first words are frequent
    nouns = _placed(drawn[:, 0], frequent)
    verbs = (nouns * 5 + (drawn[:, 1] * _FOLLOWERS).long()) % words
    objects = (verbs * 3 + (drawn[:, 2] * _FOLLOWERS).long()) % words
    adjectives = [_placed(drawn[:, column], frequent[: max(2, words // 2)]) for column in (3, 4)]
    plural, other = drawn[:, 5] < 0.4, drawn[:, 6] < 0.4
    negated = [drawn[:, column] < _NEGATED for column in (7, 8)]
    second, adverb = drawn[:, 9] < _OBJECT, drawn[:, 10] < _ADVERB
    rows = zip(
        *(each.tolist() for each in (nouns, verbs, objects, *adjectives, plural, other, *negated, second, adverb)),
        strict=True,
    )
    texts, labels = [], []
    for noun, verb, thing, first, last, many, more, no, nor, has_object, has_adverb in rows:
        parts = [
            "these" if many else "the",
            *(["not"] if no else []),
            _word(first, "l"),
            _word(noun, "ns" if many else "n"),
        ]
        parts.append(_word(verb, "t" if many else "ts"))
        praise = (first % 2 == 0) != no
        if has_object:
            parts += ["these" if more else "the", *(["not"] if nor else []), _word(last, "l")]
            parts.append(_word(thing, "ns" if more else "n"))
            praise = (last % 2 == 0) != nor
        if has_adverb:
            parts.append(_word(verb % 7, "ly"))
        texts.append(" ".join([*parts, "."]))
        labels.append(int(praise))
    return texts, labels


def _placed(drawn: Tensor, cumulative: Tensor) -> Tensor:
    """Return the place of numbers in [0, 1) among shares that add up as `cumulative` does."""
    return torch.searchsorted(cumulative, drawn * cumulative[-1], right=True).clamp_max(len(cumulative) - 1)


def _word(number: int, ending: str) -> str:
    first, second = divmod(number * 31 % len(_SYLLABLES) ** 2, len(_SYLLABLES))
    return _SYLLABLES[first] + _SYLLABLES[second] + ending
