"""What stands in a recipe is what is read: words and numbers in disguise, names that are numbers, and what is kept."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from limbeck.config import Recipe, apply_overrides, load_recipe, read_yaml
from limbeck.config.reading import written
from limbeck.errors import RecipeError
from limbeck.experiment.vetting import vet
from small_recipe import base, refusal
from walk import over


@pytest.fixture
def path(tmp_path) -> Path:
    """A recipe of a table, whose keys take texts, lists of texts, numbers, and classes by name or number."""
    rows = "\n".join(f"{row},{row % 7},{['no', 'yes', 'maybe'][row % 3]}" for row in range(60))
    (tmp_path / "t.csv").write_text(f"x,No,y\n{rows}\n")
    keys = {"kind": "table", "path": "t.csv", "label": "y"}
    recipe = {"name": "r", "data": keys, "student": {"model": {"kind": "mlp", "hidden": [4]}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "r.yaml"


WORDS = {
    "no": "false", "No": "false", "NO": "false", "off": "false", "Off": "false", "false": "false", "yes": "true",
    "Yes": "true", "on": "true", "ON": "true", "true": "true", "~": "no value", "null": "no value", "2024": "a number",
    "1.5": "a number", "1e3": "a number", "2024-01-01": "a date",
}  # fmt: skip


@pytest.mark.miniature(31)
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("place", ["data.label", "data.drop[0]", "classes[1]"])
def test_a_word_that_yaml_takes_for_something_else_is_said(path, place, word):
    if (place == "classes[1]" and word == "2024") or word == "2024-01-01":  # a class's number; a date is read as text
        assert load_recipe(path, [f"{place.removesuffix('[1]').removesuffix('[0]')}={override(place, word)}"])
        return
    said = refusal(load_recipe, path, [f"{place.partition('[')[0]}={override(place, word)}"])
    expected = "a whole number or text" if place == "classes[1]" else "text"
    assert said == f"{place}: found {word}, which YAML reads as {WORDS[word]}, expected {expected}; put it in quotes"
    assert load_recipe(path, [f"{place.partition('[')[0]}={override(place, repr(word))}"])


def override(place: str, word: str) -> str:
    return {"data.label": word, "data.drop[0]": f"[{word}]"}.get(place, f"[a, {word}]")


def test_it_is_said_of_the_file_and_of_the_last_override(path):
    path.write_text(path.read_text().replace("label: y", "label: on\n  drop: [a, {b: no}, No]"))
    assert refusal(load_recipe, path).startswith("data.label: found on, which YAML reads as true, expected text; put")
    said = refusal(load_recipe, path, ["data.label=y"])
    assert said == "data.drop[1]: found {'b': False}, expected text"
    said = refusal(load_recipe, path, ["data.label=y", "data.drop=[No]", "data.drop=[{a: 1}]"])
    assert said == "data.drop[0]: found {'a': 1}, expected text"
    said = refusal(load_recipe, path, ["data.label=y", "data.drop=[No]", "data.drop=[yes]"])
    assert said.startswith("data.drop[0]: found yes, which YAML reads as true, expected text")
    assert refusal(load_recipe, path, ["training.epochs=yes", "data.label=y", "data.drop=[]"]) == (
        "training.epochs: found yes, which YAML reads as true, expected a whole number"
    )


@over(
    ("text", "value"),
    [
        ("010", "8"), ("-017", "-15"), ("1_000", "1000"), ("1_1", "11"), ("1:30", "90"), ("0x1F", "31"), ("0b11", "3"),
        ("1_0.5", "10.5"), ("1:30.5", "90.5"), ("1_0e3", "10000.0"), ("2001-1-1 1:01:01", "2001-01-01 01:01:01"),
        ("2001-12-14t21:59:43.1Z", "2001-12-14 21:59:43.100000+00:00"),
    ],
)  # fmt: skip
@over("place", ["x: {}", "x: [1, {}]", "{{y: {{x: {}}}}}"])
def test_a_number_or_a_date_in_disguise_is_refused_with_what_yaml_reads(tmp_path, text, value, place):
    (tmp_path / "r.yaml").write_text(place.format(text))
    assert f"line 1: {text} is {value} to YAML; " in refusal(read_yaml, tmp_path / "r.yaml")
    assert "quotes" in refusal(apply_overrides, {}, [f"x={text}"])
    (tmp_path / "r.yaml").write_text(place.format(f"'{text}'"))
    assert text in str(read_yaml(tmp_path / "r.yaml"))


@over(
    ("text", "value"),
    [("0", 0), ("-3", -3), ("+3", 3), ("08", "08"), ("0.50", 0.5), ("00.5", 0.5), (".5", 0.5), ("1.", 1.0),
     ("1E3", 1e3), (".inf", math.inf), ("2024-01-01", "2024-01-01"), ("1-1", "1-1"), ("1.2.3", "1.2.3"), ("=", None)],
)  # fmt: skip
def test_what_looks_like_what_it_is_is_read(text, value):
    if value is None:
        with pytest.raises(RecipeError):
            apply_overrides({}, [f"x={text}"])
        return
    found = apply_overrides({}, [f"x={text}"])["x"]
    assert str(found) == str(value)


@over("word", ["no", "on", "Yes", "true"])
def test_a_key_that_is_no_text_is_refused(tmp_path, word):
    (tmp_path / "r.yaml").write_text(f"a: 1\nb: {{{word}: 1}}\n")
    assert f"line 2: key {word} is {'true' if word != 'no' else 'false'} to YAML; put it in quotes" in refusal(
        read_yaml, tmp_path / "r.yaml"
    )


PRINTED = st.characters(exclude_categories=("C", "Zl", "Zp"))
DISGUISED = [
    "010",
    "1_1",
    "1:30",
    "1e3",
    "-1e-3",
    "1.5e3",
    ".5e1",
    "0x1f",
    "=",
    "<<",
    "- a",
    "a: b",
    "",
    "1.e2",
    "+1e2",
]
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(PRINTED, max_size=8),
    st.sampled_from([*WORDS, *DISGUISED]),
)  # fmt: skip


@pytest.mark.thorough
@given(
    st.dictionaries(
        st.text(PRINTED, min_size=1, max_size=5), st.lists(PLAIN, max_size=3) | PLAIN, min_size=1, max_size=4
    )
)
def test_what_is_written_is_read_back_as_it_was(tmp_path_factory, keys):
    path = tmp_path_factory.mktemp("written") / "r.yaml"
    path.write_text(written(keys), encoding="utf-8", newline="")
    found = read_yaml(path)
    assert found == keys
    assert repr(found) == repr(keys)  # 1 is not True, nor 1.0


def test_a_resolved_recipe_keeps_names_that_look_like_numbers(tmp_path):
    names = ["1e3", "no", "010", "1_1", "2024-01-01", "~"]
    recipe = Recipe.parse(base() | {"classes": names, "search": {}}, tmp_path)
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert list(load_recipe(tmp_path / "again.yaml").classes) == names


@pytest.mark.parametrize(
    "keys", [{"classes": [1, 2]}, {"scheme": {"name": "specialists", "groups": {"named": [[1, 2]]}}}]
)
def test_a_class_number_that_is_the_name_of_another_class_is_refused(tmp_path, keys):
    """Of the labels 1, 2 and 3, class 1 is named 2: who writes 1 may mean either."""
    rows = "\n".join(f"{row},{row % 3 + 1}" for row in range(90))
    (tmp_path / "t.csv").write_text(f"x,y\n{rows}\n")
    data = {"kind": "table", "path": "t.csv", "label": "y"}
    recipe = {"name": "r", "data": data, "student": {"model": {"kind": "mlp", "hidden": [4]}}, **keys}
    recipe["training"] = {"batch_size": 8, "epochs": 1}
    said = refusal(lambda: vet(Recipe.parse(recipe, tmp_path)))
    assert "1 is the number of class '2' and the name of class number 0; write names, in quotes" in said
