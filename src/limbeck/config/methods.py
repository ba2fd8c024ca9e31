"""The method as a recipe names it."""

from collections.abc import Mapping
from typing import Any

from limbeck import methods
from limbeck.config.sections import Section, of_kind

__all__ = ["method_keys", "read_method"]


def read_method(keys: Mapping[str, Any], where: str) -> Section:
    """Return the section of a method; RecipeError with one line for the first wrong key."""
    _, section = of_kind(keys, methods.kinds(), where, key="name")
    _ = section.inspected  # which the method's own checks refuse
    return section


def method_keys(section: Section) -> dict[str, Any]:
    """Return a method as a resolved recipe has it."""
    return {"name": section.function.__name__, **{k: v for k, v in section.values.items() if v is not None}}
