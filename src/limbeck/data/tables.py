"""Tables: the sets that scikit-learn carries, and CSV files of one's own."""

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from limbeck.batch import UNLABELLED
from limbeck.checks import shown
from limbeck.data.columns import Columns, RawColumn, is_missing
from limbeck.data.content import check_fits
from limbeck.data.sets import Splits, TensorSet
from limbeck.errors import DataError, InputError, one_of
from limbeck.tasks import CLASSIFICATION, REGRESSION, Task, task_named

__all__ = ["bundled", "table"]

_MOST_CATEGORIES = 200
_NOMINAL = {"diabetes": {"sex"}}


def bundled(
    name: Literal["breast_cancer", "diabetes", "digits", "iris", "wine"], test_share: float = 0.2, seed: int = 0
) -> Splits:
    """Return a table that scikit-learn carries, so that nothing is downloaded; its columns are standardised.

    name: breast_cancer (569 rows, 30 numbers, 2 classes), wine (178, 13, 3), iris (150, 4, 3), digits (1,797 rows of 64
        pixels, 10 classes) or diabetes (442 rows, 9 numbers and the sex, a regression of one number).
    test_share, seed: the share of each class that is held out for testing, and of the split.

    >>> data = bundled("wine")
    >>> len(data.train), len(data.test), data.train.input_shape, data.train.class_names
    (142, 36, (13,), ('class_0', 'class_1', 'class_2'))
    """
    from sklearn import datasets

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

    A column of numbers is standardised; any other is nominal and becomes one number for each of its categories.  Means,
    deviations and categories are those of the training part alone, and are kept with the set as its `columns`.

    path: the file, in UTF-8.  label: the column that is predicted; of classes, any texts, sorted (as numbers where all
        are); an empty cell is no label.
    nominal: columns that are nominal though numbers stand in them (postcodes).  drop: columns that are left out.
    missing: an empty cell (also NA, NaN, null, none or ?) is refused, or imputed: a number by the mean, a category by
        the most frequent one of the training part.
    test_share, seed: the share of each class that is held out for testing, and of the split.
    Raises DataError naming the file, the line or column, and what is wrong.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InputError(f"delimiter: found {delimiter!r}, expected one sign, such as ',' or ';'")
    path = str(Path(path).expanduser())
    header, rows = _read(path, delimiter)
    for key, names in (("label", (label,)), ("nominal", nominal), ("drop", drop)):
        for name in names:
            if name not in header:
                raise DataError(f"{path}: {key} names a column '{name}' that there is not; {one_of(name, header)}")
    for key, names in (("drop", drop), ("nominal", nominal)):
        if label in names:
            raise InputError(f"{key}: names the label, '{label}'; leave it out")
    kind = task_named(task)
    columns = []
    for place, name in enumerate(header):
        if name != label and name not in drop:
            columns.append(_column(path, name, [row[place] for row in rows], nominal=name in nominal))
    if not columns:
        raise DataError(f"{path}: beside the label there is no column left to learn from")
    cells = [row[header.index(label)] for row in rows]
    labels, classes = _numbers(path, label, cells) if kind is REGRESSION else _classes(path, label, cells, kind)
    try:
        return _split(path, columns, labels, classes, kind, test_share, seed, impute=missing == "impute")
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
        mean=columns.mean,
        std=columns.std,
        columns=columns,
    )
    train, test = (replace(whole.subset(part.index), name=part.name) for part in (parts.train, parts.test))
    return Splits(train, test, name)


def _read(path: str, delimiter: str) -> tuple[list[str], list[list[str]]]:
    """Return the names of a file's columns and its rows, each as long as the first."""
    try:
        check_fits(path, 10 * Path(path).stat().st_size)
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"{path}: line {reader.line_num} has {len(row)} cells, the first has {len(header)}")
                rows.append(row)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: is no CSV file in UTF-8 ({' '.join(str(error).split())})") from None
    if not rows:
        raise DataError(f"{path}: has no rows below its first line, which names the columns")
    for name in header:
        if not name or header.count(name) > 1:
            raise DataError(f"{path}: its first line names {name!r} {header.count(name)} times, expected a name each")
    return header, rows


def _column(path: str, name: str, cells: Sequence[str], *, nominal: bool) -> RawColumn:
    if not nominal and (numbers := _parsed(cells)) is not None:
        infinite = torch.where(numbers.isinf() | (numbers.abs() > torch.finfo(torch.float32).max))[0]
        if len(infinite):
            raise DataError(
                f"{path}: column '{name}', row {int(infinite[0]) + 1}: found {shown(cells[int(infinite[0])])}, "
                "which float32 cannot hold"
            )
        return RawColumn(name, numbers)
    texts = tuple(None if is_missing(cell) else cell.strip() for cell in cells)
    count = len(set(texts))
    if count > _MOST_CATEGORIES:
        example = next(text for text in texts if text is not None and (nominal or _parsed([text]) is None))
        raise DataError(
            f"{path}: column '{name}' has {count:,} different cells such as {shown(example)}, more than "
            f"{_MOST_CATEGORIES} categories; drop it, or mend the cells that are no numbers"
        )
    return RawColumn(name, texts=texts)


def _parsed(cells: Sequence[str]) -> Tensor | None:
    """Return the cells as numbers, NaN where they are missing; None where one is no number, or all are missing."""
    try:
        values = [math.nan if is_missing(cell) else float(cell) for cell in cells]
    except ValueError:
        return None
    numbers = torch.tensor(values, dtype=torch.float64)
    return None if bool(numbers.isnan().all()) else numbers


def _numbers(path: str, label: str, cells: Sequence[str]) -> tuple[Tensor, list[str]]:
    numbers = _parsed(cells)
    if numbers is None:
        wrong = next((cell for cell in cells if not is_missing(cell) and _parsed([cell]) is None), "nothing")
        raise DataError(f"{path}: label '{label}': found {shown(wrong)}, expected numbers (task regression)")
    return numbers, [label]


def _classes(path: str, label: str, cells: Sequence[str], task: Task) -> tuple[Tensor, list[str]]:
    texts = [None if is_missing(cell) else cell.strip() for cell in cells]
    names = sorted({text for text in texts if text is not None})
    if (values := _parsed(names)) is not None and len(names) > 1:
        names = [names[place] for place in values.argsort(stable=True).tolist()]
    if len(names) < 2 or (task.two_way and len(names) != 2):
        expected = "2" if task.two_way else "2 or more"
        raise DataError(f"{path}: label '{label}' has {len(names)} classes, expected {expected} (task {task.name})")
    if len(names) > max(2, len(cells) // 2):
        raise DataError(
            f"{path}: label '{label}' has {len(names):,} different cells in {len(cells):,} rows; to predict numbers, "
            "let task be regression"
        )
    number = {name: place for place, name in enumerate(names)}
    return torch.tensor([UNLABELLED if text is None else number[text] for text in texts]), names
