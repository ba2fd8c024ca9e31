"""The table of ten into one, every row of it at a size that says nothing."""

from dataclasses import replace

import pytest

from limbeck import data
from limbeck.evaluation import evaluate
from limbeck.recipes import hinton2015_ensemble as paper
from limbeck.recipes import reproducing
from limbeck.recipes.reproduction import Lab
from limbeck.teachers import MeanOfModels
from limbeck.training.progress import ignore

TINY = {
    "train": 400,
    "held_out": 100,
    "members": 4,
    "model": {"kind": "mlp", "hidden": [8]},
    "wide": {"kind": "mlp", "hidden": [16]},
    "training": {"epochs": 2, "batch_size": 64},
    "rates": [0.05, 0.2],
    "settings": [{"temperature": 2.0, "hard_weight": hard, "soft_weight": 1.0} for hard in (0.0, 0.5)],
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(paper, "_LOADERS", dict.fromkeys(paper._LOADERS, lambda folder: data.digits()))
    rows = tuple(row for row in paper.REPRODUCTION.rows if row.name.startswith("mnist-"))
    return replace(paper.REPRODUCTION, rows=rows, budgets={"reduced": TINY})


def lab_of(paper_, root):
    return Lab(paper_.name, root, TINY, paper_.load(None, TINY), ignore)


def test_every_row_runs_and_is_read_the_second_time(tiny):
    found = reproducing.reproduce(tiny, seeds=[0])
    assert list(found) == [row.name for row in tiny.rows]
    assert len(found) == 11
    for row in tiny.rows:
        assert set(found[row.name][0]) == {figure.name for figure in row.figures}
    single = found["mnist-single"][0]
    assert single["fewest"] <= single["errors"] <= single["most"]
    assert reproducing.reproduce(tiny, seeds=[0]) == found


def test_a_share_is_of_what_ten_gain_over_one(tiny, tmp_path):
    lab = lab_of(tiny, tmp_path / "lab")
    single = paper._single(lab, "mnist", 1)
    members = paper._members(lab, "mnist", 1)
    assert len(members) == 4
    assert len({tuple(model[1].weight.flatten().tolist()) for model in members}) == 4
    errors = [evaluate(model, lab.sets["mnist test"]).errors for model in members]
    assert single == pytest.approx(sum(errors) / 4)
    together = evaluate(MeanOfModels(members).eval(), lab.sets["mnist test"]).errors
    assert together != single
    assert paper._share(lab, "mnist", 1, single) == 0
    assert paper._share(lab, "mnist", 1, together) == 100
    assert paper._share(lab, "mnist", 1, (single + 3 * together) / 4) == pytest.approx(75)


def test_the_student_alone_is_trained_for_the_compute_of_all(tiny, tmp_path):
    epochs = []
    lab = lab_of(tiny, tmp_path / "lab")
    lab.watch = lambda progress: epochs.append(progress.epochs) if progress.epoch_ended else None
    paper._rate(lab, "mnist")
    epochs.clear()
    paper._longer(lab, "mnist", 0)
    assert epochs == [11] * 11  # 4 members and a student of 2 epochs, and 4 answers of a third of an epoch


def test_settings_are_chosen_once_and_members_shared(tiny, tmp_path):
    trained = []
    lab = lab_of(tiny, tmp_path / "lab")
    lab.watch = lambda progress: trained.append(progress.label) if progress.epoch_ended else None
    for seed in (0, 1):
        paper._distilled(lab, "mnist", seed, count=None, mean="arithmetic")
    students = [label for label in trained if "student" in label]
    assert len(students) == 2 * 3  # two settings at seed 0, one of which is its student's, and seed 1
    first = paper._distilled(lab, "mnist", 0, count=2, mean="arithmetic")
    assert len([label for label in trained if "student" in label]) == 2 * 4
    assert first is not None
    networks = [label for label in trained if "network" in label]
    assert len(networks) == 2 * (2 + 4 + 4 - 1)  # two rates for the first member, which is then one of four


def test_sets_are_read_when_they_are_asked_for(tmp_path):
    sets = paper.REPRODUCTION.load(tmp_path / "nowhere", TINY)
    with pytest.raises(KeyError):
        sets["cifar-100 test"]
