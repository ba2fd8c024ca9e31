"""Tables: the sets that scikit-learn carries, and CSV files of one's own."""

import math
from collections.abc import Mapping, Sequence
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
from limbeck.data.dates import ISO, days_of
from limbeck.data.names import checked_names, look_alike
from limbeck.data.sets import Splits, TensorSet
from limbeck.data.table_files import read_rows
from limbeck.data.table_split import RowSplit
from limbeck.errors import DataError, InputError, one_of
from limbeck.tasks import CLASSIFICATION, REGRESSION, Task, task_named

__all__ = ["bundled", "classes_of", "numbers_of", "table"]

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
        labels, classes, task = torch.from_numpy(found.target), [str(name)], REGRESSION
    else:
        labels, task = torch.from_numpy(found.target.astype("int64")), CLASSIFICATION
        classes = [str(each) for each in found.target_names]
    places = _held_out(name, labels, classes, task, test_share, seed)
    return _split(name, columns, labels, classes, task, places, "refuse")


@checked
def table(
    path: str,
    label: str,
    nominal: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    delimiter: str = ",",
    missing: Literal["refuse", "impute", "indicate"] = "refuse",
    task: Literal["classification", "binary", "regression"] = "classification",
    test_share: float = 0.2,
    seed: int = 0,
    dates: Mapping[str, str] | None = None,
    split: RowSplit | None = None,
    test: str | None = None,
    validation: str | None = None,
) -> Splits:
    """Return the rows of a table: of a CSV file whose first line names its columns, or of another file with columns.

    A column of numbers is standardised.  A column of dates becomes the day, standardised, the time of the year, the
    weekday and, if there are any, times of the day (`limbeck.data.dates.date_numbers`).  Any other column is nominal
    and becomes one number for each of its categories.  Means, deviations and categories are those of the training
    part, and are kept with the set as its `columns`.  Values that may be misread (a missing-value word as a class,
    names that look alike, a nominal column that is half numbers) are listed in `notes`; if they look damaged, there is
    a `DataWarning` as well.

    Args:
        path: a CSV file in UTF-8; JSON lines (.jsonl, .ndjson) of one object a row; Parquet (.parquet); or the folder
            of a `Dataset` that the library `datasets` saved.
        label: the column to predict.  Classes are any texts, sorted (as numbers if all are numbers; 1 and 1.0 are then
            one class); an empty cell is no label.
        nominal: columns of numbers or dates that are nominal (postcodes).
        drop: columns to leave out.
        delimiter: between cells of CSV.
        missing: what to do with an empty cell, and with NA, NaN, null, none or ? in a column of numbers or dates:
            "refuse"; "impute" the mean, or the most frequent category, of the training part; or "indicate", which takes
            the mean, or no category, and adds a number that is 1 where the cell is missing.  In a nominal column and
            among classes these words are ordinary names.
        task: what a label is.
        test_share: share of each class that is held out for testing, in (0, 1).
        seed: of the split.
        dates: {column: format} of dates that are not written as 2026-11-30 or 2026-11-30T17:05, as
            `datetime.strptime` takes it: {day: "%d.%m.%Y"}.
        split: {group: COLUMN} or {time: COLUMN} in place of a random share of each class.  All rows of a group are in
            one part, and the column is no input; or the latest rows are the test part.  A validation part of
            `validation_share` (0.1) is split off in the same way.
        test: a file of the same columns for testing, beside `path`.
        validation: a file of the same columns for choices, beside `path`.  Rows of further files are counted on after
            those before them.

    Returns:
        Training and test set of float32 rows, and the validation set if there is one.

    Raises:
        DataError: if the file is missing or damaged; the message names the file and the line or column.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["table"] is data.table
        True
    """
    path = str(Path(path).expanduser())
    notes, doubts = list[str](), list[str]()
    files = {"train": path, "test": test, "validation": validation}
    header, rows, places = _read({part: file for part, file in files.items() if file is not None}, delimiter, doubts)
    if split is not None and len(places) > 1:
        raise InputError("split: found beside a file for testing or choices, expected one of them; leave one out")
    formats = dict(dates or {})
    by = () if split is None else (split.column,)
    named = (("label", (label,)), ("nominal", nominal), ("drop", drop), ("dates", tuple(formats)), ("split", by))
    for key, names in named:
        for name in names:
            if name not in header:
                mend = _other_delimiter(header, delimiter) or one_of(name, header)
                raise DataError(f"{key}: there is no column '{name}' in '{path}'; {mend}")
    checked_names(path, "column", header)
    doubts += look_alike("column", header)
    for key, names in named[1:]:
        if label in names:
            raise InputError(f"{key}: found the label, '{label}'; leave it out")
    kind = task_named(task)
    cells_of = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    left = set(drop) | ({split.group} if split is not None and split.group is not None else set())
    columns = [
        _column(path, name, cells, notes, doubts, nominal=name in nominal, form=formats.get(name))
        for name, cells in cells_of.items()
        if name != label and name not in left
    ]
    if not columns:
        raise DataError(f"{path}: found no column except the label; expected at least one")
    if kind.has_classes:
        labels, classes = classes_of(path, label, cells_of[label], kind, notes)
    else:
        labels, classes = numbers_of(path, label, cells_of[label])
    try:
        if split is not None:
            values = _values_of(split, cells_of[split.column], formats.get(split.column, ISO))
            places = split.parts(values, test_share, seed)
        elif "test" not in places:
            places |= _held_out(path, labels[places["train"]], classes, kind, test_share, seed)
        splits = _split(path, columns, labels, classes, kind, places, missing)
        splits = splits.noting((f"{path}: {note}" for note in doubts), warn=True)
        return splits.noting((f"{path}: {note}" for note in notes), warn=False)
    except DataError as error:
        raise DataError(str(error) if str(error).startswith((path, "split:")) else f"{path}: {error}") from None


def _read(
    files: Mapping[str, str], delimiter: str, doubts: list[str]
) -> tuple[list[str], list[list[str]], dict[str, Tensor]]:
    """Return the columns and rows of all files, one after the other, and the rows of each part."""
    header, rows = read_rows(files["train"], delimiter, doubts)
    places = {"train": torch.arange(len(rows))}
    for part, file in files.items():
        if part == "train":
            continue
        path = str(Path(files["train"]).parent / Path(file).expanduser())
        own, further = read_rows(path, delimiter, doubts)
        if sorted(own) != sorted(header):
            other = next(iter(set(own) ^ set(header)))
            has = f"has no column '{other}'" if other in header else f"has a column '{other}' beside them"
            raise DataError(f"{part}: '{path}' {has}; expected the columns of '{files['train']}'")
        order = [own.index(name) for name in header]
        places[part] = torch.arange(len(rows), len(rows) + len(further))
        rows = rows + [[row[place] for place in order] for row in further]
    return header, rows, places


def _values_of(split: RowSplit, cells: Sequence[str], form: str) -> Tensor:
    """Return of each row the number of its group, or its time; DataError where it has none."""
    for row, cell in enumerate(cells):
        if is_blank(cell):
            raise DataError(f"split: column '{split.column}' is empty in row {row + 1}; fill it in")
    if split.group is not None:
        number = {text: place for place, text in enumerate(sorted({code(cell) for cell in cells}))}
        return torch.tensor([number[code(cell)] for cell in cells])
    times = _parsed(cells)
    times = days_of(cells, form) if times is None else times
    if times is None or bool(times.isnan().any()):
        raise DataError(
            f"split: column '{split.column}' has cells that are neither numbers nor dates ({form}); give their format"
            f" under dates, such as {{{split.column}: '%d.%m.%Y'}}"
        )
    return times


def _held_out(
    name: str, labels: Tensor, classes: Sequence[str], task: Task, test_share: float, seed: int
) -> dict[str, Tensor]:
    """Return the rows for training and testing where a random share of each class is held out."""
    blank = TensorSet.of(torch.zeros(len(labels), 1), labels, class_names=classes, name=name, task=task)
    parts = Splits.held_out(blank, test_share, seed)
    return {"train": parts.train.index, "test": parts.test.index}


def _split(
    name: str,
    raw: Sequence[RawColumn],
    labels: Tensor,
    classes: Sequence[str],
    task: Task,
    places: Mapping[str, Tensor],
    missing: str,
) -> Splits:
    """Return the parts of a table; what is computed of its columns is the training part's alone."""
    if task.has_classes:
        known = set(labels[places["train"]].tolist())
        if absent := sorted(set(labels.tolist()) - known - {UNLABELLED}):
            raise DataError(
                f"class '{classes[absent[0]]}' does not occur in the training part; expected all classes there"
            )
    columns = Columns.fitted(raw, places["train"], impute=missing != "refuse", flag=missing == "indicate")
    check_fits(name, 4 * columns.width * len(labels))
    whole = TensorSet.of(
        columns.encoded(raw),
        labels,
        class_names=classes,
        name=name,
        task=task,
        columns=columns,
    )
    sets = {part: replace(whole.subset(rows), name=f"{name}/{part}") for part, rows in places.items()}
    return Splits(sets["train"], sets["test"], name, validation=sets.get("validation"))


def _other_delimiter(header: Sequence[str], delimiter: str) -> str | None:
    """Return the mend for a first line that is one cell, because its names are kept apart by another sign."""
    for sign, written in ((";", "';'"), ("\t", '"\\t"'), ("|", "'|'"), (",", "','")):
        if len(header) == 1 and sign in header[0] and sign != delimiter:
            return f"its first line is one name, {shown(header[0])}; let delimiter be {written}"
    return None


def _column(
    path: str, name: str, cells: Sequence[str], notes: list[str], doubts: list[str], *, nominal: bool, form: str | None
) -> RawColumn:
    """Return a column of a file.  form: of its dates, if a format is given."""
    where = f"{path}: column '{name}'"
    if form is not None:
        return RawColumn(name, _days(where, cells, form), date=form)
    if not nominal and (numbers := _parsed(cells)) is not None:
        infinite = torch.where(numbers.isinf() | (numbers.abs() > torch.finfo(torch.float32).max))[0]
        if len(infinite):
            row = int(infinite[0])
            raise DataError(f"{where}, row {row + 1}: found {shown(cells[row])}, which is outside the range of float32")
        return RawColumn(name, numbers)
    if not nominal and (days := days_of(cells)) is not None:
        notes.append(f"column '{name}' is read as dates; to take them as categories, name it under nominal")
        return RawColumn(name, days, date=ISO)
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
    dated = [cell for cell in known[:_MOST_CATEGORIES] if days_of([cell]) is not None]
    if not nominal and 2 * len(dated) > min(len(known), _MOST_CATEGORIES):
        wrong = next(cell for cell in known if days_of([cell]) is None)
        raise DataError(
            f"{where}, row {list(cells).index(wrong) + 1}: found {shown(wrong)} among dates; correct it, leave the cell"
            " empty, or name the column under nominal"
        )
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


def _days(where: str, cells: Sequence[str], form: str) -> Tensor:
    """Return the dates of a column as days; DataError for the first cell that is none."""
    for row, cell in enumerate(cells):
        if not is_missing(cell) and days_of([cell], form) is None:
            raise DataError(f"{where}, row {row + 1}: found {shown(cell)}, expected a date ({form}); correct it")
    days = days_of(cells, form)
    if days is None:
        raise DataError(f"{where} is empty; expected dates. Drop it")
    return days


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
