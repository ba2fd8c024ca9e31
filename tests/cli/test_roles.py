"""evaluate and compare on runs with more than the three usual models, and with rare classes."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from limbeck.evaluation import mcnemar, paired_difference, predict, tail_gains
from limbeck.records import plain_values
from limbeck.results.finished import FinishedRun

COUNTS = (80, 60, 14, 6)


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe of four classes, two of them rare, and its data; return its keys."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 6))

    def drawn(counts):
        labels = np.repeat(np.arange(4), counts)
        return (centres[labels] + generator.normal(size=(len(labels), 6))).astype(np.float32), labels

    (inputs, labels), (test_inputs, test_labels) = drawn(COUNTS), drawn([20] * 4)
    arrays = {"inputs": inputs, "labels": labels, "test_inputs": test_inputs, "test_labels": test_labels}
    np.savez(tmp_path / "own.npz", class_names=np.array(["a", "b", "c", "d"]), **arrays)
    return {
        "name": "own",
        "data": {"kind": "npz", "path": "own.npz"},
        "teacher": {"model": {"kind": "mlp", "hidden": [16]}, "training": {"epochs": 6, "learning_rate": 0.1}},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "training": {"epochs": 4, "learning_rate": 0.1},
        "validation": 20,
        "seeds": [0, 1],
    }


@pytest.fixture
def run(recipe, limbeck, tmp_path):
    def distilled(**more):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | more))
        answer = limbeck("distill", "recipe.yaml", "-q", "--json", "--no-report")
        assert answer.code == 0, answer.err
        return json.loads(answer.out)["run"]

    return distilled


def correct(run: FinishedRun, role: str) -> torch.Tensor:
    test = run.parts.test
    return torch.stack([predict(run.student(role, seed), test).argmax(1) == test.labels for seed in run.seeds])


@pytest.mark.thorough
def test_the_student_alone_at_equal_compute_is_judged_beside_the_others(run, limbeck):
    folder = run(alone_budget=True)
    found = json.loads(limbeck("evaluate", folder, "--json", "-q", "--no-cost").out)
    assert list(found["summary"]) == ["teacher", "alone", "alone_budget", "distilled"]
    finished = FinishedRun.read(Path(folder))
    budget, distilled = correct(finished, "alone_budget"), correct(finished, "distilled")
    assert found["equal_compute"]["pooled"] == pytest.approx(asdict(mcnemar(budget, distilled)))
    assert found["equal_compute"]["difference"] == pytest.approx(asdict(paired_difference(budget, distilled)))
    text = " ".join(limbeck("evaluate", folder, "-q", "--no-cost").out.split())
    assert "student alone, equal compute" in text
    fixed, spoilt = (found["equal_compute"]["pooled"][key] for key in ("second_better", "first_better"))
    said = f"distilled student fixes {fixed} errors of the student alone at equal compute and introduces {spoilt}"
    assert said in text


def test_rare_classes_are_named_with_what_they_gained(run, limbeck):
    folder = run()
    found = json.loads(limbeck("evaluate", folder, "--json", "-q", "--no-cost").out)
    assert found["equal_compute"] is None
    finished = FinishedRun.read(Path(folder))
    counts = torch.bincount(finished.parts.alone.labels, minlength=4).tolist()
    expected = tail_gains(
        correct(finished, "alone"), correct(finished, "distilled"), finished.parts.test.labels, counts
    )
    assert found["tail"] == plain_values(expected)
    assert sorted(found["tail"]["rare"]) == [2, 3]
    text = " ".join(limbeck("evaluate", folder, "-q", "--no-cost").out.split())
    assert f"Rare are d ({counts[3]}), c ({counts[2]})." in text
    gain = expected.on_rare.difference
    assert f"training examples: {100 * gain.value:+.1f} points [{100 * gain.low:+.1f}, " in text


@pytest.mark.thorough
def test_a_comparison_has_a_column_for_equal_compute_where_a_run_has_it(run, limbeck, tmp_path):
    plain, budget = run(seeds=[3, 4]), run(alone_budget=True)
    answer = limbeck("compare", plain, budget, "--html", "page.html", "--json")
    told = json.loads(answer.out)
    assert "alone_budget" in told["runs"][1]["summary"]
    assert "alone_budget" not in told["runs"][0]["summary"]
    named = {point["name"].rpartition(": ")[2] for point in told["frontier"]}
    assert named & {"alone", "alone_budget", "distilled"}
    best = max(
        run["summary"][role]["accuracy"]["mean"]
        for run in told["runs"]
        for role in ("alone", "alone_budget", "distilled")
        if role in run["summary"]
    )
    assert any(point["accuracy"] == best for point in told["frontier"] if point["cost"] < 200)
    assert "alone, equal compute" in (tmp_path / "page.html").read_text()
    assert "alone, equal compute" not in limbeck("compare", plain, plain).out
