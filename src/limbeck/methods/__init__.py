"""Methods: one file a paper, each with its `CARD` and a builder of an `Objective` that bears the file's name."""

import importlib
import pkgutil
from collections.abc import Callable

from limbeck.card import Card
from limbeck.errors import InputError, one_of
from limbeck.methods.dist import dist
from limbeck.methods.dkd import dkd
from limbeck.methods.hard import hard
from limbeck.methods.kd import kd
from limbeck.methods.logit_matching import logit_matching
from limbeck.methods.logit_standardisation import logit_standardisation
from limbeck.objective import Objective

__all__ = [
    "Card",
    "builder",
    "card",
    "dist",
    "dkd",
    "hard",
    "kd",
    "logit_matching",
    "logit_standardisation",
    "names",
]


def names() -> list[str]:
    """Return the names of all methods, found by walking this package.

    >>> "kd" in names()
    True
    """
    return [module.name for module in pkgutil.iter_modules(__path__)]


def builder(name: str) -> Callable[..., Objective]:
    """Return the function that builds the objective of a method.

    >>> objective = builder("kd")(temperature=2.0)
    >>> sorted(objective.terms)
    ['hard', 'soft']
    """
    return getattr(_module(name), name)  # type: ignore[no-any-return]


def card(name: str) -> Card:
    """Return the card of a method.

    >>> card("kd").year
    2015
    """
    return _module(name).CARD  # type: ignore[attr-defined, no-any-return]


def _module(name: str) -> object:
    if name not in names():
        raise InputError(f"method: there is no method '{name}'; {one_of(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")
