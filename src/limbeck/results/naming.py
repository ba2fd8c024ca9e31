"""Short names for runs that stand side by side: what differs between their recipes."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.config import Recipe

__all__ = ["flattened", "names_of_runs"]

_UNTOLD = ("summary", "licences", "trackers")
"""Keys that are no part of what a run is."""
_MOST_KEYS = 3  # in a name
_TRIED_KEYS = 24  # differing keys among which those of a name are sought
_LONGEST = 28  # letters of a value


def flattened(keys: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested keys as key.path -> value; of a key without any below it, nothing.

    >>> flattened({"method": {"name": "kd", "temperature": 4.0}, "seeds": [0]})
    {'method.name': 'kd', 'method.temperature': 4.0, 'seeds': [0]}
    """
    found: dict[str, Any] = {}
    for key, value in keys.items():
        if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            value = {str(number): each for number, each in enumerate(value)}
        if isinstance(value, Mapping):
            found |= flattened(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def names_of_runs(folders: Sequence[Path], recipes: Sequence[Recipe]) -> list[str]:
    """Return a name for each run: the values of the fewest recipe keys that tell the runs apart.

    folders, recipes: of the runs, in one order.
    Runs whose recipes agree have the end of their folder's name in addition.
    """
    return _named([flattened(recipe.keys) for recipe in recipes], folders)


def _named(keys: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[str]:
    """Return the names of runs from their flattened keys.

    >>> kd = {"name": "digits", "method.temperature": 4.0, "training.epochs": 5, "teacher.training.epochs": 9}
    >>> _named([kd, {**kd, "method.temperature": 8.0}], [Path("runs/a-1"), Path("runs/a-2")])
    ['temperature=4', 'temperature=8']
    >>> _named([kd, {**kd, "training.epochs": 6}], [Path("runs/a-1"), Path("runs/a-2")])
    ['training.epochs=5', 'training.epochs=6']
    >>> _named([kd, {**kd, "name": "mnist", "training.epochs": 6}], [Path("runs/a-1"), Path("runs/b-2")])
    ['digits', 'mnist']
    >>> _named([kd, kd], [Path("runs/digits/a-1"), Path("runs/digits/a-2")])
    ['digits/1', 'digits/2']
    """
    chosen = _telling(keys)
    names = _spelt(chosen, keys)
    plain = [each.resolve().parts for each in folders]
    ends = _shortest(plain)
    if not chosen:
        return ends
    tied = [name for name in names if names.count(name) > 1]
    last = [parts[-1].rpartition("-")[2] for parts in plain]
    told = [f"{name} ({end})" if name in tied else name for name, end in zip(names, last, strict=True)]
    if len(set(told)) == len(told):
        return told
    return [f"{name} ({end})" if name in tied else name for name, end in zip(names, ends, strict=True)]


def _shortest(places: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the end of each path that tells it apart: its folder and the id at the end of its own name, if enough."""
    short = [f"{each[-2]}/{each[-1].rpartition('-')[2]}" if len(each) > 1 else each[-1] for each in places]
    if len(set(short)) == len(short):
        return short
    long = len({each[-2:] for each in places}) < len(places)
    return ["/".join(each) if long else "/".join(each[-2:]) for each in places]


def _telling(keys: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fewest keys whose values tell the most runs apart; of as many, those of the shortest names."""
    every = dict.fromkeys(key for each in keys for key in each if key.partition(".")[0] not in _UNTOLD)
    differing = [key for key in every if len({_written(each, key) for each in keys}) > 1]
    if "name" in differing and len({each.get("name") for each in keys}) == len(keys):
        return ["name"]
    best: tuple[int, ...] = (0,)
    chosen: list[str] = []
    for count in range(1, min(_MOST_KEYS, len(differing)) + 1):
        for some in itertools.combinations(differing[:_TRIED_KEYS], count):
            names = _spelt(some, keys)
            found = (len(set(names)), -count, -sum(map(len, names)))
            if found > best:
                best, chosen = found, list(some)
        if best[0] == len(keys):
            break
    return chosen


def _spelt(chosen: Sequence[str], keys: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of runs that some keys give."""
    every = {key for each in keys for key in each}
    ends = {key: _end(key, every) for key in chosen}
    return [
        ", ".join(_written(each, key) if key == "name" else f"{ends[key]}={_written(each, key)}" for key in chosen)
        for each in keys
    ]


def _end(key: str, every: set[str]) -> str:
    """Return the shortest end of a key.path that no other key has."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in every) == 1:
            return end
    return key


def _written(keys: Mapping[str, Any], key: str) -> str:
    """Return a value as a name shows it; a key that a recipe lacks is "none"."""
    value = keys.get(key)
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str).replace('"', "")
    if len(text) <= _LONGEST:
        return text
    return f"…{text[1 - _LONGEST :]}" if "/" in text else f"{text[: _LONGEST - 1]}…"
