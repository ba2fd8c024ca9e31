"""Published sets of sentences as their authors distribute them: SST-2, CoLA, MRPC, RTE, and the questions of TREC."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from limbeck.arguments import checked
from limbeck.data.download import own_folder
from limbeck.data.sentences import SentencePart, sentence_splits
from limbeck.data.sets import Splits
from limbeck.data.text_files import decoded, lines_of, read_columns
from limbeck.errors import DataError, InputError, one_of
from limbeck.tasks import CLASSIFICATION
from limbeck.tokenizers import TokenizerKind, Words

__all__ = ["glue"]

_Parts = dict[str, SentencePart]
_BRACKETS = {"-lrb-": "(", "-rrb-": ")", "-LRB-": "(", "-RRB-": ")"}


@dataclass(frozen=True)
class _Published:
    """folder: that the files are in.  read: what makes the parts of it, "test" and "train" among them."""

    folder: str
    read: Callable[[Path, list[str]], _Parts]


@checked
def glue(
    name: Literal["sst2", "sst2_phrases", "cola", "mrpc", "rte", "trec", "trec_fine"],
    folder: str | None = None,
    tokenizer: TokenizerKind = Words(),  # noqa: B008 - a frozen value
    max_length: int | None = None,
    bucket: int = 0,
) -> Splits:
    """Return a task of GLUE, whole sentences of SST-2, or the questions of TREC; nothing is downloaded.

    A training sentence with the letters and digits of one of another part is left out, which a note says.

    Args:
        name: of the set.

            - sst2: 6,920 whole sentences, 872 for choices, 1,821 to test (`sst2/stsa.binary.train`, `.dev`, `.test`).
            - sst2_phrases: the phrases of GLUE (`SST-2/train.tsv`, `dev.tsv`) with the same test sentences.
            - cola: `CoLA/train.tsv`, tested on `dev.tsv`.
            - mrpc: pairs (`MRPC/msr_paraphrase_train.txt`, `msr_paraphrase_test.txt`), the pairs in `dev_ids.tsv` for
              choices.
            - rte: pairs (`RTE/train.tsv`), tested on `dev.tsv`.
            - trec: questions in 6 classes (`trec/train_5500.label`, `TREC_10.label`); trec_fine: in 50.
        folder: that these folders are in, or the set's own folder; by default $LIMBECK_DATA.
        tokenizer: as of `sentences`.
        max_length: as of `sentences`.
        bucket: as of `sentences`.

    Returns:
        Training and test set, and the validation set of those that have one, as of `sentences`.

    Raises:
        DataError: if a file is missing or damaged.
        InputError: if there is no such set.

    Example:
        >>> glue("sst3")
        Traceback (most recent call last):
        limbeck.errors.InputError: name: found 'sst3'; did you mean 'sst2'?

    Reference:
        Wang et al. (2018), "GLUE", arXiv:1804.07461; Socher et al. (2013), "Recursive Deep Models for Semantic
        Compositionality Over a Sentiment Treebank"; Li and Roth (2002), "Learning Question Classifiers".
    """
    if name not in _SETS:
        raise InputError(f"name: found {name!r}; {one_of(name, _SETS)}")
    published = _SETS[name]
    notes: list[str] = []
    parts = published.read(_place(published.folder, folder), notes)
    return sentence_splits(
        name,
        parts.pop("train"),
        parts,
        label="label",
        task=CLASSIFICATION,
        tokenizer=tokenizer,
        max_length=max_length,
        bucket=bucket,
        test_share=0.2,
        seed=0,
        notes=notes,
        same=_letters,
    )


def _letters(text: str) -> str:
    """Return the letters and digits of a sentence alone, by which the published sets' ways of writing are one."""
    return "".join(filter(str.isalnum, _with_brackets(text).lower()))


def _place(name: str, folder: str | None) -> Path:
    """Return the folder of a set: within `folder` or its subfolder glue, `folder` itself, or within $LIMBECK_DATA."""
    if folder is None:
        for own in (own_folder(name, None), own_folder(f"glue/{name}", None)):
            if own is not None:
                return own
        raise DataError(f"folder: found no folder '{name}' in $LIMBECK_DATA; expected it there, or its path as folder")
    root = Path(folder).expanduser()
    return next((place for place in (root / name, root / "glue" / name) if place.is_dir()), root)


def _columns(
    place: Path, notes: list[str], text: str, label: str, pair: str | None = None, names: tuple[str, ...] = ()
) -> SentencePart:
    found, _ = read_columns(place, columns=names, delimiter="\t", quoting="none", notes=notes)
    for name in (text, label, *([pair] if pair else [])):
        if name not in found:
            raise DataError(f"{place}: there is no column '{name}'; {one_of(name, found)}")
    return SentencePart(found[text], found[pair] if pair else None, found[label])


def _sst2(place: Path, _: list[str]) -> _Parts:
    names = {"train": "train", "validation": "dev", "test": "test"}
    return {part: _labelled_first(place / f"stsa.binary.{ending}") for part, ending in names.items()}


def _labelled_first(path: Path, encoding: str = "utf-8") -> SentencePart:
    """Return the lines of a file that begin with the label and a space."""
    parted = [line.strip().partition(" ") for line in lines_of(decoded(path, encoding)) if line.strip()]
    for number, (label, _, text) in enumerate(parted, 1):
        if not text.strip():
            raise DataError(f"{path}: line {number}: found {label!r} alone; expected a label, a space and a sentence")
    return SentencePart([text for _, _, text in parted], None, [label for label, _, _ in parted])


def _sst2_phrases(place: Path, notes: list[str]) -> _Parts:
    whole = next((each for each in (place.parent / "sst2", place.parent.parent / "sst2") if each.is_dir()), place)
    test = _labelled_first(whole / "stsa.binary.test")
    files = {"train": place / "train.tsv", "validation": place / "dev.tsv"}
    parts = {name: _columns(file, notes, "sentence", "label") for name, file in files.items()} | {"test": test}
    return {
        name: SentencePart(list(map(_with_brackets, part.texts)), None, part.labels) for name, part in parts.items()
    }


def _with_brackets(text: str) -> str:
    for written, bracket in _BRACKETS.items():
        text = text.replace(written, bracket)
    return text


def _cola(place: Path, notes: list[str]) -> _Parts:
    names = ("source", "label", "mark", "sentence")
    files = {"train": place / "train.tsv", "test": place / "dev.tsv"}
    return {part: _columns(file, notes, "sentence", "label", names=names) for part, file in files.items()}


def _rte(place: Path, notes: list[str]) -> _Parts:
    files = {"train": place / "train.tsv", "test": place / "dev.tsv"}
    return {part: _columns(file, notes, "sentence1", "label", "sentence2") for part, file in files.items()}


def _mrpc(place: Path, _: list[str]) -> _Parts:
    def rows(file: str) -> tuple[list[tuple[str, str]], SentencePart]:
        found = read_columns(place / file, delimiter="\t", quoting="none", notes=[])[0]
        wanted = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
        for name in wanted:
            if name not in found:
                raise DataError(f"{place / file}: there is no column '{name}'; {one_of(name, found)}")
        ids = list(zip(found["#1 ID"], found["#2 ID"], strict=True))
        return ids, SentencePart(found["#1 String"], found["#2 String"], found["Quality"])

    ids, whole = rows("msr_paraphrase_train.txt")
    chosen = {tuple(line.split("\t")) for line in lines_of(decoded(place / "dev_ids.tsv"))}
    held = [pair in chosen for pair in ids]
    if sum(held) != len(chosen):
        raise DataError(
            f"{place}: dev_ids.tsv names {len(chosen):,} pairs, of which {sum(held):,} are in the training file;"
            " expected all of them. Restore the files"
        )
    parts = {"train": _where(whole, [not each for each in held]), "validation": _where(whole, held)}
    return parts | {"test": rows("msr_paraphrase_test.txt")[1]}


def _where(part: SentencePart, chosen: list[bool]) -> SentencePart:
    rows = torch.tensor(chosen).nonzero().flatten().tolist()
    pairs = None if part.pairs is None else [part.pairs[row] for row in rows]
    return SentencePart([part.texts[row] for row in rows], pairs, [part.labels[row] for row in rows])


def _trec(place: Path, _: list[str], *, fine: bool = False) -> _Parts:
    train, test = _labelled_first(place / "train_5500.label", "latin-1"), _labelled_first(place / "TREC_10.label")
    parts = {"train": train, "test": test}
    if fine:
        return parts
    return {
        name: SentencePart(part.texts, None, [label.partition(":")[0] for label in part.labels])
        for name, part in parts.items()
    }


def _trec_fine(place: Path, notes: list[str]) -> _Parts:
    return _trec(place, notes, fine=True)


_SETS = {
    "sst2": _Published("sst2", _sst2),
    "sst2_phrases": _Published("SST-2", _sst2_phrases),
    "cola": _Published("CoLA", _cola),
    "mrpc": _Published("MRPC", _mrpc),
    "rte": _Published("RTE", _rte),
    "trec": _Published("trec", _trec),
    "trec_fine": _Published("trec", _trec_fine),
}
