"""Reading a recipe's text: YAML without code, without duplicate keys, and `key.path=value` on top."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from limbeck.checks import shown
from limbeck.errors import RecipeError

__all__ = ["apply_overrides", "read_yaml"]

_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$")


class _Loader(yaml.SafeLoader):
    """The safe loader, with 1e-3 as a number and without duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise RecipeError(f"line {key.start_mark.line + 1}: key '{key.value}' stands twice; delete one")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; RecipeError with the line where it cannot be read."""
    if not path.is_file():
        raise RecipeError(f"recipe: there is no file '{path}'; 'limbeck recipes ls' lists the packaged ones")
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except RecipeError as error:
        raise RecipeError(f"recipe '{path}', {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe: cannot read '{path}' ({error}); expected a YAML file in UTF-8") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise RecipeError(f"recipe: '{path}' holds {found}, expected keys such as 'data: ...'")
    return content


def apply_overrides(recipe: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the recipe with `key.path=value` settings applied, values read as YAML.

    >>> apply_overrides({"method": {"name": "kd"}}, ["method.temperature=8"])
    {'method': {'name': 'kd', 'temperature': 8}}
    """
    result: dict[str, Any] = _copy(recipe)
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = path.split(".")
        if not separator or not all(keys):
            raise RecipeError(f"override '{override}': expected key.path=value, such as method.temperature=8")
        try:
            value = _parse(text) if text else None
        except RecipeError as error:
            raise RecipeError(f"override '{override}': {error}") from None
        place = result
        for depth, key in enumerate(keys[:-1]):
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                found = ".".join(keys[: depth + 1])
                raise RecipeError(
                    f"override '{override}': '{found}' is {shown(place)}, which has no keys; set it whole"
                )
        place[keys[-1]] = value
    return result


def _parse(text: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
        _refuse_cycles(value, ())
        return value
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{where}{problem}; expected valid YAML") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{error}; expected valid YAML") from None
    except (LookupError, AttributeError):  # what the loader makes of !!bool x
        raise RecipeError("a value does not fit its tag; expected valid YAML") from None


def _refuse_cycles(value: Any, above: tuple[int, ...]) -> None:
    if isinstance(value, dict | list):
        if id(value) in above:
            raise RecipeError("a value refers to itself; write it out")
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_cycles(item, (*above, id(value)))


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value
