"""What is taught to whom: each test fails for a scheme that takes another teacher, another set or another order."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck import methods
from limbeck.batch import UNLABELLED, Batch
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.evaluation import early_exit, evaluate, predict, robustness, value_range
from limbeck.experiment import context
from limbeck.experiment.building import build_student
from limbeck.experiment.parts import prepare
from limbeck.experiment.teacher import trained_teacher
from limbeck.losses import cross_entropy, kl
from limbeck.models import mlp
from limbeck.models.layers import DEEPEST, WithExits
from limbeck.records import plain_values
from limbeck.schemes.early_stopping import Ending, EndingDistiller, ending_objective
from limbeck.schemes.own_teacher import OwnTeacher
from limbeck.schemes.specialists import Grouping
from limbeck.teachers import MeanOfModels, ModelTeacher
from limbeck.training import fit, load_weights


@pytest.fixture
def fitted(monkeypatch):
    """Return what every unit of a run is fitted with, by its name: distiller, samples and the trained student."""
    seen = {}

    def spy(distiller, samples, *arguments, **settings):
        result = fit(distiller, samples, *arguments, **settings)
        seen[settings["folder"].name] = (distiller, samples, result.student)
        return result

    monkeypatch.setattr(context, "fit", spy)
    return seen


# -------------------------------------------------------------------------------------------------------- noisy student


@pytest.mark.miniature(1)
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_every_pseudo_label_is_what_the_model_before_says_of_that_sample(tiny, carried_out, fitted, tmp_path, kind):
    scheme = {"name": "noisy_student", "iterations": 2, "confidence": 0.0, "pseudo_labels": kind, "per_class": 20}
    method = {"name": "kd", "temperature": 1, "hard_weight": 1.0, "soft_weight": 1.0}
    recipe = tiny(data={"kind": "digits", "transfer": {"labelled": 0.1}}, scheme=scheme, method=method)
    carried_out(recipe)
    parts = prepare(recipe)
    assert torch.equal(fitted["alone-0"][1].index, parts.alone.index)
    assert len(parts.alone) < len(parts.transfer)
    first = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
    answers = {}
    for unit, model in {"student_1-0": first, "distilled-0": fitted["student_1-0"][2]}.items():
        distiller, samples, _ = fitted[unit]
        places = (samples.labels == UNLABELLED).nonzero().squeeze(1)
        assert len(places) >= 60
        batch = samples.batch(places, augment=None, seed=0, view=0)
        with torch.no_grad():
            wanted = model.eval()(batch.inputs)
        said = distiller.teacher(batch).logits
        answers[unit] = wanted
        assert torch.equal(said.argmax(-1), wanted.argmax(-1))
        if kind == "soft":
            torch.testing.assert_close(said.softmax(-1), wanted.softmax(-1))
        else:
            assert float(said.softmax(-1).amax(-1).min()) == pytest.approx(1.0)
    clean = parts.transfer.batch(torch.arange(200), augment=None, seed=0, view=0).inputs
    with torch.no_grad():  # the two models disagree, so that the labels above tell them apart
        assert not torch.equal(first(clean).argmax(-1), fitted["student_1-0"][2].eval()(clean).argmax(-1))


# ------------------------------------------------------------------------------------------------------- early stopping


def test_the_errors_that_choose_a_teachers_epoch_are_those_on_the_held_out_part(tiny, carried_out):
    lines = []
    recipe = tiny(scheme={"name": "early_stopping", "share": 0.5, "teacher_epochs": [1]})
    path, _ = carried_out(recipe, say=lines.append)
    parts = prepare(recipe)
    for epoch in (1, 2):
        student = build_student(recipe, parts, 0)
        load_weights(student, path / f"taught_by_epoch_{epoch}-0" / "student.safetensors")
        held_out, test = evaluate(student, parts.held_out).errors, evaluate(student, parts.test).errors
        assert held_out != test
        assert f"early_stopping: the teacher of epoch {epoch} gives {held_out} held-out errors" in lines


def test_a_share_of_the_steps_may_end_within_an_epoch(tiny, carried_out, fitted):
    carried_out(tiny(scheme={"name": "early_stopping", "share": 0.75}))
    distiller, samples, _ = fitted["distilled-0"]
    steps = -(-len(samples) // 128)
    assert distiller.ending.step == round(0.75 * 2 * steps)
    assert distiller.ending.step % steps


def test_the_end_is_judged_by_the_student_in_eval_mode():
    torch.manual_seed(0)
    samples = TensorSet.of(torch.randn(40, 6), torch.arange(40) % 4)
    student, teacher = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 4)), nn.Linear(6, 4)
    ending = Ending(patience=9)
    objective = ending_objective(methods.kd(temperature=2.0), ending, 1.0)
    distiller = EndingDistiller(student, ModelTeacher(teacher), objective, ending, ModelTeacher(teacher), 4)
    result = fit(distiller, samples, samples, epochs=1, batch_size=16)
    with torch.no_grad():
        wanted = 4 * kl(student.eval()(samples.inputs), teacher(samples.inputs), temperature=2.0)
    assert result.history[0]["validation"]["soft"] == pytest.approx(float(wanted), rel=1e-5)


# ------------------------------------------------------------------------------------------------------ own teacher


def test_the_gradient_of_own_teacher_reaches_no_target_and_every_exit():
    torch.manual_seed(1)
    model = WithExits(
        mlp((8,), 3, hidden=(7, 5)), {"exit_1": "stage1", "exit_2": "stage2"}, torch.zeros(1, 8), 3
    ).double()
    inputs, labels = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, UNLABELLED, 1])
    scheme = OwnTeacher(exits=("stage1", "stage2"), temperature=3.0, alpha=0.3, hint_weight=0.7)
    loss = Distiller(model, None, scheme._objective(methods.hard()))(Batch.of(inputs, labels)).total
    found = torch.autograd.grad(loss, list(model.parameters()))
    outputs = model(inputs)
    wanted = cross_entropy(outputs.logits, labels)
    for name in ("exit_1", "exit_2"):
        wanted = wanted + 0.7 * cross_entropy(outputs.heads[name], labels)
        wanted = wanted + 0.3 * 9 * kl(outputs.heads[name], outputs.logits.detach(), temperature=3.0)
        wanted = wanted + 0.7 * (outputs.features[name] - outputs.features[DEEPEST].detach()).square().sum() / 6
    for one, other in zip(found, torch.autograd.grad(wanted, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other)


def test_a_sample_that_is_just_sure_enough_leaves():
    even, sure = torch.zeros(1, 2), torch.tensor([[9.0, 0.0]])
    assert early_exit([even, sure], 0.5)[1].tolist() == [0]
    assert early_exit([even, sure], 0.5000001)[1].tolist() == [1]


# --------------------------------------------------------------------------------------- defensive, specialists, means


def test_the_claim_of_defensive_distillation_is_attacked_at_temperature_1(tiny):
    torch.manual_seed(0)
    inputs, alone, distilled = torch.rand(60, 6), nn.Linear(6, 3), nn.Linear(6, 3)
    with torch.no_grad():  # logits so large that their gradient underflows at T = 1
        distilled.weight.copy_(3000 * alone.weight), distilled.bias.copy_(3000 * alone.bias)
        samples = TensorSet.of(inputs, alone(inputs).argmax(-1), classes=3)
    method = {"name": "kd", "temperature": 3000, "alpha": 0.0}
    recipe = tiny(scheme={"name": "defensive", "epsilons": [0.3]}, method=method)
    models = {"alone": alone, "distilled": distilled}
    builder = SimpleNamespace(inspected=recipe.inspected, parts=SimpleNamespace(train=samples))
    found = recipe.scheme.figures(models, samples, builder)
    attack = partial(robustness, samples=samples, epsilons=[0.3], bounds=value_range(samples))
    for name, wanted in {
        "alone": attack(alone),
        "distilled": attack(distilled),
        "distilled, logits divided by T": attack(distilled, temperature=3000.0),
        "distilled, attacked through the student alone": attack(distilled, attacked=alone),
    }.items():
        assert found[name] == plain_values(wanted), name
    assert found["distilled"][0]["still"] > 0.5 > found["distilled, logits divided by T"][0]["still"]


@pytest.mark.thorough
def test_the_groups_of_specialists_are_found_on_the_held_out_part(tiny, carried_out, monkeypatch):
    asked, find = [], Grouping.find

    def spy(self, generalist, samples, seed):
        asked.append(samples)
        return find(self, generalist, samples, seed)

    monkeypatch.setattr(Grouping, "find", spy)
    training = {"epochs": 1, "batch_size": 128}
    recipe = tiny(scheme={"name": "specialists", "groups": {"count": 2, "largest": 6}, "training": training})
    carried_out(recipe)
    assert [samples.index.tolist() for samples in asked] == [prepare(recipe).held_out.index.tolist()]


@pytest.mark.parametrize("weights", [None, [0.2, 0.8]])
def test_a_geometric_mean_of_networks_is_a_distribution(weights):
    torch.manual_seed(0)
    members, inputs = [nn.Linear(3, 5), nn.Linear(3, 5)], torch.randn(4, 3)
    with torch.no_grad():
        found = MeanOfModels(members, weights=weights, mean="geometric")(inputs).double()
        each = [member(inputs).double().softmax(-1) for member in members]
    shares = weights or [0.5, 0.5]
    wanted = each[0] ** shares[0] * each[1] ** shares[1]
    torch.testing.assert_close(found.exp(), wanted / wanted.sum(-1, keepdim=True), rtol=1e-6, atol=1e-7)
    samples = TensorSet.of(inputs, torch.arange(4) % 5, classes=5)
    model = MeanOfModels(members, weights=weights, mean="geometric")
    assert float(predict(model, samples).exp().sum(-1).sub(1).abs().max()) < 1e-6


# -------------------------------------------------------------------------------------------------------------- search


@pytest.mark.thorough
def test_a_search_keeps_what_makes_the_fewest_errors_on_the_held_out_part(tiny, carried_out):
    lines, rates = [], [0.0001, 0.1, 0.01]
    recipe = tiny(search={"training.learning_rate": rates}, training={"epochs": 4, "batch_size": 32})
    path, outcome = carried_out(recipe, say=lines.append)
    parts, found = prepare(recipe), {}
    for number, rate in enumerate(rates):
        student = build_student(recipe, parts, 0)
        load_weights(student, path / f"search-distilled-{number}" / "student.safetensors")
        found[rate] = evaluate(student, parts.held_out).errors
        assert found[rate] != evaluate(student, parts.test).errors
        told = f"search, student distilled: {{'training.learning_rate': {rate}}} gives {found[rate]} held-out errors"
        assert told in lines, lines
    assert len(set(found.values())) == len(rates)
    assert outcome.chosen["distilled"]["training.learning_rate"] == min(found, key=found.get)
