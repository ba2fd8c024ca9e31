"""What a study may choose: for each key of a recipe a range of numbers or a list of values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.checks import shown
from limbeck.config import Recipe, apply_overrides
from limbeck.errors import RecipeError

__all__ = ["Choices", "Range", "Space", "read_space", "usual_space"]

_MOST_CHOICES = 1000


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included.  log: equal ratios are equally likely, not equal differences."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def extremes(self) -> tuple[Any, ...]:
        """Return the values that are tried before a study begins."""
        return (self.low, self.high)

    def as_dict(self) -> dict[str, Any]:
        """Return the range as plain values."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Choices:
    """Values as a recipe writes them, in no order."""

    values: tuple[Any, ...]

    def extremes(self) -> tuple[Any, ...]:
        """Return the values that are tried before a study begins: all."""
        return self.values

    def as_dict(self) -> list[Any]:
        """Return the choices as plain values."""
        return list(self.values)


Space = Mapping[str, Range | Choices]


def read_space(lines: Sequence[str]) -> Space:
    """Read what may be chosen from lines `key.path=LOW:HIGH`, `key.path=LOW:HIGH:log` or `key.path=[a, b, ...]`.

    A range whose two ends are whole numbers is one of whole numbers.  Raises RecipeError with one line.

    >>> read_space(["method.temperature=1.0:20.0:log", "training.epochs=5:40"])["training.epochs"]
    Range(low=5, high=40, log=False, whole=True)
    >>> read_space(["method.alpha=[0.1, 0.5]"])["method.alpha"]
    Choices(values=(0.1, 0.5))
    """
    space: dict[str, Range | Choices] = {}
    for line in lines:
        path, separator, text = line.partition("=")
        where = f"space '{line}'"
        if not separator or not path.startswith(("training.", "method.", "scheme.")):
            raise RecipeError(
                f"{where}: expected a key of training, method or scheme with its values, such as"
                " method.temperature=1.0:20.0:log or method.alpha=[0.1, 0.5]"
            )
        if path in space:
            raise RecipeError(f"{where}: '{path}' occurs twice; give it once")
        space[path] = _choices(where, text) if text.lstrip().startswith("[") else _range(where, text)
    return space


def usual_space(recipe: Recipe) -> Space:
    """Return what is worth choosing where a user names nothing: the recipe's search, else temperature and alpha.

    Raises RecipeError for a method that has neither.
    """
    if recipe.search:
        if len(recipe.search) > 1:
            raise RecipeError(f"search: found {len(recipe.search)} grids, expected one to tune; name keys with --space")
        return {path: Choices(tuple(values)) for path, values in recipe.search[0].items()}
    known = recipe.method.values
    space: dict[str, Range | Choices] = {}
    if len(recipe.method.parts) > 1:
        known = {}  # whose keys are method.0.temperature and so on, for the user to name
    if "temperature" in known:
        space["method.temperature"] = Range(1.0, 20.0, log=True)
    if "alpha" in known and known.get("hard_weight") is None and known.get("soft_weight") is None:
        space["method.alpha"] = Range(0.0, 1.0)
    if not space:
        raise RecipeError(
            "space: the method has neither temperature nor alpha; name keys, such as"
            " --space training.learning_rate=0.01:0.3:log"
        )
    return space


def check_space(recipe: Recipe, space: Space) -> None:
    """Require that the recipe takes the ends of every range and each of the choices."""
    if not space:
        raise RecipeError("space: found nothing to choose, expected at least one key")
    plain = recipe.with_values({"search": {}})
    for path, allowed in space.items():
        for value in allowed.extremes():
            try:
                plain.with_values({path: value})
            except RecipeError as error:
                raise RecipeError(f"space of {path}: {error}") from None


def _range(where: str, text: str) -> Range:
    ends = text.split(":")
    log = ends[-1].strip() == "log"
    numbers = [_number(where, end) for end in (ends[:-1] if log else ends)]
    if len(numbers) != 2:
        raise RecipeError(f"{where}: expected LOW:HIGH, LOW:HIGH:log or [a, b, ...]")
    low, high = numbers
    if not low < high:
        raise RecipeError(f"{where}: found {low} to {high}, expected the lower number first")
    if log and low <= 0:
        raise RecipeError(f"{where}: found {low} as the lower end of a logarithmic range, expected a number above 0")
    return Range(low, high, log=log, whole=isinstance(low, int) and isinstance(high, int))


def _choices(where: str, text: str) -> Choices:
    values = apply_overrides({}, [f"values={text}"])["values"]
    if not isinstance(values, list) or not 0 < len(values) <= _MOST_CHOICES:
        raise RecipeError(f"{where}: found {shown(values)}, expected a list of 1 to {_MOST_CHOICES} values")
    if len({json.dumps(value, sort_keys=True) for value in values}) != len(values):
        raise RecipeError(f"{where}: a value occurs twice; give each once")
    return Choices(tuple(values))


def _number(where: str, text: str) -> int | float:
    value = apply_overrides({}, [f"value={text.strip()}"])["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise RecipeError(f"{where}: found {shown(text)}, expected a finite number")
    return value
