"""The diagnosis on the report's page: what it shows, that names are text, and what is damaged is left out."""

import json
from dataclasses import asdict
from xml.etree import ElementTree

import pytest
import torch

from limbeck.diagnosis.thresholds import THRESHOLDS
from limbeck.errors import RunError
from limbeck.records import sealed
from limbeck.report import build_diagnosed, svg
from limbeck.report.charts import Heat
from limbeck.report.diagnosis import diagnosis_section
from limbeck.results.diagnoses import newest
from limbeck.results.measurements import bound

HOSTILE = "<script>alert(1)</script>"


def sure(**changed):
    return {
        "examples": 40,
        "accuracy": 0.9,
        "nll": 0.3,
        "true_class": [0.1, 0.5, 0.9, 0.95, 0.99],
        "mean": 0.8,
        "skewness": -1.0,
        "histogram": [0.0] * 18 + [0.25, 0.75],
        "overconfidence": 0.02,
        "ece": 0.03,
        "temperature": None,
        "entropies": [[1.0, 0.2], [4.0, 1.1]],
        **changed,
    }


def content(**changed):
    near = {"examples": 40, "agreement": 0.9, "kl": 0.1, "teacher_wrong": 4, "agreement_where_wrong": None}
    matrix = [[1.0, 0.4, -0.2], [0.4, 1.0, None], [-0.2, None, 1.0]]
    effect = {
        "name": "smoothing",
        "over_seeds": {"mean": 0.01, "half_width": 0.002, "n": 3},
        "over_examples": {"value": 0.01, "low": 0.005, "high": 0.02},
        "detectable": 0.003,
        "found": True,
        "verdict": "as it is in the file",
    }
    beside = {"margin": 4.0, "spread": 1.0, "evenness": None, "tightness": 0.1, "epsilon": 0.1}
    signs = dict.fromkeys(("accuracy", "train_accuracy", "overconfidence", "epsilon", "correlation_spread"), 0.5)
    signs |= {"evenness": None, "tightness": 0.1, "student_accuracy": 0.8, "classes": 3, "limit": "capacity"}
    unknown = dict.fromkeys(("temperature", "reliability", "class_share", "seconded", "seconded_classes"))
    fit = {"epochs": 3, "parameters": 10, "train": near, "held_out": near, "accuracy": 0.9}
    return {
        "format": 1,
        "name": "tiny",
        "class_names": [HOSTILE, "b & c", "d"],
        "settings": {"held_out": 40, "search": False, "about": []},
        "findings": [{"cause": "smoothed_teacher", "said": "It was smoothed.", "evidence": "its margin says so"}],
        "advice": [
            {"question": "target", "value": "pt", "said": "Teach pt.", "evidence": HOSTILE, "confidence": "measured"}
        ],
        "attribution": {
            "examples": 40,
            "seeds": 3,
            "accuracies": {name: {"mean": 0.9, "half_width": 0.01, "n": 3} for name in ("hard", "ls", "kd")},
            "effects": [effect],
            "left_out": {"sim": "no linear layer"},
        },
        "capacity": {
            "limit": "capacity",
            "reason": "it cannot follow",
            "fits": [{"name": name, **fit} for name in ("student", "longer", "larger")],
        },
        "rescaling": [
            {
                "when": when,
                "quantiles": [-1.0, 0.5, None],
                "reversed": 0.1,
                "pearson": None,
                "spearman": 0.7,
                "curve": [[0.2, -300.0, 5], [0.9, 0.8, 5], [1.0, None, 5]],
            }
            for when in ("early", "late")
        ],
        "matching": {"confidence": 0.8, "epsilon": 0.3, "tau": None},
        "chosen": {},
        "signs": {**signs, **unknown},
        "tail": {"1": 0.5},
        "thresholds": asdict(THRESHOLDS),
        "reused": 0,
        "nearness": {"kd": {"mean": 0.4, "half_width": None, "n": 1}},
        "teacher": {
            "train": sure(),
            "held_out": sure(),
            "beside_the_label": {**beside, "reliability": None, "class_share": None},
            "correlation_low": matrix,
            "correlation_high": matrix,
            "cosines": None,
            "spread_of_cosines": None,
            "given_blocks": {"groups": [0, 0, 1], "within": 0.4, "between": 0.0, "score": 2.0, "p_value": 0.01},
            "found_blocks": None,
            "stability_of_blocks": None,
            "order": [2, 0, 1],
        },
        "trainings": 10,
        "seconds": 1.0,
        **changed,
    }


@pytest.fixture
def folder(tmp_path):
    def made(**changed):
        (tmp_path / "diagnosis.json").write_text(json.dumps(sealed(bound(content(**changed), tmp_path))))
        return tmp_path

    return made


def charts(section):
    return {chart.key: chart for chart, _ in section.charts}


def test_everything_that_was_found_is_shown(folder):
    found = diagnosis_section(folder())
    assert found.findings == [("It was smoothed.", "its margin says so")]
    assert found.verdicts == ["smoothing: +1.00 points [+0.50, +2.00], it helps", "sim is left out: no linear layer"]
    drawn = charts(found)
    assert set(drawn) == {
        "effects",
        "targets",
        "rescaling",
        "teacher-confidence",
        "correlation-low",
        "correlation-high",
        "capacity",
    }
    [(name, (value,))] = drawn["effects"].rows
    assert (name, value.value, value.low, value.high) == ("smoothing", 1.0, pytest.approx(0.8), pytest.approx(1.2))
    assert drawn["correlation-low"].names == ["d", HOSTILE, "b & c"]
    assert drawn["correlation-low"].values[0] == [1.0, -0.2, None]
    assert "most alike <script>" in drawn["correlation-low"].alternative
    assert drawn["rescaling"].lines[0].points == [(0.2, -2.0), (0.9, 0.8)]
    assert drawn["rescaling"].x.low == pytest.approx(0.2 - 0.08)
    assert dict(found.facts)["Students' wrong classes in the teacher's order (rank correlation)"] == "+0.400  KD"
    assert dict(found.facts)["Blocks of the known hierarchy"].startswith("2 groups, correlation +0.400 within")


def test_it_is_told_how_settings_were_chosen_what_was_reused_and_who_was_diagnosed(folder):
    chosen = {
        "hard": {"learning_rate": 0.1, "temperature": None},
        "kd": {"learning_rate": 0.0333333, "temperature": 8.0},
    }
    settings = {"held_out": 40, "search": True, "about": [f"Not the student of {HOSTILE}."]}
    where = folder(settings=settings, chosen=chosen, reused=2)
    found = diagnosis_section(where)
    notes = {chart.key: note for chart, note in found.charts}
    assert "5 settings each" in notes["targets"]
    assert "hard labels rate 0.1; KD rate 0.0333, T 8." in notes["targets"]
    assert ", of which 2 are the run's own; the test set was not read" in found.told
    assert found.about == [f"Not the student of {HOSTILE}."]
    assert "Not the student of &lt;script&gt;" in build_diagnosed(where).read_text(encoding="utf-8")
    unsearched = diagnosis_section(folder())
    assert "5 settings" not in {chart.key: note for chart, note in unsearched.charts}["targets"]


def test_the_weights_of_a_sure_teachers_examples_are_spread_over_the_axis(folder):
    [early, _] = content()["rescaling"]
    for curve, low in (([[0.99, 2.0, 5], [1.0, 4.0, 5]], 0.989), ([[1.0, 2.0, 5], [1.0, 4.0, 5]], 0.0)):
        drawn = charts(diagnosis_section(folder(rescaling=[{**early, "curve": curve}])))
        assert (drawn["rescaling"].x.low, drawn["rescaling"].x.high) == (pytest.approx(low), 1.0)


def test_a_quick_diagnosis_has_no_effects(folder):
    found = diagnosis_section(folder(attribution=None))
    assert not {"effects", "targets"} & set(charts(found))
    assert found.verdicts == []


def test_the_page_of_a_diagnosis_alone(folder):
    path = build_diagnosed(folder())
    text = path.read_text(encoding="utf-8")
    assert path.name == "diagnosis.html"
    assert text.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert(1)" in text
    assert {each.stem for each in (path.parent / "figures").glob("*.svg")} == {
        chart.key for chart, _ in diagnosis_section(path.parent).charts
    }
    build_diagnosed(path.parent)
    path.write_text("mine")
    with pytest.raises(RunError, match="is not a report of limbeck"):
        build_diagnosed(path.parent)


def test_a_folder_without_one_has_none(tmp_path):
    assert diagnosis_section(tmp_path) is None
    with pytest.raises(RunError, match="has no diagnosis"):
        build_diagnosed(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"advice": [{"question": "target"}]},
        {"capacity": {"limit": "x", "reason": "", "fits": []}},
        {"teacher": {**content()["teacher"], "held_out": sure(histogram="many")}},
        {"findings": ["text"]},
        {"format": 2},
    ],
)
def test_what_is_damaged_is_named(folder, change):
    with pytest.raises(RunError, match=r"diagnosis.json.*delete it and run limbeck diagnose"):
        newest(folder(**change))


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 1], [0, 1, 7]])
def test_an_order_that_is_none_leaves_the_heatmaps_out(folder, order):
    found = diagnosis_section(folder(teacher={**content()["teacher"], "order": order}))
    assert "correlation-low" not in charts(found)


def test_a_report_tells_what_it_leaves_out(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from limbeck.report import page

    (tmp_path / "diagnosis.json").write_text("{")
    gathered = SimpleNamespace(run=SimpleNamespace(folder=tmp_path), notes=[])
    assert page._diagnosis(gathered) is None
    assert "The diagnosis is left out" in gathered.notes[0]


# ------------------------------------------------------------------------------------------------------------ heatmaps


def test_a_heatmap_is_one_path_a_shade(tmp_path):
    size = 100
    values = [[((i * j) % 21 - 10) / 10 for j in range(size)] for i in range(size)]
    heat = Heat("key", "title", "alternative <text>", [str(i) for i in range(size)], values)
    drawn, middle = svg.draw(heat), heat.scale[1]
    tree = ElementTree.fromstring(drawn)
    [paths] = [list(node) for node in tree if node.get("class") == "cells"]
    assert 10 <= len(paths) <= 20
    assert len(drawn) < 400_000
    cells = sum(path.get("d").count("M") for path in paths)
    assert cells == sum(value != middle for i, row in enumerate(values) for j, value in enumerate(row) if i != j)
    assert tree.get("aria-label") == "alternative <text>"


def test_a_heatmap_shows_small_differences_beside_one_pair_that_stands_out():
    """At T = 1 all correlations but one are near -1/(K-1), which was one colour."""
    size, generator = 10, torch.Generator().manual_seed(0)
    values = (-0.11 + 0.005 * torch.rand(size, size, generator=generator)).tolist()
    values[3][5] = values[5][3] = 0.9
    symmetric = [[values[min(i, j)][max(i, j)] for j in range(size)] for i in range(size)]
    heat = Heat("key", "t", "a", [str(i) for i in range(size)], symmetric)
    shades = {round(10 * heat.shade(symmetric[i][j])) for i in range(size) for j in range(i)}
    assert {-10, 10} <= shades
    assert len(shades) >= 8
    texts = [node.text for node in ElementTree.fromstring(svg.draw(heat)).iter("text")]
    low, middle, high = heat.scale
    for said in (f"{low:+.3g}", f"median {middle:+.3g}", f"{high:+.3g}"):
        assert said.replace("-", "−") in texts


def test_the_pairs_of_a_heatmap():
    heat = Heat("key", "t", "a", ["a", "b", "c"], [[1.0, 0.5, -0.2], [0.5, 1.0, None], [-0.2, None, 1.0]])
    assert heat.pairs(5) == [("a", "b", 0.5), ("a", "c", -0.2)]
    assert heat.scale == pytest.approx((-0.2, 0.15, 0.5))
    assert Heat("key", "t", "a", ["a", "b"], [[1.0, None], [None, 1.0]]).scale == (0.0, 0.0, 0.0)
