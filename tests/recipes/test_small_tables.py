"""The tables on MNIST and Fashion-MNIST, every row of them at a size that says nothing."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from limbeck import data
from limbeck.batch import Batch
from limbeck.data import Splits, TensorSet
from limbeck.errors import NonFiniteLossError, RunError
from limbeck.outputs import Outputs
from limbeck.recipes import (
    reproducing,
    tang2020_cifar100,
)
from limbeck.recipes.parts import crossed, fewest_errors, image_sets
from limbeck.recipes.reproduction import Lab
from limbeck.targets import class_cosines
from limbeck.teachers import StoredTeacher
from limbeck.training.progress import ignore


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _small_sets(monkeypatch):
    """The published sets, replaced by random pictures whose class is where the bright stripe is."""

    def splits(seed, folder=None):
        return Splits(drawn(400, seed), drawn(100, seed + 10), "stripes")

    def colours(folder=None):
        parts = (
            replace(drawn(count, 2, channels=3), groups=GROUPS, group_names=tuple("abcde")) for count in (400, 100)
        )
        return Splits(*parts, "stripes")

    kinds = {"mnist": partial(splits, 0), "fashion_mnist": partial(splits, 1), "cifar100": colours}
    monkeypatch.setattr(data, "kinds", lambda: kinds)


GROUPS = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


def drawn(count, seed, channels=1):
    labels = torch.arange(count) % 10
    pictures = torch.rand((count, channels, 28, 28), generator=torch.Generator().manual_seed(seed))
    pictures[torch.arange(count)[:, None], 0, 2 * labels[:, None] + torch.arange(2)] += 0.5
    return TensorSet.of(pictures, labels, class_names=[f"class {number}" for number in range(10)])


def run(paper, tiny, **how):
    paper = replace(paper, budgets={"reduced": {**paper.budgets["reduced"], **tiny}})
    return paper, reproducing.reproduce(paper, **how)


def check_rows(paper, found):
    """Every row has a number for each of its figures."""
    assert set(found) == {row.name for row in paper.rows}
    for row in paper.rows:
        for figures in found[row.name].values():
            assert set(figures) == {figure.name for figure in row.figures}
            assert all(value == value for value in figures.values())


# --------------------------------------------------------------------------------------------------------------- shared


def test_settings_are_crossed_in_order():
    assert crossed({"rate": [1, 2]}, {"alpha": [3], "beta": [4, 5]}) == [
        {"rate": 1, "alpha": 3, "beta": 4},
        {"rate": 1, "alpha": 3, "beta": 5},
        {"rate": 2, "alpha": 3, "beta": 4},
        {"rate": 2, "alpha": 3, "beta": 5},
    ]


def test_the_parts_of_a_set_do_not_overlap():
    sets = image_sets("mnist", None, train=300, held_out=100)
    assert [len(sets[part]) for part in ("train", "held_out", "test")] == [300, 100, 100]
    assert not set(sets["train"].index.tolist()) & set(sets["held_out"].index.tolist())
    with pytest.raises(RunError, match="found 400 training images, expected 390 and 11 held out"):
        image_sets("mnist", None, train=390, held_out=11)


class Answers(torch.nn.Module):
    """Gives class 0 to the first `right` samples' inputs and class 1 to the others."""

    def __init__(self, right, margin):
        super().__init__()
        self.right, self.margin = right, margin

    def forward(self, inputs):
        wrong = (inputs[:, 0] >= self.right).float()
        return torch.stack([1 - wrong, wrong], 1) * self.margin


def test_the_choice_is_of_the_fewest_errors_then_of_the_smallest_nll():
    held_out = TensorSet.of(torch.arange(8.0)[:, None], torch.zeros(8, dtype=torch.int64), classes=2)

    def fit(settings):
        if settings["right"] is None:
            raise NonFiniteLossError("term soft")
        return Answers(**settings)

    candidates = [
        {"right": None, "margin": 1.0},
        {"right": 4, "margin": 1.0},
        {"right": 6, "margin": 9.0},
        {"right": 6, "margin": 1.0},
    ]
    assert fewest_errors(candidates, fit, held_out) == candidates[3]
    assert fewest_errors(candidates[:3], fit, held_out) == candidates[2]
    with pytest.raises(RunError, match="diverged with all 1 candidates"):
        fewest_errors(candidates[:1], fit, held_out)


SMALL = {"kind": "mlp", "hidden": [16]}

# -------------------------------------------------------------------------------------------------- CIFAR-100, in parts


def parts_of_kd(tmp_path, **changes):
    network = {"kind": "resnet", "depth": 8, "widths": [4, 4, 4, 4]}
    budget = {**tang2020_cifar100.REPRODUCTION.budgets["reduced"], "train": 200, "teacher": network, "student": network}
    budget |= {"teacher_epochs": 1, "epochs": 1, "training": {"learning_rate": 0.1}, **changes}
    return Lab("tang2020-cifar100", tmp_path, budget, tang2020_cifar100._load(None, budget), ignore)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "live"])
def test_every_row_of_tang2020_cifar100(stored):
    network = {"kind": "resnet", "depth": 8, "widths": [4, 4, 4, 4]}
    tiny = {"train": 100, "groups": 4, "teacher": network, "student": network, "teacher_epochs": 1, "epochs": 1}
    tiny |= {"training": {"learning_rate": 0.1}, "stored": stored}
    paper, found = run(tang2020_cifar100.REPRODUCTION, tiny, seeds=[1])
    check_rows(paper, found)
    above = found["kd"][1]["accuracy, %"] - found["hard"][1]["accuracy, %"]
    assert found["kd"][1]["above hard labels"] == pytest.approx(above)


@pytest.mark.parametrize("shared", [True, False])
def test_seeds_share_a_teacher_or_have_their_own(shared, tmp_path):
    lab = parts_of_kd(tmp_path, one_teacher=shared)
    first, second = (tang2020_cifar100._teacher(lab, seed).fingerprint() for seed in (0, 1))
    assert (first == second) == shared


def test_the_first_groups_are_a_set_of_their_own(tmp_path):
    sets = parts_of_kd(tmp_path, groups=2).sets
    assert sets["train"].classes == 4
    assert sets["train"].groups == (0, 0, 1, 1)
    assert sorted(set(sets["train"].labels.tolist())) == [0, 1, 2, 3]
    assert len(sets["train"]) == 80
    assert parts_of_kd(tmp_path, groups=5).sets["train"].classes == 10


def test_targets_are_as_sure_of_the_true_class_as_the_teacher(tmp_path, monkeypatch):
    lab = parts_of_kd(tmp_path, groups=5)
    samples, draws = lab.sets["train"], torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 10, generator=draws) + 9 * torch.eye(10)[samples.labels]
    vectors = torch.randn(10, 6, generator=draws)
    answers = StoredTeacher(logits, samples.index, source=samples.source, class_vectors=vectors)
    monkeypatch.setattr(tang2020_cifar100, "_answers", lambda lab, seed: answers)
    batch = Batch(index=samples.index, view=torch.zeros_like(samples.index), inputs=None, labels=samples.labels)
    outputs = Outputs(answers.logits, class_cosines=class_cosines(answers.class_vectors()))
    own = (answers.logits / 4).softmax(-1).gather(1, samples.labels[:, None]).mean()
    for name, target in tang2020_cifar100._targets(lab, 0).items():
        if name in ("rel", "pt-rel"):
            target = target.settled(samples.legend)
        log_probs = target(outputs, batch, 4.0).log_probs
        found = log_probs.exp().gather(1, samples.labels[:, None]).mean()
        if name != "topk":
            assert found == pytest.approx(float(own), abs=1e-4), name


def test_masses_are_of_the_class_its_siblings_and_the_rest():
    rows = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.0, 0.1, 0.6, 0.3]], dtype=torch.float64)
    masses = tang2020_cifar100._masses(rows, torch.tensor([0, 2]), torch.tensor([0, 0, 1, 1]))
    assert masses == pytest.approx((0.55, 0.25, 0.2))
