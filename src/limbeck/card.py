"""The card of a method or a target, for recipes, docs and reports; and the files of a package that has one each."""

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from limbeck.arguments import checked_fields

__all__ = ["Card", "files_of"]


@checked_fields
@dataclass(frozen=True)
class Card:
    """The paper behind a method or target, and the formula that the code computes.

    Attributes:
        name: as recipes give it.
        summary: one line.
        authors: all authors of the paper.
        year: of publication.
        title: of the paper.
        source: address of the paper.
        formula: what the code computes, in the notation of the documentation.

    Raises:
        InputError: if a field has the wrong type.

    Example:
        >>> from limbeck import methods
        >>> methods.card("kd").title
        'Distilling the Knowledge in a Neural Network'
    """

    name: str
    summary: str
    authors: str
    year: int
    title: str
    source: str
    formula: str


def files_of(package: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the modules and packages in a package, by its `__path__`; its folder is read once.

    >>> import limbeck.methods
    >>> "kd" in files_of(limbeck.methods.__path__)
    True
    """
    return _files_of(tuple(package))


@cache
def _files_of(package: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(package))
