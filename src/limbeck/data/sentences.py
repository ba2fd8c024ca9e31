"""Sentences, or pairs of them, with a label each: from files of one's own, and in the forms of published sets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data.arrow_rows import is_arrow
from limbeck.data.cells import is_blank
from limbeck.data.names import look_alike
from limbeck.data.parting import apart
from limbeck.data.sets import Splits, TensorSet
from limbeck.data.tables import classes_of, numbers_of
from limbeck.data.text import TextSet
from limbeck.data.text_files import Quoting, read_columns
from limbeck.errors import DataError, one_of
from limbeck.tasks import Task, task_named
from limbeck.tokenizers import TokenizerKind, Words

__all__ = ["SentencePart", "sentence_splits", "sentences"]


@dataclass(frozen=True)
class SentencePart:
    """Rows as they were read.

    texts: the sentences.  pairs: the second ones, or None.  labels: cells, empty for none.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[str]


@checked
def sentences(
    path: str,
    text: str = "text",
    label: str | None = "label",
    pair: str | None = None,
    tokenizer: TokenizerKind = Words(),  # noqa: B008 - a frozen value
    max_length: int | None = None,
    bucket: int = 0,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    columns: tuple[str, ...] = (),
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    encoding: str = "utf-8",
    task: Literal["classification", "binary", "regression"] = "classification",
    test_share: float = 0.2,
    seed: int = 0,
) -> Splits:
    r"""Return the sentences of a file, with the classes that a column names.

    A file is .tsv, .csv or .jsonl, also packed (.gz), .parquet, or a folder that the library `datasets` saved; of
    others, tabs part the columns.  Classes that are words are in
    sorted order.  The tokenizer is made of the training part alone.  A training sentence that is also in the test or
    validation part is left out, and so is a validation sentence that is also in the test part, which a note says.

    Args:
        path: the file, or the folder of several.
        text: the column of the sentence.
        label: the column to predict; None for sentences without labels.
        pair: the column of a second sentence; None for single ones.
        tokenizer: how text becomes tokens: words, characters, bpe, or {folder: PATH}.
        max_length: of a sample in tokens, special tokens included; longer ones are cut, of pairs the longer sentence
            first.  None for the length of the longest sample.
        bucket: how many batches are sorted by length together, so that there is little padding; 0 for none.
        train: the file of the training part within the folder `path`.
        validation: the file for choices, which then needs no other held-out part; None for none.
        test: the file of the test part; None to hold out `test_share`.
        columns: the names of all columns, for files whose first line has none.
        delimiter: between columns; by default a tab, in a .csv file a comma.  With a space and names for the `columns`,
            the last one is the rest of the line.
        quoting: "csv" if quotation marks enclose cells, "none" if they are plain text; by default "csv" where commas
            part the columns, else "none".
        encoding: of the files, such as latin-1.
        task: what a label is.
        test_share: share of each class that is held out for testing, in (0, 1), if there is no test file.
        seed: of that split.

    Returns:
        Training and test set, and the validation set if there is one; all are parts of one root set.

    Raises:
        DataError: if a file is missing or damaged; the message names the file and the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "films.csv"
        ...     _ = path.write_text("text,label\ngood,yes\nbad,no\nfine,yes\npoor,no\n")
        ...     data = sentences(str(path), test_share=0.5)
        >>> len(data.train), data.train.class_names, data.train.task.name
        (2, ('no', 'yes'), 'classification')
    """
    place = Path(path).expanduser()
    if train is None and place.is_dir() and not is_arrow(place):
        raise DataError(f"path: '{place}' is a folder; expected a file, or the name of one in it as train")
    if train is not None and not place.is_dir():
        raise DataError(f"train: found '{train}' beside '{place}', which is no folder; expected path to be its folder")
    notes: list[str] = []

    def part(file: Path) -> SentencePart:
        found, lines = read_columns(
            file, columns=columns, delimiter=delimiter, quoting=quoting, encoding=encoding, notes=notes
        )
        for key, name in (("text", text), ("label", label), ("pair", pair)):
            if name is not None and name not in found:
                raise DataError(f"{key}: there is no column '{name}' in '{file}'; {one_of(name, found)}")
        for name in (text, pair):
            empty = [] if name is None else [row for row, cell in enumerate(found[name]) if is_blank(cell)]
            if empty:
                raise DataError(
                    f"{file}: line {lines[empty[0]]}: column '{name}' is empty ({len(empty):,} such lines); fill it in,"
                    " or leave the line out"
                )
        cells = [""] * len(lines) if label is None else found[label]
        return SentencePart(found[text], None if pair is None else found[pair], cells)

    folder = place if place.is_dir() else place.parent
    others = {name: folder / file for name, file in (("validation", validation), ("test", test)) if file is not None}
    return sentence_splits(
        str(place),
        part(place if train is None else folder / train),
        {name: part(file) for name, file in others.items()},
        label=label,
        task=task_named(task),
        tokenizer=tokenizer,
        max_length=max_length,
        bucket=bucket,
        test_share=test_share,
        seed=seed,
        notes=notes,
    )


def sentence_splits(
    name: str,
    train: SentencePart,
    others: dict[str, SentencePart],
    *,
    label: str | None,
    task: Task,
    tokenizer: TokenizerKind,
    max_length: int | None,
    bucket: int,
    test_share: float,
    seed: int,
    notes: list[str],
    same: Callable[[str], str] = lambda text: " ".join(text.split()),
) -> Splits:
    """Return the sets of parts as they were read: one root set, of which training, validation and test are subsets.

    others: the parts "validation" and "test", where there are any; without a test part a share is held out.
    same: what two sentences that are one have in common.
    """
    if max_length is not None:
        checks.at_least("max_length", max_length, 1)
    parts = [train, *others.values()]
    cells = [cell for part in parts for cell in part.labels]
    if label is None:
        labels, names = task.no_labels(name, len(cells)), None
    elif task.has_classes:
        found: list[str] = []
        labels, names = classes_of(name, label, cells, task, found)
        notes += (f"{name}: {note}" for note in [*found, *look_alike("class", names)] if note not in notes)
    else:
        labels, names = numbers_of(name, label, cells)
    places = dict(
        zip(["train", *others], torch.arange(len(cells)).split([len(part.labels) for part in parts]), strict=True)
    )
    if names is not None and task.has_classes:
        missing = sorted(set(range(len(names))) - set(labels[places["train"]].tolist()))
        if missing:
            raise DataError(
                f"{name}: label '{label}': class '{names[missing[0]]}' does not occur in the training part; expected"
                " all classes there"
            )
    if "test" not in places:
        here = labels[places["train"]]
        blank = TensorSet.of(torch.zeros(len(here), 1), here, class_names=names, name=name, task=task)
        held = Splits.held_out(blank, test_share, seed)
        places |= {"train": held.train.index, "test": held.test.index}
    texts = [text for part in parts for text in part.texts]
    pairs = None if train.pairs is None else [text for part in parts for text in part.pairs or ()]
    keys = list(map(same, texts))
    if pairs is not None:
        keys = [f"{key}\t{same(other)}" for key, other in zip(keys, pairs, strict=True)]
    own_keys = {part: [keys[row] for row in rows.tolist()] for part, rows in places.items()}
    kept = apart(name, own_keys, notes, "samples")
    places = {part: rows[torch.tensor(kept[part])] for part, rows in places.items()}
    own = places["train"].tolist()
    made = tokenizer.fit(each[row] for each in (texts, pairs) if each is not None for row in own)
    whole = TextSet.of(
        texts,
        labels,
        tokenizer=made,
        pairs=pairs,
        max_length=max_length,
        bucket=bucket,
        class_names=names,
        name=name,
        task=task,
    )
    sets = {part: replace(whole.subset(rows), name=f"{name}/{part}") for part, rows in places.items()}
    splits = Splits(sets["train"], sets["test"], name, validation=sets.get("validation"))
    return splits.noting(notes, warn=False)
