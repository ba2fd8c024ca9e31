"""The packaged recipes: each a folder with recipe.yaml, a card, and the results it is expected to repeat."""

from limbeck.recipes import reproducing
from limbeck.recipes.packaged import Packaged, find, names
from limbeck.recipes.reproducing import reproduce

__all__ = ["Packaged", "find", "names", "reproduce", "reproducing"]
