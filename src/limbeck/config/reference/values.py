"""What may be written in a key's place: in words, as an example, and as a JSON schema."""

import inspect
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from limbeck.config.reference.catalogue import Catalogue, Family, Key, Section, catalogue, has_keys, options_of
from limbeck.config.reference.limits import Limits, limits_of
from limbeck.config.written import Listed, Named

__all__ = ["DEFINITIONS", "example", "in_words", "range_of", "reference_to", "schema_of"]

DEFINITIONS = "#/$defs/"
_WORDS = {
    float: "a number",
    int: "a whole number",
    str: "text",
    bool: "true or false",
    NoneType: "null",
    Any: "any value",
}
_NOUNS = {"data": "data", "estimator": "an estimator", "synthetic": "synthetic samples"}
_MANY = {float: "numbers", int: "whole numbers", str: "texts", Any: "values"}
_TYPES = {float: "number", int: "integer", str: "string", bool: "boolean", NoneType: "null"}
_MOST_LISTED = 4


def in_words(key: Key) -> str:
    """Return what may be written, such as "a whole number or null"."""
    return _alternatives([_option_words(option) for option in key.options])


def range_of(key: Key) -> str:
    """Return the range of the number that may be written; "" without bounds."""
    return str(key.limits)


def _alternatives(words: Sequence[str]) -> str:
    words = list(dict.fromkeys(words))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _option_words(option: Any) -> str:
    if isinstance(option, Listed):
        return f"a list of {_many(option.of)}"
    if isinstance(option, Named):
        return f"{_NOUNS.get(option.family, f'a {option.family}')} (`{option.family}`)"
    if has_keys(option):
        return f"keys (`{catalogue().paths[option]}`)"
    if get_origin(option) is Annotated:
        return f"{_option_words(option.__origin__)} {limits_of(option.__metadata__)}"
    if get_origin(option) is Literal:
        return _alternatives([_written(each) for each in get_args(option)])
    if get_origin(option) is tuple:
        members = get_args(option)
        return f"a list of {len(members)} {_many(members[0])}"
    if _is_mapping(option):
        inner = get_args(option)
        return f"names with {_many(inner[1])}" if inner and inner[1] is not Any else "keys and values"
    return _WORDS.get(option, "any value")


def _many(hint: Any) -> str:
    options = options_of(hint)
    if len(options) > 1:
        return " or ".join(_MANY.get(each, _option_words(each)) for each in options)
    (option,) = options
    if isinstance(option, Named):
        return f"{option.family}s (`{option.family}`)"
    if get_origin(option) is Annotated:
        return _many(option.__origin__)
    if isinstance(option, Listed):
        return f"lists of {_many(option.of)}"
    return _MANY.get(option, _option_words(option))


def _is_mapping(option: Any) -> bool:
    origin = get_origin(option) or option
    return inspect.isclass(origin) and issubclass(origin, Mapping)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def example(key: Key) -> Any:
    """Return a value that may be written: the default if that shows anything, and otherwise one of a kind."""
    if key.examples:
        return key.examples[0]
    shows = not (key.required or key.default is None or key.default in ("", [], {}))
    return key.default if shows else _option_example(key.options[0], key.name, key.limits)


def _option_example(option: Any, name: str, limits: Limits) -> Any:
    if isinstance(option, Listed):
        return [_option_example(options_of(option.of)[0], name.removesuffix("s"), limits)]
    if isinstance(option, Named):
        family = catalogue().families[option.family]
        kind = _SHOWN.get(family.name) or next(iter(family.kinds))
        return written_out(family.sections[kind], family)
    if has_keys(option):
        section = catalogue().section_of(option)
        keys = [each for each in section.keys if each.required] or section.keys[:1]
        return {each.name: example(each) for each in keys}
    if get_origin(option) is Annotated:
        return _option_example(option.__origin__, name, limits_of(option.__metadata__))
    if get_origin(option) is Literal:
        return get_args(option)[0]
    if get_origin(option) is tuple:
        return [_option_example(each, name, limits) for each in get_args(option)]
    if _is_mapping(option):
        inner = get_args(option)
        return (
            {"NAME": _option_example(options_of(inner[1])[0], name, limits)}
            if inner[1:] and inner[1] is not Any
            else {}
        )
    if option in (int, float):
        least = limits.least if limits.least > -1e9 else 0
        value = least if limits.least_in and least > 0 else min(least + 1, (least + limits.most) / 2)
        return max(1, int(value)) if option is int else float(value)
    return {str: name.upper(), bool: True, NoneType: None}.get(option, name.upper())


_SHOWN = {"data": "digits", "model": "mlp", "method": "kd", "scheme": "offline", "tokenizer": "words"}
"""The kind that an example names, where it is not the first."""


def written_out(section: Section, family: Family) -> dict[str, Any]:
    """Return a kind with the keys that it needs, as a recipe writes it."""
    keys = {each.name: example(each) for each in section.keys if each.required}
    return keys if section.kind in family.other else {family.key: section.kind, **keys}


def reference_to(path: str) -> dict[str, str]:
    """Return the reference to a section's definition."""
    return {"$ref": f"{DEFINITIONS}{path}"}


def schema_of(key: Key, known: Catalogue) -> dict[str, Any]:
    """Return the JSON schema of a key's value, with its description and default."""
    found = _any_of([option_schema(option, known, key.limits) for option in key.options])
    extra = getattr(getattr(key.takes, "model_fields", {}).get(key.name), "json_schema_extra", None) or {}
    about: dict[str, Any] = {"description": key.meaning, **extra}
    if key.examples:
        about["examples"] = list(key.examples)
    if not key.required:
        about["default"] = key.default
    return {**about, **found}


def _any_of(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(schemas) == 1:
        return schemas[0]
    if all(set(each) == {"type"} for each in schemas):
        return {"type": [each["type"] for each in schemas]}
    return {"anyOf": list(schemas)}


def option_schema(option: Any, known: Catalogue, limits: Limits) -> dict[str, Any]:
    """Return the JSON schema of one of the things that may be written."""
    if isinstance(option, Listed):
        return {
            "type": "array",
            "items": _any_of([option_schema(each, known, limits) for each in options_of(option.of)]),
        }
    if isinstance(option, Named):
        return reference_to(option.family)
    if has_keys(option):
        return reference_to(known.paths[option])
    if get_origin(option) is Annotated:
        return option_schema(option.__origin__, known, limits_of(option.__metadata__))
    if get_origin(option) is Literal:
        return {"enum": list(get_args(option))}
    if get_origin(option) is tuple:
        members = get_args(option)
        return {
            "type": "array",
            "prefixItems": [option_schema(each, known, limits) for each in members],
            "minItems": len(members),
            "maxItems": len(members),
        }
    if _is_mapping(option):
        inner = get_args(option)
        values = (
            {}
            if not inner or inner[1] is Any
            else _any_of([option_schema(each, known, limits) for each in options_of(inner[1])])
        )
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    if option in _TYPES:
        return {"type": _TYPES[option], **(limits.schema() if option in (int, float) else {})}
    return {}
