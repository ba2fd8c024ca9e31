"""Recipes of tables, forests, black boxes and made samples, whatever they hold: vetted, or refused in a line."""

import random
from typing import Any

import numpy as np
import pytest
import yaml

from fuzzing import answered, cases, mutated
from limbeck.config import load_recipe
from limbeck.data import Munge
from limbeck.errors import InputError
from limbeck.experiment.parts import Parts
from limbeck.experiment.vetting import vet

BASE: dict[str, Any] = {
    "name": "tables",
    "data": {"kind": "table", "path": "t.csv", "label": "y", "nominal": ["town"], "missing": "impute", "seed": 1},
    "teacher": {"estimator": {"kind": "random_forest", "n_estimators": 3, "max_features": "all", "floor": 1e-4}},
    "student": {"model": {"kind": "mlp", "hidden": [4]}, "sees": {"columns": ["x", "town"]}},
    "method": {"name": "kd", "temperature": 2, "alpha": 0.5},
    "training": {"epochs": 1},
}
MADE = {"transfer": {"synthetic": {"kind": "munge", "multiple": 2, "swap": 0.4, "spread": 2.0}}}
RECIPES: list[dict[str, Any]] = [
    BASE,
    {**BASE, "data": {**BASE["data"], **MADE}},
    {**BASE, "teacher": {"estimator": {"kind": "gradient_boosting", "iterations": 2, "leaves": 4, "penalty": 0.1}}},
    {**BASE, "teacher": {"estimator": {"kind": "logistic_regression", "inverse_penalty": 2.0}, "members": 2}},
    {**BASE, "data": {**BASE["data"], "task": "binary"}, "teacher": {"arrays": {"path": "box.npz"}}},
    {
        **BASE,
        "data": {"kind": "bundled", "name": "iris", "transfer": {"synthetic": {"kind": "uniform", "multiple": 1}}},
        "teacher": {"members": [{"estimator": {"kind": "extra_trees"}}, {"model": {"kind": "mlp", "hidden": [2]}}]},
        "student": {"model": {"kind": "mlp", "hidden": [4]}, "sees": {"places": [0, 2]}},
    },
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the recipes name, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [
        f"{place * 0.37},{'ab'[place % 2]},{'' if place % 9 == 0 else place},{'pq'[place // 3 % 2]}"
        for place in range(40)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["x,town,z,y", *rows]), encoding="utf-8")
    np.savez(tmp_path / "box.npz", labels=np.arange(40) % 2)
    return tmp_path


def written(folder, keys):
    text = yaml.safe_dump(keys, allow_unicode=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8", errors="replace")


def vetted(folder, keys):
    written(folder, keys)
    return answered(lambda: vet(load_recipe(folder / "recipe.yaml")))


@pytest.mark.parametrize("keys", RECIPES)
def test_the_recipes_that_the_cases_differ_from_are_good(folder, keys):
    assert isinstance(vetted(folder, keys), Parts)


@pytest.mark.parametrize("seeds", cases(60, 2000))
def test_a_mutated_recipe_is_vetted_or_refused_in_a_line(folder, seeds):
    for seed in seeds:
        draw = random.Random(seed)
        try:
            written(folder, mutated(draw, draw.choice(RECIPES)))
        except (UnicodeError, yaml.YAMLError, RecursionError):  # what YAML cannot write
            continue
        found = answered(lambda: vet(load_recipe(folder / "recipe.yaml")))
        assert isinstance(found, Parts | str), seed
        assert not (folder / "canary").exists()


@pytest.mark.parametrize("number", [10_001, 10**9, 2**62])
def test_nothing_is_made_without_bound(number):
    with pytest.raises(InputError, match=r"multiple: found \d+, expected a whole number from 1 to 10000$"):
        Munge(multiple=number)
