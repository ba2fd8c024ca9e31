"""Tables: the sets that scikit-learn carries, and CSV files of one's own."""

import csv
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.checks import shown
from limbeck.data.cells import (
    code,
    decimal_comma,
    exact,
    is_blank,
    is_infinite,
    is_missing,
    is_number,
    one_spelling,
)
from limbeck.data.columns import Columns, RawColumn
from limbeck.data.content import check_fits
from limbeck.data.names import checked_names, listed, look_alike
from limbeck.data.sets import Splits, TensorSet
from limbeck.errors import DataError, InputError, one_of
from limbeck.tasks import CLASSIFICATION, REGRESSION, Task, task_named

__all__ = ["bundled", "classes_of", "numbers_of", "read_rows", "table"]

_MOST_CATEGORIES = 200
_MOST_FRACTIONS = 50  # classes that are numbers with fractions: ratings in halves are fewer, measurements are more
_MANY_NUMBERS = 100  # classes that are whole numbers, from which on they may be amounts
_BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_NOMINAL = {"diabetes": {"sex"}}


@checked
def bundled(
    name: Literal["breast_cancer", "diabetes", "digits", "iris", "wine"], test_share: float = 0.2, seed: int = 0
) -> Splits:
    """Return a table that scikit-learn contains; nothing is downloaded, and its columns are standardised.

    Args:
        name: breast_cancer (569 rows, 30 numbers, 2 classes), wine (178, 13, 3), iris (150, 4, 3), digits (1,797 rows
            of 64 pixels, 10 classes) or diabetes (442 rows, 9 numbers and the sex, a regression of one number).
        test_share: share of each class that is held out for testing, in (0, 1).
        seed: of the split.

    Returns:
        Training and test set of float32 rows (n, columns).

    Raises:
        InputError: if there is no such table or a value is out of range.

    Example:
        >>> data = bundled("wine")
        >>> len(data.train), len(data.test), data.train.input_shape, data.train.class_names
        (142, 36, (13,), ('class_0', 'class_1', 'class_2'))
    """
    from sklearn import datasets

    if name not in _BUNDLED:
        raise InputError(f"name: found {name!r}; {one_of(str(name), _BUNDLED)}")
    found = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    names = [str(each).replace(" ", "_") for each in found.feature_names]
    columns = []
    for number, each in enumerate(names):
        values = torch.from_numpy(found.data[:, number].astype("float64"))
        if each in _NOMINAL.get(name, ()):
            columns.append(RawColumn(each, texts=tuple(f"{value:g}" for value in values.tolist())))
        else:
            columns.append(RawColumn(each, values))
    if name == "diabetes":
        return _split(name, columns, torch.from_numpy(found.target), [name], REGRESSION, test_share, seed, impute=False)
    classes = [str(each) for each in found.target_names]
    labels = torch.from_numpy(found.target.astype("int64"))
    return _split(name, columns, labels, classes, CLASSIFICATION, test_share, seed, impute=False)


@checked
def table(
    path: str,
    label: str,
    nominal: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    delimiter: str = ",",
    missing: Literal["refuse", "impute"] = "refuse",
    task: Literal["classification", "binary", "regression"] = "classification",
    test_share: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Return the rows of a CSV file whose first line names its columns.

    A column of numbers is standardised; any other column is nominal and becomes one number for each of its categories.
    Means, deviations and categories are those of the training part, and are kept with the set as its `columns`.  Values
    that may be misread (a missing-value word as a class, names that look alike, a nominal column that is half numbers)
    are listed in `notes`; if they look damaged, there is a `DataWarning` as well.

    Args:
        path: the file, in UTF-8.
        label: the column to predict.  Classes are any texts, sorted (as numbers if all are numbers; 1 and 1.0 are then
            one class); an empty cell is no label.
        nominal: columns of numbers that are nominal (postcodes).
        drop: columns to leave out.
        delimiter: between cells.
        missing: what to do with an empty cell, and with NA, NaN, null, none or ? in a column of numbers: "refuse", or
            "impute" the mean, or the most frequent category, of the training part.  In a nominal column and among
            classes these words are ordinary names.
        task: what a label is.
        test_share: share of each class that is held out for testing, in (0, 1).
        seed: of the split.

    Returns:
        Training and test set of float32 rows.

    Raises:
        DataError: if the file is missing or damaged; the message names the file and the line or column.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["table"] is data.table
        True
    """
    path = str(Path(path).expanduser())
    notes, doubts = list[str](), list[str]()
    header, rows = read_rows(path, delimiter, doubts)
    for key, names in (("label", (label,)), ("nominal", nominal), ("drop", drop)):
        for name in names:
            if name not in header:
                mend = _other_delimiter(header, delimiter) or one_of(name, header)
                raise DataError(f"{key}: there is no column '{name}' in '{path}'; {mend}")
    checked_names(path, "column", header)
    doubts += look_alike("column", header)
    for key, names in (("drop", drop), ("nominal", nominal)):
        if label in names:
            raise InputError(f"{key}: found the label, '{label}'; leave it out")
    kind = task_named(task)
    columns = []
    for place, name in enumerate(header):
        if name != label and name not in drop:
            columns.append(_column(path, name, [row[place] for row in rows], notes, doubts, nominal=name in nominal))
    if not columns:
        raise DataError(f"{path}: found no column except the label; expected at least one")
    cells = [row[header.index(label)] for row in rows]
    if kind.has_classes:
        labels, classes = classes_of(path, label, cells, kind, notes)
    else:
        labels, classes = numbers_of(path, label, cells)
    try:
        splits = _split(path, columns, labels, classes, kind, test_share, seed, impute=missing == "impute")
        splits = splits.noting((f"{path}: {note}" for note in doubts), warn=True)
        return splits.noting((f"{path}: {note}" for note in notes), warn=False)
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(path) else f"{path}: {error}") from None


def _split(
    name: str,
    raw: Sequence[RawColumn],
    labels: Tensor,
    classes: Sequence[str],
    task: Task,
    test_share: float,
    seed: int,
    *,
    impute: bool,
) -> Splits:
    """Split the rows first, so that what is computed of the columns is the training part's alone."""
    blank = TensorSet.of(torch.zeros(len(labels), 1), labels, class_names=classes, name=name, task=task)
    parts = Splits.held_out(blank, test_share, seed)
    columns = Columns.fitted(raw, parts.train.index, impute=impute)
    check_fits(name, 4 * columns.width * len(labels))
    whole = TensorSet.of(
        columns.encoded(raw),
        labels,
        class_names=classes,
        name=name,
        task=task,
        columns=columns,
    )
    train, test = (replace(whole.subset(part.index), name=part.name) for part in (parts.train, parts.test))
    return Splits(train, test, name)


def read_rows(
    path: str, delimiter: str, doubts: list[str], columns: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Return the names of a CSV file's columns and its rows, each as long as the first; notes go to `doubts`.

    columns: the names, where the first line has none.  A file whose name ends in .gz is unpacked as it is read.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InputError(f"delimiter: found {delimiter!r}, expected one character, such as ',' or ';'")
    empty = 0
    try:
        check_fits(path, 10 * Path(path).stat().st_size)
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in (columns or next(reader, []))]
            first = "columns names" if columns else "the first has"
            rows = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"{path}: line {reader.line_num} has {len(row)} cells, {first} {len(header)}")
                if any(map(str.strip, row)):
                    rows.append(row)
                else:
                    empty += len(row) > 1
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error, ValueError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: is not a CSV file in UTF-8 ({' '.join(str(error).split())}); save it as 'CSV UTF-8'"
        ) from None
    if not rows:
        raise DataError(f"{path}: has no rows below the header line")
    if empty:
        doubts.append(f"{empty:,} rows have no value in any column and are left out")
    while header and not header[-1] and not any(row[-1].strip() for row in rows):  # as spreadsheets leave them
        header.pop()
        rows = [row[:-1] for row in rows]
    counts = Counter(header)
    for name in header:
        if not name or counts[name] > 1:
            mend = "" if name else "; name the column, or leave out the numbers of rows (pandas: index=False)"
            raise DataError(
                f"{path}: its first line names {name!r} {counts[name]} times, expected different names{mend}"
            )
    if len(header) > 1 and not columns and all(map(is_number, header)) and not _counts_up(header):
        raise DataError(f"{path}: its first line has numbers ({listed(header)}), expected the columns' names; add them")
    return header, rows


def _counts_up(header: Sequence[str]) -> bool:
    """Return whether a header of numbers is one that programs write: the columns' places, from 0 or from 1."""
    return any(list(header) == [str(place + first) for place in range(len(header))] for first in (0, 1))


def _other_delimiter(header: Sequence[str], delimiter: str) -> str | None:
    """Return the mend for a first line that is one cell, because its names are kept apart by another sign."""
    for sign, written in ((";", "';'"), ("\t", '"\\t"'), ("|", "'|'"), (",", "','")):
        if len(header) == 1 and sign in header[0] and sign != delimiter:
            return f"its first line is one name, {shown(header[0])}; let delimiter be {written}"
    return None


def _column(
    path: str, name: str, cells: Sequence[str], notes: list[str], doubts: list[str], *, nominal: bool
) -> RawColumn:
    where = f"{path}: column '{name}'"
    if not nominal and (numbers := _parsed(cells)) is not None:
        infinite = torch.where(numbers.isinf() | (numbers.abs() > torch.finfo(torch.float32).max))[0]
        if len(infinite):
            row = int(infinite[0])
            raise DataError(f"{where}, row {row + 1}: found {shown(cells[row])}, which is outside the range of float32")
        return RawColumn(name, numbers)
    if all(map(is_missing, cells)):
        return RawColumn(name, texts=(None,) * len(cells))
    known = [cell for cell in cells if not is_missing(cell)]
    others = [cell for cell in known if not is_number(cell)]
    if not nominal and others:
        if all(map(is_infinite, others)) and len(others) < len(known):
            row = cells.index(others[0])
            raise DataError(f"{where}, row {row + 1}: found {shown(cells[row])}, which is outside the range of float32")
        if (found := decimal_comma(known)) is not None:
            raise DataError(f"{where}: found {shown(found)}, a decimal comma; expected a decimal point")
    texts = tuple(None if is_blank(cell) else code(cell) for cell in cells)
    count = len(set(texts))
    if count > _MOST_CATEGORIES:
        example = next(text for text in texts if text is not None and (nominal or not is_number(text)))
        raise DataError(
            f"{where} has {count:,} different cells such as {shown(example)}, more than "
            f"{_MOST_CATEGORIES} categories; drop it, or fix the cells that are not numbers"
        )
    if not nominal and 2 * len(others) <= len(known):
        row = cells.index(others[0]) + 1
        doubts.append(
            f"column '{name}' is nominal, for {len(others):,} of its {len(cells):,} cells are no numbers, first "
            f"{shown(others[0])} in row {row}; fix them if it is a column of numbers"
        )
    notes += _words(f"column '{name}'", [cell for cell in cells if not is_blank(cell)], "a category", "missing")
    notes += look_alike(f"column '{name}': category", sorted({text for text in texts if text is not None}))
    return RawColumn(name, texts=texts)


def _words(what: str, cells: Sequence[str], taken: str, otherwise: str) -> list[str]:
    """Return a line on cells that hold a word for a missing value and are taken as a name."""
    words = [cell.strip() for cell in cells if is_missing(cell)]
    if not words:
        return []
    return [
        f"{what}: {shown(words[0])} is taken as {taken} ({len(words):,} cells hold such a word); leave a cell empty "
        f"where it is {otherwise}"
    ]


def _parsed(cells: Sequence[str]) -> Tensor | None:
    """Return the cells as numbers, NaN where they are missing; None where one is no number, or all are missing."""
    values = []
    for cell in cells:
        if is_number(cell):
            values.append(float(cell))
        elif is_missing(cell):
            values.append(math.nan)
        else:
            return None
    numbers = torch.tensor(values, dtype=torch.float64)
    return None if bool(numbers.isnan().all()) else numbers


def numbers_of(path: str, label: str, cells: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Return cells as the numbers of a regression, NaN where they are empty, and the label's name; DataError else."""
    numbers = _parsed(cells)
    if numbers is None:
        wrong = next((cell for cell in cells if not is_missing(cell) and not is_number(cell)), "nothing")
        mend = "; write it with a decimal point" if decimal_comma([wrong]) else ""
        raise DataError(f"{path}: label '{label}': found {shown(wrong)}, expected numbers (task regression){mend}")
    return numbers, [label]


def classes_of(path: str, label: str, cells: Sequence[str], task: Task, notes: list[str]) -> tuple[Tensor, list[str]]:
    """Return cells as classes in sorted order, `UNLABELLED` where they are empty, and their names; DataError else."""
    where = f"{path}: label '{label}'"
    texts = [None if is_blank(cell) else cell.strip() for cell in cells]
    found = sorted({text for text in texts if text is not None})
    words = [text for text in found if is_missing(text)]
    if words and all(is_number(text) for text in found if not is_missing(text)) and len(words) < len(found):
        raise DataError(
            f"{where}: found {shown(words[0])} among numbers; leave the cell empty where there is no label, or name "
            "the classes by text"
        )
    name_of, numbers = _named(where, found)
    names = list(dict.fromkeys(name_of.values()))
    task.check_classes(where, len(names))
    if len(names) < 2:
        raise DataError(f"{where}: {len(names)} classes, expected 2 or more (task {task.name})")
    fractions = any(number != number.to_integral_value() for number in numbers)
    if len(names) > max(2, len(cells) // 2) or (fractions and len(names) > _MOST_FRACTIONS):
        raise DataError(
            f"{where} has {len(names):,} different cells in {len(cells):,} rows; to predict numbers, "
            "set task: regression"
        )
    if numbers and len(names) > _MANY_NUMBERS:
        notes.append(
            f"label '{label}' has {len(names):,} classes, all numbers; to predict numbers, set task: regression"
        )
    notes += _words(f"label '{label}'", [text for text in texts if text is not None], "a class", "unknown")
    notes += look_alike("class", names)
    number_of = {name: place for place, name in enumerate(names)}
    return torch.tensor([UNLABELLED if text is None else number_of[name_of[text]] for text in texts]), names


def _named(where: str, found: Sequence[str]) -> tuple[dict[str, str], list[Decimal]]:
    """Return the class of each text, in the order of the classes, and their numbers where all texts are numbers."""
    number_of = {text: number for text in found if (number := exact(text)) is not None}
    if len(found) < 2 or len(number_of) < len(found):
        return {text: text for text in found}, []
    same: dict[Decimal, list[str]] = {}
    for text, number in number_of.items():
        same.setdefault(number, []).append(text)
    ordered = sorted(same)
    return {text: one_spelling(where, same[number]) for number in ordered for text in same[number]}, ordered
