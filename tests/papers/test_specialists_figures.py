"""The figures that the table of specialists alone has, of its rows at a size that says nothing."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck.papers import load_table, reproduce
from limbeck.papers.hinton2015_specialists.figures import covered
from limbeck.papers.table import BUDGETS
from limbeck.teachers.specialists import GeneralistWithSpecialists, specialise

SMALL = [
    ("data.first", 400),
    ("validation", 100),
    ("teacher.model.hidden", [8]),
    ("teacher.training.epochs", 2),
    ("scheme.groups", {"count": 2, "smallest": 2, "largest": 4}),
    ("scheme.training.epochs", 1),
    ("training.epochs", 2),
]
NARROW = ("student.model", {"kind": "mlp", "hidden": [8]})
SHORT = [*(each for each in SMALL if not each[0].startswith("scheme")), ("search", {})]
EXPERTS = ("student.model", {"kind": "mixture", "expert": {"kind": "mlp", "hidden": [8]}, "experts": 3})


def shrunk(table, names):
    rows = []
    for name in names:
        row = table.row(f"fashion-mnist-{name}")
        more = [*SHORT, EXPERTS] if name == "mixture" else [*SMALL, NARROW]
        rows.append(replace(row, settings={budget: [*row.settings[budget], *more] for budget in BUDGETS}))
    return replace(table, rows=tuple(rows), seeds=dict.fromkeys(BUDGETS, (0,)))


def test_what_specialists_change_adds_up_and_others_are_measured_by_the_generalist(stripes):
    names = ["generalist", "together", "covered", "longer", "mixture"]
    found = {row: seeds[0] for row, seeds in reproduce(shrunk(load_table("hinton2015-specialists"), names)).items()}
    own = {name: found[f"fashion-mnist-{name}"] for name in names}
    right = {name: own[name]["accuracy, %"] for name in ("generalist", "together")}  # of a hundred test pictures
    counts = ("no set", "1 set", "2 sets", "3 sets or more")
    covered = own["covered"]
    assert sum(covered[f"{name}: examples"] for name in counts) == 100
    assert covered["no set: examples"] > 0  # two sets of four classes leave two of ten at least to the generalist
    assert covered["3 sets or more: examples"] == 0
    gained = sum(covered[f"{name}: change in right answers"] for name in counts)
    assert gained == pytest.approx(right["together"] - right["generalist"])
    change = 100 * (right["together"] / right["generalist"] - 1)
    assert own["together"]["relative change, %"] == pytest.approx(change)
    generalist, gate = 784 * 8 + 8 + 8 * 10 + 10, 784 * 3 + 3
    assert own["mixture"]["parameters, times the generalist's"] == pytest.approx((3 * generalist + gate) / generalist)
    flops = 3 + 784 * 3 / (784 * 8 + 8 * 10)
    assert own["mixture"]["compute, times the generalist's"] == pytest.approx(flops, rel=1e-3)
    assert own["longer"]["parameters, times the generalist's"] == 1
    times = own["longer"]["compute, times the generalist's"]
    assert 2 < times == round(2 * times) / 2  # whole epochs of the generalist's two


def test_answers_are_counted_by_how_many_sets_hold_the_true_class():
    torch.manual_seed(0)
    generalist, groups = nn.Linear(3, 6), [[0, 1, 2], [1, 2, 3], [2, 3], [2, 4]]
    together = GeneralistWithSpecialists(generalist, [specialise(generalist, group) for group in groups])
    labels = torch.arange(6).repeat(20)
    answers = {role: torch.randn(120, 6) + 2 * torch.eye(6)[labels] for role in ("teacher", "together")}
    view = SimpleNamespace(
        model=lambda role: {"together": together}[role],
        samples=lambda: SimpleNamespace(labels=labels),
        logits=lambda role: answers[role],
    )
    found = covered(view)
    for count, classes in {"0": [5], "1": [0, 4], "2": [1, 3], "3": [2]}.items():
        right = {
            role: sum(int(row.argmax()) == label in classes for row, label in zip(given, labels.tolist(), strict=True))
            for role, given in answers.items()
        }
        assert found[count]["examples"] == 20 * len(classes)
        assert found[count]["change"] == right["together"] - right["teacher"]
        assert found[count]["relative_change"] == pytest.approx(100 * (right["together"] / right["teacher"] - 1))
    assert len({each["change"] for each in found.values()}) > 1
