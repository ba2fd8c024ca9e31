"""Kinds of tokenizers, as a recipe names them: each makes a tokenizer of the lines of the training part."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import DataError
from limbeck.tokenizers.tokenizer import END, UNKNOWN, SpecialTokens, Tokenizer, library, load_tokenizer, names_of

__all__ = ["BytePairs", "Characters", "Folder", "TokenizerKind", "Words", "kinds"]


class TokenizerKind(ABC):
    """How a tokenizer is made.

    Attributes:
        kind: the name that recipes use.

    Example:
        >>> Characters().fit(["abc"]).names
        ('a', 'b', 'c', '<eos>', '<unk>')
    """

    kind: ClassVar[str]

    @abstractmethod
    def fit(self, lines: Iterable[str]) -> Tokenizer:
        """Return the tokenizer of lines of text, those of the training part alone; DataError if there are none."""


def _check_limits(settings: "Words | Characters") -> None:
    checks.at_least("at_least", settings.at_least, 1)
    if settings.most is not None:
        checks.at_least("most", settings.most, 2)


def _fitted(kind: Any, lines: Iterable[Iterable[str]], settings: "Words | Characters") -> Tokenizer:
    """Return a tokenizer whose ids are in the order of first appearance, the line end included."""
    counts: Counter[str] = Counter()
    empty = True
    for line in lines:
        counts.update(line)
        counts[END] += 1
        empty = empty and len(counts) == 1
    if empty:
        raise DataError("tokenizer: found no text; expected at least one line with a token")
    names = [name for name, count in counts.items() if count >= settings.at_least or name == END]
    if settings.most is not None and len(names) > settings.most:
        often = sorted(names, key=lambda name: (name != END, -counts[name]))  # of equally frequent ones the first
        kept = set(often[: settings.most])
        names = [name for name in names if name in kept]
    if settings.unknown and UNKNOWN not in names:
        names.append(UNKNOWN)
    end, unknown = names.index(END), names.index(UNKNOWN) if UNKNOWN in names else None
    special = SpecialTokens(pad=end, eos=end, bos=end, unk=unknown)
    return Tokenizer(kind, tuple(names), special, lower=settings.lower)


@checked_fields
@dataclass(frozen=True)
class Words(TokenizerKind):
    """Words: text is split at spaces, and ids are in the order of first appearance; `<eos>` stands for the line end.

    Attributes:
        unknown: whether `<unk>` stands for words that have no token; it is added if the text does not have it.
        at_least: words that occur less often have no token.
        most: at most so many words (without an added `<unk>`), the most frequent ones; None for all.
        lower: make the text lower case first.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Words(at_least=2).fit(["a rose is a rose"]).names
        ('a', 'rose', '<eos>', '<unk>')
    """

    kind = "words"
    unknown: bool = True
    at_least: int = 1
    most: int | None = None
    lower: bool = False

    def __post_init__(self) -> None:
        _check_limits(self)

    @checked
    def fit(self, lines: Iterable[str]) -> Tokenizer:
        return _fitted("words", ((line.lower() if self.lower else line).split() for line in lines), self)


@checked_fields
@dataclass(frozen=True)
class Characters(TokenizerKind):
    """Characters, in the order of first appearance; `<eos>` stands for the line end.

    Attributes:
        unknown: whether `<unk>` stands for characters that have no token.
        at_least: characters that occur less often have no token.
        most: at most so many characters, the most frequent ones; None for all.
        lower: make the text lower case first.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> characters = Characters().fit(["to be"])
        >>> characters.decode(characters.encode("bet"))
        'bet'
    """

    kind = "characters"
    unknown: bool = True
    at_least: int = 1
    most: int | None = None
    lower: bool = False

    def __post_init__(self) -> None:
        _check_limits(self)

    @checked
    def fit(self, lines: Iterable[str]) -> Tokenizer:
        return _fitted("characters", (line.lower() if self.lower else line for line in lines), self)


@checked_fields
@dataclass(frozen=True)
class BytePairs(TokenizerKind):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019), trained with the package `tokenizers`.

    All 256 bytes have a token, so no text is unknown.  The training is repeatable.

    Attributes:
        size: of the vocabulary, bytes and `<eos>` included: 257 or more.

    Raises:
        InputError: if the size is out of range, or the package is not installed.

    Example:
        >>> pairs = BytePairs(size=260).fit(["low lower lowest"])
        >>> len(pairs), pairs.decode(pairs.encode("lower ☃"))
        (260, 'lower ☃')

    Reference:
        Sennrich et al. (2016), "Neural Machine Translation of Rare Words with Subword Units", arXiv:1508.07909.
    """

    kind = "bpe"
    size: int = 4000

    def __post_init__(self) -> None:
        checks.at_least("size", self.size, 257)

    @checked
    def fit(self, lines: Iterable[str]) -> Tokenizer:
        package = library()
        lines = list(lines)
        if not any(lines):
            raise DataError("tokenizer: found no text; expected at least one line with a token")
        trained = package.Tokenizer(package.models.BPE())
        trained.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trained.decoder = package.decoders.ByteLevel()
        alphabet = package.pre_tokenizers.ByteLevel.alphabet()
        trainer = package.trainers.BpeTrainer(
            vocab_size=self.size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        )
        trained.train_from_iterator(lines, trainer)
        document = trained.to_str()
        return Tokenizer("library", names_of(document), SpecialTokens(pad=0, eos=0, bos=0), document=document)


@checked_fields
@dataclass(frozen=True)
class Folder(TokenizerKind):
    """A tokenizer that is read: a `tokenizer.json`, or a folder of files that the Transformers library reads.

    Nothing is downloaded.

    Attributes:
        folder: the folder, or the file.

    Example:
        >>> Folder("none").fit([])
        Traceback (most recent call last):
        limbeck.errors.DataError: tokenizer: found no file or folder 'none'; expected a folder with a tokenizer.json
    """

    kind = "folder"
    folder: str

    @checked
    def fit(self, lines: Iterable[str]) -> Tokenizer:
        return load_tokenizer(Path(self.folder))


def kinds() -> dict[str, Any]:
    """Return the kinds of tokenizers by the name that recipes use.

    Returns:
        {name: class}.

    Example:
        >>> sorted(kinds())
        ['bpe', 'characters', 'folder', 'words']
    """
    return {each.kind: each for each in (BytePairs, Characters, Folder, Words)}
