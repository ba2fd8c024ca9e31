"""The method as a recipe names it: one, or a list of several whose terms add."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from limbeck import methods
from limbeck.card import Card
from limbeck.checks import shown
from limbeck.config.sections import Section, of_kind
from limbeck.errors import InputError, RecipeError
from limbeck.objective import Objective

__all__ = ["MethodSpec", "method_sections", "read_method"]


@dataclass(frozen=True)
class MethodSpec:
    """Methods as a recipe names them; the objective has the terms of all.

    parts: a section for each, at least one.
    """

    parts: tuple[Section, ...]
    where: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the methods."""
        return tuple(part.function.__name__ for part in self.parts)

    @property
    def name(self) -> str:
        """The names in one."""
        return " + ".join(self.names)

    @property
    def cards(self) -> tuple[Card, ...]:
        """The card of each."""
        return tuple(methods.card(name) for name in self.names)

    @property
    def values(self) -> dict[str, Any]:
        """The values of the first method, to which the search of a recipe with one method applies."""
        return dict(self.parts[0].values)

    def build(self) -> Objective:
        """Build the objective anew."""
        return self._added([part.build() for part in self.parts])

    @cached_property
    def inspected(self) -> Objective:
        """What `build` gives, made once to be looked at; what is trained is built anew."""
        return self._added([part.inspected for part in self.parts])

    def _added(self, objectives: Sequence[Objective]) -> Objective:
        added = objectives[0]
        for other in objectives[1:]:
            try:
                added = added + other
            except InputError as error:
                raise RecipeError(f"{self.where}.{error}") from None
        return added

    def keys(self) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the methods as a resolved recipe has them: one mapping, or a list of several."""
        found = [
            {"name": name, **{key: value for key, value in part.values.items() if value is not None}}
            for name, part in zip(self.names, self.parts, strict=True)
        ]
        return found[0] if len(found) == 1 else found


def read_method(keys: Any, where: str) -> MethodSpec:
    """Return the methods that a recipe names by a mapping, or by a list of mappings.

    Raises RecipeError with one line for the first wrong key.
    """
    several = isinstance(keys, Sequence) and not isinstance(keys, str)
    if several and not keys:
        raise RecipeError(f"{where}: found an empty list, expected at least one method, such as name: kd")
    places = [(each, f"{where}[{number}]") for number, each in enumerate(keys)] if several else [(keys, where)]
    for each, place in places:
        if not isinstance(each, Mapping):
            raise RecipeError(f"{place}: found {shown(each)}, expected the keys of a method, such as name: kd")
    parts = tuple(of_kind(each, methods.kinds(), place, key="name")[1] for each, place in places)
    method = MethodSpec(parts, where)
    _ = [part.inspected for part in parts], method.inspected  # which the methods' own checks refuse
    return method


def method_sections(keys: Any) -> list[Mapping[str, Any]]:
    """Return the methods that a resolved recipe's key `method` holds.

    >>> method_sections({"name": "kd"}), method_sections([{"name": "kd"}, {"name": "rkd"}])
    ([{'name': 'kd'}], [{'name': 'kd'}, {'name': 'rkd'}])
    """
    return list(keys) if isinstance(keys, list) else [keys]
