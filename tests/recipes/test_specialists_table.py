"""The table of the specialists, every row of it at a size that says nothing."""

from dataclasses import replace

import pytest
import torch

from limbeck.evaluation import predict
from limbeck.recipes import hinton2015_specialists as paper
from limbeck.recipes import reproducing
from limbeck.recipes.reproduction import Lab
from limbeck.training.progress import ignore

TINY = {
    "data": {"kind": "synthetic", "dimensions": 20, "classes": 8, "groups": 2, "terms": 1, "train": 400, "test": 200},
    "train": 400,
    "held_out": 100,
    "model": {"kind": "mlp", "hidden": [16]},
    "training": {"epochs": 2, "batch_size": 64, "learning_rate": 0.05},
    "groups": {"count": 2, "smallest": 2, "largest": 3},
    "specialist": {"epochs": 1, "batch_size": 64, "learning_rate": 0.01},
    "mixture": {"experts": 3, "rates": [0.3, 1.0]},
    "temperature": 2.0,
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = tuple(row for row in paper.REPRODUCTION.rows if row.name.startswith("synthetic-"))
    return replace(paper.REPRODUCTION, rows=rows, budgets={"reduced": {"synthetic": TINY, "tops": [1, 2]}})


def test_every_row_runs_and_is_read_the_second_time(tiny):
    found = reproducing.reproduce(tiny, seeds=[0])
    assert set(found) == {row.name for row in tiny.rows}
    assert len(found) == 10
    for row in tiny.rows:
        assert set(found[row.name][0]) == {figure.name for figure in row.figures}
    assert found["synthetic-generalist"][0]["relative change, %"] == 0
    covered = found["synthetic-covered"][0]
    counts = ("no set", "1 set", "2 sets", "3 sets or more")
    assert sum(covered[f"{name}: examples"] for name in counts) == 200
    assert covered["no set: examples"] > 0  # two sets of three classes leave two of eight to the generalist
    right = {name: 2 * found[f"synthetic-{name}"][0]["accuracy, %"] for name in ("generalist", "together")}
    gained = sum(covered[f"{name}: change in right answers"] for name in counts)
    assert gained == pytest.approx(right["together"] - right["generalist"])
    assert reproducing.reproduce(tiny, seeds=[0]) == found
    mixture = found["synthetic-mixture"][0]
    gate, expert = 20 * 3 + 3, 20 * 16 + 16 + 16 * 8 + 8
    assert mixture["parameters, times the generalist's"] == pytest.approx((3 * expert + gate) / expert)
    assert mixture["compute, times the generalist's"] == pytest.approx(3 + 20 * 3 / (20 * 16 + 16 * 8))


def test_the_generalist_alone_is_trained_for_the_compute_of_all(tiny, tmp_path):
    epochs = []
    lab = Lab(tiny.name, tmp_path / "lab", tiny.budgets["reduced"], tiny.load(None, tiny.budgets["reduced"]), ignore)
    train, together = lab.sets["synthetic train"], paper._together(lab, "synthetic", 0)
    own = sum(2 * int(torch.isin(train.labels, group).sum()) for group in together.groups)
    asked = int(together.covering(predict(together.generalist, train)).sum())
    learning, answers = 2 * 2 * 300 + own, 300 + asked  # samples; generalist and student have two epochs each
    lab.watch = lambda progress: epochs.append(progress.epochs) if progress.epoch_ended else None
    paper._longer(lab, "synthetic", 0)
    assert set(epochs) == {round((learning + answers / 3) / 300)}
    assert len(epochs) == epochs[0]
    assert (
        paper._run_beside(lab, 0, kind="synthetic", model=paper._longer, compute=paper._compute_of_longer)[
            "compute, times the generalist's"
        ]
        == epochs[0] / 2
    )


def test_sets_are_read_when_they_are_asked_for(tmp_path):
    sets = paper.REPRODUCTION.load(tmp_path / "nowhere", {"synthetic": TINY})
    assert len(sets["synthetic held_out"]) == 100
    assert len(sets["synthetic train"]) == 300
    with pytest.raises(KeyError):
        sets["cifar-100 test"]


def test_both_budgets_build_their_settings():
    for budget in paper.REPRODUCTION.budgets.values():
        for kind in ("synthetic", "fashion-mnist", "cifar-100"):
            assert paper._training(budget[kind]["training"]).epochs >= 8
            assert paper._training(budget[kind]["specialist"]).epochs >= 4
    full = paper._training(paper.REPRODUCTION.budgets["full"]["cifar-100"]["training"])
    assert full.augment.active
