"""Specialists as a scheme: its pieces, what is killed and goes on, what a reader loads, and what is refused."""

import re

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from limbeck.batch import Batch
from limbeck.config import Recipe
from limbeck.data import TensorSet, half_and_half
from limbeck.distiller import Distiller
from limbeck.errors import RecipeError
from limbeck.evaluation import evaluate, predict
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import prepare
from limbeck.experiment.signature import Signature
from limbeck.experiment.teacher import trained_teacher
from limbeck.methods import hard
from limbeck.outputs import Outputs
from limbeck.randomness import derive_seed
from limbeck.results.finished import FinishedRun
from limbeck.schemes.specialists import Grouping, OffSetClasses, Specialists, specialist_distiller
from limbeck.teachers import ModelTeacher, store
from limbeck.teachers.specialists import (
    GeneralistWithSpecialists,
    cluster_classes,
    covariance_columns,
    dustbin_shift,
    specialise,
)
from limbeck.training import fit

TRAINING = {"epochs": 2, "batch_size": 64}
SCHEME = {"name": "specialists", "groups": {"count": 2, "largest": 6}, "top": 2, "training": TRAINING}


def test_the_scheme_is_its_pieces_put_together(tiny, carried_out, tmp_path):
    recipe = tiny(scheme=SCHEME)
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "alone", "together", "of_teacher", "distilled"]
    parts = prepare(recipe)
    generalist = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
    said = predict(generalist, parts.held_out).softmax(1)
    groups = cluster_classes(covariance_columns(said), 2, largest=6, seed=derive_seed(0, "groups"))
    assert [list(group) for group in outcome.decided[0]["groups"]] == [list(group) for group in groups]
    specialists = []
    for number, group in enumerate(groups):
        specialist = specialise(generalist, group)
        half = half_and_half(parts.train, group)
        seed = derive_seed(0, "specialist", number)
        fit(Distiller(specialist, None, hard()), half, training=recipe.scheme.training, seed=seed)
        specialist.shift.fill_(dustbin_shift(half.share))
        specialists.append(specialist)
    together = GeneralistWithSpecialists(generalist, specialists, top=2).eval()
    metrics = outcome.seeds[0].metrics
    assert metrics["together"] == evaluate(together, parts.test)
    student = SeedBuilder(recipe, parts, 0).student()
    teacher = store(ModelTeacher(together), parts.transfer)
    fit(Distiller(student, teacher, recipe.objective()), parts.transfer, training=recipe.training, seed=0)
    assert metrics["distilled"] == evaluate(student, parts.test)
    student = SeedBuilder(recipe, parts, 0).student()
    teacher = store(ModelTeacher(generalist), parts.transfer)
    fit(Distiller(student, teacher, recipe.objective()), parts.transfer, training=recipe.training, seed=0)
    assert metrics["of_teacher"] == evaluate(student, parts.test)
    run = FinishedRun(path, recipe, outcome, Signature.of(parts))
    assert torch.equal(predict(run.model("together", 0), parts.test), predict(together, parts.test))


@pytest.mark.thorough
def test_a_run_that_is_killed_goes_on(tiny, carried_out, killed_everywhere, same_weights):
    recipe = tiny(scheme=SCHEME | {"full": True})
    whole, _ = carried_out(recipe)
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "specialist_0-0", "specialist_1-0", "distilled-0", "of_teacher-0"]
    same_weights(whole, killed, [*trained, "together-0"])


@pytest.mark.thorough
def test_compute_counts_what_led_to_each_role(tiny, carried_out):
    _, outcome = carried_out(tiny(scheme=SCHEME))
    total = {role: found.compute["total"] for role, found in outcome.roles.items()}
    learning = {role: found.compute["learning"] for role, found in outcome.roles.items()}
    assert learning["together"] > learning["of_teacher"] == learning["alone"]
    assert learning["distilled"] == pytest.approx(learning["together"] + learning["alone"])
    assert total["distilled"] > total["together"] > total["teacher"]
    assert total["of_teacher"] < total["distilled"]


@pytest.mark.thorough
def test_groups_of_the_first_seed_and_of_the_choosing_run_are_kept(tiny, carried_out):
    _, outcome = carried_out(tiny(scheme=SCHEME, seeds=[3, 4], refit=True, teacher=_teacher(seed=None)))
    assert outcome.decided[3]["groups"] == outcome.decided[4]["groups"]


@pytest.mark.thorough
def test_groups_may_be_named_and_leave_classes_out(tiny, carried_out):
    scheme = SCHEME | {"groups": {"named": [["3", "8", 9], [4, "9"]]}}
    lines = []
    _, outcome = carried_out(tiny(scheme=scheme), say=lines.append)
    assert [list(group) for group in outcome.decided[0]["groups"]] == [[3, 8, 9], [4, 9]]
    assert "specialists: the teacher answers alone for what no specialist covers: 0, 1, 2, 5, 6, 7" in lines


@pytest.mark.thorough
@pytest.mark.parametrize("rule", ["joint", "take"])
def test_top_is_chosen_on_the_held_out_part_and_the_rule_is_asked(tiny, carried_out, rule):
    recipe = tiny(scheme=SCHEME | {"top": [3, 1, 2], "rule": rule}, seeds=[0, 1], teacher=_teacher(seed=None))
    path, outcome = carried_out(recipe)
    parts = prepare(recipe)
    run = FinishedRun(path, recipe, outcome, Signature.of(parts))
    together = run.model("together", 0)
    found = {}
    for top in (1, 2, 3):
        same = GeneralistWithSpecialists(together.generalist, together.specialists, top=top, rule=rule).eval()
        found[top] = evaluate(same, parts.held_out).errors
    best = min(found, key=lambda top: (found[top], top))
    assert [outcome.decided[seed]["top"] for seed in (0, 1)] == [best, best]
    for seed in (0, 1):
        model = run.model("together", seed)
        assert (int(model.top), model.rule) == (best, rule)
        assert outcome.seeds[seed].metrics["together"] == evaluate(model, parts.test)


@pytest.mark.slow
def test_processes_of_their_own_train_the_same_specialists(tiny, carried_out, same_weights):
    one, _ = carried_out(tiny(scheme=SCHEME))
    two, _ = carried_out(tiny(scheme=SCHEME | {"workers": 2}))
    same_weights(one, two, ["specialist_0-0", "specialist_1-0", "distilled-0"])


def test_a_recipe_with_the_scheme_resolves_to_itself(tiny):
    recipe = tiny(scheme=SCHEME)
    assert Recipe.parse(recipe.keys).to_yaml() == recipe.to_yaml()
    assert recipe.scheme.training.learning_rate == 0.01
    assert recipe.scheme == Specialists(groups=Grouping(count=2, largest=6), top=2, training=recipe.scheme.training)
    assert recipe.keys["scheme"]["groups"]["by"] == "covariance"


# ----------------------------------------------------------------------------------------------------- the full softmax


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_targets_among_the_other_classes_are_those_of_a_reference(temperature):
    generator = np.random.default_rng(0)
    z, v = generator.normal(size=(2, 8, 6)) * 3
    others = [0, 3, 4]
    log_q = log_softmax(z[:, others] / temperature, axis=1)
    log_p = log_softmax(v[:, others] / temperature, axis=1)
    expected = temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum()
    student = torch.tensor(z, requires_grad=True)
    outputs = {"student": Outputs(student[:, :3], heads={"full": student}), "teacher": Outputs(torch.tensor(v))}
    term = OffSetClasses(torch.tensor(others), temperature=temperature)
    found, count = term(outputs, Batch.of(torch.zeros(8, 1)), 0)
    assert int(count) == 8
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12)
    found.backward()
    slope = np.zeros((8, 6))
    slope[:, others] = temperature * (np.exp(log_q) - np.exp(log_p))
    np.testing.assert_allclose(student.grad.numpy(), slope, atol=1e-12)


@pytest.mark.thorough
def test_a_full_softmax_learns_from_the_generalist_what_is_not_its_own():
    torch.manual_seed(0)
    generalist = nn.Linear(4, 6)
    specialist = specialise(generalist, [1, 2], full=True)
    with torch.no_grad():
        specialist.network.weight.add_(torch.randn(6, 4))
    distiller = specialist_distiller(specialist, generalist, temperature=1.0)
    assert set(distiller.objective.terms) == {"hard", "soft"}
    x = torch.randn(64, 4)
    samples = TensorSet.of(x, torch.randint(6, (64,)), classes=6)
    fit(distiller, half_and_half(samples, [1, 2]), epochs=150, batch_size=16, learning_rate=0.2)
    others = [0, 3, 4, 5]
    own, theirs = specialist(x).heads["full"][:, others].softmax(1), generalist(x)[:, others].softmax(1)
    assert (own - theirs).abs().mean() < 0.03


# ------------------------------------------------------------------------------------------------------------ bad input


def _teacher(**more):
    return {"model": {"kind": "mlp", "hidden": [24]}, "training": {"epochs": 2, "batch_size": 128}, **more}


@pytest.mark.parametrize(
    ("scheme", "more", "line"),
    [
        ({"top": 11}, {}, "scheme.top: found 11, expected 1 to 10"),
        ({"top": [1, 11]}, {}, "scheme.top: found 11, expected 1 to 10"),
        ({}, {"method": {"name": "hard"}}, "scheme.name: specialists needs a method"),
        ({"groups": {"named": [["3"], []]}}, {}, r"scheme.groups\[1\]: found no class"),
        ({"groups": {"named": [["3", 3]]}}, {}, r"scheme.groups\[0\]: found class 3 twice"),
        ({"groups": {"named": [["three"]]}}, {}, r"scheme.groups\[0\]: there is no class 'three'"),
        ({"groups": {"named": [list(range(10))]}}, {}, r"scheme.groups\[0\]: it holds all 10 classes"),
        ({"groups": {"count": 11}}, {}, "scheme.groups: count: found 11 groups for 10 classes"),
        ({"groups": {"largest": 10}}, {}, "scheme.groups: largest: found 10 of 10 classes"),
        ({"groups": {"smallest": 5, "largest": 3}}, {}, "scheme.groups: smallest: found 5"),
        ({}, {"teacher": _teacher(members=2)}, "scheme.name: specialists needs a single network"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_anything_is_trained(tiny, refusal, scheme, more, line):
    assert re.match(line, refusal(tiny(scheme=SCHEME | scheme, **more)))


@pytest.mark.parametrize(
    ("scheme", "line"),
    [
        ({"top": 0}, "scheme.top: found 0, expected a whole number, 1 or above"),
        ({"top": [1, 0]}, "scheme.top: found 0, expected a whole number, 1 or above"),
        ({"top": []}, r"scheme.top: found \[\]; expected one number or more, each once"),
        ({"top": [2, 2]}, r"scheme.top: found \[2, 2\]; expected one number or more, each once"),
        ({"top": "all"}, "scheme.top: found 'all', expected a whole number"),
        ({"rule": "mean"}, "scheme.rule: found 'mean', expected 'joint' or 'take'"),
        ({"workers": 0}, "scheme.workers: found 0"),
        ({"temperature": 0.0}, "scheme.temperature: found 0.0"),
        ({"groups": {"overlap": 0.5}}, "scheme.groups.overlap: found 0.5, expected 1 or above"),
        ({"groups": {"cuont": 3}}, "scheme.groups.cuont: there is no such key; did you mean 'count'"),
        ({"groups": {"by": "kmeans"}}, "scheme.groups.by: found 'kmeans'"),
        ({"training": {"epochs": 0}}, "scheme.training.epochs: found 0"),
    ],
)
def test_bad_keys_are_one_line(tiny, scheme, line):
    with pytest.raises(RecipeError, match=line) as caught:
        tiny(scheme=SCHEME | scheme)
    assert "\n" not in str(caught.value)
