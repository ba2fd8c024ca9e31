"""Sentences made from others by replacing words with likely or similar ones."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.data.content import check_fits
from limbeck.data.ragged import Ragged
from limbeck.data.sets import SampleSet
from limbeck.data.synthesis import Synthesis
from limbeck.data.text import TextSet
from limbeck.errors import DataError, InputError, one_line
from limbeck.losses.maps import unit
from limbeck.randomness import uniform
from limbeck.tokenizers import TOKENIZER_FILES, Tokenizer, load_tokenizer

__all__ = ["WordReplacement", "Words", "similar_words", "word_vectors"]

_FUNCTION_WORDS = """
a about after all am an and any are as at be been before being between both but by can could did do does during
each few for from further had has have he her here him his how i if in into is it its just me more most my no
nor not of off on once only or other our out over own same she should so some such than that the their them then
there these they this those through to too under until up very was we were what when where which while who whom
why will with would you your
"""
_KEPT = tuple(_FUNCTION_WORDS.split())
"""English words that carry little meaning."""

_MATRICES = ("word_embeddings.weight", "embed_tokens.weight", "wte.weight", "words.weight")
"""How the input embeddings of a model are called: in BERT, in Llama, in GPT-2, and in `limbeck.models.transformer`."""
_BLOCK, _MASKED_BATCH = 1024, 64


@checked_fields
@dataclass(frozen=True)
class WordReplacement(Synthesis):
    """Replace words of a sentence at random by words that are likely there, or that have a similar vector.

    Each word that is not kept is replaced, with some probability, by one of its candidates.  Candidates of a word of
    one token are what a masked language model fills in, where one is named; otherwise, and for words of several tokens,
    the words of the vocabulary whose vectors are nearest.  A copy is a function of (seed, sample, copy).  Copies that
    are equal to their sample or to each other are left out.

    Attributes:
        multiple: copies made of each sentence; 1 or more.
        probability: that a word is replaced, in [0, 1].
        candidates: for each word; 1 or more.
        vectors: a folder of a model whose input embeddings are the vectors of tokens, such as the teacher's, or a text
            file with a word and its numbers on each line.
        masked: the folder of a masked language model of the Transformers library; empty for none.
        kept: words that are never replaced, small letters.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> WordReplacement(vectors="encoder", multiple=5).probability
        0.4

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """

    kind = "word_replacement"

    multiple: int = 20
    probability: float = 0.4
    candidates: int = 15
    vectors: str = ""
    masked: str = ""
    kept: tuple[str, ...] = _KEPT

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.unit_interval("probability", self.probability)
        checks.at_least("candidates", self.candidates, 1)
        if not self.vectors:
            raise InputError("vectors: is missing; name the teacher's folder, or a file of word vectors")

    def extended(self, samples: SampleSet, seed: int) -> TextSet:
        """Return a set of the sentences, and after them those that are made, which have no label.

        The new set is a root of its own.

        Raises:
            DataError: if the samples are no texts, or a folder is of another tokenizer, or too small for the texts.
        """
        if not isinstance(samples, TextSet) or samples.tokenizer is None:
            raise DataError(f"'{samples.name}' holds no sentences; word_replacement needs kind: sentences")
        for key, place in (("vectors", self.vectors), ("masked", self.masked)):
            folder = Path(place).expanduser()
            if place and any((folder / name).is_file() for name in TOKENIZER_FILES):
                samples.tokenizer.require_same(load_tokenizer(folder), what=f"{key}: '{place}'", whose="the data")
        check_fits("multiple", 8 * (1 + self.multiple) * int(samples.lengths.sum()))
        rows = [row.tolist() for row in _rows(samples.rows, samples.index)]
        types = None if samples.types is None else [row.tolist() for row in _rows(samples.types, samples.index)]
        words = Words.of(samples.tokenizer)
        found = [words.split(row) for row in rows]
        likely = self._candidates(words, rows, found)
        taken, made, made_types = {tuple(row) for row in rows}, [], []
        for number, (row, spans) in enumerate(zip(rows, found, strict=True)):
            index = samples.index[number : number + 1].cpu().expand(self.multiple)
            copies = torch.arange(1, self.multiple + 1)
            drawn = uniform(seed, self.kind, copies, index, 2 * len(spans)).double().tolist() if spans else []
            for numbers in drawn:
                new, kinds = _replaced(
                    row, None if types is None else types[number], spans, numbers, self, likely[number]
                )
                if tuple(new) not in taken:
                    taken.add(tuple(new))
                    made.append(new)
                    made_types.append(kinds)
        return _set_of(samples, rows + made, None if types is None else types + made_types, self.kind)

    def _candidates(
        self, words: "Words", rows: Sequence[list[int]], found: Sequence[list[slice]]
    ) -> list[list[list[int]]]:
        """Return the candidates of each word of each sentence, none of words that are kept."""
        replaceable = {
            tuple(row[span])
            for row, spans in zip(rows, found, strict=True)
            for span in spans
            if self._may(words, row[span])
        }
        near = similar_words(words, sorted(replaceable), self.vectors, self.candidates)
        likely = [[near.get(tuple(row[span]), []) for span in spans] for row, spans in zip(rows, found, strict=True)]
        if self.masked:
            single = [
                (number, place, span.start)
                for number, (row, spans) in enumerate(zip(rows, found, strict=True))
                for place, span in enumerate(spans)
                if span.stop == span.start + 1 and self._may(words, row[span])
            ]
            for (number, place, _), each in zip(
                single, _filled_in(self.masked, words, rows, single, self.candidates), strict=True
            ):
                likely[number][place] = each
        return likely

    def _may(self, words: "Words", tokens: Sequence[int]) -> bool:
        text = words.text(tokens)
        return text.isalpha() and text not in self.kept


@dataclass(frozen=True)
class Words:
    """Which tokens begin words, and which are whole words.

    starts: (V,) bool.  whole: ids of tokens that are whole words of letters.  texts: of tokens, without marks, small.
    """

    starts: tuple[bool, ...]
    whole: tuple[int, ...]
    texts: tuple[str, ...]
    special: frozenset[int]
    mask: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Words":
        """Read a tokenizer: of words, of word pieces, or of byte pairs or pieces that mark the space before a word."""
        if tokenizer.kind == "characters":
            raise InputError("tokenizer: found characters; expected tokens that are words or parts of words")
        names = tokenizer.names
        special = frozenset(number for number in vars(tokenizer.special).values() if number is not None)
        mark = next((each for each in ("##", "Ġ", "▁") if any(name.startswith(each) for name in names)), "")
        starts = tuple(not name.startswith(mark) if mark == "##" else name.startswith(mark) for name in names)
        texts = tuple((name.removeprefix(mark) if mark else name).lower() for name in names)
        whole = (
            number
            for number, text in enumerate(texts)
            if starts[number] and number not in special and len(text) > 1 and text.isalpha()
        )
        return cls(starts, tuple(whole), texts, special, tokenizer.special.mask)

    def split(self, row: Sequence[int]) -> list[slice]:
        """Return where the words of a row of tokens are, special tokens left out.

        >>> from limbeck.tokenizers import Words as Spaces
        >>> words = Words.of(Spaces().fit(["a film"]))
        >>> words.split([0, 1, 2])
        [slice(0, 1, None), slice(1, 2, None)]
        """
        spans: list[slice] = []
        inside = False
        for place, token in enumerate(row):
            if token in self.special:
                inside = False
            elif inside and not self.starts[token]:
                spans[-1] = slice(spans[-1].start, place + 1)
            else:
                spans.append(slice(place, place + 1))
                inside = True
        return spans

    def text(self, tokens: Sequence[int]) -> str:
        """Return a word as text, small letters."""
        return "".join(self.texts[token] for token in tokens)


def similar_words(
    words: Words, wanted: Sequence[tuple[int, ...]], vectors: str, count: int
) -> dict[tuple[int, ...], list[int]]:
    """Return for words, each given by its tokens, the whole words whose vectors have the largest cosine with its own.

    vectors: of tokens, by which a word of several has their mean, or of words; a word without a vector has no others.
    """
    matrix, known = word_vectors(vectors, words)
    choices = [token for token in words.whole if not known or words.texts[token] in known]
    if not choices or not wanted:
        return {}
    places = {name: number for number, name in enumerate(known)}
    options = unit(matrix[[places[words.texts[token]] for token in choices] if known else choices])
    found: dict[tuple[int, ...], list[int]] = {}
    present = [each for each in wanted if not known or words.text(each) in places]
    for start in range(0, len(present), _BLOCK):
        block = present[start : start + _BLOCK]
        own = [matrix[places[words.text(each)]] if known else matrix[list(each)].mean(0) for each in block]
        near = (unit(torch.stack(own)) @ options.T).topk(min(count + 1, len(choices))).indices.tolist()
        for each, numbers in zip(block, near, strict=True):
            others = [choices[number] for number in numbers if words.texts[choices[number]] != words.text(each)]
            found[each] = others[:count]
    return found


def word_vectors(place: str, words: Words) -> tuple[Tensor, tuple[str, ...]]:
    """Return vectors (V, d) of a model's tokens, or (n, d) of words and these words, from a folder or a text file."""
    path = Path(place).expanduser()
    if path.is_dir():
        return _embeddings(path, len(words.texts)), ()
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [line.split() for line in lines]
        known = {row[0].lower(): [float(number) for number in row[1:]] for row in rows if len(row) > 2}
        matrix = torch.tensor(list(known.values()))
    except (OSError, ValueError) as error:
        raise DataError(
            f"vectors: '{place}' cannot be read ({one_line(error)}); expected a folder of a model, or a file with a"
            " word and as many numbers on each line"
        ) from None
    if matrix.dim() != 2:
        raise DataError(f"vectors: '{place}' has no word with numbers; expected a word and its numbers on each line")
    return matrix, tuple(known)


def _embeddings(folder: Path, tokens: int) -> Tensor:
    """Return the input embeddings of a model's folder, (tokens, d)."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as weights:
                name = next((key for key in weights.keys() if key.endswith(_MATRICES)), None)  # noqa: SIM118
                if name is not None:
                    matrix: Tensor = weights.get_tensor(name).float()
                    if len(matrix) < tokens:
                        raise DataError(
                            f"vectors: '{file}' has vectors of {len(matrix):,} tokens; expected {tokens:,}, those of"
                            " the data's tokenizer"
                        )
                    return matrix
        except (OSError, SafetensorError) as error:
            raise DataError(f"vectors: '{file}' cannot be read ({one_line(error)}); save the model again") from None
    raise DataError(f"vectors: found no input embeddings in '{folder}'; expected a folder with a *.safetensors file")


@torch.no_grad()
def _filled_in(
    folder: str, words: Words, rows: Sequence[list[int]], places: Sequence[tuple[int, int, int]], count: int
) -> Iterator[list[int]]:
    """Yield for each (row, word, token) the whole words that a masked language model finds most likely there."""
    try:
        from transformers import AutoModelForMaskedLM
    except ImportError:
        raise InputError("masked: needs the Transformers library; pip install 'limbeck[text]'") from None
    if words.mask is None:
        raise InputError("masked: the tokenizer has no token that hides a word; expected one, or leave masked out")
    try:
        model: Any = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    except Exception as error:  # noqa: BLE001 - whatever the library raises of a folder
        raise DataError(f"masked: '{folder}' cannot be read ({one_line(error)}); name a model's folder") from None
    _check_size(folder, model, len(words.texts), max(map(len, rows), default=0))
    whole = torch.tensor(words.whole)
    for start in range(0, len(places), _MASKED_BATCH):
        block = places[start : start + _MASKED_BATCH]
        ids, real = Ragged.of([rows[number] for number, _, _ in block]).padded(torch.arange(len(block)), 0)
        hidden = torch.tensor([token for _, _, token in block])
        own = ids[torch.arange(len(block)), hidden]
        ids[torch.arange(len(block)), hidden] = words.mask
        logits = model(input_ids=ids, attention_mask=real.long()).logits[torch.arange(len(block)), hidden]
        logits[torch.arange(len(block)), own] = -torch.inf
        for each in logits[:, whole].topk(min(count, len(whole))).indices:
            yield whole[each].tolist()


def _check_size(folder: str, model: Any, tokens: int, longest: int) -> None:
    """Require a masked language model with a row for each token, and a position for each of the longest sentence."""
    rows = len(model.get_input_embeddings().weight)
    if rows < tokens:
        raise DataError(
            f"masked: '{folder}' has {rows:,} rows of embeddings; expected {tokens:,}, the tokens of the data. Name a"
            " model with the data's tokenizer"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return
    table = next((each for name, each in model.named_modules() if name.endswith("position_embeddings")), None)
    padding = getattr(table, "padding_idx", None)
    usable = positions if padding is None else positions - padding - 1  # RoBERTa counts from there
    if usable < longest:
        raise DataError(
            f"masked: '{folder}' has {usable:,} positions, and the longest sentence has {longest:,} tokens; expected no"
            f" longer ones. Set the data's max_length to {usable}"
        )


def _replaced(
    row: list[int],
    types: list[int] | None,
    spans: Sequence[slice],
    drawn: Sequence[float],
    settings: WordReplacement,
    likely: Sequence[list[int]],
) -> tuple[list[int], list[int] | None]:
    """Return a copy of a row and its token types.

    drawn: for each word whether it is replaced, then for each word by which of its candidates.
    """
    new, kinds, before = list[int](), list[int](), 0
    for place, (span, options) in enumerate(zip(spans, likely, strict=True)):
        if drawn[place] >= settings.probability or not options:
            continue
        chosen = options[min(int(drawn[len(spans) + place] * len(options)), len(options) - 1)]
        new += [*row[before : span.start], chosen]
        if types is not None:
            kinds += types[before : span.start + 1]
        before = span.stop
    return new + row[before:], None if types is None else kinds + types[before:]


def _rows(ragged: Ragged, index: Tensor) -> list[Tensor]:
    return [ragged.flat[ragged.offsets[row] : ragged.offsets[row + 1]] for row in index.tolist()]


def _set_of(samples: TextSet, rows: list[list[int]], types: Any, kind: str) -> TextSet:
    """Return a root set of rows, the first of which are the samples; the others have no label."""
    ragged = Ragged.of(rows)
    own_types = None if types is None else Ragged(Ragged.of(types).flat, ragged.offsets)
    more = len(rows) - len(samples)
    none = samples.task.without_labels(samples.labels[:1].cpu())
    labels = torch.cat([samples.labels.cpu(), none.expand(more, *none.shape[1:])])
    digest = hashlib.sha256(f"{samples.digest()} {kind}".encode())
    for each in (ragged, own_types):
        digest.update(b"none" if each is None else each.digest())
    return replace(
        samples,
        name=f"{samples.name} with {kind}",
        source=digest.hexdigest(),
        index=torch.arange(len(rows)),
        labels=labels,
        turn=None,
        rows=ragged,
        types=own_types,
    )
