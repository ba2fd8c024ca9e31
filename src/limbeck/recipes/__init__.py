"""The packaged recipes: each a folder with recipe.yaml and a card."""

from limbeck.recipes.packaged import Packaged, find, names

__all__ = ["Packaged", "find", "names"]
