"""limbeck explain: the reference of a recipe's keys."""

from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import app
from limbeck.cli.showing import say, show, show_json, show_pairs
from limbeck.errors import InputError, command

if TYPE_CHECKING:
    from limbeck.config.reference import Family, Key, Section

__all__ = ["explain"]

_MOST_PLACES = 6


@app.command()
def explain(
    key: Annotated[str | None, typer.Argument(help="a key of recipes, such as training.learning_rate")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON schema of recipes, for editors")] = False,
) -> None:
    """Print what a key of a recipe means: its type, range, default, where it stands, and an example."""
    from limbeck.config import reference

    if schema:
        if key is not None:
            raise InputError(f"explain: found '{key}' and --schema, which is of the whole recipe; leave one out")
        show_json(reference.schema())
        return
    if key is None:
        sections = reference.index()
        if as_json:
            show_json([{"section": name, "meaning": meaning} for name, meaning in sections])
            return
        show_pairs(sections)
        section, each = (command("limbeck", "explain", name) for name in ("training", "training.epochs"))
        say(f"next: {section}, or of one key: {each}")
        return
    found = [reference.catalogue().root] if key == "recipe" else reference.find(key)
    if as_json:
        entries = [reference.as_dict(each) for each in found]
        show_json(entries[0] if len(entries) == 1 else entries)
    elif len(found) == 1:
        _entry(found[0])
    else:
        show_pairs([(each.path, _summary(each)) for each in found if not isinstance(each, reference.Family)])


def _entry(found: "Key | Section | Family") -> None:
    """Print a key with what may be written in its place, or a section with its keys."""
    from limbeck.config import reference

    places = [place for place in reference.places_of(found) if place]
    more = f" and {len(places) - _MOST_PLACES} more" if len(places) > _MOST_PLACES else ""
    where = ", ".join(places[:_MOST_PLACES]) + more
    if isinstance(found, reference.Key):
        facts = [("type", reference.type_of(found)), ("default", reference.default_of(found))]
        show(found.path, found.meaning)
        show_pairs([*facts, ("where", where), ("example", reference.example_of(found))])
        for below in reference.inside(found):
            show("")
            _keys(below)
        return
    show(found.name if isinstance(found, reference.Family) else found.path or "recipe", found.summary)
    if isinstance(found, reference.Section) and found.paper:
        show(found.paper)
    show_pairs([*([("where", where)] if where else []), ("example", reference.example_of(found))])
    show("")
    _keys(found)


def _keys(found: "Section | Family") -> None:
    """Print the keys of a section, or the kinds of a family and the keys that all of them have."""
    from limbeck.config import reference

    if isinstance(found, reference.Family):
        show_pairs([(section.path, section.summary) for section in found.sections.values()])
        if not found.shared:
            return
        show("", "keys of every kind:")
    keys = found.shared if isinstance(found, reference.Family) else found.keys
    show_pairs([(key.path, _summary(key)) for key in keys])


def _summary(found: "Key | Section") -> str:
    from limbeck.config import reference

    if isinstance(found, reference.Section):
        return found.summary
    default = reference.default_of(found)
    told = default if default == "required" else f"default {default}"
    return f"{found.meaning} ({reference.type_of(found)}; {told})"
