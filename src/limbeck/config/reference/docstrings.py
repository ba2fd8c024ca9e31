"""What docstrings say of keys: the texts under "Args" and "Attributes", of a class those of its bases too."""

import inspect
import re
from functools import cache
from typing import Any

__all__ = ["described", "first_sentence", "paper", "sentence"]

_SECTIONS = ("Args", "Attributes")
_ENTRY = re.compile(r"    \*{0,2}(\w+): (\S.*)")


@cache
def described(takes: Any) -> dict[str, str]:
    """Return the description of each key that a function, class or model takes, by its name.

    >>> from limbeck.data import HeldOut
    >>> described(HeldOut)["size"]
    'Their number, or their share in (0, 1). In a ranking, of the items of each user.'
    """
    found: dict[str, str] = {}
    for each in takes.__mro__ if inspect.isclass(takes) else (takes,):
        doc = each.__doc__ if inspect.isclass(each) else inspect.getdoc(each)
        for name, text in _entries(inspect.cleandoc(doc or "")).items():
            found.setdefault(name, sentence(text))
    return found


def _entries(doc: str) -> dict[str, str]:
    found: dict[str, str] = {}
    within, name = False, ""
    for line in doc.splitlines():
        if line and not line.startswith(" "):
            within = line.removesuffix(":") in _SECTIONS and line.endswith(":")
            name = ""
        elif within and (entry := _ENTRY.fullmatch(line)):
            name = entry[1]
            found[name] = entry[2]
        elif within and name and line.strip():
            found[name] += " " + line.strip()
    return found


def sentence(text: str) -> str:
    """Return a text with single spaces and a capital letter first, and Python's None as YAML has it.

    >>> sentence("passes over  the set; None for none.")
    'Passes over the set; null for none.'
    """
    text = re.sub(r"\bNone\b", "null", " ".join(text.split()))
    word = re.match(r"(?!null )(?:a|[a-z-]{2,})(?=[ ,.:]|$)", text)  # and no formula or name
    return text[0].upper() + text[1:] if word else text


def first_sentence(takes: Any) -> str:
    """Return what a docstring begins with, without the verb of a function.

    >>> from limbeck.models import vgg
    >>> first_sentence(vgg).startswith("Build")
    False
    """
    doc = inspect.cleandoc(takes.__doc__ or "").split("\n\n")[0]
    return sentence(re.sub(r"^(Return|Build|Read) ", "", doc))


def paper(takes: Any) -> str:
    """Return the text under "Reference" of a docstring; "" if it has none."""
    _, found, rest = inspect.cleandoc(takes.__doc__ or "").partition("\nReference:\n")
    return " ".join(rest.split("\n\n")[0].split()) if found else ""
