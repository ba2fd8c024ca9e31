"""Recipes: what is written is validated, what is resolved repeats it, and what is wrong ends in one line."""

import copy
import datetime
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
import yaml

from limbeck import data, schedules
from limbeck.config import Recipe, apply_overrides, load_recipe, parse, read_yaml
from limbeck.data import Augment, Transfer
from limbeck.errors import InputError, ModelError
from limbeck.experiment.vetting import vet
from limbeck.schedules import Schedule
from limbeck.training import Training
from small_recipe import base, refusal
from walk import over

# -------------------------------------------------------------------------------------------- sections from a signature


@dataclass(frozen=True)
class Inner:
    depth: int = 1
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise InputError(f"inner.depth: found {self.depth}, expected 0 or above")
        if self.rate == self.depth:
            raise InputError("inner: rate and depth must differ; change one")


@dataclass(frozen=True)
class Outer:
    count: int
    share: float = 1.0
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)


def method(temperature: Schedule = 4.0, names: list[str] | None = None, *, steps: int = 3) -> tuple[Any, ...]:
    return temperature, names, steps


def test_a_section_has_every_default_and_builds_what_it_describes():
    section = parse(Outer, {"count": 3, "inner": {"depth": 2}}, "here")
    assert section.values == {
        "count": 3,
        "share": 1.0,
        "kind": "a",
        "sizes": (1, 2),
        "limit": None,
        "inner": {"depth": 2, "rate": 0.5},
    }
    assert section.build() == Outer(3, inner=Inner(2))
    assert parse(Outer, {"count": 3}, "here").build().inner == Inner()


def test_a_sections_build_takes_what_the_caller_fills_in():
    def model(classes: int, width: int = 3) -> tuple[int, int]:
        return classes, width

    section = parse(model, {"width": 5}, "model", given=frozenset({"classes"}))
    assert section.build(classes=10) == (10, 5)
    assert refusal(lambda: parse(model, {"classes": 3}, "m", given=frozenset({"classes"}))) == (
        "m.classes: there is no such key; one of: width"
    )


@over(
    ("values", "said"),
    [
        ({"count": 1, "shar": 1}, "s.shar: there is no such key; did you mean 'share'?"),
        ({"count": 1, "inner": {"dept": 1}}, "s.inner.dept: there is no such key; did you mean 'depth'?"),
        ({}, "s.count: is missing; add it"),
        ({"count": "3"}, "s.count: found '3', expected a whole number"),
        ({"count": 3.0}, "s.count: found 3.0, expected a whole number"),
        ({"count": True}, "s.count: found True, expected a whole number"),
        ({"count": None}, "s.count: found None, expected a whole number"),
        ({"count": 1, "share": "1"}, "s.share: found '1', expected a number"),
        ({"count": 1, "share": False}, "s.share: found False, expected a number"),
        ({"count": 1, "limit": "x"}, "s.limit: found 'x', expected a number"),
        ({"count": 1, "kind": "c"}, "s.kind: found 'c', expected 'a' or 'b'"),
        ({"count": 1, "sizes": 3}, "s.sizes: found 3, expected a list"),
        ({"count": 1, "sizes": [1, "x"]}, "s.sizes[1]: found 'x', expected a whole number"),
        ({"count": 1, "inner": {"rate": []}}, "s.inner.rate: found [], expected a number"),
        ({"count": 1, "inner": 3}, "s.inner: found 3, expected keys and their values"),
        ([1], "s: found [1], expected keys; its keys are count, share, kind, sizes, limit, inner"),
        (None, "s: found None, expected keys; its keys are count, share, kind, sizes, limit, inner"),
    ],
    ids=str,
)
def test_values_are_typed_strictly_and_refused_by_name(values, said):
    assert refusal(parse, Outer, values, "s") == said


def test_a_whole_number_does_where_a_number_is_asked_for():
    assert isinstance(parse(Outer, {"count": 1, "share": 2}, "s").values["share"], float)


def test_what_a_class_says_of_itself_is_named_once():
    assert refusal(parse(Outer, {"count": 1, "inner": {"depth": -1}}, "s").build) == (
        "s.inner.depth: found -1, expected 0 or above"
    )
    assert refusal(parse(Outer, {"count": 1, "inner": {"depth": 1, "rate": 1.0}}, "s").build) == (
        "s.inner: rate and depth must differ; change one"
    )
    assert refusal(parse(Transfer, {"fraction": 2.0}, "data.transfer").build).startswith(
        "data.transfer.fraction: found 2"
    )


def test_the_sections_of_limbeck_are_what_their_classes_say():
    assert parse(Training, {}, "training").build() == Training()
    assert parse(Transfer, {}, "data.transfer").build() == Transfer()
    assert parse(Training, {"augment": {"flip": 0.5}}, "training").build() == Training(augment=Augment(flip=0.5))


# ------------------------------------------------------------------------------------------------------------ schedules


@over(
    ("written", "same"),
    [
        ({"kind": "linear", "start": 8, "end": 1, "steps": 10}, schedules.linear(8.0, 1.0, steps=10)),
        ({"kind": "cosine", "start": 8.0, "end": 1.0, "steps": 10}, schedules.cosine(8.0, 1.0, steps=10)),
        ({"kind": "piecewise", "values": [1, 2], "boundaries": [5]}, schedules.piecewise([1.0, 2.0], boundaries=[5])),
        ({"kind": "until", "step": 4, "value": 2.0}, schedules.until(4, 2.0)),
    ],
    ids=["linear", "cosine", "piecewise", "until"],
)
def test_a_schedule_is_a_mapping_with_a_kind(written, same):
    temperature, names, steps = parse(method, {"temperature": written}, "method").build()
    assert [temperature(step) for step in range(12)] == [same(step) for step in range(12)]
    assert (names, steps) == (None, 3)


def test_a_schedule_may_be_a_number():
    assert parse(method, {"temperature": 3}, "method").build()[0] == 3.0


@over(
    ("written", "said"),
    [
        ({}, "method.temperature.kind: is missing; one of: cosine, linear, piecewise, until"),
        ({"kind": "linaer"}, "method.temperature.kind: found 'linaer'; did you mean 'linear'?"),
        ({"kind": ["linear"]}, "method.temperature.kind: found ['linear']; did you mean 'linear'?"),
        ({"kind": "until", "step": 3}, "method.temperature.value: is missing; add it"),
        (
            {"kind": "linear", "start": 1.0, "end": 2.0, "steps": 0},
            "method.temperature.steps: found 0, expected a whole number, 1 or above",
        ),
        (
            {"kind": "linear", "start": math.nan, "end": 2.0, "steps": 1},
            "method.temperature.start: found nan, expected a finite number",
        ),
        ({"kind": "until", "step": 3, "value": 1.0, "stop": 1}, "method.temperature.stop: there is no such key; "),
        ("warm", "method.temperature: found 'warm', expected a number"),
    ],
    ids=str,
)
def test_a_wrong_schedule_is_refused_by_name(written, said):
    def build():
        parse(method, {"temperature": written}, "method").build()

    assert refusal(build).startswith(said)


def test_a_recipe_with_a_schedule_trains_with_it():
    recipe = Recipe.parse(base())
    temperature = recipe.objective().terms["soft"].temperature
    assert [temperature(step) for step in (0, 5, 50)] == [8.0, 2.0, 2.0]
    assert recipe.keys["method"]["temperature"]["kind"] == "linear"


# ------------------------------------------------------------------------------------------------------ YAML, overrides


@over(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("-2.5E-1", -0.25),
        (".5e1", 5.0),
        ("1.e2", 100.0),
        ("3", 3),
        ("3.0", 3.0),
        (".inf", math.inf),
        ("true", True),
        ("null", None),
        ("", None),
        ("[1, 2e-1]", [1, 0.2]),
        ("{shift: 1}", {"shift": 1}),
        ("'1e-3'", "1e-3"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("a=b", "a=b"),
    ],
)
def test_an_override_is_read_as_yaml(text, value):
    result = apply_overrides({}, [f"training.learning_rate={text}"])["training"]["learning_rate"]
    assert result == value
    assert type(result) is type(value)


def test_overrides_apply_in_order_make_what_is_missing_and_leave_the_recipe_alone():
    recipe = {"method": {"name": "kd", "list": [1]}, "seeds": [0]}
    kept = copy.deepcopy(recipe)
    result = apply_overrides(recipe, ["method.temperature=2", "method.temperature=3", "a.b.c=1", "seeds=[4]"])
    assert result == {
        "method": {"name": "kd", "list": [1], "temperature": 3},
        "seeds": [4],
        "a": {"b": {"c": 1}},
    }
    assert recipe == kept
    result["method"]["list"].append(2)
    assert recipe == kept


@over("override", ["method", "=1", ".a=1", "a..b=1", "a.=1"])
def test_an_override_that_is_none_says_what_one_looks_like(override):
    said = refusal(apply_overrides, {}, [override])
    assert said == f"override '{override}': expected key.path=value, such as method.temperature=8"


def test_an_override_into_a_value_is_refused():
    said = refusal(apply_overrides, {"a": {"b": 3}}, ["a.b.c=1"])
    assert said == "override 'a.b.c=1': 'a.b' is 3, which has no keys; set all of it"


def test_anchors_and_merges_save_writing(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &usual {epochs: 3, clip: 1}\nb: {inner: &own {<<: *usual, epochs: 5}}\nc: {<<: *own, x: 1}\n")
    assert read_yaml(path) == {
        "a": {"epochs": 3, "clip": 1},
        "b": {"inner": {"epochs": 5, "clip": 1}},
        "c": {"epochs": 5, "clip": 1, "x": 1},
    }


@over(
    ("text", "said"),
    [
        ("a: 1\nb: 2\n'a': 3\n", "line 3: found the key 'a' twice; delete one"),
        ("x:\n- {k: 1, k: 1}\n", "line 2: found the key 'k' twice; delete one"),
        ("a: [1\n", "line 2: "),
        ("a: *b\n", "line 1: found undefined alias 'b'"),
        ("a: !!python/name:os.system\n", "line 1: could not determine a constructor for the tag"),
        ("a: !!bool x\n", "a value does not fit its tag"),
        ("a: !!int x\n", "invalid literal for int()"),
        ("a: 2000-99-99\n", "month must be in 1..12"),
        ("? [a]\n: b\n", "line 1: found unhashable key"),
        ("a: &x [*x]\n", "a value refers to itself; write it out"),
        ("a: " + "[" * 5000, "maximum recursion depth exceeded"),
        ("a: \x07\n", "unacceptable character #x0007: special characters are not allowed"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
    ],
    ids=[
        "twice",
        "twice-in-list",
        "open",
        "alias",
        "code",
        "tag",
        "int",
        "date",
        "key",
        "cycle",
        "deep",
        "bell",
        "two",
    ],
)
def test_yaml_that_cannot_be_read_is_told_with_its_line(text, said, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    line = refusal(read_yaml, path)
    assert line.startswith(f"recipe '{path}', {said}")


# -------------------------------------------------------------------------------------------------------- whole recipes


def test_a_resolved_recipe_holds_every_default_and_parses_to_itself(tmp_path):
    recipe = Recipe.parse(base())
    for keys, section in ((recipe.keys["training"], Training), (recipe.keys["data"]["transfer"], Transfer)):
        assert set(keys) | {"synthetic"} == set(section.__dataclass_fields__) | {"synthetic"}  # left out where none is
    assert recipe.keys["student"]["model"] == {"kind": "cnn", "channels": [4], "batch_norm": True, "dropout": 0.0}
    assert recipe.keys["refit"] is False
    text = recipe.to_yaml()
    again = Recipe.parse(yaml.safe_load(text), tmp_path)
    assert again.keys == recipe.keys
    assert again.to_yaml() == text
    assert (again.training, again.teacher.training, again.seeds) == (recipe.training, recipe.teacher.training, (0, 1))


@pytest.mark.parametrize("key", ["path", "folder"])
def test_relative_paths_are_of_the_recipes_folder_and_resolve_once(key, tmp_path, monkeypatch):
    kind = {"path": "npz", "folder": "idx"}[key]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "recipe.yaml").write_text(yaml.safe_dump(base() | {"data": {"kind": kind, key: "own"}}))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("deep/recipe.yaml")
    assert recipe.keys["data"][key] == str(tmp_path / "deep" / "own")
    assert {candidate.keys["data"][key] for candidate in recipe.candidates()} == {str(tmp_path / "deep" / "own")}
    assert Recipe.parse(recipe.keys).keys == recipe.keys
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_recipe("deep/recipe.yaml", [f"data.{key}=~/own"]).keys["data"][key] == str(tmp_path / "own")


def test_a_factory_is_looked_for_beside_the_recipe_and_a_checkpoint_too(tmp_path, monkeypatch):
    model = {"factory": "made:net", "checkpoint": "w.safetensors", "arguments": {"width": 3}}
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "recipe.yaml").write_text(yaml.safe_dump(base() | {"student": {"model": model}}))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("deep/recipe.yaml")
    assert recipe.keys["student"]["model"] == {
        "factory": "made:net",
        "folder": str(tmp_path / "deep"),
        "arguments": {"width": 3},
        "checkpoint": str(tmp_path / "deep" / "w.safetensors"),
    }
    assert Recipe.parse(recipe.keys).keys == recipe.keys


def test_values_of_a_recipe_can_be_replaced():
    recipe = Recipe.parse(base())
    other = recipe.with_values({"training.learning_rate": 0.5, "method.alpha": 0.0, "training.augment.noise": 0.1})
    assert (other.training.learning_rate, other.training.augment.noise) == (0.5, 0.1)
    assert sorted(other.objective().terms) == ["soft"]
    assert recipe.training.learning_rate == 0.01
    assert "there is no such key" in refusal(recipe.with_values, {"training.rate": 1})
    assert refusal(recipe.with_values, {"name.x": 1}) == "name.x: 'name' is 'base', which has no keys; set all of it"


def test_candidates_are_the_grid_of_the_search_in_its_order():
    recipe = Recipe.parse(base())
    chosen = [(c.training.learning_rate, c.keys["method"]["alpha"]) for c in recipe.candidates()]
    assert chosen == [(0.01, 0.1), (0.01, 0.2), (0.1, 0.1), (0.1, 0.2)]
    assert all(not candidate.search for candidate in recipe.candidates())
    plain = Recipe.parse({**base(), "search": {}})
    assert plain.candidates() == [plain]


@over(
    ("search", "said"),
    [
        ({"training.learning_rate": []}, "search.training.learning_rate: found no values"),
        ({"data.seed": [1]}, "search.data.seed: expected a key of training, method or scheme"),
        ({"training.rate": [1]}, "search.training.rate: there is no such key"),
        ({"training.": [1]}, "search.training: found 1, expected keys and their values"),
        ({"method.alpha": [0.1, 3.0]}, "search.method.alpha: found 3.0, expected a number in [0, 1]"),
        ({"training.learning_rate": [0.1, "x"]}, "search.training.learning_rate: found 'x', expected a number"),
        ({"training.epochs": 3}, "search.training.epochs: found 3, expected a list"),
        ([], "search: found [], expected keys and their values"),
    ],
    ids=str,
)
def test_a_search_is_validated_as_a_whole_before_anything_runs(search, said):
    assert refusal(Recipe.parse, base() | {"search": search}).startswith(said)


def test_json_names_are_no_other_names():
    for name in ("a" * 101, ".hidden", "a/b", "a b", "a\n", "ä", "-x"):
        assert refusal(Recipe.parse, base() | {"name": name}).startswith("name: found ")
    for name in ("a" * 100, "0", "a.b-c_d"):
        assert Recipe.parse(base() | {"name": name}).name == name


def test_a_date_as_a_name_is_text():
    assert Recipe.parse(base() | {"name": datetime.date(2015, 3, 9)}).name == "2015-03-09"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can train in fp16")
def test_only_what_a_machine_can_do_is_vetted():
    recipe = Recipe.parse(apply_overrides(base(), ["teacher.training={precision: fp16}"]))
    assert refusal(vet, recipe, error=InputError) == (
        "teacher.training.precision: fp16 needs a GPU; use fp32 or bf16 on this machine"
    )


def test_a_model_that_cannot_be_built_is_named_before_any_training():
    recipe = Recipe.parse(base() | {"student": {"model": {"kind": "cnn", "channels": [4] * 5}}})
    assert refusal(vet, recipe, error=ModelError) == (
        "student.model.channels: 5 poolings need images of 32 pixels, found 8×8; give fewer channels"
    )


def test_kinds_of_text_have_a_tokenizer_that_can_be_written():
    for source in (data.ptb, data.synthetic_text, data.synthetic_sentences):
        assert parse(source, {}, "data").values["tokenizer"]["kind"] == "words"
