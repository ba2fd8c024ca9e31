"""A recipe's text: YAML without code, duplicate keys and numbers in disguise, and `key.path=value` on top."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from limbeck.checks import shown
from limbeck.errors import RecipeError

__all__ = ["apply_overrides", "explained", "in_one_line", "read_yaml", "written"]

_FLOAT = re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)$")
_TAG = "tag:yaml.org,2002:"
_AS_IT_LOOKS = {
    f"{_TAG}int": re.compile(r"[-+]?(0|[1-9]\d*)"),
    f"{_TAG}float": re.compile(r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|\.inf|\.nan)", re.IGNORECASE),
}
_FOUND = re.compile(r"(?P<place>[^:]+): found .+?, expected (?P<expected>.+)", re.DOTALL)
_WORDS = frozenset({"yes", "no", "on", "off"})
_READ_AS = {"null": "no value", "int": "a number", "float": "a number", "timestamp": "a date"}
_MOST_BYTES = 2**18
_MOST_VALUES, _DEEPEST = 100_000, 50  # with every alias written out


class _Loader(yaml.SafeLoader):
    """The safe loader, with 1e-3 as a number, and without duplicate keys and numbers that are not what they look like.

    To YAML 1.1, 010 is 8, 1:30 is 90, 1_1 is 11, and some times are written otherwise than they are read.
    """

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        implied = self.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        if node.style is not None or implied != node.tag:
            return node
        looks = _AS_IT_LOOKS.get(node.tag)
        if (looks and not looks.fullmatch(node.value)) or node.tag == f"{_TAG}timestamp":
            value = self.construct_object(node)
            if str(value) != node.value:
                mend = "write it in plain digits, or in quotes if it is text" if looks else "put it in quotes"
                raise RecipeError(f"line {node.start_mark.line + 1}: {node.value} is {value} to YAML; {mend}")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise RecipeError(f"line {key.start_mark.line + 1}: found the key '{key.value}' twice; delete one")
            if key.tag == f"{_TAG}bool":
                value = str(self.construct_object(key)).lower()
                raise RecipeError(
                    f"line {key.start_mark.line + 1}: key {key.value} is {value} to YAML; put it in quotes"
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which puts a text in quotes where `_Loader` would read a number."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))


def written(keys: Mapping[str, Any], *, short: bool = False) -> str:
    """Return keys as YAML, which `read_yaml` reads as they were; with `short`, a list or mapping is in one line."""
    flow, width = (None, 2**20) if short else (False, 120)
    text: str = yaml.dump(
        dict(keys), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=flow
    )
    return text


def in_one_line(value: Any) -> str:
    """Return a value as YAML in one line.

    >>> in_one_line({"training": {"milestones": [10, 20]}})
    '{training: {milestones: [10, 20]}}'
    """
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20, default_flow_style=True
    )
    return text.strip().removesuffix("\n...")


def explained(complaint: str, path: Path, overrides: Sequence[str]) -> str:
    """Return the complaint about a value of a recipe with what stands there, where YAML read it as no text.

    path, overrides: what the recipe was read from.  `key: found False, expected text` becomes `key: found no, which
    YAML reads as false, expected text; put it in quotes`.
    """
    found = _FOUND.fullmatch(complaint)
    if found is None:
        return complaint
    place, expected = found["place"], found["expected"]
    scalars = _scalars(_composed(path.read_text(encoding="utf-8")), "")
    for override in overrides:
        key, _, text = override.partition("=")
        replaced = (f"{key}.", f"{key}[")
        scalars = {at: node for at, node in scalars.items() if at != key and not at.startswith(replaced)}
        scalars |= _scalars(_composed(text), key)
    node = scalars.get(place)
    if node is None or not ("text" in expected or node.value.lower() in _WORDS):
        return complaint
    reading = _READ_AS.get(node.tag.removeprefix(_TAG)) or str(node.value.lower() in ("true", "yes", "on")).lower()
    quotes = "; put it in quotes" if "text" in expected else ""
    return f"{place}: found {node.value or 'nothing'}, which YAML reads as {reading}, expected {expected}{quotes}"


def _composed(text: str) -> yaml.Node | None:
    node: yaml.Node | None = _Loader(text).get_single_node()
    return node


def _scalars(node: yaml.Node | None, place: str) -> dict[str, yaml.ScalarNode]:
    """Return by their places the plain scalars that YAML reads as something else than text."""
    if isinstance(node, yaml.ScalarNode):
        return {place: node} if node.style is None and node.tag != f"{_TAG}str" else {}
    found: dict[str, yaml.ScalarNode] = {}
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            found |= _scalars(item, f"{place}[{number}]")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found |= _scalars(value, f"{place}.{key.value}" if place else str(key.value))
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; RecipeError with the line where it cannot be read."""
    if not path.is_file():
        raise RecipeError(f"recipe: there is no file '{path}'; 'limbeck recipes ls' lists the packaged ones")
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise RecipeError(f"it holds {size:,} bytes, expected at most {_MOST_BYTES:,}; move data to other files")
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
                    f"override '{override}': '{found}' is {shown(place)}, which has no keys; set all of it"
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
            raise RecipeError(f"found aliases that expand to more than {_MOST_VALUES:,} values; write the values out")
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
