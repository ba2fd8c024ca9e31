"""The reference of recipes as text: one entry of it, and the whole as a page in Markdown."""

import re
from collections.abc import Iterator
from typing import Any

from limbeck.config.reading import in_one_line
from limbeck.config.reference.catalogue import Family, Key, Section, catalogue
from limbeck.config.reference.finding import Found, inside, nested, places_of
from limbeck.config.reference.values import example, in_words, range_of, schema_of, written_out

__all__ = ["as_dict", "default_of", "example_of", "index", "markdown", "type_of"]


def type_of(key: Key) -> str:
    """Return what may be written, with its range."""
    bounds = range_of(key)
    return f"{in_words(key)}, {bounds}" if bounds else in_words(key)


def default_of(key: Key) -> str:
    """Return the default as a recipe writes it; "required" for a key without one."""
    if key.required:
        return "required"
    if key.default == {} and any(isinstance(each, Section) for each in inside(key)):
        return "its defaults"
    return in_one_line(key.default)


def example_of(found: Found) -> str:
    """Return how a key or section is written in a recipe, in one line of YAML."""
    if isinstance(found, Key):
        content = nested(found, example(found))
    elif isinstance(found, Family):
        content = nested(
            found.sections[next(iter(found.kinds))], written_out(next(iter(found.sections.values())), found)
        )
    elif found.family:
        content = nested(found, written_out(found, catalogue().families[found.family]))
    else:
        content = nested(found, {key.name: example(key) for key in found.keys if key.required} or _first(found))
    return in_one_line(content)[1:-1]


def _first(section: Section) -> dict[str, Any]:
    return {key.name: example(key) for key in section.keys[:1]}


def as_dict(found: Found) -> dict[str, Any]:
    """Return an entry of the reference as plain values, with the keys and kinds that may be written in its place."""
    where = places_of(found)
    if isinstance(found, Key):
        about = _key_dict(found, where)
    elif isinstance(found, Family):
        about = {"section": found.name, "meaning": found.summary, "where": where}
    else:
        about = {"section": found.path or "recipe", "meaning": found.summary, "reference": found.paper or None}
        about |= {"where": where, "example": example_of(found)}
    for below in inside(found):
        if isinstance(below, Family):
            about["kinds"] = {section.path: section.summary for section in below.sections.values()}
        keys = below.shared if isinstance(below, Family) else below.keys
        about["keys"] = [*about.get("keys", []), *(_key_dict(key, places_of(key)) for key in keys)]
    return about


def _key_dict(key: Key, where: list[str]) -> dict[str, Any]:
    return {
        "key": key.path,
        "meaning": key.meaning,
        "type": in_words(key),
        "range": range_of(key) or None,
        "required": key.required,
        "default": None if key.required else key.default,
        "where": where,
        "example": example_of(key),
        "schema": schema_of(key, catalogue()),
    }


def index() -> list[tuple[str, str]]:
    """Return the sections of the reference, each with what it is."""
    known = catalogue()
    found = [("recipe", known.root.summary)]
    found += [(path, section.summary) for path, section in known.sections.items()]
    found += [
        (family.name, f"{family.summary} {len(family.kinds)} kinds: {', '.join(family.kinds)}.")
        for family in known.families.values()
    ]
    return found


def markdown() -> str:
    """Return the whole reference as Markdown, a table of keys for each section."""
    known = catalogue()
    lines = ["## The recipe", "", *_table(known.root.keys)]
    for family in known.families.values():
        lines += ["", f"## {family.name}", "", family.summary, "", _where(family), ""]
        if family.shared:
            lines += ["Every kind has these keys too:", "", *_table(family.shared), ""]
        for section in family.sections.values():
            lines += [f"### {section.path}", "", section.summary, ""]
            names = [name for name, kind in family.aliases.items() if kind == section.kind]
            lines += (
                [f"Also by a name with its keys set: {', '.join(f'`{name}`' for name in names)}.", ""] if names else []
            )
            lines += [f"`{example_of(section)}`", ""]
            lines += [*_table(section.keys), ""] if section.keys else []
    lines += ["", "## Other sections", ""]
    for section in known.sections.values():
        lines += [f"### {section.path}", "", section.summary, "", _where(section), "", *_table(section.keys), ""]
    return "\n".join(_single(lines)) + "\n"


def _single(lines: list[str]) -> Iterator[str]:
    """Return lines without empty ones that follow each other, or that end all."""
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines):
        if line or (number and lines[number - 1]):
            yield line


def _where(found: Section | Family) -> str:
    places = [f"`{place}`" for place in places_of(found) if place]
    most = 6
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return f"Where: {', '.join(places[:most])}{more}."


def _table(keys: tuple[Key, ...]) -> list[str]:
    rows = [[f"`{key.name}`", type_of(key), _code(default_of(key)), key.meaning] for key in keys]
    cells = [["key", "type", "default", "meaning"], ["---"] * 4, *rows]
    return [f"| {' | '.join(map(_escaped, row))} |" for row in cells]


def _escaped(text: str) -> str:
    """Return a text as the cell of a Markdown table; what stands between back quotes is shown as it is."""
    parts = text.replace("|", "\\|").split("`")
    outside = [re.sub(r"([*<_])", r"\\\1", part) if number % 2 == 0 else part for number, part in enumerate(parts)]
    return "`".join(outside)


def _code(default: str) -> str:
    return default if default in ("required", "its defaults") else f"`{default}`"
