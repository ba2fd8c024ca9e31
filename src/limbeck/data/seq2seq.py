"""Pairs of texts for an encoder and decoder: from files of one's own."""

from dataclasses import replace
from pathlib import Path

import torch

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data.cells import is_blank
from limbeck.data.pair_set import PairSet
from limbeck.data.parting import apart, held_out
from limbeck.data.restore import Restore
from limbeck.data.sets import Splits
from limbeck.data.text_files import Quoting, read_columns
from limbeck.errors import DataError, InputError, one_of
from limbeck.randomness import derive_seed, permutation
from limbeck.tokenizers import Characters, TokenizerKind

__all__ = ["seq2seq"]

_Pairs = list[tuple[str, str]]


@checked
def seq2seq(
    path: str,
    source: str | None = None,
    target: str = "target",
    restore: Restore | None = None,
    tokenizer: TokenizerKind = Characters(),  # noqa: B008 - a frozen value
    max_length: int | None = None,
    bucket: int = 0,
    most: int | None = None,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    columns: tuple[str, ...] = (),
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    encoding: str = "utf-8",
    test_share: float = 0.2,
    seed: int = 0,
) -> Splits:
    r"""Return the pairs of a source and a target in a file; the task is `tokens`, the next token of the target.

    A file is .tsv, .csv or .jsonl, also packed (.gz); of others, tabs part the columns.  The tokenizer is made of both
    sides of the training part.  A pair that occurs twice counts once.  A training pair whose target is also in the test
    or validation part is left out, and so is a validation pair whose target is in the test part, which notes say.

    Args:
        path: the file, or the folder of several.
        source: the column of the source; "source" by default.
        target: the column of the target.
        restore: make the source of the target by leaving characters out, in place of a column.
        tokenizer: how text becomes tokens: words, characters, bpe, or {folder: PATH}.
        max_length: of a source and of a target in tokens, special tokens included; longer ones are cut.  None for the
            length of the longest.
        bucket: how many batches are sorted by length together, so that there is little padding; 0 for none.
        most: at most so many training pairs, drawn by the seed; None for all.
        train: the file of the training part within the folder `path`.
        validation: the file for choices, which then needs no other held-out part; None for none.
        test: the file of the test part; None to hold out `test_share`.
        columns: the names of all columns, for files whose first line has none.
        delimiter: between columns; by default a tab, in a .csv file a comma.
        quoting: "csv" if quotation marks enclose cells, "none" if they are plain text; by default "csv" where commas
            part the columns, else "none".
        encoding: of the files, such as latin-1.
        test_share: share of the pairs that is held out for testing, in (0, 1), if there is no test file.
        seed: of that split, and of `most`.

    Returns:
        Training and test set, and the validation set if there is one; all are parts of one root set.

    Raises:
        DataError: if a file is missing or damaged; the message names the file and the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "pairs.csv"
        ...     _ = path.write_text("source,target\nab,ba\nbc,cb\ncd,dc\nda,ad\n")
        ...     data = seq2seq(str(path), test_share=0.5)
        >>> len(data.train), data.train.task.name, data.train.classes
        (2, 'tokens', 6)
    """
    if source is not None and restore is not None:
        raise InputError("source: found together with restore, which makes the sources; give one of them")
    if most is not None:
        checks.at_least("most", most, 1)
    place = Path(path).expanduser()
    if train is None and place.is_dir():
        raise DataError(f"path: '{place}' is a folder; expected a file, or the name of one in it as train")
    if train is not None and not place.is_dir():
        raise DataError(f"train: found '{train}' beside '{place}', which is no folder; expected path to be its folder")
    notes: list[str] = []

    def part(file: Path) -> _Pairs:
        found, lines = read_columns(
            file, columns=columns, delimiter=delimiter, quoting=quoting, encoding=encoding, notes=notes
        )
        named = {"target": target} | ({} if restore is not None else {"source": source or "source"})
        for key, name in named.items():
            if name not in found:
                raise DataError(f"{key}: there is no column '{name}' in '{file}'; {one_of(name, found)}")
            empty = [row for row, cell in enumerate(found[name]) if is_blank(cell)]
            if empty:
                raise DataError(
                    f"{file}: line {lines[empty[0]]}: column '{name}' is empty ({len(empty):,} such lines); fill it in,"
                    " or leave the line out"
                )
        if restore is None:
            pairs = list(zip(found[named["source"]], found[target], strict=True))
        else:
            pairs = restore.pairs(found[target])
            if not pairs:
                raise DataError(f"{file}: restore leaves no pair of {len(lines):,} lines; allow other lengths")
        return _once(str(file), pairs, notes)

    folder = place if place.is_dir() else place.parent
    files = {"train": place if train is None else folder / train}
    files |= {name: folder / each for name, each in (("validation", validation), ("test", test)) if each is not None}
    parts = {name: part(file) for name, file in files.items()}
    if test is None:
        parts["train"], parts["test"] = held_out(parts["train"], test_share, seed, "pairs")
    targets = {name: [pair[1] for pair in pairs] for name, pairs in parts.items()}
    kept = apart(str(place), targets, notes, "pairs")
    parts = {name: [pairs[row] for row in kept[name]] for name, pairs in parts.items()}
    if most is not None:
        order = permutation(derive_seed(seed, "most"), "pairs", 0, len(parts["train"]))[:most].sort().values
        parts["train"] = [parts["train"][row] for row in order.tolist()]
    made = tokenizer.fit(text for pair in parts["train"] for text in pair)
    everything = [pair for each in parts.values() for pair in each]
    whole = PairSet.of(
        [pair[0] for pair in everything],
        [pair[1] for pair in everything],
        tokenizer=made,
        max_length=max_length,
        bucket=bucket,
        name=str(place),
    )
    rows = torch.arange(len(everything)).split([len(each) for each in parts.values()])
    sets = {name: replace(whole.subset(own), name=f"{place}/{name}") for name, own in zip(parts, rows, strict=True)}
    splits = Splits(sets["train"], sets["test"], str(place), validation=sets.get("validation"))
    return splits.noting(notes, warn=False)


def _once(name: str, pairs: _Pairs, notes: list[str]) -> _Pairs:
    kept = list(dict.fromkeys(pairs))
    if len(kept) < len(pairs):
        notes.append(f"{name}: {len(pairs) - len(kept):,} pairs occur before; left out")
    return kept
