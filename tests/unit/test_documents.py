"""The figures of the documents are those of the recorded results."""

import importlib.util
import json
import re
from pathlib import Path
from statistics import fmean

from limbeck.evaluation import t_interval
from walk import over

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
refresh = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(refresh)


@over("page", refresh.PAGES, ids=lambda page: page.name)
def test_every_marked_table_is_that_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert refresh.refreshed(text) == text, "run python docs/refresh.py"


def test_every_result_of_a_benchmark_stands_in_a_document():
    text = "".join(page.read_text(encoding="utf-8") for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
    named = {path.stem for path in refresh.RESULTS.glob("*.json")}
    assert {name for name in named if name not in text} == set()


def test_the_page_for_contributors_names_the_folders_of_tests_that_there_are():
    there = {f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if any(path.glob("*.py"))}
    listed = re.findall(
        r"^\| `(tests/\w+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert sorted(listed) == sorted(there)


def by_seed(paper: str, row: str, figure: str, budget: str) -> list[float]:
    found = json.loads((ROOT / f"src/limbeck/papers/{paper}/expected.json").read_text(encoding="utf-8"))
    return [seed[figure] for seed in found["rows"][row][budget]["seeds"].values()]


def accuracy(role: str, condition: str) -> float:
    return 100 * fmean(fmean(run[role]) for run in refresh.results("hard_conditions")["runs"][condition])


def muller(row: str) -> float:
    return fmean(by_seed("muller2019", f"fashion-mnist-{row}", "error, %", "reduced"))


def test_the_figures_of_the_prose():
    schemes, reproductions = (" ".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8").split()) for name in
                              ("schemes", "reproductions"))  # fmt: skip
    better = accuracy("teacher", "noisy student") - accuracy("alone", "noisy student")
    assert f"it is {better:.1f} points better; that alone does not help" in schemes
    arms = refresh.results("codistillation")["arms"]
    lowest = {name: t_interval([seed["lowest"] for seed in arm["seeds"]]).mean for name, arm in arms.items()}
    assert f"batch of 256: {lowest['same, m = 1']:.4f} and {lowest['large']:.4f}" in schemes
    assert f"{lowest['shards, m = 1']:.4f} against {lowest['apart']:.4f}" in schemes
    taught, smoothed, alone = (muller(row) for row in ("taught", "smoothed-taught", "alone"))
    assert f"({taught:.2f} and {smoothed:.2f} % against {alone:.2f} %)" in reproductions
    moved = t_interval(
        by_seed("muller2019", "fashion-mnist-smoothed-taught", "above the plain teacher's student", "reduced")
    )
    assert f"by {-moved.mean:.2f} points ({-moved.high:.2f} to {-moved.low:.2f})" in reproductions


def test_the_falls_at_a_high_rate():
    text = " ".join((ROOT / "docs/reproductions.md").read_text(encoding="utf-8").split())
    for budget in ("reduced", "full"):
        for labels in ("hard", "soft"):
            rows = (f"small-{labels}", f"small-{labels}-rate-1")
            before, after = (by_seed("hinton2015_mnist", row, "test accuracy, %", budget)[0] for row in rows)
            assert f"{before:.2f} to {after:.2f} %" in text
