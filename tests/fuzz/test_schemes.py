"""What fuzzing found in schemes: numbers that would expand without bound, and networks without a size."""

import pytest
import yaml

from fuzzing import answered, small
from limbeck.config import Recipe, load_recipe
from walk import over

HUGE = [101, 10**9, 2**62]


def read(tmp_path, scheme, **more):
    keys = {key: value for key, value in small().items() if key != "data"} | {"data": {"kind": "digits"}} | more
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(keys | {"scheme": scheme}))
    return answered(lambda: load_recipe(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("number", HUGE)
def test_no_scheme_expands_without_bound(tmp_path, number):
    line = read(tmp_path, {"name": "assistants", "count": number})
    assert line.startswith("scheme.count: found ")
    assert line.endswith("expected a whole number from 1 to 20")
    line = read(tmp_path, {"name": "born_again", "generations": number})
    assert line.startswith("scheme.generations: found ")
    assert line.endswith("expected a whole number from 1 to 100")


def models(teacher, student):
    short = {"epochs": 1}
    return {"teacher": {"model": teacher, "training": short}, "student": {"model": student}}


@over(
    ("teacher", "student"),
    [
        ({"kind": "mlp", "hidden": []}, {"kind": "mlp", "hidden": [4]}),
        ({"kind": "mlp", "hidden": [8]}, {"kind": "mlp", "hidden": []}),
        ({"kind": "mlp", "hidden": [0]}, {"kind": "mlp", "hidden": [4]}),
        ({"kind": "mlp", "hidden": [8]}, {"kind": "mlp", "hidden": [-3]}),
        ({"kind": "cnn", "channels": [8]}, {"kind": "cnn", "channels": [2**63]}),
        ({"kind": "resnet", "depth": 20}, {"kind": "resnet", "depth": 2}),
    ],
)
def test_networks_without_a_size_have_none_between_them(tmp_path, teacher, student):
    line = read(tmp_path, {"name": "assistants", "count": 1}, **models(teacher, student))
    assert isinstance(line, str)


def test_the_schemes_that_the_cases_differ_from_are_good(tmp_path):
    found = read(
        tmp_path,
        {"name": "assistants", "count": 20},
        **models({"kind": "mlp", "hidden": [64]}, {"kind": "mlp", "hidden": [4]}),
    )
    assert isinstance(found, Recipe)
    assert len(found.networks) == 20
    assert isinstance(read(tmp_path, {"name": "born_again", "generations": 100}), Recipe)
