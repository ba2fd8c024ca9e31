"""One file a scheme, which says who teaches whom, and when; each with its `CARD` and a class of the file's name.

A scheme's parameters are the recipe's keys under `scheme`.  What it works with is handed to it as a `Context`.
"""

import importlib
from collections.abc import Callable

from limbeck.card import Card, files_of
from limbeck.errors import InputError, one_of
from limbeck.schemes.scheme import Scheme

__all__ = ["Scheme", "builder", "card", "kinds", "name_of", "names"]


def names() -> list[str]:
    """Return the names of all schemes, found by walking this package.

    >>> "offline" in names()
    True
    """
    return [name for name in files_of(__path__) if hasattr(_load(name), "CARD")]


def builder(name: str) -> Callable[..., Scheme]:
    """Return the class of a scheme: of early_stopping, EarlyStopping.

    >>> builder("offline")()
    Offline()
    """
    return getattr(_module(name), name.title().replace("_", ""))  # type: ignore[no-any-return]


def kinds() -> dict[str, Callable[..., Scheme]]:
    """Return the class of every scheme, by the name that a recipe gives it.

    >>> kinds()["offline"] is builder("offline")
    True
    """
    return {name: builder(name) for name in names()}


def card(name: str) -> Card:
    """Return the card of a scheme.

    >>> card("offline").year
    2015
    """
    return _module(name).CARD  # type: ignore[attr-defined, no-any-return]


def name_of(scheme: Scheme) -> str:
    """Return the name that a recipe calls a scheme by.

    >>> name_of(builder("offline")())
    'offline'
    """
    return type(scheme).__module__.rpartition(".")[2]


def _module(name: str) -> object:
    if name not in names():
        raise InputError(f"scheme: there is no scheme '{name}'; {one_of(name, names())}")
    return _load(name)


def _load(name: str) -> object:
    return importlib.import_module(f"{__name__}.{name}")
