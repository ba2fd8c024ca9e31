"""The range of a number, as the code that takes it says itself: from what it answers to a number out of range."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import annotated_types
import torch

from limbeck.config.networks import FROM_DATA
from limbeck.config.sections import FAMILIES, family_of
from limbeck.errors import LimbeckError, silenced

__all__ = ["NO_LIMITS", "Limits", "limits_in", "limits_of", "limits_said", "probed"]

_NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_INTERVAL = re.compile(rf"in ([\[(])({_NUMBER}), ({_NUMBER})([\])])")
_FROM_TO = re.compile(rf"from ({_NUMBER}) to ({_NUMBER})")
_PROBES = (-1.0, 1e30)
_HIGHEST = 2.0**53  # above which a bound says nothing
_SHAPES: tuple[Mapping[str, Any], ...] = (  # of images, of texts and of users
    {"input_shape": (3, 32, 32), "classes": 10, "vocabulary": 0, "max_length": 0},
    {"input_shape": (8,), "classes": 10, "vocabulary": 100, "max_length": 8},
    {"input_shape": (1,), "classes": 10, "vocabulary": 100, "max_length": 0},
)
_NOWHERE = "/nonexistent/limbeck"


@dataclass(frozen=True)
class Limits:
    """The range of a number; infinite where there is no bound.

    least_in, most_in: whether the bound itself is allowed.
    """

    least: float = -math.inf
    most: float = math.inf
    least_in: bool = True
    most_in: bool = True

    def within(self, other: "Limits") -> "Limits":
        """Return the range of what is in both."""
        least, least_in = max((self.least, not self.least_in), (other.least, not other.least_in))
        most, most_in = min((self.most, self.most_in), (other.most, other.most_in))
        return Limits(least, most, not least_in, most_in)

    def __str__(self) -> str:
        """Say the range in words; "" without bounds.

        >>> str(Limits(0, 1, least_in=False)), str(Limits(1))
        ('in (0, 1]', '1 or above')
        """
        low, high = (f"{each:,.16g}" for each in (self.least, self.most))
        if math.isfinite(self.least) and math.isfinite(self.most):
            if self.least_in and self.most_in:
                return f"from {low} to {high}"
            return f"in {'[' if self.least_in else '('}{low}, {high}{']' if self.most_in else ')'}"
        if math.isfinite(self.least):
            return f"{low} or above" if self.least_in else f"above {low}"
        if math.isfinite(self.most):
            return f"at most {high}" if self.most_in else f"below {high}"
        return ""

    def schema(self) -> dict[str, float]:
        """Return the keywords of a JSON schema."""
        found: dict[str, float] = {}
        if math.isfinite(self.least):
            found["minimum" if self.least_in else "exclusiveMinimum"] = _plain(self.least)
        if math.isfinite(self.most):
            found["maximum" if self.most_in else "exclusiveMaximum"] = _plain(self.most)
        return found


NO_LIMITS = Limits()


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def limits_in(expected: str) -> Limits:
    """Return the range that the text of an error expects.

    >>> limits_in("a finite number above 0")
    Limits(least=0.0, most=inf, least_in=False, most_in=True)
    >>> str(limits_in("a number in [0, 1)")), str(limits_in("a whole number from 1 to 100"))
    ('in [0, 1)', 'from 1 to 100')
    """
    expected = expected.replace(",000", "000")
    if found := _INTERVAL.search(expected):
        return _range(float(found[2]), float(found[3]), found[1] == "[", found[4] == "]")
    if found := _FROM_TO.search(expected):
        return _range(float(found[1]), float(found[2]))
    if found := re.search(rf"({_NUMBER})(?:, | )or above|at least ({_NUMBER})", expected):
        below = re.search(rf"less than ({_NUMBER})", expected)
        return _range(float(found[1] or found[2]), float(below[1]) if below else math.inf, True, not below)
    if found := re.search(rf"\babove ({_NUMBER})", expected):
        return Limits(float(found[1]), least_in=False)
    if found := re.search(rf"\bat most ({_NUMBER})", expected):
        return _range(-math.inf, float(found[1]))
    return NO_LIMITS


def limits_said(text: str) -> Limits:
    """Return the range that a description gives, where it says no more of numbers; none otherwise.

    >>> str(limits_said("Share of each class that is held out for testing, in (0, 1)."))
    'in (0, 1)'
    >>> str(limits_said("A number, or a share in (0, 1)."))
    ''
    """
    found = _INTERVAL.findall(text)
    if len(found) == 1 and "a number" not in text.lower():
        return limits_in(text)
    end = re.search(rf", (above {_NUMBER}|{_NUMBER} or above)\.", text)
    return limits_in(end[1]) if end and not found else NO_LIMITS


def _range(least: float, most: float, least_in: bool = True, most_in: bool = True) -> Limits:
    return Limits(least, math.inf, least_in) if most > _HIGHEST else Limits(least, most, least_in, most_in)


def limits_of(constraints: Any) -> Limits:
    """Return the range of a pydantic field's constraints, or those of an annotation."""
    found = NO_LIMITS
    for each in constraints:
        for constraint in getattr(each, "metadata", (each,)):
            match constraint:
                case annotated_types.Ge(ge=bound):
                    found = found.within(Limits(float(bound)))  # type: ignore[arg-type]
                case annotated_types.Gt(gt=bound):
                    found = found.within(Limits(float(bound), least_in=False))  # type: ignore[arg-type]
                case annotated_types.Le(le=bound):
                    found = found.within(_range(-math.inf, float(bound)))  # type: ignore[arg-type]
                case annotated_types.Lt(lt=bound):
                    found = found.within(_range(-math.inf, float(bound), True, False))  # type: ignore[arg-type]
    return found


def probed(takes: Callable[..., Any], name: str, whole: bool) -> Limits:
    """Return the range of a function's parameter, from what it answers to a number far out of it.

    whole: whether the number is a whole one.  Numbers far above are tried only where nothing is built from them.
    """
    found = NO_LIMITS
    light = is_dataclass(takes)
    for probe in _PROBES if light or not whole else _PROBES[:1]:
        value = int(probe) if whole and probe < 0 else 2**62 if whole else probe
        for given in _SHAPES:
            complaint = _complaint(takes, {**_arguments(takes, given), name: value})
            if not complaint.startswith("kind: "):  # which is of the data
                break
        shown = re.escape(repr(value))
        if parts := re.search(rf"(?:\b{name}: found .*?|: found {shown})[,;] expected (.+)", complaint, re.DOTALL):
            found = found.within(limits_in(parts[1]))
    return found


def _complaint(takes: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Return what a function says of arguments; "" where it takes them, or fails in another way."""
    try:
        with silenced(), torch.device("meta"):
            takes(**arguments)
    except LimbeckError as error:
        return str(error)
    except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError):
        return ""
    return ""


def _arguments(takes: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return some arguments that a function may be called with; a path is that of nothing."""
    hints = get_type_hints(takes.__init__ if inspect.isclass(takes) else takes)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(takes).parameters.items():
        if name in FROM_DATA and "input_shape" in hints:
            found[name] = given[name]
        elif name in ("path", "folder"):
            found[name] = _NOWHERE
        elif parameter.default is parameter.empty:
            found[name] = _sample(hints[name])
    return found


def _sample(hint: Any) -> Any:
    """Return a value of a type."""
    if (name := family_of(hint)) is not None:
        return 1.0 if name == "schedule" else next(iter(FAMILIES[name][1].values()))()
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if get_origin(hint) is tuple:
        members = [each for each in get_args(hint) if each is not ...]
        return tuple(map(_sample, members))
    if get_origin(hint) is not None and get_args(hint):
        inner = get_args(hint)[0]
        return [_sample(inner)] if "Sequence" in str(get_origin(hint)) or get_origin(hint) is list else _sample(inner)
    return {int: 1, float: 0.5, bool: False}.get(hint, "x")
