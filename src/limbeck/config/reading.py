"""Reading a recipe's text: YAML without code, without duplicate keys, and `key.path=value` on top."""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from limbeck.errors import RecipeError

__all__ = ["apply_overrides", "read_yaml"]

_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$")


class _Loader(yaml.SafeLoader):
    """The safe loader, with 1e-3 as a number and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise RecipeError(f"line {key_node.start_mark.line + 1}: key '{key}' stands twice; delete one")
                seen.add(key)
        return super().construct_mapping(node, deep)


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
        raise RecipeError(f"recipe: '{path}' holds {type(content).__name__}, expected keys such as 'data: ...'")
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
                raise RecipeError(f"override '{override}': '{found}' is {place!r}, which has no keys; set it whole")
        place[keys[-1]] = value
    return result


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{where}{problem}; expected valid YAML") from None
    except (ValueError, LookupError, AttributeError, RecursionError) as error:  # what the loader makes of a false tag
        raise RecipeError(f"{error}; expected valid YAML") from None


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value
