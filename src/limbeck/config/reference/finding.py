"""What a name means: the key or section of a recipe that it leads to, and where in a recipe it stands."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from limbeck.config.reference.catalogue import Family, Key, Section, catalogue, flat, has_keys
from limbeck.config.reference.values import example, written_out
from limbeck.config.written import Named
from limbeck.errors import RecipeError, nearest, one_of

__all__ = ["Found", "find", "inside", "keys_by_path", "nested", "places_of", "sections_of"]

Found = Key | Section | Family


def find(path: str) -> list[Found]:
    """Return what a path means: a key, a section or a family of sections; several where it names several.

    path: as a recipe has it (`student.model.mlp.hidden`), from a family on (`target.topk.k`), or a key's name alone.
    Raises RecipeError with the nearest name if it means nothing.

    >>> [found.path for found in find("teacher.training.epochs")]
    ['training.epochs']
    >>> find("training.learning_rat")
    Traceback (most recent call last):
    limbeck.errors.RecipeError: explain: there is no key 'training.learning_rat'; did you mean 'training.learning_rate'?
    """
    known = catalogue()
    parts = [part for part in path.replace("[", ".").replace("]", "").split(".") if not part.isdecimal()]
    deepest: tuple[list[Found], list[str]] = ([], [])
    starts: tuple[Found, ...] = (known.root, *known.families.values())
    for start in starts:
        rest = parts
        if isinstance(start, Family):
            if parts[0] != start.name:
                continue
            rest = parts[1:]
        reached: list[Found] = [start]
        for number, part in enumerate(rest):
            further = _distinct(child for each in reached for child in _children(each, part))
            if not further:
                gone = parts[: len(parts) - len(rest) + number]
                deepest = max(deepest, (reached, gone), key=lambda each: len(each[1]))
                break
            reached = further
        else:
            return reached
    if len(parts) == 1 and (found := [key for key in known.all_keys() if key.name == parts[0]]):
        return list(_distinct(found))
    raise RecipeError(f"explain: there is no key '{path}'; {_nearest(path, *deepest)}")


def _nearest(path: str, reached: Sequence[Found], gone: Sequence[str]) -> str:
    """Return the nearest names, among those that stand where the path ceases to mean anything."""
    below = {".".join([*gone, name]) for each in reached for name in _names(each)}
    if close := nearest(path, below) or nearest(path, keys_by_path()):
        return f"did you mean '{close}'?"
    return one_of("", below) if below else one_of("", _names(catalogue().root))


def _distinct(found: Iterator[Any] | Sequence[Any]) -> list[Any]:
    return list({(type(each), _path(each)): each for each in found}.values())


def _path(found: Found) -> str:
    return found.name if isinstance(found, Family) else found.path


def inside(found: Found) -> list[Section | Family]:
    """Return the sections and families whose keys may be written in a key's place."""
    if not isinstance(found, Key):
        return [found]
    known = catalogue()
    below: list[Section | Family] = []
    for option in flat(found.options):
        if isinstance(option, Named):
            below.append(known.families[option.family])
        elif has_keys(option):
            below.append(known.section_of(option))
    return below


def _children(found: Found, name: str) -> Iterator[Found]:
    for each in inside(found):
        if isinstance(each, Section):
            if key := each.key(name):
                yield key
            continue
        kind = each.aliases.get(name, name)
        if kind in each.sections:
            yield each.sections[kind]
        elif name == each.key:
            yield each
        else:
            yield from (key for key in each.shared if key.name == name)
            yield from (key for section in each.sections.values() if (key := section.key(name)) is not None)


def _names(found: Found) -> Iterator[str]:
    for each in inside(found):
        if isinstance(each, Section):
            yield from (key.name for key in each.keys)
        else:
            yield from each.sections
            yield from (key.name for key in each.shared)


@cache
def keys_by_path() -> dict[str, Key]:
    """Return every key by its path in the reference."""
    return {key.path: key for key in catalogue().all_keys()}


def sections_of(key: Key) -> tuple[Section | None, Family | None]:
    """Return the section that a key stands in, and the family of the section; None for a family's shared key."""
    known = catalogue()
    above = key.path.rpartition(".")[0]
    if above in known.families:
        return None, known.families[above]
    head, _, kind = above.partition(".")
    if head in known.families and kind in known.families[head].sections:
        return known.families[head].sections[kind], known.families[head]
    return known.sections.get(above, known.root), None


def places_of(found: Found) -> list[str]:
    """Return where in a recipe a key or section stands."""
    known = catalogue()
    if isinstance(found, Key):
        section, family = sections_of(found)
        above = family if section is None else section
        return [f"{place}.{found.name}" if place else found.name for place in places_of(above)] if above else []
    if isinstance(found, Section) and not found.family:
        return list(dict.fromkeys(known.places.get(found.path, [""])))
    name = found.name if isinstance(found, Family) else found.family
    return list(dict.fromkeys(known.places[name]))


def nested(found: Key | Section, value: Any) -> dict[str, Any]:
    """Return a value where it stands in a recipe, with the keys that must stand around it.

    >>> nested(find("target.topk.k")[0], 3)
    {'method': {'name': 'dist', 'target': {'kind': 'topk', 'k': 3}}}
    """
    if isinstance(found, Section):
        (place,) = places_of(found)[:1]
        if not place:
            return dict(value)
        key = keys_by_path()[place]
        written = Named(found.family) if found.family else found.takes
        return nested(key, value if written in key.options else [value])
    section, family = sections_of(found)
    if family is None:
        assert section is not None
        around = {each.name: example(each) for each in section.keys if each.required and section.path}
        return nested(section, {**around, found.name: value})
    if section is None:
        section = next(iter(family.sections.values()))
    return nested(section, {**written_out(section, family), found.name: value})
