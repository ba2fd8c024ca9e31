"""The columns of a table, and how each becomes numbers: standardised, or one number for each of its categories."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import checked_fields
from limbeck.checks import shown
from limbeck.data.cells import code, is_blank, is_missing, is_number
from limbeck.data.dates import date_numbers, date_width, day_of
from limbeck.errors import DataError

__all__ = ["Attribute", "Column", "Columns", "RawColumn"]


@dataclass(frozen=True, eq=False)
class RawColumn:
    """A column as it was read.

    numbers: (n,) float64, NaN where it is missing; None of a nominal column.  texts: of a nominal column, None where
    it is missing.  date: of a column of dates, whose numbers are days, how they are written (`limbeck.data.dates`).
    """

    name: str
    numbers: Tensor | None = None
    texts: tuple[str | None, ...] = ()
    date: str = ""

    def missing(self) -> list[int]:
        """Return the rows in which nothing stands."""
        if self.numbers is not None:
            found: list[int] = torch.where(self.numbers.isnan())[0].tolist()
            return found
        return [row for row, text in enumerate(self.texts) if text is None]


@checked_fields
@dataclass(frozen=True)
class Column:
    """How a column of a table becomes numbers.

    Attributes:
        name: of the column.
        categories: of a nominal column, in the order of its numbers: one number is 1, the others are 0; all are 0 for a
            category that the training part does not have.  Empty for a column of numbers.
        mean: of the numbers in the training part, which is subtracted in float64.
        std: of the numbers in the training part, by which they are then divided.
        fill: the value for a missing cell; None if a missing cell is an error.
        date: of a column of dates, how they are written: "iso", or a format of `datetime.strptime`; otherwise empty.
            `mean` and `std` are then of days since 1 January 1970 (`limbeck.data.dates.date_numbers`).
        clock: whether the dates have times of the day.
        flagged: whether a further number is 1 where the cell is missing; of a nominal column all categories are then 0.

    Example:
        >>> Column("colour", categories=("red", "blue")).categories
        ('red', 'blue')
    """

    name: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    fill: float | str | None = None
    date: str = ""
    clock: bool = False
    flagged: bool = False

    @property
    def width(self) -> int:
        """How many numbers the column becomes."""
        own = date_width(clock=self.clock) if self.date else len(self.categories) or 1
        return own + self.flagged

    @classmethod
    def fitted(cls, raw: RawColumn, positions: Tensor, *, impute: bool, flag: bool = False) -> "Column":
        """Return the column as the rows at `positions` have it, the training part.

        flag: whether missing cells have a number of their own, in a column that has some.
        """
        flagged = flag and bool(raw.missing())
        if raw.numbers is not None:
            known = raw.numbers[positions]
            known = known[~known.isnan()]
            if not len(known):
                raise DataError(f"column '{raw.name}' has no value in the training part; drop it")
            mean, std = float(known.mean()), float(known.std(correction=0))
            tiny = 8 * torch.finfo(torch.float64).eps * float(known.abs().max())  # what rounding leaves of a constant
            clock = bool(raw.date) and bool((known != known.floor()).any())
            scale = std if std > tiny else 1.0
            return cls(raw.name, (), mean, scale, mean if impute else None, raw.date, clock, flagged)
        texts = [text for row in positions.tolist() if (text := raw.texts[row]) is not None]
        if not texts:
            raise DataError(f"column '{raw.name}' has no value in the training part; drop it")
        names = sorted(set(texts))
        fill = ("" if flagged else max(names, key=texts.count)) if impute else None
        return cls(raw.name, tuple(names), fill=fill, flagged=flagged)

    def encoded(self, raw: RawColumn) -> Tensor:
        """Return (n, width) float32: the standardised number, one number for each category, or those of a date."""
        numbers = self._encoded(raw)
        if not self.flagged:
            return numbers
        flag = torch.zeros(len(numbers), 1)
        flag[raw.missing()] = 1.0
        return torch.cat([numbers, flag], dim=1)

    def _encoded(self, raw: RawColumn) -> Tensor:
        if raw.numbers is not None and self.date:
            return date_numbers(raw.numbers, self.mean, self.std, clock=self.clock)
        if raw.numbers is not None:
            fill = float(self.fill) if self.fill is not None else math.nan
            return ((raw.numbers.nan_to_num(nan=fill) - self.mean) / self.std).to(torch.float32)[:, None]
        place = {text: number for number, text in enumerate(self.categories)}
        texts = (self.fill if text is None else text for text in raw.texts)
        found = torch.tensor([place.get(str(text), -1) for text in texts])
        return (found[:, None] == torch.arange(len(self.categories))).to(torch.float32)


@dataclass(frozen=True)
class Attribute:
    """Where a column's numbers stand in a row: from `start` up to `stop`.

    nominal: whether they belong together, as categories and dates do, so that none of them means anything alone.
    """

    start: int
    stop: int
    nominal: bool


@checked_fields
@dataclass(frozen=True)
class Columns:
    """All columns of a table except the label's, in order.

    Attributes:
        columns: the columns.

    Example:
        >>> len(Columns((Column("age", mean=40.0, std=10.0),)).columns)
        1
    """

    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """How many numbers a row becomes."""
        return sum(column.width for column in self.columns)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Where each column's numbers stand."""
        found, start = [], 0
        for column in self.columns:
            found.append(Attribute(start, start + column.width, bool(column.categories) or column.width > 1))
            start += column.width
        return tuple(found)

    @classmethod
    def fitted(cls, raw: Sequence[RawColumn], positions: Tensor, *, impute: bool, flag: bool = False) -> "Columns":
        """Return the columns as the rows at `positions`, the training part, have them.

        impute: whether a missing number becomes the mean and a missing category the most frequent one there; otherwise
        a missing cell anywhere is refused.  flag: whether a further number tells which cells were missing, and a
        missing category is none.  Raises DataError naming the column.
        """
        for column in raw:
            if not impute and (rows := column.missing()):
                raise DataError(
                    f"column '{column.name}' is empty in {len(rows)} rows, first in row {rows[0] + 1}; fill them in, "
                    "drop the column, or set missing: indicate or impute"
                )
        return cls(tuple(Column.fitted(column, positions, impute=impute, flag=flag) for column in raw))

    def encoded(self, raw: Sequence[RawColumn]) -> Tensor:
        """Return (n, width) float32, standardised, as a set keeps its samples."""
        return torch.cat([column.encoded(own) for column, own in zip(self.columns, raw, strict=True)], dim=1)

    def inputs(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return rows as a model that was trained on the table takes them: (n, width) float32, standardised.

        rows: by the columns' names; further names are left alone.
        Raises DataError for a row without a column, or a number that is none.

        >>> columns = Columns((Column("age", mean=40.0, std=10.0), Column("town", ("Bern", "Rome"))))
        >>> columns.inputs([{"age": 50, "town": "Rome"}, {"age": "35", "town": "Oslo"}])
        tensor([[ 1.0000,  0.0000,  1.0000],
                [-0.5000,  0.0000,  0.0000]])
        """
        numbers = self.encoded([self._read(column, rows) for column in self.columns])
        if len(wrong := (~numbers.isfinite()).nonzero()):
            row, place = wrong[0].tolist()
            attributes = zip(self.columns, self.attributes, strict=True)
            name = next(column.name for column, each in attributes if each.start <= place < each.stop)
            raise DataError(
                f"row {row}: column '{name}': found {shown(rows[row][name])}, which is outside the range of float32"
            )
        return numbers

    @staticmethod
    def _read(column: Column, rows: Sequence[Mapping[str, Any]]) -> RawColumn:
        missing = is_blank if column.categories else is_missing
        for number, row in enumerate(rows):
            if column.name not in row:
                raise DataError(f"row {number}: it has no column '{column.name}'")
            if column.fill is None and missing(row[column.name]):
                raise DataError(f"row {number}: column '{column.name}' is empty, and the table had no empty cells")
        cells = [None if missing(row[column.name]) else row[column.name] for row in rows]
        if column.categories:
            return RawColumn(column.name, texts=tuple(None if cell is None else code(cell) for cell in cells))
        what = f"dates ({column.date})" if column.date else "numbers"
        try:
            read = partial(day_of, form=column.date) if column.date else _number
            numbers = [math.nan if cell is None else read(cell) for cell in cells]
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"column '{column.name}': found {shown(cells[:3])}, expected {what}") from None
        return RawColumn(column.name, torch.tensor(numbers, dtype=torch.float64), date=column.date)


def _number(cell: Any) -> float:
    if isinstance(cell, str) and not is_number(cell):
        raise ValueError(cell)
    number = float(cell)
    if math.isinf(number):
        raise ValueError(cell)
    return number
