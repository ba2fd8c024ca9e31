"""The engine behind reproduced tables: results merge, units are kept, choices stay, and what was cut short goes on."""

import json
from dataclasses import replace
from statistics import stdev

import pytest
import torch

from limbeck import data, methods
from limbeck.errors import CheckpointError, RecipeError
from limbeck.recipes import reproducing
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row, _changed, merge
from limbeck.teachers import ModelTeacher, store
from limbeck.training import Training, load_weights
from limbeck.training.progress import ignore

SHORT = Training(epochs=2, batch_size=128, learning_rate=0.1, checkpoint_seconds=0.0)
SMALL = {"kind": "mlp", "hidden": [8]}


def digits(folder=None, budget=None):
    splits = data.digits()
    train, held_out = splits.train.split(400, seed=0)
    return {"train": train.subset(torch.arange(budget["train"])), "held_out": held_out, "test": splits.test}


class Fake:
    """A paper with two rows that count how often they are run."""

    def __init__(self):
        self.runs = []
        self.searches = 0
        self.paper = Reproduction(
            name="fake2015-digits",
            title="Fake (2015), A Paper",
            rows=(
                Row("teacher", "the teacher", (Figure("errors", 10, "at most", 100),), self.teacher),
                Row("student", "the student", (Figure("errors"), Figure("rate")), self.student),
            ),
            budgets={"reduced": {"train": 300, "epochs": 2}, "full": {"train": 900, "epochs": 3}},
            seeds={"reduced": (0,), "full": (0, 1)},
            load=digits,
        )

    def network(self, lab, seed):
        return lab.train("teacher", SMALL, methods.hard(), lab.sets["train"], self.settings(lab), seed).student

    def teacher(self, lab, seed):
        self.runs.append(("teacher", seed))
        return {"errors": self.errors(lab, self.network(lab, seed))}

    def student(self, lab, seed):
        self.runs.append(("student", seed))
        rate = lab.choose("rate", self.search)
        taught = store(ModelTeacher(self.network(lab, seed)), lab.sets["train"])
        settings = replace(self.settings(lab), learning_rate=rate)
        student = lab.train("student", SMALL, methods.kd(), lab.sets["train"], settings, seed, teacher=taught).student
        return {"errors": self.errors(lab, student), "rate": rate}

    def search(self):
        self.searches += 1
        return 0.05

    def settings(self, lab):
        return replace(SHORT, epochs=lab.budget["epochs"])

    def errors(self, lab, model):
        from limbeck.evaluation import evaluate

        return float(evaluate(model, lab.sets["test"]).errors)


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def fake():
    return Fake()


def lab_at(root, paper, watch=ignore, budget="reduced"):
    sizes = paper.budgets[budget]
    return Lab(paper.name, root, sizes, paper.load(None, sizes), watch)


class Counter:
    """Watches trainings: the labels of the epochs that were really trained."""

    def __init__(self, stop_after=None):
        self.epochs, self.stop_after = [], stop_after

    def __call__(self, progress):
        if progress.epoch_ended:
            self.epochs.append(progress.label)
            if len(self.epochs) == self.stop_after:
                raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------- units are kept


def test_a_table_is_run_once_and_read_the_second_time(fake):
    said = []
    first = reproducing.reproduce(fake.paper, say=said.append)
    assert fake.runs == [("teacher", 0), ("student", 0)]
    assert set(first) == {"teacher", "student"}
    assert set(first["student"][0]) == {"errors", "rate"}
    assert said[0].startswith("teacher, seed 0: errors ")
    watch = Counter()
    assert reproducing.reproduce(fake.paper, watch=watch) == first
    assert len(fake.runs) == 2
    assert watch.epochs == []


def test_a_table_grows_by_rows_and_seeds(fake):
    assert set(reproducing.reproduce(fake.paper, only=["student"], seeds=[3])) == {"student"}
    assert fake.runs == [("student", 3)]
    whole = reproducing.reproduce(fake.paper, seeds=[3, 4])
    assert {row: sorted(seeds) for row, seeds in whole.items()} == {"teacher": [3, 4], "student": [3, 4]}
    assert fake.runs == [("student", 3), ("teacher", 3), ("teacher", 4), ("student", 4)]


def test_another_budget_has_units_of_its_own(fake):
    reduced = reproducing.reproduce(fake.paper, only=["teacher"])
    full = reproducing.reproduce(fake.paper, budget="full", only=["teacher"])
    assert fake.runs == [("teacher", 0), ("teacher", 0), ("teacher", 1)]
    assert sorted(full["teacher"]) == [0, 1]
    assert full["teacher"][0] != reduced["teacher"][0]
    grown = replace(fake.paper, budgets={**fake.paper.budgets, "reduced": {"train": 301, "epochs": 2}})
    reproducing.reproduce(grown, only=["teacher"])
    assert len(fake.runs) == 4


def test_an_unknown_row_or_seed_is_refused_before_anything_is_loaded(fake):
    def load(folder, budget):
        raise AssertionError

    paper = replace(fake.paper, load=load)
    with pytest.raises(RecipeError, match="no row 'studnt'; did you mean 'student'"):
        reproducing.reproduce(paper, only=["studnt"])
    with pytest.raises(RecipeError, match="--seed: found -1"):
        reproducing.reproduce(paper, seeds=[-1])


def test_the_units_figures_do_not_depend_on_what_ran_before(fake, tmp_path):
    row = fake.paper.row("student")
    alone = lab_at(tmp_path / "a", fake.paper).unit(row, 0)
    lab = lab_at(tmp_path / "b", fake.paper)
    lab.unit(fake.paper.row("teacher"), 5)
    torch.rand(7)
    assert lab.unit(row, 0) == alone


def test_a_damaged_unit_is_told_of(fake, tmp_path):
    lab = lab_at(tmp_path / "lab", fake.paper)
    lab.unit(fake.paper.row("teacher"), 0)
    (path,) = (tmp_path / "lab" / "rows").glob("*.json")
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"is damaged .*; delete it to start again"):
        lab.unit(fake.paper.row("teacher"), 0)


# ------------------------------------------------------------------------------------------------ trainings and choices


def test_rows_share_the_trainings_that_are_the_same(fake, tmp_path):
    watch = Counter()
    lab = lab_at(tmp_path / "lab", fake.paper, watch)
    for row in fake.paper.rows:
        lab.unit(row, 0)
    assert watch.epochs == ["teacher (seed 0)"] * 2 + ["student (seed 0)"] * 2
    assert len(list((tmp_path / "lab" / "trainings").glob("*/result.json"))) == 2


@pytest.mark.parametrize("change", ["model", "samples", "labels", "training", "seed", "method", "name"])
def test_a_training_that_differs_in_anything_is_another(change, fake, tmp_path):
    watch = Counter()
    lab = lab_at(tmp_path / "lab", fake.paper, watch)
    train = lab.sets["train"]
    given = {"model": SMALL, "objective": methods.hard(), "samples": train, "training": SHORT, "seed": 0}
    changed = {
        "model": {"model": {**SMALL, "hidden": [9]}},
        "samples": {"samples": train.subset(torch.arange(299))},
        "labels": {"samples": replace(train, labels=train.labels.flip(0))},
        "training": {"training": replace(SHORT, momentum=0.5)},
        "seed": {"seed": 1},
        "method": {"objective": methods.hard(), "called": "something else"},
        "name": {"variant": 2},
    }[change]
    for what in (given, given, {**given, **changed}):
        lab.train("network", **what)
    assert len(watch.epochs) == 4


def test_addresses_stay_when_a_setting_is_added():
    assert _changed(Training()) == {}
    assert _changed(Training(epochs=3, augment=data.Augment(shift=2))) == {
        "epochs": 3,
        "augment": {"shift": 2, "pad_crop": 0, "flip": 0.0, "noise": 0.0},
    }
    assert _changed(Training(augment=data.Augment(contrast=0.2)))["augment"]["contrast"] == 0.2


def test_a_choice_is_made_once_and_kept_across_processes(fake, tmp_path):
    for _ in range(2):
        lab = lab_at(tmp_path / "lab", fake.paper)
        assert lab.choose("rate", fake.search) == lab.choose("rate", fake.search) == 0.05
    assert fake.searches == 1
    assert lab.choose("rate", lambda: 0.7, width=30) == 0.7
    assert lab.choose("rate", lambda: 0.9) == 0.05
    other = lab_at(tmp_path / "lab", fake.paper, budget="full")
    assert other.choose("rate", lambda: 0.3) == 0.3


def test_a_choice_that_fails_is_not_kept(fake, tmp_path):
    lab = lab_at(tmp_path / "lab", fake.paper)
    with pytest.raises(ZeroDivisionError):
        lab.choose("rate", lambda: 1 / 0)
    assert lab.choose("rate", lambda: 2.0) == 2.0


def test_what_is_remembered_is_made_once_in_a_process(fake, tmp_path):
    lab = lab_at(tmp_path / "lab", fake.paper)
    made = lab.remember("answers", object)
    assert lab.remember("answers", object) is made
    assert lab_at(tmp_path / "lab", fake.paper).remember("answers", object) is not made


@pytest.mark.parametrize("epochs", [1, 2, 3], ids="after-{}-epochs".format)
def test_an_interrupted_unit_goes_on_to_the_same_figures(epochs, fake, tmp_path):
    row = fake.paper.row("student")
    whole = lab_at(tmp_path / "whole", fake.paper).unit(row, 0)
    watch = Counter(stop_after=epochs)
    with pytest.raises(KeyboardInterrupt):
        lab_at(tmp_path / "cut", fake.paper, watch).unit(row, 0)
    assert not list((tmp_path / "cut" / "rows").glob("*"))
    rest = Counter()
    assert lab_at(tmp_path / "cut", fake.paper, rest).unit(row, 0) == whole
    assert len(rest.epochs) == {1: 4, 2: 3, 3: 2}[epochs]
    assert fake.searches == 2
    for path in (tmp_path / "whole" / "trainings").glob("*/student.safetensors"):
        same = tmp_path / "cut" / "trainings" / path.parent.name / path.name
        assert same.read_bytes() == path.read_bytes()


def test_a_wrapped_model_is_trained_as_it_is_wrapped(fake, tmp_path):
    lab = lab_at(tmp_path / "lab", fake.paper)
    plain = lab.train("plain", SMALL, methods.hard(), lab.sets["train"], SHORT, 0).student
    wrapped = lab.train(
        "half", SMALL, methods.hard(), lab.sets["train"], SHORT, 0, wrap=torch.nn.Sequential, called="half"
    ).student
    assert list(wrapped.state_dict()) == [f"0.{name}" for name in plain.state_dict()]
    (path,) = [p for p in (tmp_path / "lab").rglob("student.safetensors") if _fits(wrapped, p)]
    assert path.is_file()


def _fits(model, path):
    try:
        load_weights(model, path)
    except CheckpointError:
        return False
    return True


# -------------------------------------------------------------------------------------------------------------- merging


def found(*seeds, rate=0.1):
    return {"student": {seed: {"errors": 10.0 + seed**2, "rate": rate} for seed in seeds}}


def test_results_hold_the_papers_figures_our_mean_and_spread_and_every_seed(fake):
    merged = merge({}, fake.paper, "full", found(0, 1, 2), command="limbeck reproduce fake")
    assert merged["paper"] == fake.paper.title
    assert list(merged["rows"]) == ["student"]
    entry = merged["rows"]["student"]
    assert entry["title"] == "the student"
    assert entry["paper"] == {"errors": None, "rate": None}
    ours = entry["full"]
    assert ours["budget"] == {"train": 900, "epochs": 3}
    assert ours["command"] == "limbeck reproduce fake"
    assert ours["ours"]["errors"] == {"mean": round(35 / 3, 4), "sd": round(stdev([10, 11, 14]), 4)}
    assert ours["ours"]["rate"] == {"mean": 0.1, "sd": 0.0}
    assert ours["seeds"] == {str(seed): {"errors": 10.0 + seed**2, "rate": 0.1} for seed in range(3)}
    assert json.loads(json.dumps(merged)) == merged


def test_one_seed_has_no_spread(fake):
    merged = merge({}, fake.paper, "full", found(4), command="")
    assert merged["rows"]["student"]["full"]["ours"]["errors"] == {"mean": 26.0, "sd": None}


def test_seeds_of_the_same_budget_join_in_their_order_and_newer_ones_replace(fake):
    first = merge({}, fake.paper, "full", found(10, 0), command="a")
    kept = json.dumps(first)
    second = merge(first, fake.paper, "full", found(2), command="b")
    assert json.dumps(first) == kept
    assert list(second["rows"]["student"]["full"]["seeds"]) == ["0", "2", "10"]
    assert second["rows"]["student"]["full"]["ours"]["errors"]["mean"] == pytest.approx((10 + 14 + 110) / 3, abs=1e-4)
    third = merge(second, fake.paper, "full", found(2, rate=0.5), command="c")
    assert third["rows"]["student"]["full"]["seeds"]["2"]["rate"] == 0.5
    assert third["rows"]["student"]["full"]["seeds"]["0"]["rate"] == 0.1


def test_other_sizes_replace_and_the_other_budget_stays(fake):
    first = merge({}, fake.paper, "full", found(0, 1), command="")
    first = merge(first, fake.paper, "reduced", found(0), command="")
    grown = replace(fake.paper, budgets={**fake.paper.budgets, "full": {"train": 901, "epochs": 3}})
    second = merge(first, grown, "full", found(7), command="")
    assert list(second["rows"]["student"]["full"]["seeds"]) == ["7"]
    assert second["rows"]["student"]["reduced"] == first["rows"]["student"]["reduced"]


def test_rows_that_were_not_run_stay_as_they_were(fake):
    first = merge({}, fake.paper, "full", {"teacher": {0: {"errors": 5.0}}}, command="")
    second = merge(first, fake.paper, "full", found(0), command="")
    assert second["rows"]["teacher"] == first["rows"]["teacher"]
    assert set(second["rows"]) == {"teacher", "student"}


def test_a_lists_budget_is_the_same_after_a_journey_through_json(fake):
    paper = replace(fake.paper, budgets={"full": {"hidden": (8, 8)}, "reduced": {}})
    first = json.loads(json.dumps(merge({}, paper, "full", found(0), command="")))
    assert len(merge(first, paper, "full", found(1), command="")["rows"]["student"]["full"]["seeds"]) == 2
