"""The reference of recipes: every key, described from the code that validates it."""

from limbeck.config.reference.catalogue import Catalogue, Family, Key, Section, catalogue
from limbeck.config.reference.finding import find, inside, places_of
from limbeck.config.reference.page import as_dict, default_of, example_of, index, markdown, type_of
from limbeck.config.reference.schema import schema

__all__ = [
    "Catalogue",
    "Family",
    "Key",
    "Section",
    "as_dict",
    "catalogue",
    "default_of",
    "example_of",
    "find",
    "index",
    "inside",
    "markdown",
    "places_of",
    "schema",
    "type_of",
]
