"""A recipe's file: its keys as YAML, with comments."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.config.reading import in_one_line, written
from limbeck.drafts.drafting import Draft

__all__ = ["recipe_text", "seen_from"]

_WIDTH = 100
_PLACES = ("path", "folder", "checkpoint")


def recipe_text(found: Draft, file: Path) -> str:
    """Return the text of a recipe's file.

    Args:
        found: the recipe, whose paths are of the current folder.
        file: where it is to lie; paths are written as seen from there.

    Returns:
        YAML with comments.

    Example:
        >>> from limbeck.drafts import Wishes, draft, look
        >>> print(recipe_text(draft(look("digits"), Wishes(), "first"), Path("first.yaml")).splitlines()[3])
        # Scikit-learn's digits, 8×8 pixels.
    """
    lines = [
        "# A first recipe by limbeck init. `limbeck check FILE` tries it, `limbeck distill FILE` runs it,",
        "# `limbeck explain KEY` says what a key means.",
    ]
    for key, value in seen_from(found.keys, file).items():
        for comment in found.comments.get(key, ()):
            lines += textwrap.wrap(comment, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        short = written({key: value}, short=True) if isinstance(value, Mapping) else f"{key}: {in_one_line(value)}"
        lines.append(short.rstrip())
    return "\n".join(lines) + "\n"


def seen_from(keys: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return keys with their paths as seen from a file's folder: relative if they lie below it, whole otherwise."""
    found: dict[str, Any] = {}
    for key, value in keys.items():
        if isinstance(value, Mapping):
            found[key] = seen_from(value, file)
        elif key in _PLACES and isinstance(value, str):
            place = Path(value).expanduser().resolve()
            home = file.parent.resolve()
            found[key] = place.relative_to(home).as_posix() if place.is_relative_to(home) else str(place)
        else:
            found[key] = value
    return found
