"""Assistants: what is proposed between teacher and student, the chain itself, and what it refuses."""

import math

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from limbeck.config import Recipe
from limbeck.distiller import Distiller
from limbeck.errors import InputError, RecipeError
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import prepare
from limbeck.experiment.teacher import trained_teacher
from limbeck.models import builder
from limbeck.schemes.assistants import Assistants, between
from limbeck.teachers import ModelTeacher, store
from limbeck.training import fit
from walk import over

WIDE = {"model": {"kind": "mlp", "hidden": [48, 48]}, "training": {"epochs": 2, "batch_size": 128}}
SCHEME = {"name": "assistants", "models": [{"kind": "mlp", "hidden": [24]}, {"kind": "cnn", "channels": [4]}]}


def size(keys, shape=(3, 32, 32)):
    given = {key: value for key, value in keys.items() if key != "kind"}
    return sum(each.numel() for each in builder(keys["kind"])(input_shape=shape, classes=10, **given).parameters())


# --------------------------------------------------------------------------------------------------------- the proposal


@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=5),
    st.lists(st.integers(1, 2000), min_size=1, max_size=5),
    st.integers(1, 4),
)
def test_widths_lie_between_those_of_teacher_and_student_on_a_geometric_line(large, small, count):
    student = {"kind": "mlp", "hidden": small, "dropout": 0.3}
    chain = between({"kind": "mlp", "hidden": large, "dropout": 0.0}, student, count)
    assert len(chain) == count
    for number, each in enumerate(chain, start=1):
        assert {key: value for key, value in each.items() if key != "hidden"} == {"kind": "mlp", "dropout": 0.3}
        assert min(len(large), len(small)) <= len(each["hidden"]) <= max(len(large), len(small))
        for width in each["hidden"]:
            assert min(*large, *small) <= width <= max(*large, *small)
        if len(large) == len(small):
            share = number / (count + 1)
            wanted = [round(a * (b / a) ** share) for a, b in zip(large, small, strict=True)]
            assert all(abs(one - two) <= 1 for one, two in zip(each["hidden"], wanted, strict=True))


@over(
    ("teacher", "student", "found"),
    [
        ({"kind": "resnet", "depth": 110}, {"kind": "resnet", "depth": 8}, [{"depth": 26}]),
        ({"kind": "resnet", "depth": 56}, {"kind": "resnet", "depth": 20}, [{"depth": 38}, {"depth": 26}]),
        (
            {"kind": "wrn", "depth": 40, "width": 4},
            {"kind": "wrn", "depth": 16, "width": 1},
            [{"depth": 22, "width": 2}],
        ),
        ({"kind": "cnn", "channels": [64, 64]}, {"kind": "cnn", "channels": [4, 16]}, [{"channels": [16, 32]}]),
        ({"kind": "mlp", "hidden": [900, 900]}, {"kind": "mlp", "hidden": [9]}, [{"hidden": [90]}]),
    ],
)  # fmt: skip
def test_a_proposal_is_a_network_of_its_family_of_a_size_between(teacher, student, found):
    defaults = {"resnet": {"widths": [16, 16, 32, 64]}}.get(teacher["kind"], {})
    teacher, student = {**defaults, **teacher}, {**defaults, **student}
    chain = between(teacher, student, len(found))
    sizes = [size(each) for each in (teacher, *chain, student)]
    assert sizes == sorted(sizes, reverse=True)
    for each, wanted in zip(chain, found, strict=True):
        assert {key: each[key] for key in wanted} == wanted


def test_the_widths_of_layers_are_spread_over_the_network():
    [found] = between({"kind": "mlp", "hidden": [1000, 10]}, {"kind": "mlp", "hidden": [1000, 100, 100, 10]}, 1)
    assert found["hidden"][0] == 1000
    assert found["hidden"][-1] == 10
    assert len(found["hidden"]) == round(math.sqrt(8))


def test_what_cannot_be_proposed_is_one_line():
    with pytest.raises(InputError, match=r"^count: cannot propose an assistant between a teacher of kind 'cnn' and a"):
        between({"kind": "cnn", "channels": [3]}, {"kind": "mlp", "hidden": [3]}, 1)
    with pytest.raises(InputError, match="a teacher of kind its own factory"):
        between({"factory": "a:b"}, {"kind": "mlp", "hidden": [3]}, 1)


def test_a_resolved_recipe_names_what_was_proposed(tiny):
    found = tiny(teacher=WIDE, scheme={"name": "assistants", "count": 2})
    keys = found.keys["scheme"]
    assert keys["count"] is None
    assert [len(each["hidden"]) for each in keys["models"]] == [2, 1]
    assert all(each["kind"] == "mlp" for each in keys["models"])
    assert Recipe.parse(yaml.safe_load(found.to_yaml())).to_yaml() == found.to_yaml()
    assert len(found.networks) == 2
    assert isinstance(found.scheme, Assistants)


# ------------------------------------------------------------------------------------------------------------ the chain


def test_each_network_is_taught_by_the_one_before(tiny, carried_out, tmp_path):
    recipe = tiny(teacher=WIDE, scheme=SCHEME)
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "alone", "assistant_1", "assistant_2", "distilled"]
    parts = prepare(recipe)
    builder = SeedBuilder(recipe, parts, 0)
    above = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
    for role, network in (
        ("assistant_1", builder.model(0, "assistant_1")),
        ("assistant_2", builder.model(1, "assistant_2")),
        ("distilled", builder.student()),
    ):
        distiller = Distiller(network, store(ModelTeacher(above), parts.transfer), recipe.objective())
        fit(distiller, parts.transfer, parts.held_out, training=recipe.training, seed=0)
        kept = load_file(path / f"{role}-0" / "student.safetensors")
        assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items()), role
        above = network
    relative = [outcome.roles[role].relative for role in ("assistant_1", "assistant_2", "distilled")]
    assert relative == sorted(relative)


@pytest.mark.thorough
def test_a_chain_that_is_killed_goes_on(tiny, carried_out, killed_everywhere, same_weights):
    recipe = tiny(teacher=WIDE, scheme=SCHEME)
    whole, _ = carried_out(recipe)
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "assistant_1-0", "assistant_2-0", "distilled-0"]
    same_weights(whole, killed, trained)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"count": 0}, "scheme.count: found 0"),
        ({"count": 1, "models": [{"kind": "mlp"}]}, "scheme.count: found together with models; give one of them"),
        ({"models": [{"kind": "mlpp"}]}, "scheme.models[0].kind: found 'mlpp'; did you mean 'mlp'?"),
        ({"models": [{"kind": "mlp", "hiden": [3]}]}, "scheme.models[0].hiden: there is no such key; did you mean"),
        ({"models": ["mlp"]}, "scheme.models[0]: found 'mlp', expected"),
    ],
    ids=str,
)
def test_wrong_keys_are_one_line(tiny, keys, said):
    with pytest.raises(RecipeError) as caught:
        tiny(teacher=WIDE, scheme={"name": "assistants", **keys})
    assert str(caught.value).startswith(said)


def test_no_assistant_is_larger_than_its_teacher(tiny, refusal):
    large = tiny(scheme={"name": "assistants", "models": [{"kind": "mlp", "hidden": [200]}]})
    assert refusal(large) == (
        "scheme.models[0]: assistant 1 has 15,010 parameters, the teacher, which teaches it, 1,810; give it fewer, or "
        "name the assistants from the largest to the smallest"
    )
    rising = tiny(teacher=WIDE, scheme={**SCHEME, "models": SCHEME["models"][::-1]})
    assert refusal(rising).startswith(
        "scheme.models[1]: assistant 2 has 1,810 parameters, assistant 1, which teaches it, "
    )


def test_between_two_families_the_networks_must_be_named(tiny):
    with pytest.raises(RecipeError) as caught:
        tiny(teacher={"model": {"kind": "cnn"}}, scheme={"name": "assistants"})
    assert str(caught.value).startswith("scheme.count: cannot propose an assistant between a teacher of kind 'cnn'")


def test_a_method_without_a_teacher_is_refused(tiny, refusal):
    assert refusal(tiny(teacher=WIDE, scheme=SCHEME, method={"name": "hard"})).startswith(
        "scheme.name: assistants needs a method"
    )
