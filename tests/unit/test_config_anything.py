"""Whatever is given for a recipe: it resolves, or ends in one line."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limbeck.config import Recipe, apply_overrides, load_recipe, read_yaml
from limbeck.errors import LimbeckError, RecipeError
from limbeck.recipes import find
from small_recipe import base, refusal

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.integers(2**1100, 2**1101),
    st.floats(),
    st.text(max_size=8),
    st.text(st.characters(codec=None), max_size=4),  # lone surrogates too
    st.sampled_from(["", "kd", "mlp", "digits", "step", "linear", "x.y", "a\nb", "\x1b[31m", "..", "os:system"]),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=3),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers(0, 3), st.none(), st.booleans()), inner, max_size=3),
        st.sets(st.integers(), max_size=2),
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in a recipe."""
    found = [path] if path else []
    if isinstance(value, Mapping):
        for key in value:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            found += places(item, (*path, position))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid recipe in which one to three things were dropped, renamed, added or replaced."""
    recipe = base()
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(recipe)))
        holder = recipe
        for key in path[:-1]:
            holder = holder[key]
        change = draw(st.sampled_from(["drop", "rename", "add", "replace", "replace", "replace"]))
        if change == "replace":
            holder[path[-1]] = draw(JUNK)
        elif change == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = draw(JUNK)
        elif isinstance(holder, dict):
            value = holder.pop(path[-1])
            if change == "rename":
                holder[draw(st.one_of(st.text(max_size=6), st.just(f"{path[-1]}s"), st.integers(), st.none()))] = value
    return recipe


def answer(call, *arguments) -> Any:
    """Return what a call returns, or the error that a user may cause."""
    try:
        return call(*arguments)
    except LimbeckError as error:
        return error


@pytest.mark.miniature(0)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_no_recipe_ends_in_anything_but_a_resolved_one_or_one_line(keys):
    kept = repr(keys)
    found = answer(Recipe.parse, keys)
    if isinstance(found, Recipe):
        assert Recipe.parse(yaml.safe_load(found.to_yaml())).to_yaml() == found.to_yaml()
    else:
        assert isinstance(found, RecipeError)
        assert str(found)
        assert str(found).isprintable()
        assert len(str(found)) < 500
    assert repr(keys) == kept


@settings(max_examples=100)
@given(st.text(max_size=40) | st.binary(max_size=40) | mutated().map(lambda keys: yaml.dump(keys)[:300]))
def test_no_file_ends_in_anything_but_a_mapping_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    found = answer(read_yaml, path)
    assert isinstance(found, dict) or str(found).isprintable()


@settings(max_examples=100)
@given(
    st.lists(st.text(max_size=12) | st.sampled_from(["seeds=", "a.b=1", "a=[", "data=3", "data.kind.x=1"]), max_size=3)
)
def test_no_override_ends_in_anything_but_a_recipe_or_one_line(overrides):
    found = answer(apply_overrides, base(), overrides)
    assert isinstance(found, dict) or str(found).isprintable()


def test_a_long_value_is_cut_short_in_its_line():
    said = refusal(Recipe.parse, base() | {"teacher": [list(range(1000))]})
    assert said.startswith("teacher: found [[0, 1, 2, ")
    assert said.endswith("..., expected keys and their values")


def test_the_packaged_demo_is_a_recipe():
    assert load_recipe(find("digits-kd").recipe, ["seeds=[7]"]).seeds == (7,)
