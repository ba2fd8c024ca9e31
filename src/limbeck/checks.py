"""Checks of single values, each with a line that names the value, what was found and what is allowed."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from limbeck.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "at_least",
    "choice",
    "finite",
    "logits",
    "non_negative",
    "positive",
    "seed",
    "shapes_match",
    "shares",
    "shown",
    "some_weight",
    "unit_interval",
]


def shown(value: Any) -> str:
    """Return a value as an error line shows it: on one line, cut short where it is long.

    >>> shown("a" * 100)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # a whole number of more digits than Python writes out
        text = f"{'a whole number' if isinstance(value, int) else type(value).__name__} too large to show"
    return text if len(text) <= 60 else text[:60] + "..."


def _refuse(name: str, value: Any, allowed: str) -> NoReturn:
    raise InputError(f"{name}: found {shown(value)}, expected {allowed}")


def _number(name: str, value: Any, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(name, value, allowed)
    try:
        return float(value)
    except OverflowError:
        _refuse(name, value, allowed)


def positive(name: str, value: Any) -> None:
    """Require a finite number above 0."""
    allowed = "a finite number above 0"
    number = _number(name, value, allowed)
    if not (math.isfinite(number) and number > 0):
        _refuse(name, value, allowed)


def non_negative(name: str, value: Any) -> None:
    """Require a finite number that is 0 or above."""
    allowed = "a finite number that is 0 or above"
    number = _number(name, value, allowed)
    if not (math.isfinite(number) and number >= 0):
        _refuse(name, value, allowed)


def finite(name: str, value: Any) -> None:
    """Require a finite number."""
    allowed = "a finite number"
    if not math.isfinite(_number(name, value, allowed)):
        _refuse(name, value, allowed)


def unit_interval(name: str, value: Any, *, mend: str = "") -> None:
    """Require a number in [0, 1]."""
    allowed = f"a number in [0, 1]{mend}"
    if not 0 <= _number(name, value, allowed) <= 1:
        _refuse(name, value, allowed)


def at_least(name: str, value: Any, minimum: int, *, at_most: int | None = None) -> None:
    """Require a whole number that is `minimum` or above, and not above `at_most`."""
    allowed = (
        f"a whole number, {minimum} or above" if at_most is None else f"a whole number from {minimum} to {at_most}"
    )
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        _refuse(name, value, allowed)
    if at_most is not None and value > at_most:
        _refuse(name, value, allowed)
    if value >= 2**63:
        _refuse(name, value, "a whole number of at most 63 bits")


def choice(name: str, value: Any, options: Sequence[str]) -> None:
    """Require one of the named options."""
    if value not in options:
        _refuse(name, value, f"one of: {', '.join(options)}")


def logits(name: str, values: "Tensor") -> None:
    """Require numbers, or -inf, which rules a class out: a NaN or +inf is greater or less than nothing."""
    if bool((values.isnan() | (values == math.inf)).any()):
        raise InputError(f"{name}: found NaN or infinity, expected numbers; look at the model or its data")


def seed(value: Any) -> int:
    """Return a seed, a whole number from 0 to 2⁶³ - 1, as an int.

    >>> seed(True)
    Traceback (most recent call last):
    limbeck.errors.InputError: seed: found True, expected a whole number from 0 to 9223372036854775807
    """
    try:
        number = -1 if isinstance(value, bool) or type(value).__name__ == "bool" else operator.index(value)
    except TypeError:  # of a list or an array too
        number = -1
    if not 0 <= number < 2**63:
        _refuse("seed", value, f"a whole number from 0 to {2**63 - 1}")
    return number


def shares(name: str, values: Sequence[Any], *, count: int) -> None:
    """Require `count` numbers that are 0 or above and add up to 1 (to a millionth)."""
    if len(values) != count:
        raise InputError(f"{name}: found {shown(list(values))}, {len(values)} in all, expected {count}")
    for value in values:
        non_negative(name, value)
    total = math.fsum(values)
    if abs(total - 1) > 1e-6:
        raise InputError(f"{name}: found {shown(list(values))}, which sum to {total:.6g}, expected 1")


def some_weight(weights: Mapping[str, Any]) -> None:
    """Require weights, by name, of which at least one is not 0."""
    if not any(weights.values()):
        all_of_them = "both are" if len(weights) == 2 else "found" if len(weights) == 1 else "all are"
        raise InputError(f"{', '.join(weights)}: {all_of_them} 0, expected at least one above 0")


def shapes_match(a: str, a_shape: Sequence[int], b: str, b_shape: Sequence[int]) -> None:
    """Require two shapes to be equal."""
    if tuple(a_shape) != tuple(b_shape):
        raise InputError(f"{a} has shape {tuple(a_shape)}, {b} has shape {tuple(b_shape)}; they must be the same")
