"""Schemes carried out: the contract that every plan is written to, on a plan of the tests' own and on offline."""

import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck import methods, schemes
from limbeck.cli.distill import run as command
from limbeck.config import AloneBudget, Recipe, load_recipe
from limbeck.config.sections import Section
from limbeck.distiller import Distiller
from limbeck.errors import InputError, LimbeckError, ModelError, RecipeError
from limbeck.evaluation import evaluate, predict
from limbeck.experiment import context, run, trials
from limbeck.experiment.cost import Compute, spent
from limbeck.experiment.outcome import ordered
from limbeck.experiment.parts import prepare
from limbeck.experiment.run import distill
from limbeck.experiment.vetting import vet
from limbeck.objective import Objective
from limbeck.report.gather import gather
from limbeck.results.assessment import assess_run
from limbeck.results.comparison import compare_runs
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.schedules import until
from limbeck.teachers import MeanOfModels, ModelTeacher
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import Result, fit
from walk import over

TINY = {
    "name": "tiny",
    "data": {"kind": "digits", "transfer": {"fraction": 0.3}},
    "teacher": {"model": {"kind": "mlp", "hidden": [24]}, "training": {"epochs": 2, "batch_size": 128}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "training": {"epochs": 2, "batch_size": 128},
}
TRIED = [f"search-distilled-{number}" for number in range(6)]
TOY = '''
"""A student that learns from one that learnt from the teacher, and the average of the two."""

from dataclasses import dataclass
from typing import Any

from limbeck.distiller import Distiller
from limbeck.card import Card
from limbeck.schemes.scheme import Scheme
from limbeck.teachers import MeanOfModels

CARD = Card("toy_chain", "for tests", "Nobody", 2026, "A chain", "https://example.org", "none")


@dataclass(frozen=True)
class ToyChain(Scheme):
    models: tuple[dict[str, Any], ...] = ()
    softer: float = 0.0
    refused: bool = False

    def roles(self):
        return {"middle": "student in the middle", "pair": "the two together"}

    def check(self, builder):
        return "refused: is true, expected false" if self.refused else None

    def build(self, role, builder):
        return builder.model(0, role) if role == "middle" else builder.student()

    def means(self, role):
        return ("middle", "distilled") if role == "pair" else ()

    def train(self, context):
        middle = self.build("middle", context)
        context.fit("middle", Distiller(middle, context.teacher(), context.objective()), context.parts.transfer)
        best = context.choose("best", lambda: context.parts.held_out is not None)
        assert best
        taught = context.teach(middle, name="middle")
        distiller = Distiller(context.student(), taught, context.objective())
        distilled = context.fit("distilled", distiller, context.parts.transfer)
        return {"distilled": distilled.student, "middle": middle, "pair": MeanOfModels([middle, distilled.student])}
'''


def recipe(**more):
    return Recipe.parse({**TINY, **more})


def ran(recipe, place, **more):
    folder = RunFolder.create(place, recipe.name, recipe.to_yaml(), ["test"])
    return folder, distill(recipe, folder, cache=place / "cache", **more)


@pytest.mark.parametrize("key", ["method", "teacher.method"])
def test_a_run_builds_an_objective_once_to_train_with_and_once_to_look_at_it(tmp_path, monkeypatch, key):
    built, build = [], Section.build

    def counting(section, **more):
        built.extend([1] if section.where == key else [])
        return build(section, **more)

    monkeypatch.setattr(Section, "build", counting)
    ran(recipe(), tmp_path)
    assert len(built) == 2


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Put a plan of the tests' own beside the others."""
    (tmp_path / "schemes").mkdir()
    (tmp_path / "schemes" / "toy_chain.py").write_text(TOY)
    monkeypatch.setattr(schemes, "__path__", [*schemes.__path__, str(tmp_path / "schemes")])
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    yield {"scheme": {"name": "toy_chain", "models": [{"kind": "mlp", "hidden": [12]}]}}
    sys.modules.pop("limbeck.schemes.toy_chain", None)


def mlp_flops(*widths):
    return sum(2 * one * two for one, two in itertools.pairwise(widths))


# ----------------------------------------------------------------------------------------------------------- the recipe


def test_every_plan_has_a_card_and_says_its_roles():
    assert "offline" in schemes.names()
    assert {"scheme", "card"} & set(schemes.names()) == set()
    for name in schemes.names():
        card = schemes.card(name)
        assert card.name == name
        assert card.source.startswith("https://")
        assert 1990 < card.year < 2030
        assert issubclass(schemes.builder(name), schemes.Scheme)
    with pytest.raises(InputError, match="did you mean 'offline'"):
        schemes.builder("ofline")


def test_a_recipe_without_a_scheme_is_offline():
    plain = recipe()
    assert plain.scheme == schemes.builder("offline")()
    assert (plain.alone_budget, plain.networks) == (None, ())
    assert recipe(scheme={"name": "offline"}, alone_budget=False).to_yaml() == plain.to_yaml()


def test_a_scheme_with_keys_resolves_to_itself(toy):
    named = recipe(**toy, alone_budget=True)
    assert named.keys["scheme"]["softer"] == 0.0
    assert named.keys["scheme"]["models"] == [
        {"kind": "mlp", "hidden": [12], "dropout": 0.0, "input_dropout": 0.0},
    ]
    assert named.keys["alone_budget"] == {"teachers": True, "at_most": 20.0}
    assert named.alone_budget == AloneBudget()
    assert Recipe.parse(named.keys).to_yaml() == named.to_yaml()


@over(
    ("keys", "said"),
    [
        ({"scheme": {}}, "scheme.name: is missing; one of: "),
        ({"scheme": {"name": "ofline"}}, "scheme.name: found 'ofline'; did you mean 'offline'?"),
        ({"scheme": {"name": 3}}, "scheme.name: found 3; one of: "),
        ({"scheme": "offline"}, "scheme: found 'offline', expected keys and their values"),
        ({"scheme": {"name": "offline", "models": []}}, "scheme.models: there is no such key; "),
        ({"alone_budget": 3}, "alone_budget: found 3, expected true, false, or the keys teachers and at_most"),
        ({"alone_budget": {"at_mots": 3}}, "alone_budget.at_mots: there is no such key; did you mean 'at_most'?"),
        ({"alone_budget": {"at_most": 0.5}}, "alone_budget.at_most: found 0.5, expected 1 or above"),
        ({"alone_budget": {"at_most": math.inf}}, "alone_budget.at_most: found inf, expected a finite number"),
        ({"teacher": {"model": {}, "viwe": 1}}, "teacher.viwe: there is no such key; did you mean 'view'?"),
        ({"search": {"scheme.generations": [1]}}, "search.scheme.generations: there is no such key; it takes none"),
    ],
    ids=str,
)
def test_what_is_wrong_about_a_scheme_is_one_line(keys, said):
    with pytest.raises(RecipeError) as caught:
        recipe(**keys)
    assert str(caught.value).startswith(said)


def test_the_networks_of_a_scheme_are_checked_with_the_recipe(toy):
    with pytest.raises(RecipeError) as caught:
        recipe(scheme={"name": "toy_chain", "models": [{"kind": "mlp", "hiden": [3]}]})
    assert str(caught.value) == "scheme.models[0].hiden: there is no such key; did you mean 'hidden'?"
    with pytest.raises(RecipeError) as caught:
        vet(recipe(scheme={**toy["scheme"], "refused": True}))
    assert str(caught.value) == "scheme.refused: is true, expected false"


def test_without_a_teacher_the_reference_is_a_network_of_the_students_kind_and_training(tmp_path):
    keys = {key: value for key, value in TINY.items() if key != "teacher"}
    found = Recipe.parse(keys)
    assert found.keys["teacher"]["model"] == found.keys["student"]["model"]
    assert found.teacher.training == found.training
    assert Recipe.parse(found.keys).to_yaml() == found.to_yaml()
    with pytest.raises(RecipeError, match=r"^student.model.hiden: there is no such key"):
        Recipe.parse(keys | {"student": {"model": {"kind": "mlp", "hiden": [3]}}})
    _, outcome = ran(found, tmp_path)
    assert outcome.roles["teacher"].parameters == outcome.roles["alone"].parameters
    assert outcome.seeds[0].teacher != outcome.seeds[0].alone  # of initial weights of its own


# ------------------------------------------------------------------------------------------------ a scheme carried out


def test_the_units_of_offline_lie_where_they_always_did(tmp_path):
    folder, outcome = ran(recipe(seeds=[0, 3]), tmp_path)
    kept = {path.name for path in folder.path.iterdir() if path.is_dir()}
    assert kept == {"alone-0", "alone-3", "distilled-0", "distilled-3"}
    content = outcome.as_dict()
    assert [list(seed) for seed in content["seeds"]] == [["seed", "teacher", "alone", "distilled"]] * 2
    assert set(content["errors"]) == {"teacher", "alone", "distilled"}


def test_every_role_of_a_scheme_is_measured_once_and_read_back_whole(tmp_path, toy):
    wanted = recipe(**toy, seeds=[0, 1])
    folder = RunFolder.create(tmp_path, "toy", wanted.to_yaml(), ["test"])
    outcome = command(wanted, folder, quiet=True)
    roles = ["teacher", "alone", "middle", "pair", "distilled"]
    assert [list(seed.metrics) for seed in outcome.seeds] == [roles, roles]
    reads = json.loads((folder.path / "manifest.json").read_text())["test_reads"]
    assert [read["for"] for read in reads] == [
        "final figures of teacher, student alone, student in the middle, the two together and student distilled"
    ]
    run = FinishedRun.read(folder.path)
    assert run.roles == roles
    assert run.parameters("middle") == 64 * 12 + 12 + 12 * 10 + 10
    assert run.label("pair") == "the two together"
    for seed in outcome.seeds:
        for role in roles:
            assert evaluate(run.model(role, seed.seed), run.parts.test) == seed.metrics[role]
    both = predict(run.model("middle", 1), run.parts.test).softmax(-1) + predict(
        run.model("distilled", 1), run.parts.test
    ).softmax(-1)
    torch.testing.assert_close(predict(run.model("pair", 1), run.parts.test).exp(), both / 2)

    found = assess_run(run, with_cost=False)
    assert [(model.role, model.seed) for model in found.models][1:5] == [(role, 0) for role in roles[1:]]
    assert set(found.as_dict()["summary"]) == set(roles)
    assert found.labels["middle"] == "student in the middle"
    gathered = gather(folder.path)
    assert [model.role for model in gathered.models] == roles
    assert [model.parameters for model in gathered.models] == [outcome.roles[role].parameters for role in roles]
    assert gathered.model("middle").name == "Student in the middle"
    compared = compare_runs([folder.path, folder.path])
    assert compared.runs[0].figure("middle", "errors") is not None
    assert compared.runs[0].figure("nobody", "errors") is None


class Stop(Exception):
    """The process is killed here."""


@pytest.mark.thorough
def test_a_scheme_that_is_killed_goes_on_and_runs_no_finished_stage_again(tmp_path, toy, monkeypatch):
    wanted = recipe(**toy)
    _, whole = ran(wanted, tmp_path / "whole")
    folder = RunFolder.create(tmp_path / "broken", "toy", wanted.to_yaml(), ["test"])
    trained, kill_at = [], [-1]

    def counted(distiller, *arguments, **settings):
        begun = (Path(settings["folder"]) / "result.json").is_file()
        if len(trained) == kill_at[0] and not begun:
            raise Stop
        result = fit(distiller, *arguments, **settings)
        if not begun:
            trained.append(Path(settings["folder"]).name)
        return result

    monkeypatch.setattr(context, "fit", counted)
    for kill_at[0] in range(3):
        with pytest.raises(Stop):
            distill(wanted, folder, cache=tmp_path / "cache")
    kill_at[0] = -1
    again = distill(wanted, folder, cache=tmp_path / "cache")
    assert trained == ["alone-0", "middle-0", "distilled-0"]
    assert again == whole


@pytest.mark.thorough
def test_a_scheme_may_be_searched_and_its_decisions_outlive_a_refit(tmp_path, toy):
    keys = {"search": {"scheme.softer": [0.0, 0.5], "training.learning_rate": [0.1]}, "refit": True}
    wanted = recipe(**toy, **keys, training={**TINY["training"], "keep": "best"})
    folder, outcome = ran(wanted, tmp_path)
    kept = {path.name for path in folder.path.iterdir() if path.is_dir()}
    assert kept == {
        "search-alone-0", "search-distilled-0", "search-distilled-0-middle", "search-distilled-1",
        "search-distilled-1-middle", "budget-alone", "budget-distilled", "budget-distilled-middle",
        "alone-0", "middle-0", "distilled-0",
    }  # fmt: skip
    assert set(outcome.chosen["distilled"]) == set(keys["search"])
    assert set(outcome.chosen["alone"]) == {"training.learning_rate"}
    for unit in ("middle", "distilled"):  # as many epochs as the held-out part chose, without such a part
        name = "budget-distilled" if unit == "distilled" else f"budget-distilled-{unit}"
        chosen = json.loads((folder.path / name / "result.json").read_text())["best"][0]
        final = json.loads((folder.path / f"{unit}-0" / "result.json").read_text())
        assert len(final["history"]) == chosen
        assert final["identity"]["validation"] is None


@pytest.mark.thorough
def test_candidates_of_a_live_teacher_are_searched_together_with_the_same_outcome(tmp_path, monkeypatch):
    """Three temperatures and another batch size: the three share their batches, and the teacher answers each once."""
    training = {**TINY["training"], "augment": {"shift": 1}}
    search = {"training.batch_size": [128, 64], "method.temperature": [1.0, 3.0, 9.0]}
    wanted = recipe(training=training, search=search, seeds=[1])
    answered, plain = [], ModelTeacher.__call__
    monkeypatch.setattr(ModelTeacher, "__call__", lambda *given: answered.append(len(given[1])) or plain(*given))
    outcomes, asked, weights = [], [], []
    for together in (1, 4):
        monkeypatch.setattr(trials, "_TOGETHER", together)
        answered.clear()
        folder, outcome = ran(wanted, tmp_path)
        outcomes.append(outcome)
        asked.append(sum(answered))
        weights.append({name: (folder.path / name / "student.safetensors").read_bytes() for name in TRIED})
    assert outcomes[0].chosen == outcomes[1].chosen
    assert outcomes[0].seeds == outcomes[1].seeds
    assert weights[0] == weights[1]
    assert asked[1] < 0.55 * asked[0]  # 2 trainings and the final one, instead of 6 and the final one


# -------------------------------------------------------------------------------------------------------------- compute


def test_compute_is_counted_by_hand(tmp_path, toy):
    wanted = recipe(**toy)
    parts = prepare(wanted)
    samples, taught_on = len(parts.transfer), len(parts.train)
    _, outcome = ran(wanted, tmp_path)
    student, teacher, middle = mlp_flops(64, 8, 10), mlp_flops(64, 24, 10), mlp_flops(64, 12, 10)
    found = {role: outcome.roles[role].compute for role in outcome.roles}
    assert found["alone"] == {
        "learning": 3 * student * samples * 2, "answers": 0.0, "teachers": 0.0, "total": 3 * student * samples * 2
    }  # fmt: skip
    assert found["teacher"]["total"] == 3 * teacher * taught_on * 2
    assert found["middle"]["learning"] == 3 * middle * samples * 2
    assert found["middle"]["answers"] == teacher * samples  # stored: each sample was answered once
    assert found["middle"]["teachers"] == found["teacher"]["total"]
    assert found["distilled"]["learning"] == 3 * (middle + student) * samples * 2
    assert found["distilled"]["answers"] == (teacher + middle) * samples
    assert found["pair"] == found["distilled"]
    for role, each in outcome.roles.items():
        assert each.relative == pytest.approx(found[role]["total"] / found["alone"]["total"])


def test_a_teacher_that_is_asked_at_every_step_is_counted_at_every_step(tmp_path):
    wanted = recipe(teacher={**TINY["teacher"], "store": False})
    _, outcome = ran(wanted, tmp_path)
    samples = len(prepare(wanted).transfer)
    assert outcome.roles["distilled"].compute["answers"] == mlp_flops(64, 24, 10) * samples * 2


def test_a_teacher_is_counted_only_while_it_is_asked():
    parts = prepare(recipe())
    student, teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    result = Result(student, 2, 10, history=[{}, {}])
    objective = Objective([HardLabels(), SoftTargets(until(3, 1.0))])
    found = spent(student, ModelTeacher(teacher), objective, result, parts.transfer)
    assert found.learning == 3 * 1280 * 2 * len(parts.transfer)
    assert found.answers == pytest.approx(1280 * 2 * len(parts.transfer) * 0.3)
    assert spent(student, None, methods.hard(), result, parts.transfer).answers == 0
    assert (Compute(1.0, 2.0, 4.0) + Compute(1.0)).total(teachers=False) == 4.0


@pytest.mark.miniature(1)
@pytest.mark.parametrize("teachers", [True, False])
def test_the_student_alone_gets_as_many_epochs_as_the_distillation_paid_for(tmp_path, teachers):
    lines = []
    wanted = recipe(alone_budget={"teachers": teachers}, seeds=[0, 1])
    folder, outcome = ran(wanted, tmp_path, say=lines.append)
    parts = prepare(wanted)
    epoch = 3 * mlp_flops(64, 8, 10) * len(parts.alone)
    paid = 2 * epoch + mlp_flops(64, 24, 10) * len(parts.transfer)
    paid += teachers * 3 * mlp_flops(64, 24, 10) * len(parts.train) * 2
    epochs = json.loads((folder.path / "alone_budget-1" / "result.json").read_text())["progress"][0]
    assert epochs == round(paid / epoch)
    assert list(outcome.roles) == ["teacher", "alone", "alone_budget", "distilled"]
    assert outcome.roles["alone_budget"].relative == epochs / 2
    assert outcome.notes == []
    assert any(line.startswith(f"student alone, equal compute: {epochs} epochs") for line in lines)


def test_a_budget_is_cut_and_says_so(tmp_path):
    search = {"training.learning_rate": [0.05, 0.1], "training.epochs": [2], "method.temperature": [2.0]}
    training = {**TINY["training"], "schedule": "step", "milestones": [1.0]}
    wanted = recipe(alone_budget={"at_most": 1.5}, search=search, training=training)
    folder, outcome = ran(wanted, tmp_path)
    [note] = outcome.notes
    assert note.endswith("; cut at 3, which is alone_budget.at_most, 1.5, times its 2 epochs")
    ended = json.loads((folder.path / "alone_budget-0" / "result.json").read_text())
    assert ended["progress"][0] == 3
    assert ended["identity"]["training.milestones"] == [1.5]
    assert set(outcome.chosen["alone_budget"]) == {"training.learning_rate"}
    assert sorted(path.name for path in folder.path.glob("search-alone_budget-*")) == [
        "search-alone_budget-0",
        "search-alone_budget-1",
    ]


def test_a_run_of_many_roles_is_printed_as_a_table(tmp_path, toy, capsys):
    from limbeck.cli.distill import outcome_table

    wanted = recipe(**toy)
    _, outcome = ran(wanted, tmp_path)
    outcome_table(wanted, outcome)
    rows = [line.split("│")[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == [each.label for each in outcome.roles.values()]
    assert rows[1][2].strip() == "1.00"


# --------------------------------------------------------------------------------------------------------------- pieces


def test_roles_are_ordered():
    assert ordered(["distilled", "b", "alone_budget", "a", "teacher"]) == [
        "teacher",
        "alone_budget",
        "b",
        "a",
        "distilled",
    ]


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_the_mean_of_models_is_the_mean_of_their_distributions(mean):
    members = [nn.Linear(3, 4).double() for _ in range(3)]
    inputs, weights = torch.randn(5, 3, dtype=torch.float64), [1 / 3, 2 / 3, 0.0]
    found = MeanOfModels(members, weights=weights, mean=mean)(inputs)
    for row in range(5):
        each = []
        for member in members[:2]:
            powers = [math.exp(value) for value in member(inputs[row]).tolist()]
            each.append([power / sum(powers) for power in powers])
        if mean == "arithmetic":
            wanted = [(one + 2 * two) / 3 for one, two in zip(*each, strict=True)]
        else:
            raw = [one ** (1 / 3) * two ** (2 / 3) for one, two in zip(*each, strict=True)]
            wanted = [value / sum(raw) for value in raw]
        assert found[row].exp().tolist() == pytest.approx(wanted, abs=1e-12)
    alone = MeanOfModels(members[:1], mean=mean)(inputs)
    torch.testing.assert_close(alone, torch.log_softmax(members[0](inputs), -1))


@over(
    ("call", "said"),
    [
        (lambda: MeanOfModels([]), "members: found none"),
        (lambda: MeanOfModels([nn.Identity()], weights=[0.5, 0.5]), "weights: found [0.5, 0.5], 2 in all, expected 1"),
        (lambda: MeanOfModels([nn.Identity()], weights=[0.5]), "weights: "),
        (lambda: MeanOfModels([nn.Identity()], weights=[-1.0]), "weights: "),
        (lambda: MeanOfModels([nn.Identity()], mean="median"), "mean: found 'median'"),
        (
            lambda: MeanOfModels([nn.Linear(2, 3), nn.Linear(2, 4)])(torch.zeros(1, 2)),
            "members: found answers of shapes",
        ),
    ],
    ids=["none", "count", "zero", "negative", "mean", "classes"],
)
def test_the_mean_of_models_refuses(call, said):
    with pytest.raises((InputError, ModelError)) as caught:
        call()
    assert str(caught.value).startswith(said)


def test_a_recipe_of_a_run_can_be_loaded_again(tmp_path, toy):
    wanted = recipe(**toy, alone_budget=True)
    folder = RunFolder.create(tmp_path, "toy", wanted.to_yaml(), ["test"])
    assert load_recipe(folder.path / "recipe.yaml").to_yaml() == wanted.to_yaml()
    with pytest.raises(LimbeckError):
        Recipe.parse({**wanted.keys, "scheme": {"name": "toy_chain", "softer": "x"}})
    assert run.Distiller is Distiller
