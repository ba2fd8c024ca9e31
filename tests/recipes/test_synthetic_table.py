"""The table on synthetic classes, every row of it at a size that says nothing."""

from dataclasses import replace

import pytest
import torch

from limbeck.recipes import reproducing, tang2020_synthetic
from limbeck.recipes.reproduction import Lab
from limbeck.training.progress import ignore

PAPER = tang2020_synthetic.REPRODUCTION
SEARCH = {
    "student": [{"learning_rate": 0.01}],
    "kd": [{"alpha": 0.5}],
    "pt": [{"alpha": 0.5}],
    "sim": [{"alpha": 0.5, "tau": 0.3}],
}
TINY = {
    **PAPER.budgets["reduced"],
    "few": {"train": 40, "teacher_epochs": 1, "student_epochs": 3, "batch_size": 20},
}
TINY |= {"train": 160, "held_out": 40, "test": 50, "classes": 4, "groups": 2, "dimensions": 6, "batch_size": 40}
TINY |= {"teacher_hidden": [12, 12], "student_hidden": [4, 4], "epochs": 1, "search": SEARCH}


@pytest.fixture
def lab(tmp_path):
    return Lab(PAPER.name, tmp_path, TINY, PAPER.load(None, TINY), ignore)


def test_every_row(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ends = tuple(row for row in PAPER.rows if not row.name.endswith("-0.6"))
    found = reproducing.reproduce(replace(PAPER, rows=ends, budgets={"reduced": TINY}), seeds=[0])
    rows = {name: seeds[0] for name, seeds in found.items()}
    assert len(rows) == 2 * 2 * 5
    for row in ends:
        assert set(rows[row.name]) == {figure.name for figure in row.figures}
        assert (row.name.split("-")[1] == "few") == row.title.startswith("few samples")
    for of in ("tau", "few-tau"):
        accuracy = {name: rows[f"{name}-{of}-0.9"]["accuracy, %"] for name in ("kd", "pt", "sim")}
        last, first = rows[f"sim-{of}-0.9"], rows[f"sim-{of}-0.3"]
        assert last["above KD-pt"] == pytest.approx(accuracy["sim"] - accuracy["pt"])
        assert last["above KD"] == pytest.approx(accuracy["sim"] - accuracy["kd"])
        nearer = last["above KD"] - first["above KD"]
        assert last["nearer to KD than at the smallest τ, by"] == pytest.approx(nearer)


def test_the_few_samples_are_the_first_of_the_many_and_trainings_have_their_own_length(lab):
    many, few = tang2020_synthetic._Task(0.6), tang2020_synthetic._Task(0.6, few=True)
    assert torch.equal(few.samples(lab).index, many.samples(lab).index[:40])
    assert len(many.samples(lab)) == 160
    assert not set(many.samples(lab).index.tolist()) & set(lab.sets["held_out 0.6"].index.tolist())
    assert few.size(lab, "teacher") == (1, 20)
    assert few.size(lab, "student") == (3, 20)
    assert many.size(lab, "teacher") == many.size(lab, "student") == (1, 40)
    answers = [tang2020_synthetic._teacher(lab, 0, task) for task in (many, few)]
    assert [len(each.logits) for each in answers] == [160, 40]


def test_the_orderings_of_the_paper_are_aimed_at_in_both_tables():
    for few in ("", "few-"):
        aimed = {
            (row.name, figure.name): figure.paper
            for row in PAPER.rows
            for figure in row.figures
            if figure.aim and ("few-" in row.name) == bool(few)
        }
        assert aimed == {
            (f"pt-{few}tau-0.3", "above KD"): 1.08,
            (f"sim-{few}tau-0.9", "above KD-pt"): 0.95,
            (f"sim-{few}tau-0.9", "nearer to KD than at the smallest τ, by"): 3.57,
        }
