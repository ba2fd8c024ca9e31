"""Cells of a table: what is empty, what is a number, and which texts are one."""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from limbeck.errors import DataError

__all__ = ["code", "decimal_comma", "exact", "is_blank", "is_infinite", "is_missing", "is_number", "one_spelling"]

_WORDS = frozenset({"?", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"})
_INFINITE = frozenset({"inf", "infinity"})
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_COMMA = re.compile(r"[-+]?[0-9.]*[0-9],[0-9]+")
_WHOLE = re.compile(r"([-+]?(?:0|[1-9][0-9]*))\.0*")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9].*")


def is_blank(value: Any) -> bool:
    """Return whether a cell holds nothing: None, NaN, NA or NaT of pandas, or no text.

    >>> [is_blank(value) for value in ("", "  ", None, float("nan"), "NA", 0)]
    [True, True, True, True, False, False]
    """
    if isinstance(value, str):
        return not value.strip()
    try:
        return value is None or bool(value != value)
    except TypeError:  # NA of pandas, which is neither true nor false
        return True
    except ValueError:  # an array
        return False


def is_missing(value: Any) -> bool:
    """Return whether a cell is blank, or holds one of the usual words for a missing number.

    Among texts these words may be names (of a grade, a region), and only a blank cell is missing.

    >>> [is_missing(value) for value in ("", " NA ", "?", "0", float("nan"))]
    [True, True, True, False, True]
    """
    return is_blank(value) or (isinstance(value, str) and value.strip().lower() in _WORDS)


def is_number(text: str) -> bool:
    """Return whether a text is a number as a person writes it: in the digits 0 to 9, with a decimal point.

    >>> [is_number(text) for text in ("1", " -1.5e3 ", ".5", "1_1", "nan", "infinity", "\uff11", "1,5")]
    [True, True, True, False, False, False, False, False]
    """
    return _NUMBER.fullmatch(text.strip()) is not None


def is_infinite(text: str) -> bool:
    """Return whether a text is a word for infinity, which no column of numbers may hold."""
    return text.strip().lower().lstrip("+-") in _INFINITE


def decimal_comma(texts: Sequence[str]) -> str | None:
    """Return the first text with a decimal comma where all that are no numbers have one; else None.

    >>> decimal_comma(["1", "2,5", "3,25"]), decimal_comma(["1", "2,5", "x"])
    ('2,5', None)
    """
    others = [text.strip() for text in texts if not is_number(text)]
    return others[0] if others and all(_COMMA.fullmatch(text) for text in others) else None


def code(value: Any) -> str:
    """Return a category as text; a whole number written with a decimal point is the one without.

    >>> code(" 8001.0 "), code(3), code("01"), code("1.50")
    ('8001', '3', '01', '1.50')
    """
    text = str(value).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def exact(text: str) -> Decimal | None:
    """Return the number that a text is, without rounding; None for other texts, and for exponents beyond 10^18."""
    if not is_number(text):
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def one_spelling(where: str, spellings: Sequence[str]) -> str:
    """Return the shortest of several texts that are one number; DataError where a leading zero tells them apart.

    >>> one_spelling("label 'y'", ["1.0", "1"])
    '1'
    >>> one_spelling("label 'y'", ["01", "1"])
    Traceback (most recent call last):
    limbeck.errors.DataError: label 'y': '01' and '1' are the same number; write them the same ...
    """
    if len(spellings) > 1 and any(_LEADING_ZERO.fullmatch(text) for text in spellings):
        first, second = sorted(spellings)[:2]
        raise DataError(
            f"{where}: {first!r} and {second!r} are the same number; write them the same way, or as text such as 'c01'"
        )
    return min(spellings, key=lambda text: (len(text), text))
