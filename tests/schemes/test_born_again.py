"""Born-again networks: the generations, their ensemble, and weights that are gone at resume."""

import pytest
import torch
from safetensors.torch import load_file

from limbeck.config import Recipe
from limbeck.distiller import Distiller
from limbeck.errors import RecipeError, RunError
from limbeck.evaluation import measure, predict
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import prepare
from limbeck.experiment.run import distill
from limbeck.experiment.teacher import trained_teacher
from limbeck.randomness import derive_seed
from limbeck.runs import RunFolder
from limbeck.teachers import ModelTeacher, store
from limbeck.training import fit, load_weights

SCHEME = {"name": "born_again", "generations": 3}


def test_each_generation_is_taught_by_the_one_before_from_weights_of_its_own(tiny, carried_out, tmp_path):
    recipe = tiny(scheme=SCHEME)
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "alone", "generation_1", "generation_2", "ensemble", "distilled"]
    parts = prepare(recipe)
    builder = SeedBuilder(recipe, parts, 0)
    above, seeds = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model, {"distilled": 0}
    networks = {role: builder.student_as(role) for role in ("generation_1", "generation_2")} | {
        "distilled": builder.student()
    }
    initial = [network.stage1.linear.weight.clone() for network in networks.values()]
    assert not torch.equal(initial[0], initial[1])
    assert not torch.equal(initial[1], initial[2])
    for role, network in networks.items():
        distiller = Distiller(network, store(ModelTeacher(above), parts.transfer), recipe.objective())
        seed = seeds.get(role, derive_seed(0, role))
        fit(distiller, parts.transfer, parts.held_out, training=recipe.training, seed=seed)
        kept = load_file(path / f"{role}-0" / "student.safetensors")
        assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items()), role
        above = network
    mean = torch.stack([predict(network, parts.test).softmax(-1) for network in networks.values()]).mean(0)
    assert outcome.seeds[0].metrics["ensemble"].errors == measure(mean.log(), parts.test.labels).errors


def test_without_a_teacher_all_generations_are_equal_in_kind(tiny, carried_out):
    recipe = tiny(scheme={"name": "born_again", "generations": 1})
    keys = {key: value for key, value in recipe.keys.items() if key != "teacher"}
    _, outcome = carried_out(Recipe.parse(keys))
    assert list(outcome.roles) == ["teacher", "alone", "distilled"]
    assert len({role.parameters for role in outcome.roles.values()}) == 1


@pytest.mark.thorough
def test_generations_that_are_killed_go_on(tiny, carried_out, killed_everywhere, same_weights):
    recipe = tiny(scheme=SCHEME)
    whole, _ = carried_out(recipe)
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "generation_1-0", "generation_2-0", "distilled-0"]
    same_weights(whole, killed, trained)


@pytest.mark.thorough
def test_generations_whose_weights_are_gone_at_resume_are_named_together(tiny, tmp_path):
    recipe = tiny(scheme=SCHEME)
    folder = RunFolder.create(tmp_path, "tiny", recipe.to_yaml(), ["test"])
    distill(recipe, folder, cache=tmp_path / "cache")
    for unit in ("generation_1-0", "generation_2-0"):
        (folder.path / unit / "student.safetensors").unlink()
    with pytest.raises(RunError) as caught:
        distill(recipe, folder, cache=tmp_path / "cache")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("resume: the weights of finished trainings are missing: '")
    assert line.count("student.safetensors") == 2
    assert "delete generation_1-0, generation_2-0 and what was taught by them" in line


@pytest.mark.thorough
def test_the_ensemble_of_a_finished_run_is_read_back(tiny, carried_out):
    recipe = tiny(scheme=SCHEME)
    path, _ = carried_out(recipe)
    builder = SeedBuilder(recipe, prepare(recipe), 0)
    for role in recipe.scheme.means("ensemble"):
        load_weights(recipe.scheme.build(role, builder), path / f"{role}-0" / "student.safetensors")
    assert recipe.scheme.means("ensemble") == ("generation_1", "generation_2", "distilled")
    assert recipe.scheme.means("generation_1") == ()


def test_wrong_keys_are_one_line(tiny, refusal):
    with pytest.raises(RecipeError, match=r"^scheme.generations: found 0, expected a whole number from 1 to 100"):
        tiny(scheme={"name": "born_again", "generations": 0})
    assert refusal(tiny(scheme=SCHEME, method={"name": "hard"})).startswith("scheme.name: born_again needs a method")
