"""Sections of a recipe whose keys are a function's parameters: a new method or model needs no configuration code.

The types come from the signature, the ranges from the checks that the function itself makes.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from limbeck import schedules
from limbeck.checks import shown
from limbeck.errors import InputError, RecipeError, one_of
from limbeck.schedules import Schedule

__all__ = ["Section", "parse"]

_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    function.__name__: function
    for function in (schedules.linear, schedules.cosine, schedules.piecewise, schedules.until)
}
_STRICT = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


_IN_YAML = {
    "an object": "keys and their values",
    "a valid array": "a list",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
}
"""What pydantic expects, as a recipe's author would say it."""


@dataclass(frozen=True)
class Section:
    """A function and validated values for its parameters.

    values: as a recipe writes them, defaults included.  build: call the function, with further arguments beside them.
    """

    function: Callable[..., Any]
    values: Mapping[str, Any]
    where: str

    def build(self, **more: Any) -> Any:
        """Call the function; what it refuses is named by its place in the recipe."""
        hints = get_type_hints(self.function)
        arguments = {
            name: _built(value, hints.get(name), f"{self.where}.{name}") for name, value in self.values.items()
        }
        try:
            return self.function(**arguments, **more)
        except InputError as error:
            raise RecipeError(_named(self.where, str(error))) from None


def parse(function: Callable[..., Any], values: Any, where: str, *, given: frozenset[str] = frozenset()) -> Section:
    """Validate a recipe's mapping against a function's parameters.

    where: the section's place in the recipe.  given: parameters that the caller fills in itself.
    Raises RecipeError with one line for the first wrong key.

    >>> def soften(temperature: float = 4.0): ...
    >>> parse(soften, {"temperature": 2}, "method").values
    {'temperature': 2.0}
    >>> parse(soften, {"temprature": 2}, "method")
    Traceback (most recent call last):
    limbeck.errors.RecipeError: method.temprature: there is no such key; did you mean 'temperature'?
    """
    return Section(function, validate(_model(function, given), values, where), where)


def validate(model: type[BaseModel], values: Any, where: str) -> dict[str, Any]:
    """Return the values that a pydantic model makes of a mapping; RecipeError with one line otherwise."""
    if not isinstance(values, dict):
        raise RecipeError(f"{where or 'recipe'}: found {shown(values)}, expected keys; {_keys(model)}")
    for key in values:
        if key not in model.model_fields:
            raise RecipeError(f"{_join(where, key)}: there is no such key; {one_of(str(key), model.model_fields)}")
    try:
        checked = model.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError(_line(error, model, where)) from None
    except (ValueError, RecursionError, TypeError) as error:
        raise RecipeError(f"{where or 'recipe'}: {error}; expected plain YAML values") from None
    return checked.model_dump()


@cache
def _model(function: Callable[..., Any], given: frozenset[str]) -> type[BaseModel]:
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in given:
            continue
        default = parameter.default
        if default is inspect.Parameter.empty:
            default = ...
        elif is_dataclass(default) or callable(default) or type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
            default = _model(hints[name], frozenset())()
        fields[name] = (_annotation(hints[name]), default)
    return create_model(getattr(function, "__name__", "section"), __config__=_STRICT, **fields)


def _annotation(hint: Any) -> Any:
    if hint == Schedule:
        return float | dict[str, Any]
    return _model(hint, frozenset()) if inspect.isclass(hint) and is_dataclass(hint) else hint


def _built(value: Any, hint: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(value, Mapping):
        return Section(hint, value, where).build()  # type: ignore[arg-type]
    if hint == Schedule and isinstance(value, Mapping):
        if "kind" not in value:
            raise RecipeError(f"{where}.kind: is missing; one of: {', '.join(sorted(_SCHEDULES))}")
        kind = value["kind"]
        if not isinstance(kind, str) or kind not in _SCHEDULES:
            raise RecipeError(f"{where}.kind: found {shown(kind)}; {one_of(str(kind), _SCHEDULES)}")
        keys = {key: item for key, item in value.items() if key != "kind"}
        return parse(_SCHEDULES[kind], keys, where).build()
    return value


def _line(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return the first complaint: where, what was found, what is expected."""
    first = error.errors()[0]
    place, within = where, model
    for key in first["loc"]:
        if isinstance(key, str) and key in ("float", "int", "str", "bool", "constrained-str") and place != where:
            continue
        if first["type"] == "extra_forbidden" and key == first["loc"][-1]:
            return f"{_join(place, key)}: there is no such key; {one_of(str(key), within.model_fields)}"
        place = f"{place}[{key}]" if isinstance(key, int) else _join(place, key)
        nested = within.model_fields[key].annotation if key in within.model_fields else None
        within = nested if inspect.isclass(nested) and issubclass(nested, BaseModel) else within
    if first["type"] == "missing":
        return f"{place}: is missing; add it"
    expected = first["msg"].replace("Input should be ", "").removeprefix("Value error, ")
    return f"{place}: found {shown(first['input'])}, expected {_IN_YAML.get(expected, expected)}"


def _keys(model: type[BaseModel]) -> str:
    return f"its keys are {', '.join(model.model_fields)}" if model.model_fields else "it takes none"


def _named(where: str, complaint: str) -> str:
    """Return a complaint under its place; one that names the section itself, as a class does, names it once."""
    own = where.rpartition(".")[2]
    if complaint.startswith((f"{own}.", f"{own}:")):
        return where + complaint.removeprefix(own)
    return f"{where}.{complaint}"


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)
