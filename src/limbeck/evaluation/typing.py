"""How many keys a keyboard saves that offers next words: keystroke savings and word prediction rate.

The rules are limbeck's own, because papers rarely state theirs.  After each key, the n best words that begin with the
typed letters are offered, and before the first key the n best of all; choosing one costs one key and types the space
too.  Without offers, a word costs its letters and a space.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.data import SampleSet
from limbeck.errors import DataError, InputError
from limbeck.evaluation.metrics import answers
from limbeck.tasks import TOKENS

__all__ = ["Keyboard", "Typing", "measure_typing", "require_words", "simulate_typing"]

_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")
"""A token that no key types, such as the end of a sentence."""
_UNKNOWN = ("<unk>", "[UNK]")
"""A token that stands for a word outside the vocabulary."""
_NUMBERS_A_CHUNK = 2**21
"""Scores that are compared at a time."""


@checked_fields
@dataclass(frozen=True)
class Typing:
    """The keys that a text takes, counted word by word.

    Attributes:
        offers: n, the words that are offered at a time.
        words: of the text.
        plain_keys: keys without offers, the letters and a space for each word.
        keys: keys with offers.
        first: words that were offered before their first letter.
        outside: words that can never be offered, because they are not in the vocabulary or are numbers or punctuation;
            they are typed whole.
        outside_keys: the keys of those words.

    Example:
        >>> typing = Typing(offers=3, words=5, plain_keys=20, keys=9, first=3, outside=1, outside_keys=4)
        >>> typing.keystroke_savings, typing.word_prediction_rate
        (55.0, 60.0)
        >>> typing.known.keystroke_savings, typing.known.word_prediction_rate
        (68.75, 75.0)
    """

    offers: int
    words: int
    plain_keys: int
    keys: int
    first: int
    outside: int = 0
    outside_keys: int = 0

    @property
    def keystroke_savings(self) -> float:
        """KS: the share of keys that the offers save, in percent."""
        return 100.0 * (self.plain_keys - self.keys) / self._some(self.plain_keys)

    @property
    def word_prediction_rate(self) -> float:
        """WPR: the share of words that are offered before their first letter, in percent."""
        return 100.0 * self.first / self._some(self.words)

    @property
    def known(self) -> "Typing":
        """The same text without the words that can never be offered."""
        return replace(
            self,
            words=self.words - self.outside,
            plain_keys=self.plain_keys - self.outside_keys,
            keys=self.keys - self.outside_keys,
            outside=0,
            outside_keys=0,
        )

    def __add__(self, other: "Typing") -> "Typing":
        if not isinstance(other, Typing) or other.offers != self.offers:
            raise InputError(f"typing: found {other!r}, expected a Typing with {self.offers} offers")
        counts = ("words", "plain_keys", "keys", "first", "outside", "outside_keys")
        return Typing(self.offers, **{name: getattr(self, name) + getattr(other, name) for name in counts})

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and the rates; the rates are missing if there is no word."""
        found: dict[str, Any] = dict(vars(self))
        for prefix, typing in (("", self), ("known_", self.known)):
            if typing.words:
                found[f"{prefix}keystroke_savings"] = typing.keystroke_savings
                found[f"{prefix}word_prediction_rate"] = typing.word_prediction_rate
        return found

    def _some(self, count: int) -> int:
        if not count:
            raise DataError("typing: the text has no words, expected at least one")
        return count


class Keyboard:
    """Offers the words of a vocabulary while a text is typed.

    A word is offered only if it has a letter or a digit and is not named in `never`; marks in brackets, such as
    `<eos>`, are neither typed nor offered.  `<unk>` is typed whole.  Case counts.

    Args:
        vocabulary: the text of each token, by its number.
        offers: n, the words that are offered at a time.
        never: words that are not offered; in the Penn Treebank, `N` stands for a number.

    Raises:
        InputError: if no word can be offered.

    Example:
        >>> keyboard = Keyboard(["the", "cat", "car", "dog", "<unk>"], offers=1)
        >>> scores = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]).expand(5, -1)  # the same in every context
        >>> typed = keyboard.type(scores, torch.tensor([0, 2, 3, 0, 4]), ["the", "car", "dog", "the", "cow"])
        >>> typed.keys, typed.plain_keys, typed.keystroke_savings, typed.word_prediction_rate
        (12, 20, 40.0, 40.0)
    """

    @checked
    def __init__(self, vocabulary: Sequence[str], *, offers: int = 3, never: Sequence[str] = ("N",)) -> None:
        checks.at_least("offers", offers, 1)
        self.offers = offers
        self.vocabulary = tuple(vocabulary)
        out = {*never, *_UNKNOWN}
        words = [
            (text, number)
            for number, text in enumerate(self.vocabulary)
            if text not in out and not _MARK.fullmatch(text) and any(letter.isalnum() for letter in text)
        ]
        if not words:
            raise InputError("vocabulary: found no word that can be offered, expected at least one with a letter")
        words.sort()
        typed = [text in _UNKNOWN or not _MARK.fullmatch(text) for text in self.vocabulary]
        self._letters = torch.tensor([len(text) for text in self.vocabulary])
        self._typed = torch.tensor(typed)
        self._order = torch.tensor([number for _, number in words])
        self._place = torch.full((len(self.vocabulary),), -1)
        self._place[self._order] = torch.arange(len(words))
        self._ranges = _ranges([text for text, _ in words], offers)

    @torch.no_grad()
    @checked
    def type(self, logits: Tensor, labels: Tensor, words: Sequence[str] | None = None) -> Typing:
        """Type a text, one word after the other.

        Args:
            logits: (..., V) floating point, the scores of the next word in its true context; of equal scores the lower
                number comes first.
            labels: (...) int64, the words that are typed; `UNLABELLED` (-100) for none.
            words: the words as they are written, one for each label in order; they are read where a label stands for a
                word outside the vocabulary.  By default such a word is as long as the token that stands for it.

        Returns:
            The keys that it takes.

        Raises:
            InputError: if shapes, labels or numbers are wrong; NaN is never ranked.

        Example:
            >>> keyboard = Keyboard(["the", "cat", "car", "dog"])
            >>> keyboard.type(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([3])).keys  # d, then dog is offered
            2
        """
        size = len(self.vocabulary)
        _check(logits, labels, size, words)
        flat, numbers = logits.reshape(-1, size), labels.reshape(-1).to(logits.device)
        counted = torch.where(numbers != UNLABELLED)[0]
        counted = counted[self._typed.to(logits.device)[numbers[counted]]]
        numbers = numbers[counted].cpu()
        letters = self._letters[numbers]
        offered = self._place[numbers] >= 0
        if words is not None:
            for place in torch.where(~offered)[0].tolist():
                letters[place] = len(words[int(counted[place])])
        plain = letters + 1
        keys = plain.clone()
        found = self._keys(flat, counted[offered.to(counted.device)], numbers[offered])
        keys[offered] = found
        return Typing(
            offers=self.offers,
            words=len(numbers),
            plain_keys=int(plain.sum()),
            keys=int(keys.sum()),
            first=int((found == 1).sum()),
            outside=int((~offered).sum()),
            outside_keys=int(plain[~offered].sum()),
        )

    def _keys(self, logits: Tensor, rows: Tensor, numbers: Tensor) -> Tensor:
        """Return the keys of words that can be offered: 1, and 1 for each beginning under which n others are better."""
        order = self._order.to(logits.device)
        found = [torch.zeros(0, dtype=torch.int64)]
        step = max(1, _NUMBERS_A_CHUNK // len(order))
        for start in range(0, len(rows), step):
            own = numbers[start : start + step]
            scores = logits[rows[start : start + step]]
            checks.logits("logits", scores)
            better = _better(scores.index_select(1, order), order, own.to(logits.device), scores)
            above = torch.zeros(len(own), len(order) + 1, dtype=torch.int32, device=logits.device)
            torch.cumsum(better, 1, dtype=torch.int32, out=above[:, 1:])
            first, end = self._ranges[:, self._place[own]].to(logits.device)
            counts = above.gather(1, end) - above.gather(1, first)
            found.append(1 + (counts >= self.offers).sum(1).cpu())
        return torch.cat(found)


def _ranges(words: Sequence[str], offers: int) -> Tensor:
    """Return where the words with a word's first j letters begin and end, (2, words, most letters), j = 0, 1, ...

    words: sorted, so that words which begin alike are neighbours.  Beginnings that at most `offers` words have are left
    out, for there each of them is offered; the range in their place is empty.
    """
    first: dict[str, int] = {}
    end: dict[str, int] = {}
    for place, word in enumerate(words):
        for letters in range(len(word) + 1):  # a whole word is offered while a longer one is typed
            first.setdefault(word[:letters], place)
            end[word[:letters]] = place + 1
    rows = [
        [(first[part], end[part]) for part in parts if end[part] - first[part] > offers]
        for parts in ([word[:letters] for letters in range(len(word))] for word in words)
    ]
    most = max(map(len, rows))
    padded = [row + [(0, 0)] * (most - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(words), most, 2).permute(2, 0, 1).contiguous()


def _better(ordered: Tensor, order: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    """Return which words are offered before each row's own, (n, words) bool."""
    own = scores.gather(1, numbers[:, None])
    better = ordered > own
    equal = ordered == own
    tied = torch.where(equal.sum(1) > 1)[0]
    if len(tied):
        better[tied] |= equal[tied] & (order < numbers[tied, None])
    return better


def _check(logits: Tensor, labels: Tensor, size: int, words: Sequence[str] | None) -> None:
    if logits.dim() < 1 or logits.shape[-1] != size or not logits.is_floating_point():
        raise InputError(
            f"logits: found {logits.dtype} {tuple(logits.shape)}, expected floating point (..., {size}), a score for "
            "each word of the vocabulary"
        )
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:-1]:
        raise InputError(
            f"labels: found {labels.dtype} {tuple(labels.shape)}, expected int64 {tuple(logits.shape[:-1])}"
        )
    wrong = labels[(labels != UNLABELLED) & ((labels < 0) | (labels >= size))]
    if len(wrong):
        raise InputError(f"labels: found {int(wrong[0])}, expected 0 to {size - 1}, or {UNLABELLED} for none")
    if words is not None and len(words) != labels.numel():
        raise InputError(f"words: found {len(words)}, expected {labels.numel()}, one for each label")


@checked
def simulate_typing(
    logits: Tensor,
    labels: Tensor,
    vocabulary: Sequence[str],
    *,
    offers: int = 3,
    words: Sequence[str] | None = None,
    never: Sequence[str] = ("N",),
) -> Typing:
    """Type a text on a keyboard that offers next words, and count the keys.

    Args:
        logits: (..., V) floating point, the scores of the next word in its true context.
        labels: (...) int64, the words that are typed; `UNLABELLED` (-100) for none.
        vocabulary: the text of each token, by its number.
        offers: n, the words that are offered at a time.
        words: the words as they are written, read where a label stands for a word outside the vocabulary.
        never: words that are not offered.

    Returns:
        The keys that it takes, with `keystroke_savings` and `word_prediction_rate`.

    Raises:
        InputError: if shapes, labels or numbers are wrong.

    Example:
        >>> scores = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]).expand(5, -1)
        >>> text = ["the", "car", "dog", "the", "cow"]
        >>> vocabulary = ["the", "cat", "car", "dog", "<unk>"]
        >>> typed = simulate_typing(scores, torch.tensor([0, 2, 3, 0, 4]), vocabulary, words=text)
        >>> typed.keys, typed.keystroke_savings, typed.word_prediction_rate
        (9, 55.0, 60.0)

    Reference:
        Yu, Kulkarni, Lee & Kim (2018), "On-Device Neural Language Model Based Word Prediction", COLING.
    """
    return Keyboard(vocabulary, offers=offers, never=never).type(logits, labels, words)


@checked
def require_words(samples: SampleSet) -> None:
    """Require samples whose tokens are words with names.

    Args:
        samples: of the task `tokens`.

    Raises:
        DataError: for other samples.

    Example:
        >>> from limbeck import data
        >>> require_words(data.synthetic_text(lines=60).train)
    """
    mend = "use data of kind token_stream"
    if samples.task is not TOKENS:
        raise DataError(
            f"samples: found the task {samples.task.name}, expected tokens of a text split into words; {mend}"
        )
    kind = "words" if samples.tokenizer is None else samples.tokenizer.kind
    if not samples.vocabulary or kind != "words":
        found = f"a tokenizer of kind {kind}" if samples.vocabulary else "tokens without names"
        raise DataError(f"samples: found {found}, expected words; {mend} with tokenizer: words")


@checked
def measure_typing(
    model: nn.Module,
    samples: SampleSet,
    *,
    offers: int = 3,
    never: Sequence[str] = ("N",),
    batch_size: int | None = None,
) -> Typing:
    """Type a text on a keyboard whose offers are a language model's, each word in its true context.

    Args:
        model: a language model, with logits (N, L, V); it answers in eval mode, and its state is carried.
        samples: a text of the task `tokens`, split into words.
        offers: n, the words that are offered at a time.
        never: words that are not offered; in the Penn Treebank, `N` stands for a number.
        batch_size: samples in a batch; a stream has its own.

    Returns:
        The keys that it takes, with `keystroke_savings` and `word_prediction_rate`.

    Raises:
        DataError: if the samples are no text of words.

    Example:
        >>> from limbeck import data
        >>> measure_typing(nn.Flatten(), data.digits().test)
        Traceback (most recent call last):
        limbeck.errors.DataError: samples: found the task classification, expected tokens of a text split into words...

    Reference:
        Yu, Kulkarni, Lee & Kim (2018), "On-Device Neural Language Model Based Word Prediction", COLING.
    """
    require_words(samples)
    keyboard = Keyboard(samples.vocabulary, offers=offers, never=never)
    typed = Typing(offers, 0, 0, 0, 0)
    for logits, labels in answers(model, samples, batch_size):
        typed += keyboard.type(logits, labels)
    return typed
