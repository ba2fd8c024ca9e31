"""Recipes: what a user names is data, validated as a whole before anything runs."""

from limbeck.config.networks import ModelSpec
from limbeck.config.reading import apply_overrides, read_yaml
from limbeck.config.recipe import AloneBudget, Recipe, load_recipe, replaced
from limbeck.config.sections import Section, parse
from limbeck.config.teachers import MemberSpec, TeacherSpec

__all__ = [
    "AloneBudget",
    "MemberSpec",
    "ModelSpec",
    "Recipe",
    "Section",
    "TeacherSpec",
    "apply_overrides",
    "load_recipe",
    "parse",
    "read_yaml",
    "replaced",
]
