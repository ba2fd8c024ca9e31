"""How a recipe writes the value of a key whose type alone does not say so.

The models of a recipe's keys carry these as annotations (`Annotated[dict[str, Any], Written(Named("data"))]`), from
which the reference and the schema of recipes are made.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["Listed", "Named", "Written"]


@dataclass(frozen=True)
class Named:
    """A mapping that names one of several kinds, with the keys of that kind.

    family: what they are kinds of, such as "data" or "method".
    """

    family: str


@dataclass(frozen=True)
class Listed:
    """A list.  of: its entries, a type or `Named`."""

    of: Any


@dataclass(frozen=True, init=False)
class Written:
    """What a recipe may write in a key's place: types, classes whose fields are keys, `Named` and `Listed`.

    >>> Written(bool, Named("method")).options
    (<class 'bool'>, Named(family='method'))
    """

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)
