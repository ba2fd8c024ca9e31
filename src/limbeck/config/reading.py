"""Reading a recipe's text: YAML without code, without duplicate keys, and `key.path=value` on top."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from limbeck.checks import shown
from limbeck.errors import RecipeError

__all__ = ["apply_overrides", "read_yaml"]

_FLOAT = re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)$")
_MOST_BYTES = 2**18
_MOST_VALUES, _DEEPEST = 100_000, 50  # with every alias written out


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
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise RecipeError(
                f"it holds {size:,} bytes, expected at most {_MOST_BYTES:,}; put data into files of its own"
            )
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
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}, 0) > _MOST_VALUES:
            raise RecipeError(f"its aliases expand to more than {_MOST_VALUES:,} values; write out what is meant")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{where}{problem}; expected valid YAML") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{error}; expected valid YAML") from None
    except (LookupError, AttributeError, TypeError, OverflowError):  # what the loader makes of !!bool x
        raise RecipeError("a value does not fit its tag; expected valid YAML") from None


def _size(node: yaml.Node, known: dict[int, int | None], depth: int) -> int:
    """Return how many values a node stands for, every alias written out; each node is visited once.

    known: the sizes of the nodes visited; None while one is being visited.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value) // 64
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise RecipeError("a value refers to itself; write it out")
        return size
    if depth == _DEEPEST:
        raise RecipeError(f"line {node.start_mark.line + 1}: nested deeper than {_DEEPEST} levels; expected fewer")
    known[id(node)] = None
    items = node.value if isinstance(node, yaml.SequenceNode) else [item for pair in node.value for item in pair]
    size = 1 + sum(_size(item, known, depth + 1) for item in items)
    known[id(node)] = size
    return size


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value
