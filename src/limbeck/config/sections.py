"""Sections of a recipe whose keys are a function's parameters: a new method or model needs no configuration code.

The types come from the signature, the ranges from the checks that the function itself makes.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache, cached_property
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from limbeck import compress, schedules, targets, tokenizers
from limbeck.checks import shown
from limbeck.compress import Transform
from limbeck.data import Synthesis, synthesis
from limbeck.errors import InputError, RecipeError, one_of
from limbeck.losses import Divergence, divergences
from limbeck.schedules import Schedule
from limbeck.targets import Target
from limbeck.tokenizers import TokenizerKind

__all__ = ["FAMILIES", "Section", "family_of", "model_of", "of_kind", "parse", "read", "validate"]

_Kinds = Mapping[str, Callable[..., Any]]
_SCHEDULES = (schedules.linear, schedules.cosine, schedules.piecewise, schedules.until)
FAMILIES: Mapping[str, tuple[Any, _Kinds]] = {
    "schedule": (Schedule, {function.__name__: function for function in _SCHEDULES}),
    "divergence": (Divergence, divergences.kinds()),
    "target": (Target, targets.kinds()),
    "synthetic": (Synthesis, synthesis.kinds()),
    "tokenizer": (TokenizerKind, tokenizers.kinds()),
    "transform": (Transform, compress.kinds()),
}
"""Types by name whose values a recipe writes as `{kind: NAME, ...}`, or as the NAME alone, and what makes each kind.

A parameter may also be a `tuple[TYPE, ...]` of one of them, or of a dataclass, which a recipe writes as a list."""

_STRICT = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


_MISSING = {"layers": "add paths such as stage3, which limbeck layers RECIPE lists"}
"""How to find what is missing, by its key."""

_TYPES = ("float", "int", "str", "bool", "constrained-str")
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

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What the function is called with: the values, those of a kind built."""
        hints = get_type_hints(self.function)
        return {name: _built(value, hints.get(name), f"{self.where}.{name}") for name, value in self.values.items()}

    def build(self, **more: Any) -> Any:
        """Call the function; what it refuses is named by its place in the recipe."""
        try:
            return self.function(**self.arguments, **more)
        except InputError as error:
            raise RecipeError(_named(self.where, str(error))) from None

    @cached_property
    def inspected(self) -> Any:
        """What `build` gives, made once to be looked at; what is trained is built anew."""
        return self.build()


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
    checked = validate(model_of(function, given), values, where)
    return Section(function, _resolved(function, checked, where), where)


def read(function: Callable[..., Any], values: Any, where: str) -> tuple[Any, Mapping[str, Any]]:
    """Return what a function makes of a recipe's mapping, and the values with every default; errors as of `parse`."""
    section = parse(function, values, where)
    return section.build(), section.values


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
def model_of(function: Callable[..., Any], given: frozenset[str]) -> type[BaseModel]:
    """Return the pydantic model that validates a function's parameters, as a recipe writes them.

    given: parameters that the caller fills in itself.
    """
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in given:
            continue
        default = parameter.default
        if default is inspect.Parameter.empty:
            default = ...
        elif (kinds := _family(hints[name])) is not None:
            default = _as_written(default, kinds)
        elif is_dataclass(default) or callable(default) or type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
            mapping = get_origin(hints[name]) is Mapping
            default = {} if mapping else model_of(hints[name], frozenset())()
        elif default == () and _entry(hints[name]) is not None:
            default = []
        fields[name] = (_annotation(hints[name]), default)
    return create_model(getattr(function, "__name__", "section"), __config__=_STRICT, **fields)


def _annotation(hint: Any) -> Any:
    if hint == Schedule:
        return float | dict[str, Any]
    if _family(hint) is not None:
        return Any
    if _member(hint) is not None:
        return list[Any]
    if (entry := _entry(hint)) is not None:
        return list[model_of(entry, frozenset())]  # type: ignore[misc]
    keys = _with_keys(hint)
    if keys is None:
        return hint
    rest = tuple(each for each in get_args(hint) if each is not keys)
    return Union[(model_of(keys, frozenset()), *rest)]


def _with_keys(hint: Any) -> Any:
    """Return the dataclass that a parameter of a type is, or may be, a value of; None where there is none."""
    return next((each for each in (hint, *get_args(hint)) if inspect.isclass(each) and is_dataclass(each)), None)


def _family(hint: Any) -> _Kinds | None:
    """Return the kinds that a parameter of a type, or of that type or None, may be; None where it is of no family."""
    name = family_of(hint)
    return None if name is None else FAMILIES[name][1]


def family_of(hint: Any) -> str | None:
    """Return the name of the family that values of a type, or of that type or None, are of; None if they are of none.

    >>> family_of(Target | None), family_of(int)
    ('target', None)
    """
    union = get_origin(hint) in (Union, UnionType)
    rest = tuple(each for each in get_args(hint) if each is not type(None)) if union else ()
    for name, (family, _) in FAMILIES.items():
        if hint == family or (rest and Union[rest] == family):  # noqa: UP007 - of a tuple
            return name
    return None


def _member(hint: Any) -> Any:
    """Return the type of the members of a tuple of a family; None for any other type."""
    members = get_args(hint)
    of_a_family = get_origin(hint) is tuple and members[1:] == (...,) and _family(members[0]) is not None
    return members[0] if of_a_family else None


def _entry(hint: Any) -> Any:
    """Return the dataclass that a tuple has entries of; None for any other type."""
    entries = get_args(hint)
    several = get_origin(hint) is tuple and entries[1:] == (...,) and inspect.isclass(entries[0])
    return entries[0] if several and is_dataclass(entries[0]) and _family(entries[0]) is None else None


def _as_written(default: Any, kinds: _Kinds) -> Any:
    """Return the default of a parameter of a family as a recipe writes it."""
    if default is None or isinstance(default, int | float):
        return default
    for kind, function in kinds.items():
        needed = [each for each in inspect.signature(function).parameters.values() if each.default is each.empty]
        if not needed and function() == default:
            return _shortest(kind, parse(function, {}, kind))
    raise TypeError(f"the default {default!r} is not one of the kinds {', '.join(kinds)} with their own defaults")


def _shortest(kind: str, section: Section) -> Any:
    return {"kind": kind, **section.values} if section.values else kind


def _resolved(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a function's values, those named by a kind with their own defaults too."""
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    resolved = dict(values)
    for name, value in values.items():
        hint = hints.get(name)
        kinds = _family(hint)
        if is_dataclass(hint) and kinds is None and isinstance(value, Mapping):
            resolved[name] = _resolved(hint, value, f"{where}.{name}")  # type: ignore[arg-type]
        elif kinds is not None and not _is_plain(value, hint):
            resolved[name] = _shortest(*of_kind(value, kinds, f"{where}.{name}"))
        elif (entry := _entry(hint)) is not None:
            resolved[name] = [_resolved(entry, each, f"{where}.{name}[{i}]") for i, each in enumerate(value)]
        elif (kinds := _family(_member(hint))) is not None:
            places = enumerate(value)
            resolved[name] = [_shortest(*of_kind(each, kinds, f"{where}.{name}[{i}]")) for i, each in places]
    return resolved


def _is_plain(value: Any, hint: Any) -> bool:
    """Return whether a value of a family is no kind: a number where a schedule may be one, nothing where it may be."""
    return isinstance(value, int | float) if hint == Schedule else value is None and type(None) in get_args(hint)


def of_kind(
    value: Any, kinds: _Kinds, where: str, *, key: str = "kind", given: frozenset[str] = frozenset()
) -> tuple[str, Section]:
    """Return the kind that a recipe names, and its section.

    value: the keys of the section, or the kind alone.  kinds: what makes each.  key: of the kind.
    given: parameters that the caller fills in itself.
    Raises RecipeError with one line for a kind that is missing or unknown, or for the first wrong key.
    """
    keys = dict(value) if isinstance(value, Mapping) else {key: value}
    if key not in keys and len(keys) == 1 and next(iter(keys)) in kinds:  # {folder: PATH}: a kind by its only key
        keys = {key: next(iter(keys)), **keys}
    if key not in keys:
        raise RecipeError(f"{where}.{key}: is missing; {one_of('', kinds)}")
    kind = keys.pop(key)
    if not isinstance(kind, str) or kind not in kinds:
        place = f"{where}.{key}" if isinstance(value, Mapping) else where
        raise RecipeError(f"{place}: found {shown(kind)}; {one_of(str(kind), kinds)}")
    return kind, parse(kinds[kind], keys, where, given=given)


def _built(value: Any, hint: Any, where: str) -> Any:
    if (entry := _entry(hint)) is not None:
        return tuple(Section(entry, each, f"{where}[{i}]").build() for i, each in enumerate(value))
    if (keys := _with_keys(hint)) is not None and isinstance(value, Mapping) and _family(hint) is None:
        return Section(keys, value, where).build()
    if (member := _member(hint)) is not None:
        return tuple(_built(each, member, f"{where}[{i}]") for i, each in enumerate(value))
    kinds = _family(hint)
    if kinds is None or _is_plain(value, hint):
        return value
    return of_kind(value, kinds, where)[1].build()


def _line(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return the first complaint: where, what was found, what is expected."""
    first = error.errors()[0]
    place, within = where, model
    for key in first["loc"]:
        if _is_type(key) and place != where:
            continue
        if key == within.__name__ and place != where:  # of several types, the one with keys
            continue
        if first["type"] == "extra_forbidden" and key == first["loc"][-1]:
            return f"{_join(place, key)}: there is no such key; {one_of(str(key), within.model_fields)}"
        place = f"{place}[{key}]" if isinstance(key, int) else _join(place, key)
        nested = within.model_fields[key].annotation if key in within.model_fields else None
        options = (nested, *get_args(nested))  # of X | None, X
        within = next((each for each in options if inspect.isclass(each) and issubclass(each, BaseModel)), within)
    if first["type"] == "missing":
        return f"{place}: is missing; {_MISSING.get(str(first['loc'][-1]), 'add it')}"
    return f"{place}: found {shown(first['input'])}, expected {_expected(error)}"


def _is_type(key: object) -> bool:
    """Whether a part of a complaint's place is one of the types that are allowed there, and no key of a recipe."""
    return isinstance(key, str) and (key in _TYPES or key.startswith(("literal[", "tuple[", "dict[")))


def _expected(error: ValidationError) -> str:
    """Return what is expected where the first complaint is: of several types that are allowed there, each complains."""
    first, *others = error.errors()
    within = first["loc"][:-1]  # less the type, where several are allowed
    same = [each for each in others if len(each["loc"]) == len(first["loc"]) and each["loc"][:-1] == within]
    alternatives = any(map(_is_type, first["loc"][-1:])) or first["type"] == "model_type"
    said = [each["msg"].replace("Input should be ", "").removeprefix("Value error, ") for each in (first, *same)]
    return " or ".join(_IN_YAML.get(each, each) for each in (said if alternatives else said[:1]))


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
