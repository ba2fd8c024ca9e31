"""Names of classes, groups and columns as data brings them: each once, of bounded length, and printable on one line."""

import unicodedata
from collections.abc import Iterable, Sequence

from limbeck.checks import shown
from limbeck.errors import DataError

__all__ = ["MOST_CLASSES", "MOST_LETTERS", "ambiguous", "checked_names", "listed", "look_alike"]

MOST_CLASSES = 2**20
"""A model answers with one number for each class, and each class has a name.  The largest published label sets have
some ten thousand classes and the largest vocabularies some hundred thousand tokens; a class number beyond this is a
damaged label, and names for all classes below it would fill the memory."""

MOST_LETTERS = 256
"""Of a name.  Names stand in tables, legends and file names, and each is paid for in every row."""

_DIRECTION_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NOT_PRINTED = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph separators
_LISTED = 5


def checked_names(where: str, what: str, names: Iterable[str]) -> tuple[str, ...]:
    r"""Return names as a tuple; DataError for one that is no text, too long or not printable, or that occurs twice.

    where: the set or file.  what: what each is the name of.  The same text in two Unicode forms (an accented letter as
    one code point or as two) occurs twice.

    >>> checked_names("t.csv", "class", ["cat", "dog"])
    ('cat', 'dog')
    >>> checked_names("t.csv", "class", ["cat", "d\nog"])
    Traceback (most recent call last):
    limbeck.errors.DataError: t.csv: class name 'd\nog' holds the unprintable character U+000A; rename it
    """
    names = tuple(names)
    known: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{where}: {what} name {shown(name)} is {type(name).__name__}, expected text")
        if len(name) > MOST_LETTERS:
            raise DataError(
                f"{where}: {what} name {shown(name)} has {len(name):,} letters, expected at most {MOST_LETTERS};"
                " shorten it"
            )
        for sign in name:
            if sign in _DIRECTION_MARKS or unicodedata.category(sign) in _NOT_PRINTED:
                raise DataError(
                    f"{where}: {what} name {shown(name)} holds the unprintable character U+{ord(sign):04X}; rename it"
                )
        spelling = unicodedata.normalize("NFC", name)
        if spelling in known:
            other = known[spelling]
            forms = "occurs twice" if other == name else "occurs twice, in two Unicode forms"
            raise DataError(f"{where}: {what} name {shown(name)} {forms}; expected different names")
        known[spelling] = name
    return names


def ambiguous(classes: Iterable[int | str], class_names: Sequence[str]) -> str | None:
    """Return the line on the first class that is given by number where that is the name of another class; else None.

    >>> ambiguous([0, 1], ["0", "1"]), ambiguous(["1"], ["1", "2"])
    (None, None)
    >>> ambiguous([1], ["1", "2"])
    "1 is the number of class '2' and the name of class number 0; write names, in quotes"
    """
    place = {name: number for number, name in enumerate(class_names)}
    for each in classes:
        other = place.get(str(each), each)
        if isinstance(each, int) and other != each and 0 <= each < len(class_names):
            return (
                f"{each} is the number of class {shown(class_names[each])} and the name of class number {other}; "
                "write names, in quotes"
            )
    return None


def look_alike(what: str, names: Iterable[str]) -> list[str]:
    """Return a line for each pair of names that differ only in case, in spaces or in invisible characters.

    >>> look_alike("class", ["yes", "no", "Yes"])
    ["class names 'yes' and 'Yes' look alike and are taken as two; write them alike if they are one"]
    """
    known: dict[str, str] = {}
    lines = []
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        plain = "".join(sign for sign in plain if not sign.isspace() and unicodedata.category(sign) != "Cf")
        if (other := known.setdefault(plain, name)) != name:
            lines.append(
                f"{what} names {shown(other)} and {shown(name)} look alike and are taken as two; write them alike if "
                "they are one"
            )
    return lines[:_LISTED]


def listed(names: Iterable[str]) -> str:
    """Return names for a line of text: the first few, and how many more there are.

    >>> listed("abcdefg")
    "'a', 'b', 'c', 'd', 'e' and 2 more"
    """
    names = list(names)
    more = len(names) - _LISTED
    return ", ".join(map(shown, names[:_LISTED])) + (f" and {more:,} more" if more > 0 else "")
