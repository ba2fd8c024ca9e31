"""The ways to have a recipe's teacher: which are possible, what each takes, and how far that was from a run."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from faults import RECIPE, SHORT, command, furnished, run_of, warm
from limbeck.cache import CachedTeacher
from limbeck.config import Recipe
from limbeck.experiment import plan
from limbeck.experiment.building import as_teacher, build_teacher
from limbeck.experiment.check import rehearse
from limbeck.experiment.plan import TeacherPlan, TeacherWay, plan_teacher, predicted_and_real
from limbeck.experiment.vetting import vet
from limbeck.profiling import Profile

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

PLAIN = {
    "name": "small",
    "data": {"kind": "npz", "path": "own.npz"},
    "teacher": {"model": {"kind": "mlp", "hidden": [16]}, "training": SHORT},
    "student": {"model": {"kind": "mlp", "hidden": [4]}},
    "method": {"name": "kd", "temperature": 2.0},
    "training": SHORT | {"epochs": 3},
    "validation": 20,
}
STEPS = 2
"""Batches of 32 in an epoch of its 58 samples."""


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory):
    warm(furnished(tmp_path_factory.mktemp("warm")))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(furnished(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


class Clock:
    """A clock by which nothing but a slow teacher takes time worth speaking of, however busy the machine is."""

    now = 0.0

    def perf_counter(self):
        self.now += 1e-6
        return self.now


def planned(keys, slow=0.0, runs=1, monkeypatch=None):
    """Return the plan of a recipe whose teacher takes some seconds more for each batch."""
    recipe = Recipe.parse(keys, Path.cwd())
    parts = vet(recipe)
    teacher = as_teacher(recipe, build_teacher(recipe, parts, 0))
    if slow:
        real = type(teacher).__call__

        def call(self, *given):
            clock.now += slow
            return real(self, *given)

        clock = Clock()
        monkeypatch.setattr(plan, "time", clock)
        monkeypatch.setattr(type(teacher), "__call__", call)
    return plan_teacher(recipe, parts, teacher, runs)


def ways(found):
    return {way.name: way for way in found.ways}


@pytest.mark.thorough
def test_what_is_possible_and_what_a_student_learns_from_it(folder):
    found = ways(planned(PLAIN))
    assert {name: way.answers for name, way in found.items()} == {
        "live": "exact",
        "memory": "exact",
        "dense fp32": "exact",
        "dense fp16": "rounded",
        "quantized 4 bits": "rounded",
        "topk k=16": "rounded",  # of three classes all
        "sampled n=12": "unbiased",
    }
    assert not any(way.refused for way in found.values())
    store = {"encoding": "topk", "k": 2, "temperatures": [2.0]}
    keys = PLAIN | {"teacher": PLAIN["teacher"] | {"store": store}}
    own = planned(keys)
    assert (own.chosen, own.way("topk k=2").answers) == ("topk k=2", "lower bound")
    assert own.way("topk k=2").line == "teacher.store: {encoding: topk, k: 2, temperatures: [2.0]}"


@pytest.mark.thorough
def test_what_a_method_or_the_views_do_not_allow_is_refused_with_the_reason(folder):
    hint = ways(planned(PLAIN | {"method": {"name": "dkd"}}))
    assert "reads all of the teacher's logits" in hint["topk k=16"].refused
    assert "reads all of the teacher's logits" in hint["sampled n=12"].refused
    assert not hint["dense fp16"].refused
    assert not hint["quantized 4 bits"].refused
    views = planned(PLAIN | {"training": PLAIN["training"] | {"augment": {"noise": 0.1}, "views": 2}})
    assert "another random view" in views.way("memory").refused
    assert views.chosen == "live"
    one = planned(PLAIN)
    assert views.way("dense fp32").disk == pytest.approx(2 * one.way("dense fp32").disk, rel=0.3)
    alone = PLAIN | {"method": {"name": "hard"}}
    assert planned(alone) is None


def test_a_slow_teacher_is_reckoned_by_how_often_it_is_asked(folder, monkeypatch):
    slow = 0.05
    found = ways(planned(PLAIN, slow, runs=2, monkeypatch=monkeypatch))
    assert found["live"].reading == pytest.approx(slow * STEPS * 3 * 2, rel=0.2)
    for name in ("memory", "dense fp32", "topk k=16", "sampled n=12"):
        assert found[name].reading < found["live"].reading / 10, name
        assert slow < found[name].build < found["live"].reading, name


@pytest.mark.thorough
def test_the_fastest_of_those_that_are_exact_is_named(folder, monkeypatch):
    found = planned(PLAIN, 0.05, monkeypatch=monkeypatch)
    assert found.cheapest in ("memory", "dense fp32")
    exact = [way for way in found.ways if way.answers == "exact"]
    assert found.way(found.cheapest).seconds == min(way.seconds for way in exact)
    views = PLAIN | {"training": PLAIN["training"] | {"epochs": 40, "augment": {"noise": 0.1}, "views": 2}}
    assert planned(views, 0.02, monkeypatch=monkeypatch).cheapest == "dense fp32"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "keys", [{"encoding": "dense"}, {"encoding": "quantized"}, {"encoding": "topk", "k": 2}, {"encoding": "sampled"}]
)
def test_the_disk_that_is_predicted_is_what_the_store_takes(folder, keys):
    whole = PLAIN | {"teacher": PLAIN["teacher"] | {"store": keys | {"path": "answers"}}}
    found = planned(whole)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(whole))
    answer = command(folder, "cache", "build", "recipe.yaml", "-q")
    assert answer.code == 0, answer.err
    assert CachedTeacher(folder / "answers").views == (0,)
    data = [path for path in (folder / "answers").glob("*.bin") if path.name != "class_vectors.bin"]
    assert found.way(found.chosen).disk == sum(path.stat().st_size for path in data)


@pytest.mark.thorough
def test_seeds_with_teachers_or_views_of_their_own_are_stored_apart(folder):
    one = planned(PLAIN).way("dense fp32")
    three = planned(PLAIN | {"seeds": [0, 1, 2]}).way("dense fp32")
    assert three.disk == one.disk
    own = {"teacher": PLAIN["teacher"] | {"seed": None}, "seeds": [0, 1, 2]}
    assert planned(PLAIN | own).way("dense fp32").disk == 3 * one.disk


@pytest.mark.thorough
def test_a_teacher_that_the_scheme_does_not_read_is_not_planned(folder):
    assert rehearse(Recipe.parse(PLAIN, Path.cwd())).teacher is not None
    alone = PLAIN | {"scheme": {"name": "mutual", "models": [{"kind": "mlp"}]}}
    assert rehearse(Recipe.parse(alone, Path.cwd())).teacher is None


@pytest.mark.thorough
def test_check_prints_the_ways_and_the_line_that_selects_the_fastest(folder):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(PLAIN))
    told = command(folder, "check", "recipe.yaml")
    assert told.code == 0, told.err
    for words in ("ways to have the teacher", "dense fp16", "unbiased", "The fastest exact teacher is"):
        assert words in told.out
    found = json.loads(command(folder, "check", "recipe.yaml", "--json").out)["teacher"]
    assert {"ways", "chosen", "cheapest"} == found.keys()
    assert found["chosen"] == "memory"


def test_the_error_is_what_was_taken_beyond_what_was_predicted():
    found = TeacherPlan((TeacherWay("live", "exact", "", build=0.0, reading=2.0),), "live", "live")
    profile = Profile()
    profile.seconds = {
        "student distilled": {"teacher": 2.5, "student": 1.5},
        plan.ANSWERS: {"build": 0.5},
    }
    told = predicted_and_real(found, {"teacher": 5.0, "student distilled": 9.0}, profile)
    assert told["teacher"]["real"] == {"build": 0.5, "reading": 2.5, "seconds": 3.0}
    assert told["teacher"]["error"] == pytest.approx(0.5)
    assert told["trainings"] == {"predicted": 9.0, "real": 4.5, "error": pytest.approx(-0.5)}  # no teacher was trained


@pytest.mark.thorough
@pytest.mark.parametrize(("store", "way"), [(False, "live"), (True, "memory"), ({"encoding": "dense"}, "dense fp32")])
def test_a_run_says_how_far_its_prediction_was_off(folder, store, way):
    keys = PLAIN | {"teacher": PLAIN["teacher"] | {"store": store}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(keys))
    answer = command(folder, "distill", "recipe.yaml", "--plan", "-q", "--no-report")
    assert answer.code == 0, answer.err
    told = json.loads((run_of(folder) / "plan.json").read_text())
    assert told["teacher"]["way"] == way
    assert (told["teacher"]["real"]["build"] > 0) == (store is not False)
    assert told["teacher"]["real"]["reading"] > 0
    assert told["trainings"]["real"] > told["teacher"]["real"]["seconds"]
    assert "predicted" in answer.out
    refused = command(folder, "distill", "recipe.yaml", "--plan", "--resume", run_of(folder))
    refused.refused("--plan: found --resume; expected a new run in one process")


@pytest.mark.thorough
def test_planning_leaves_no_trace_of_the_random_numbers(folder):
    torch.manual_seed(5)
    planned(RECIPE)
    found = torch.rand(1)
    torch.manual_seed(5)
    assert found == torch.rand(1)
