"""Recipes: what a user names is data, validated as a whole before anything runs."""

from limbeck.config.networks import ModelSpec
from limbeck.config.reading import apply_overrides, read_yaml
from limbeck.config.recipe import AloneBudget, Recipe, TeacherSpec, load_recipe
from limbeck.config.sections import Section, parse

__all__ = [
    "AloneBudget",
    "ModelSpec",
    "Recipe",
    "Section",
    "TeacherSpec",
    "apply_overrides",
    "load_recipe",
    "parse",
    "read_yaml",
]
