"""The reference of recipes describes every key that the code takes, and nothing else; the schema agrees with it."""

import inspect
import json
import re
import shlex
from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest
import yaml

from fuzzing import command
from limbeck import papers
from limbeck.config import Recipe
from limbeck.config.keys import HeldOutKeys, RecipeKeys
from limbeck.config.reading import read_yaml
from limbeck.config.recipe import _HELD_OUT
from limbeck.config.reference import catalogue, example_of, find, inside, schema
from limbeck.config.reference.docstrings import described
from limbeck.config.reference.finding import nested
from limbeck.config.reference.values import example
from limbeck.config.sections import model_of
from limbeck.errors import RecipeError
from limbeck.recipes import find as packaged
from limbeck.recipes import names
from walk import over

KNOWN = catalogue()
KEYS = {key.path: key for key in KNOWN.all_keys()}
SMALL = {"name": "a", "data": {"kind": "digits"}, "student": {"model": {"kind": "mlp"}}}
GIVEN = {"input_shape", "classes", "vocabulary", "max_length"}  # what a network takes from the data


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def complaints(validator, recipe):
    return [f"{each.json_path}: {each.message[:200]}" for each in validator.iter_errors(recipe)]


def test_every_key_is_described():
    assert len(KEYS) > 800
    assert [path for path, key in KEYS.items() if len(key.meaning) < 5] == []


def test_no_key_is_what_a_network_is_given_of_the_data():
    assert {path for path, key in KEYS.items() if key.name in ("input_shape", "vocabulary")} == set()


def test_no_description_names_a_key_that_is_not_taken():
    wrong = {}
    for section in KNOWN.everything():
        for takes in (section.takes, *section.extra):
            named = set(described(takes))
            taken = (
                set(takes.model_fields)
                if hasattr(takes, "model_fields")
                else set(model_of(takes, frozenset()).model_fields)
            )
            if inspect.isclass(takes):  # a class may also describe what it has beside its fields, in its bases
                named &= set(described_by_itself(takes))
            wrong[section.path] = sorted(named - taken - GIVEN)
    assert {path: each for path, each in wrong.items() if each} == {}


def described_by_itself(takes):
    alone = type("alone", (), {"__doc__": takes.__doc__})
    return described(alone)


def test_every_key_of_a_resolved_recipe_stands_in_the_reference():
    """Walks what the reader of recipes returns, so that a key which it reads by hand cannot be forgotten."""
    missing = []
    for name in names():
        missing += unknown(Recipe.parse(read_yaml(packaged(name).recipe)).keys, "")
    assert sorted(set(missing)) == []


def unknown(keys, place):
    found = []
    for name, value in keys.items():
        path = f"{place}.{name}" if place else name
        try:
            reached = find(path)
        except RecipeError:
            found.append(path)
            continue
        values = value if isinstance(value, list) else [value]
        for each in values:
            if isinstance(each, dict) and inside(reached[0]):
                found += unknown(each, path)
    return found


def test_the_held_out_parts_are_those_that_are_read():
    assert tuple(HeldOutKeys.model_fields) == _HELD_OUT


def test_every_example_is_valid(validator):
    wrong = []
    for section in KNOWN.everything():
        family = KNOWN.families.get(section.family)
        keys = (*section.keys, *(family.shared if family else ()))
        value = {key.name: example(key) for key in keys}
        value |= {family.key: section.kind} if family and section.kind not in family.other else {}
        recipe = deepcopy(SMALL)
        for name, inner in nested(section, value).items():
            both = isinstance(inner, dict) and isinstance(recipe.get(name), dict)
            plain = both and not {"kind", "name", "factory"} & set(inner)
            recipe[name] = {**recipe[name], **inner} if plain else inner
        wrong += [f"{section.path}: {each}" for each in complaints(validator, recipe)]
    assert wrong == []


def test_an_example_is_yaml_in_one_line():
    for path in ("training.learning_rate", "method.kd.temperature", "data.table.path", "scheme.compress.stages"):
        (found,) = find(path)
        assert set(yaml.safe_load("{" + example_of(found) + "}")) == {path.partition(".")[0]}


@pytest.mark.parametrize("name", names())
def test_every_packaged_recipe_is_valid(validator, name):
    assert complaints(validator, read_yaml(packaged(name).recipe)) == []


@pytest.mark.thorough
def test_the_rows_of_papers_are_valid(validator):
    wrong = []
    for name in papers.tables():
        table = papers.load_table(name)
        for row in (table.rows[0], table.rows[-1]):
            keys = json.loads(json.dumps(table.keys(row, "reduced")))
            wrong += [f"{name}, {row.name}: {each}" for each in complaints(validator, keys)]
    assert wrong == []


@pytest.mark.thorough
@over(
    "change",
    [
        {"nmae": "b"},
        {"name": ".hidden"},
        {"data": {"kind": "digit"}},
        {"data": {"kind": "digits", "path": "x"}},
        {"data": {"kind": "table", "path": "x"}},
        {"data": {"path": "x"}},
        {"data": {"kind": "digits", "transfer": {"fraction": 0}}},
        {"student": {}},
        {"student": {"model": {"kind": "mlp", "hiden": [3]}}},
        {"student": {"model": {"kind": "mlp", "hidden": 3}}},
        {"student": {"model": {"kind": "mlp", "hidden": ["a"]}}},
        {"student": {"model": {"factory": "no function"}}},
        {"student": {"model": {"factory": "a:b", "hidden": [3]}}},
        {"student": {"model": {"kind": "resnet20", "depht": 3}}},
        {"teacher": {"training": "all"}},
        {"teacher": {"members": 0}},
        {"teacher": {"members": [{"modle": {}}]}},
        {"teacher": {"store": {"encoding": "topk", "k": 0}}},
        {"method": {"name": "kd", "temperature": 0}},
        {"method": {"name": "kd", "temperature": "4"}},
        {"method": {"name": "kd", "temprature": 4}},
        {"method": {"name": "kd", "alpha": 1.1}},
        {"method": {"name": "kd", "target": {"kind": "topk", "n": 3}}},
        {"method": {"name": "kd", "target": "topp"}},
        {"method": [{"name": "kd"}, {"name": "ink"}]},
        {"method": "kd"},
        {"scheme": {"name": "born_again", "generations": 101}},
        {"training": {"epochs": 0}},
        {"training": {"epochs": 1.5}},
        {"training": {"momentum": 1}},
        {"training": {"optimizer": "rmsprop"}},
        {"training": {"betas": [0.9]}},
        {"training": {"augment": {"flp": 0.5}}},
        {"training": {"nesterov": "yes"}},
        {"validation": 1.5},
        {"validation": {"middle": 0.1}},
        {"seeds": [-1]},
        {"alone_budget": {"at_most": 0.5}},
        {"expect": {"errors": 3}},
    ],
    ids=str,
)
def test_a_wrong_recipe_is_refused_by_the_schema_and_by_the_reader(change):
    recipe = {**SMALL, **change}
    assert complaints(jsonschema.Draft202012Validator(schema()), recipe)
    with pytest.raises(RecipeError):
        Recipe.parse(recipe)


@over(
    "recipe",
    [
        SMALL,
        {**SMALL, "validation": {"last": 100}, "alone_budget": True, "search": {"training.epochs": [1, 2]}},
        {
            **SMALL,
            "method": [
                {"name": "kd", "target": "sim", "temperature": {"kind": "linear", "start": 4, "end": 1, "steps": 5}}
            ],
        },
        {**SMALL, "student": {"model": {"kind": "resnet8x4", "checkpoint": "x.pt", "key": "model"}}},
        {**SMALL, "student": {"model": {"factory": "a.b:c", "arguments": {"width": 3}}}},
        {**SMALL, "teacher": {"members": [{"estimator": {"kind": "random_forest"}}, {"model": {"kind": "cnn"}}]}},
        {**SMALL, "teacher": {"arrays": "answers.npz", "store": False}},
        {**SMALL, "teacher": {"model": {"factory": "a:b"}, "training": "none"}},
        {**SMALL, "training": {"averaging": {"mean": {"patience": 3}}, "augment": {"flip": 0.5}, "compile": "graphs"}},
    ],
    ids=str,
)
def test_a_right_recipe_is_accepted(recipe):
    assert complaints(jsonschema.Draft202012Validator(schema()), recipe) == []


@over(
    ("path", "means"),
    [
        ("training.learning_rate", ["training.learning_rate"]),
        ("teacher.training.epochs", ["training.epochs"]),
        ("teacher.members[0].training.epochs", ["training.epochs"]),
        ("method.kd", ["method.kd"]),
        ("student.model.resnet20.depth", ["model.resnet.depth"]),
        ("method.kd.target.topk.k", ["target.topk.k"]),
        ("target.topk.k", ["target.topk.k"]),
        ("factory", ["data.factory.factory", "model.factory.factory"]),
        ("data.label", ["data.table.label", "data.sentences.label", "data.parquet.label"]),
        ("scheme.hints.general.data.table.label", ["data.table.label"]),
    ],
    ids=str,
)
def test_a_name_leads_to_its_key(path, means):
    found = [each.path for each in find(path)]
    assert set(means) <= set(found)
    assert len(means) > 1 or found == means


@over(
    ("path", "mend"),
    [
        ("training.learning_rat", "did you mean 'training.learning_rate'?"),
        ("student.model.mlp.hiden", "did you mean 'student.model.mlp.hidden'?"),
        ("temprature", "did you mean '"),
        ("zzz", "one of: "),
        ("", "one of: "),
    ],
    ids=str,
)
def test_an_unknown_name_is_answered_with_the_nearest(path, mend):
    with pytest.raises(RecipeError) as caught:
        find(path)
    assert mend in str(caught.value)


@over(
    ("path", "bounds"),
    [
        ("training.momentum", "in [0, 1)"),
        ("training.workers", "from 0 to 1,024"),
        ("method.hint.weight", "0 or above"),
        ("model.transformer.dropout", "from 0 to 1"),
        ("data.table.test_share", "in (0, 1)"),
        ("teacher.select", "from 1 to 10,000"),
        ("transform.low_rank.rank", ""),  # a whole number and a share have ranges of their own
        ("expect.teacher_errors", ""),
    ],
    ids=str,
)
def test_a_range_is_that_of_the_code(path, bounds):
    assert str(KEYS[path].limits) == bounds


def test_the_top_of_a_recipe_has_the_keys_that_are_read():
    assert set(schema()["properties"]) == set(RecipeKeys.model_fields)


def blocks(language):
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.thorough
def test_the_page_shows_commands_that_run():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) >= 7
    for line in lines:
        program, *arguments = shlex.split(line.partition("  #")[0].partition(" > ")[0].partition(" # ")[0])
        code, out, err = command(*arguments)
        assert (program, code, bool(out)) == ("limbeck", 0, True), line + err


def test_the_page_shows_recipes_that_are_valid(validator):
    smallest, commented = map(yaml.safe_load, blocks("yaml"))
    assert complaints(validator, smallest) == []
    assert Recipe.parse(smallest).name == "smallest"
    assert commented is None  # a comment is all of it
