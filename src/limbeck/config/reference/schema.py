"""The JSON schema of recipes, by which an editor completes keys and marks mistakes."""

from functools import cache
from typing import Any

from limbeck.config.reference.catalogue import Catalogue, Family, Key, catalogue
from limbeck.config.reference.values import schema_of

__all__ = ["schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of recipes.  What keys demand of each other is not in it: `limbeck check` knows that."""
    known = catalogue()
    definitions = {path: _object(section.keys, known, section.summary) for path, section in known.sections.items()}
    definitions |= {path: _family(family, known) for path, family in known.families.items()}
    return {
        "$schema": _DIALECT,
        "title": "limbeck recipe",
        **_object(known.root.keys, known, known.root.summary),
        "$defs": definitions,
    }


def _object(keys: tuple[Key, ...], known: Catalogue, description: str, **more: Any) -> dict[str, Any]:
    """Return the schema of a mapping with keys.  more: further properties."""
    found: dict[str, Any] = {
        "description": description,
        "type": "object",
        "properties": {**more, **{key.name: schema_of(key, known) for key in keys}},
        "additionalProperties": False,
    }
    if required := [key.name for key in keys if key.required]:
        found["required"] = required
    return found


def _family(family: Family, known: Catalogue) -> dict[str, Any]:
    """Return the schema of a mapping that names a kind, or of the kind's name alone."""
    named = {"enum": [*family.kinds, *family.aliases], "description": "Which of the kinds."}
    cases = [_case(family, kind, [kind], known) for kind in family.kinds if kind not in family.aliases]
    cases += [
        _case(family, kind, [each for each, its in family.aliases.items() if its == kind], known)
        for kind in dict.fromkeys(family.aliases.values())
    ]
    whole: dict[str, Any] = {
        "type": "object",
        "properties": {family.key: named},
        "required": [family.key],
        "allOf": cases,
    }
    forms = [whole]
    for name in family.other:
        section = family.sections[name]
        forms.append(_object((*section.keys, *family.shared), known, section.summary))
    for kind, section in family.sections.items():  # {folder: PATH}: a kind by its only key
        key = section.key(kind)
        if key is not None and kind in family.kinds and all(each is key or not each.required for each in section.keys):
            forms.append(_object((key,), known, section.summary))
    if family.alone:
        alone = [kind for kind in family.kinds if not any(key.required for key in family.sections[kind].keys)]
        forms.append({"enum": alone})
    return {"description": family.summary, **(forms[0] if len(forms) == 1 else {"anyOf": forms})}


def _case(family: Family, kind: str, names: list[str], known: Catalogue) -> dict[str, Any]:
    """Return the rule of a schema for a kind by one of its names."""
    section = family.sections[kind]
    own = {each.name: each for each in (*family.shared, *section.keys)}  # a kind's own key is the one that counts
    which = {"enum": names} if len(names) > 1 else {"const": names[0]}
    then = _object(tuple(own.values()), known, section.summary, **{family.key: which})
    return {"if": {"properties": {family.key: which}, "required": [family.key]}, "then": then}
