"""Dates in tables: which cells are dates, and the numbers that a date becomes."""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import torch
from torch import Tensor

from limbeck.data.cells import is_missing

__all__ = ["ISO", "date_numbers", "date_width", "day_of", "days_of"]

ISO = "iso"
"""The name of the dates that are found without a format: 2026-11-30, with a time or without."""

_SECONDS, _YEAR, _FIRST_WEEKDAY = 86_400.0, 365.2425, 3  # 1 January 1970 was a Thursday
_WEEK = 7


def day_of(cell: Any, form: str) -> float:
    """Return a date as days since 1 January 1970, with the time of the day as a fraction; ValueError for what is none.

    Args:
        cell: a text, or a date or time of Python or pandas.  A time without a zone is taken as UTC.
        form: "iso", or a format of `datetime.strptime`, such as %d.%m.%Y.

    Example:
        >>> day_of("1970-01-03", "iso"), day_of("3.1.1970 12:00", "%d.%m.%Y %H:%M")
        (2.0, 2.5)
    """
    if isinstance(cell, datetime):
        found = cell
    elif isinstance(cell, date):
        found = datetime(cell.year, cell.month, cell.day)
    elif not isinstance(cell, str):
        raise ValueError(f"{cell!r} is no date")
    elif form == ISO:
        text = cell.strip()
        if len(text) < len("2026-11-30") or text[4] != "-":  # 20261130 is a number
            raise ValueError(f"{cell!r} is no date such as 2026-11-30")
        found = datetime.fromisoformat(text)
    else:
        found = datetime.strptime(cell.strip(), form)
    known = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return known.timestamp() / _SECONDS


def days_of(cells: Sequence[str], form: str = ISO) -> Tensor | None:
    """Return cells as days (n,) float64, NaN where they are missing; None where one is no date, or all are missing.

    >>> days_of(["1970-01-02", ""]), days_of(["1970-01-02", "soon"])
    (tensor([1., nan], dtype=torch.float64), None)
    """
    try:
        days = [math.nan if is_missing(cell) else day_of(cell, form) for cell in cells]
    except (ValueError, OverflowError):
        return None
    found = torch.tensor(days, dtype=torch.float64)
    return None if bool(found.isnan().all()) else found


def date_width(*, clock: bool) -> int:
    """Return how many numbers a date becomes.  clock: whether there are times of the day."""
    return 1 + 2 + _WEEK + (2 if clock else 0)


def date_numbers(days: Tensor, mean: float, std: float, *, clock: bool) -> Tensor:
    """Return dates as numbers (n, 10 or 12) float32; NaN, a missing date, is the mean and has no parts.

    The day, standardised; sine and cosine of the time of the year; one number for each weekday from Monday on; and,
    with `clock`, sine and cosine of the time of the day.

    Args:
        days: (n,) float64, days since 1 January 1970.
        mean: of the training part.
        std: of the training part.
        clock: whether times of the day count.

    Example:
        >>> date_numbers(torch.tensor([4.0], dtype=torch.float64), 4.0, 1.0, clock=False)[0, [0, 3, 4]]
        tensor([0., 1., 0.])
    """
    known = ~days.isnan()
    filled = days.nan_to_num(nan=mean)
    whole = filled.floor()
    year, hour = 2 * math.pi * filled / _YEAR, 2 * math.pi * (filled - whole)
    weekday = (whole.long() + _FIRST_WEEKDAY) % _WEEK
    parts = [year.sin()[:, None], year.cos()[:, None], torch.nn.functional.one_hot(weekday, _WEEK).double()]
    parts += [hour.sin()[:, None], hour.cos()[:, None]] if clock else []
    numbers = torch.cat([((filled - mean) / std)[:, None], torch.cat(parts, 1) * known[:, None]], 1)
    return numbers.to(torch.float32)
