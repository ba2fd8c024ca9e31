"""A tokenizer as a frozen value: the names of its tokens, how it splits text, and a fingerprint of both."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.arguments import checked, checked_fields
from limbeck.checks import shown
from limbeck.errors import DataError, InputError, LimbeckError, one_line
from limbeck.records import sealed, unsealed

__all__ = ["END", "UNKNOWN", "Frame", "SpecialTokens", "Tokenizer", "library", "load_tokenizer", "shortened"]

END, UNKNOWN = "<eos>", "<unk>"
_FILE = "tokenizer.json"
_FORMAT = 1
_PROBE = "a"


def library() -> Any:
    """Return the module `tokenizers`; InputError in one line if it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            "tokenizer: found no package 'tokenizers'; expected it for byte-level pairs and for tokenizers that are"
            " read from files. Install it (pip install tokenizers), or use words or characters"
        ) from None
    return tokenizers


@checked_fields
@dataclass(frozen=True)
class SpecialTokens:
    """The ids of tokens with a meaning of their own; None for one that the tokenizer does not have.

    Attributes:
        pad: fills up short sequences.  Padding is known from lengths, never from this id, so it may equal `eos`.
        eos: ends a line, a document or an answer.
        bos: begins a sequence.
        unk: stands for what has no token.
        cls: the first token of a sentence, whose state stands for the whole.
        sep: behind each sentence.
        mask: hides a token that is to be guessed.

    Example:
        >>> SpecialTokens(pad=0, eos=0).unk is None
        True
    """

    pad: int | None = None
    eos: int | None = None
    bos: int | None = None
    unk: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None


@dataclass(frozen=True)
class Frame:
    """The special tokens around one text, or around and between two: each part with its ids and their token types."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, ...]
    """Of before, the first text, between, the second text, and after."""

    @property
    def size(self) -> int:
        """How many special tokens there are."""
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: list[int], second: list[int] | None) -> tuple[list[int], list[int]]:
        """Return the ids of texts within the frame, and the token types."""
        parts = (self.before, first, self.between, second or (), self.after)
        ids = [*self.before, *first, *self.between, *(second or ()), *self.after]
        types: list[int] = []
        for kind, part in zip(self.types, parts, strict=True):
            types += [kind] * len(part)
        return ids, types


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """How text becomes token ids and ids become text.

    Two tokenizers are equal if their fingerprints are.  Make one with a kind (`Words().fit(lines)`), or read one with
    `load_tokenizer`.

    Attributes:
        kind: "words" (split at spaces), "characters", or "library" (a document of the package `tokenizers`).
        names: of the tokens, by id.
        special: ids of tokens with a meaning of their own.
        lower: whether text is made lower case first (words and characters).
        document: the tokenizer as the package `tokenizers` writes it; empty for words and characters.
        template: how messages of a chat become text, in Jinja; empty if there is none.

    Example:
        >>> from limbeck.tokenizers import Words
        >>> words = Words().fit(["the cat sat", "the dog"])
        >>> words.names
        ('the', 'cat', 'sat', '<eos>', 'dog', '<unk>')
        >>> words.encode("the cow sat"), words.decode([0, 4, 3])
        ([0, 5, 2], 'the dog')
    """

    kind: Literal["words", "characters", "library"]
    names: tuple[str, ...]
    special: SpecialTokens = field(default_factory=SpecialTokens)
    lower: bool = False
    document: str = ""
    template: str = ""

    HOW_MADE = "limbeck.tokenizers.Words().fit(lines) makes one"

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind!r}, {len(self):,} tokens, {self.fingerprint[:12]})"

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer as canonical JSON: equal if and only if text becomes the same ids."""
        document = json.loads(self.document) if self.document else None
        content = [self.kind, list(self.names), asdict(self.special), self.lower, document]
        written = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(written.encode()).hexdigest()

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each name."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def token_bytes(self) -> Tensor:
        """How many bytes of text each token stands for: (V,) int64, by which bits per byte are computed.

        A word counts the space or line end after it; tokens with a meaning of their own count nothing, but for the line
        end of characters (1) and for the token of the unknown, which counts as one of its name.
        """
        sizes = torch.tensor([self._bytes_of(name) for name in self.names], dtype=torch.int64)
        for name, number in asdict(self.special).items():
            if number is not None and not (name == "unk" and self.kind != "library"):
                sizes[number] = 0
        if self.kind == "characters" and self.special.eos is not None:
            sizes[self.special.eos] = 1
        return sizes

    def encode(self, text: str, *, markup: bool = False) -> list[int]:
        """Return the ids of a text, without special tokens around it.

        markup: whether names of special tokens within the text stand for these tokens, as a chat template writes them.
        Raises DataError for a word or character that has no token, if there is no token for the unknown.
        """
        return self.encode_all([text], markup=markup)[0]

    def encode_all(self, texts: Sequence[str], *, markup: bool = False) -> list[list[int]]:
        """Return the ids of each text, as `encode` does."""
        if self.kind == "library":
            self._library.encode_special_tokens = not markup
            return [each.ids for each in self._library.encode_batch_fast(list(texts), add_special_tokens=False)]
        ids, unknown = self.ids, self.special.unk
        if self.lower:
            texts = [text.lower() for text in texts]
        parts: Iterable[Any] = texts if self.kind == "characters" else map(str.split, texts)
        if unknown is not None:
            return [[ids.get(name, unknown) for name in part] for part in parts]
        found = []
        for part in parts:
            try:
                found.append([ids[name] for name in part])
            except KeyError as error:
                what = "character" if self.kind == "characters" else "word"
                raise DataError(
                    f"tokenizer: found the {what} {shown(error.args[0])}; expected one of the {len(self):,} of the"
                    f" training data. Set tokenizer.unknown to true, or leave the {what} out"
                ) from None
        return found

    @checked
    def frame(self, *, pair: bool = False) -> Frame:
        """Return the special tokens around one text, or around two: of a document its own, else `<eos>` behind each."""
        return self._frames[1 if pair else 0]

    def framed(
        self, first: Sequence[int], second: Sequence[int] | None = None, *, max_length: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Return ids of one text or two with special tokens, and their token types.

        max_length: of the whole, special tokens included; of two texts the longer is shortened first.

        >>> from limbeck.tokenizers import Words
        >>> words = Words().fit(["a b c d"])
        >>> words.framed(words.encode("a b c"), words.encode("d"), max_length=5)
        ([0, 1, 4, 3, 4], [0, 0, 0, 1, 1])
        """
        frame = self._frames[second is not None]
        first, other = list(first), None if second is None else list(second)
        if max_length is not None and len(first) + len(other or ()) + frame.size > max_length:
            if max_length <= frame.size:
                raise InputError(f"max_length: found {max_length}; expected above {frame.size}, the special tokens")
            kept = shortened(len(first), None if other is None else len(other), max_length - frame.size)
            first, other = first[: kept[0]], None if other is None else other[: kept[1]]
        return frame.around(first, other)

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Return the text of ids.

        special: whether tokens with a meaning of their own are written by their names; the end of a line then is a line
        break for words and characters.
        Raises InputError for an unknown id.
        """
        numbers = ids.tolist() if isinstance(ids, Tensor) else [int(each) for each in ids]
        for number in numbers:
            if not 0 <= number < len(self):
                raise InputError(f"ids: found {number}; expected 0 to {len(self) - 1}, the tokens of the vocabulary")
        if self.kind == "library":
            return str(self._library.decode(numbers, skip_special_tokens=not special))
        words, end = [], self.special.eos
        for number in numbers:
            if number != end:
                words.append(self.names[number])
            elif special:
                words.append("\n")
        return ("" if self.kind == "characters" else " ").join(words)

    def require_same(self, other: "Tokenizer", *, what: str, whose: str) -> None:
        """Require another tokenizer to be this one; DataError otherwise.

        what: that has the other tokenizer.  whose: what has this one.
        """
        if self.fingerprint == other.fingerprint:
            return
        sizes = f"{len(other):,} and {len(self):,} tokens" if len(self) != len(other) else f"{len(self):,} tokens each"
        raise DataError(
            f"{what}: found tokenizer {other.fingerprint[:12]}; expected {self.fingerprint[:12]}, that of {whose}"
            f" ({sizes}). Use one tokenizer for both"
        )

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "fingerprint": self.fingerprint, **self.__getstate__()}
        if self.document:
            content |= {"document": json.loads(self.document), "names": []}
        written = json.dumps(sealed({**content, "special": asdict(self.special)}), ensure_ascii=False, indent=1)
        (folder / _FILE).write_text(written + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """Read what `save` wrote; DataError if it is missing or damaged."""
        path = Path(folder) / _FILE
        try:
            content = unsealed(json.loads(path.read_text(encoding="utf-8")))
            if content.pop("format") != _FORMAT:
                raise ValueError("another format")
            fingerprint, special = content.pop("fingerprint"), SpecialTokens(**content.pop("special"))
            document = content.pop("document")
            names = tuple(content.pop("names"))
            if document:
                document = json.dumps(document, ensure_ascii=False)
                names = names_of(document)
            found = Tokenizer(names=names, special=special, document=document, **content)
            if found.fingerprint != fingerprint:
                raise ValueError(f"fingerprint {found.fingerprint[:12]}, expected {str(fingerprint)[:12]}")
        except LimbeckError:
            raise
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}); expected a saved tokenizer") from None
        except Exception as error:  # noqa: BLE001 - the package raises plain Exception for a damaged document
            raise DataError(f"{path}: is no saved tokenizer ({one_line(error)}); put the run's own file back") from None
        return found

    @cached_property
    def _library(self) -> Any:
        found = library().Tokenizer.from_str(self.document)
        found.no_truncation()
        found.no_padding()
        return found

    @cached_property
    def _frames(self) -> tuple[Frame, Frame]:
        if self.kind != "library" or json.loads(self.document).get("post_processor") is None:
            end = () if self.special.eos is None else (self.special.eos,)
            if self.kind == "library":
                return Frame((), (), (), (0, 0, 0, 1, 1)), Frame((), end, (), (0, 0, 0, 1, 1))
            return Frame((), (), end, (0, 0, 0, 0, 0)), Frame((), end, end, (0, 0, 0, 1, 1))
        one, two = self._library.encode(_PROBE), self._library.encode(_PROBE, _PROBE)
        return _frame(one.ids, one.type_ids, one.sequence_ids), _frame(two.ids, two.type_ids, two.sequence_ids)

    def _bytes_of(self, name: str) -> int:
        if self.kind != "library":
            return len(name.encode()) + (self.kind == "words")
        return int(self._sizer(name))

    @cached_property
    def _sizer(self) -> Any:
        """A function from a name in a document's vocabulary to the bytes that it stands for."""
        found = json.loads(self.document)
        kinds = _types(found.get("pre_tokenizer")) | _types(found.get("decoder"))
        model = found["model"]
        if "ByteLevel" in kinds:
            return len  # each byte is one letter of the names
        if model.get("type") == "WordPiece":
            prefix = model.get("continuing_subword_prefix", "##")
            return lambda name: len(name.removeprefix(prefix).encode()) + (not name.startswith(prefix))
        return lambda name: 1 if _is_byte(name) else len(name.replace("▁", " ").encode())


def _is_byte(name: str) -> bool:
    return len(name) == 6 and name.startswith("<0x") and name.endswith(">")


def _types(part: Any) -> set[str]:
    """Return the types of a part of a document, and of the parts that it is a sequence of."""
    if not isinstance(part, dict):
        return set()
    inner = [each for value in part.values() if isinstance(value, list) for each in value]
    return {str(part.get("type"))}.union(*map(_types, inner))


def _frame(ids: Sequence[int], types: Sequence[int], owners: Sequence[int | None]) -> Frame:
    """Return the frame of an encoding of one or two texts, whose tokens name the text that they are of."""
    places = [[place for place, owner in enumerate(owners) if owner == text] for text in (0, 1)]
    first, second = places
    if not first:
        raise DataError("tokenizer: found no token for the letter 'a'; expected one. Use another tokenizer")
    begin, end = first[0], first[-1] + 1
    if second:
        between, after = tuple(ids[end : second[0]]), tuple(ids[second[-1] + 1 :])
        kinds = (_kind(types[:begin]), types[begin], _kind(types[end : second[0]]), types[second[0]])
        return Frame(tuple(ids[:begin]), between, after, (*kinds, _kind(types[second[-1] + 1 :])))
    kind = types[begin]
    return Frame(tuple(ids[:begin]), (), tuple(ids[end:]), (_kind(types[:begin]), kind, 0, 0, _kind(types[end:])))


def _kind(types: Sequence[int]) -> int:
    return types[0] if types else 0


def shortened(first: int, second: int | None, most: int) -> tuple[int, int]:
    """Return how much of one text or two is kept, of `most` tokens; the longer one is shortened first.

    >>> shortened(10, 3, 8), shortened(10, 9, 8), shortened(10, None, 8)
    ((5, 3), (4, 4), (8, 0))
    """
    if second is None:
        return min(first, most), 0
    if first + second <= most:
        return first, second
    less, more = sorted((first, second))
    more = max(less, most - less)
    if less + more > most:
        less = most // 2
        more = less + most % 2
    return (more, less) if first > second else (less, more)


def names_of(document: str) -> tuple[str, ...]:
    """Return the names of a document's tokens by id; an id without a token is named `<unused N>`."""
    names = {number: name for name, number in library().Tokenizer.from_str(document).get_vocab(True).items()}
    return tuple(names.get(number, f"<unused {number}>") for number in range(max(names) + 1))


@checked
def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer from a folder or file: one that limbeck saved, a `tokenizer.json`, or Transformers' files.

    Nothing is downloaded.

    Args:
        path: a folder, or a `tokenizer.json`.

    Returns:
        The tokenizer.

    Raises:
        DataError: if there is no tokenizer, or it is damaged.
        InputError: if a package that reads it is not installed.

    Example:
        >>> import tempfile
        >>> from limbeck.tokenizers import Words
        >>> words = Words().fit(["to be or not to be"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     words.save(Path(folder))
        ...     load_tokenizer(folder) == words
        True
    """
    from limbeck.tokenizers.files import read_files

    file = path / _FILE if path.is_dir() else path
    if not path.exists():
        raise DataError(f"tokenizer: found no file or folder '{path}'; expected a folder with a {_FILE}")
    if file.is_file():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"tokenizer: '{file}' is no tokenizer ({one_line(error)}); expected {_FILE}") from None
        if isinstance(content, dict) and "fingerprint" in content:
            return Tokenizer.load(file.parent)
    return read_files(path)
