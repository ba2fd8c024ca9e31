"""Several networks as the recipe's teacher: what is trained, cached, averaged, measured and taught."""

import pytest
import torch
import yaml

from limbeck.config import Recipe
from limbeck.errors import RecipeError
from limbeck.evaluation import measure, predict
from limbeck.experiment.check import rehearse
from limbeck.experiment.parts import prepare
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.teacher import trained_teacher, wrap_teacher
from limbeck.report.gather import gather
from limbeck.results.assessment import assess_run
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder

ONE = {"model": {"kind": "mlp", "hidden": [24]}, "training": {"epochs": 2, "batch_size": 128}}
THREE = {**ONE, "members": 3}
MIXED = {
    "members": [{"model": {"kind": "mlp", "hidden": [24]}}, {"model": {"kind": "cnn", "channels": [4]}}],
    "training": {"epochs": 2, "batch_size": 128},
    "weights": [0.25, 0.75],
    "mean": "geometric",
}


def finished(tmp_path, path, outcome):
    keep_outcome(RunFolder(path), outcome)
    return FinishedRun.read(path)


def test_members_differ_by_their_seed_and_the_first_is_the_plain_teacher(tiny, tmp_path):
    recipe, plain = tiny(teacher=THREE), tiny(teacher=ONE)
    parts = prepare(recipe)
    ensemble = trained_teacher(recipe, parts, 0, cache=tmp_path).model
    single = trained_teacher(plain, parts, 0, cache=tmp_path).model
    assert len(list((tmp_path / "trainings").iterdir())) == 3  # the plain one was found
    weights = [member.stage1.linear.weight for member in ensemble.members]
    assert torch.equal(weights[0], single.stage1.linear.weight)
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert len(set(recipe.teacher.seeds(0)) | set(recipe.teacher.seeds(1))) == 6


@pytest.mark.miniature(1)
@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_the_ensemble_teaches_by_the_mean_of_its_softened_members(tiny, tmp_path, mean):
    recipe = tiny(teacher={**THREE, "mean": mean, "weights": [0.5, 0.25, 0.25]})
    parts = prepare(recipe)
    model = trained_teacher(recipe, parts, 0, cache=tmp_path).model
    teacher = wrap_teacher(recipe, model, parts)
    positions = torch.arange(7)
    batch = parts.transfer.batch(positions, augment=None, seed=0, view=0)
    with torch.no_grad():
        each = [member(batch.inputs).double() / 4.0 for member in model.members]
    target = recipe.objective().terms["soft"].target(teacher(batch), batch, 4.0)
    found = target.log_probs.exp()
    if mean == "arithmetic":
        wanted = sum(w * logits.softmax(-1) for w, logits in zip((0.5, 0.25, 0.25), each, strict=True))
    else:
        wanted = sum(w * logits for w, logits in zip((0.5, 0.25, 0.25), each, strict=True)).softmax(-1)
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("teacher", [THREE, MIXED], ids=["three", "mixed"])
def test_an_ensemble_is_measured_beside_one_of_its_networks_and_read_back(tiny, carried_out, tmp_path, teacher):
    recipe = tiny(teacher={**teacher, "seed": None}, seeds=[0, 1])
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "member", "alone", "distilled"]
    run = finished(tmp_path, path, outcome)
    for seed in outcome.seeds:
        model = run.teacher(seed.seed)
        logits = [predict(member, run.parts.test) for member in model.members]
        if teacher is THREE:
            mean = torch.stack([each.softmax(-1) for each in logits]).mean(0).log()
        else:
            mean = torch.log_softmax(0.25 * logits[0] + 0.75 * logits[1], -1)
        assert seed.teacher.errors == measure(mean, run.parts.test.labels).errors
        assert seed.teacher.nll == pytest.approx(measure(mean, run.parts.test.labels).nll, rel=1e-5)
        assert seed.metrics["member"] == measure(logits[0], run.parts.test.labels)
        assert measure(predict(run.model("member", seed.seed), run.parts.test), run.parts.test.labels).errors == (
            seed.metrics["member"].errors
        )
    assert outcome.roles["teacher"].parameters == sum(
        parameter.numel() for member in run.teacher(0).members for parameter in member.parameters()
    )
    if teacher is THREE:
        total = outcome.roles["teacher"].compute["total"]
        assert total == 3 * outcome.roles["member"].compute["total"]
        samples = len(run.parts.transfer)
        assert outcome.roles["distilled"].compute["answers"] == 3 * 2 * (64 * 24 + 24 * 10) * samples
    assert {model.role for model in assess_run(run, with_cost=False).models} == set(outcome.roles)
    gathered = gather(path)
    assert [model.role for model in gathered.models] == list(outcome.roles)
    assert gathered.curves["member"] == {}
    assert gathered.notes == []


@pytest.mark.thorough
def test_a_teacher_that_is_asked_at_every_step_may_be_an_ensemble(tiny, carried_out):
    recipe = tiny(teacher={**THREE, "store": False}, training={"epochs": 1, "batch_size": 128})
    _, outcome = carried_out(recipe)
    samples = len(prepare(recipe).transfer)
    assert outcome.roles["distilled"].compute["answers"] == 3 * 2 * (64 * 24 + 24 * 10) * samples


@pytest.mark.parametrize("teacher", [THREE, MIXED, {**THREE, "weights": [0.2, 0.2, 0.6], "mean": "geometric"}])
def test_a_resolved_recipe_with_an_ensemble_is_its_own_resolved_form(tiny, teacher):
    recipe = tiny(teacher=teacher)
    again = Recipe.parse(yaml.safe_load(recipe.to_yaml()))
    assert again.to_yaml() == recipe.to_yaml()
    assert [member.keys for member in again.teacher.members] == [member.keys for member in recipe.teacher.members]


def test_one_network_resolves_as_it_always_did(tiny):
    assert tiny(teacher={**ONE, "members": 1}).to_yaml() == tiny(teacher=ONE).to_yaml()
    assert list(tiny(teacher=ONE).keys["teacher"]) == ["model", "training", "method", "seed", "view", "store"]


@pytest.mark.thorough
def test_a_rehearsal_counts_the_members(tiny):
    found = rehearse(tiny(teacher=THREE, seeds=[0, 1]))
    assert (found.models[0].role, found.models[0].runs) == ("teacher", 3)
    found = rehearse(tiny(teacher={**MIXED, "seed": None}, seeds=[0, 1]))
    assert [model.runs for model in found.models if model.role == "teacher"] == [2, 2]


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({**ONE, "members": 0}, "teacher.members: found 0, expected how many networks (1 to 1,000), or a list"),
        ({**ONE, "members": "two"}, "teacher.members: found 'two', expected how many networks"),
        ({**ONE, "members": True}, "teacher.members: found True, expected how many networks"),
        ({**ONE, "members": [ONE]}, "teacher.members: found a list of networks together with model; give one of them"),
        ({"members": []}, "teacher.members: found an empty list, expected at least one network"),
        (
            {"members": 3},
            "teacher.model: is missing; add it, or an estimator, arrays, onnx or stored, or a list of networks",
        ),
        ({"members": [{"modle": {}}]}, "teacher.members[0].modle: there is no such key; did you mean 'model'?"),
        ({"members": [{}]}, "teacher.members[0].model: is missing; add it"),
        ({"members": [3]}, "teacher.members[0]: found 3, expected keys"),
        ({"members": [{"model": {"kind": "mpl"}}]}, "teacher.members[0].model.kind: found 'mpl'; did you mean 'mlp'?"),
        ({**THREE, "weights": [0.5, 0.5]}, "teacher.weights: found [0.5, 0.5], 2 in all, expected 3"),
        ({**THREE, "weights": [0.5, 0.5, 0.5]}, "teacher.weights: "),
        ({**THREE, "mean": "median"}, "teacher.mean: found 'median', expected 'arithmetic' or 'geometric'"),
    ],
    ids=str,
)
def test_wrong_members_are_one_line(tiny, teacher, said):
    with pytest.raises(RecipeError) as caught:
        tiny(teacher=teacher)
    assert str(caught.value).startswith(said)


def test_members_of_other_classes_are_refused_before_anything_is_trained(tiny, refusal, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\ndef five():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n"
    )
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    member = {"model": {"factory": "own:five", "folder": str(tmp_path)}}
    assert "answers 5 classes, the data has 10" in refusal(tiny(teacher={"members": [MIXED["members"][0], member]}))


def test_no_assistant_is_proposed_below_an_ensemble(tiny):
    with pytest.raises(RecipeError, match=r"^scheme.count: cannot propose an assistant"):
        tiny(teacher=THREE, scheme={"name": "assistants"})
