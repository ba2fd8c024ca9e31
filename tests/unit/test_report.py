"""The report without a browser: what it shows, what it leaves out, what it refuses, and that it runs nothing."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limbeck.config import Recipe
from limbeck.errors import InputError, RunError
from limbeck.evaluation import predict
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.report import build, charts, figures, panels, pictures, svg
from limbeck.report.gather import gather
from limbeck.runs import RunFolder
from sealed import resealed
from walk import over

HOSTILE = '<script>alert("1")</script>'
IMAGE = "'\"><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def finished(root: Path, name: str, data: dict, **more: object) -> Path:
    keys = {
        "name": name,
        "data": data,
        "teacher": {"model": {"kind": "mlp", "hidden": [16]}, "training": {"epochs": 2}},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "training": {"epochs": 2},
        **more,
    }
    recipe = Recipe.parse(keys, root)
    folder = RunFolder.create(root / "runs", name, recipe.to_yaml(), ["limbeck", "distill", HOSTILE])
    keep_outcome(folder, distill(recipe, folder, cache=root / "cache"))
    return folder.path


def archive(path: Path, shape: tuple[int, ...], names: list[str], kind: str = "uint8") -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    inputs = generator.integers(0, 256, size=(120, *shape)).astype(kind)
    labels = np.arange(120) % len(names)
    np.savez(path, inputs=inputs, labels=labels, class_names=np.array(names))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def hostile(root):
    """Return a run with its report, whose class names, summary and command are HTML; its inputs are colour images."""
    archive(root / "hostile.npz", (3, 12, 10), [HOSTILE, IMAGE, "{{ 7 * 7 }}", "</style></script>"])
    data = {"kind": "npz", "path": "hostile.npz"}
    folder = finished(root, "hostile", data, summary=f"{HOSTILE} {IMAGE} {{{{ 7 * 7 }}}}", seeds=[0, 1])
    build([folder])
    return folder


@pytest.fixture(scope="module")
def rows(root):
    """Return a run of one seed on inputs that are no pictures, with more classes than a matrix can show."""
    archive(root / "rows.npz", (5,), [f"class {i}" for i in range(30)], "float32")
    return finished(root, "rows", {"kind": "npz", "path": "rows.npz"}, method={"name": "hard"})


@pytest.fixture(scope="module")
def page(hostile):
    return Page((hostile / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def copy(rows, tmp_path):
    return Path(shutil.copytree(rows, tmp_path / "run"))


# ------------------------------------------------------------------------------------------------------------- escaping


def test_what_a_run_names_is_text(page):
    assert len(page.of("script")) == 1
    assert [image for image in page.of("img") if not image["src"].startswith("data:image/png;base64,")] == []
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in page.text
    assert "{{ 7 * 7 }}" in page.text
    named = [attributes.get("aria-label") or "" for attributes in page.of("svg")]
    assert any(HOSTILE in name or IMAGE in name for name in named)


def test_the_script_and_style_are_the_packaged_ones(hostile):
    text = (hostile / "report.html").read_text(encoding="utf-8")
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert "alert" not in script
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style


def test_the_figures_as_files_hold_names_as_text(hostile):
    found = sorted((hostile / "figures").glob("*.svg"))
    assert {"errors.svg", "terms.svg", "classes.svg", "confusion-distilled.svg"} <= {path.name for path in found}
    for path in found:
        tree = ElementTree.parse(path)
        assert not [node for node in tree.iter() if node.tag.endswith(("script", "image"))]
        assert not list(path.parent.glob("*.png"))
        assert "var(" not in path.read_text(encoding="utf-8")  # colours that every reader knows
    text = "".join((hostile / "figures" / "classes.svg").read_text(encoding="utf-8"))
    assert "&lt;script&gt;" in text


# ------------------------------------------------------------------------------------------------------- self-contained


@pytest.mark.thorough
def test_the_page_is_small_and_needs_no_network(hostile, rows, root):
    for runs, out in (([hostile], root / "one.html"), ([hostile, rows], root / "two.html")):
        text = build(runs, out, files=False).read_text(encoding="utf-8")
        assert len(text.encode()) < 3_000_000
        for tag, attributes in Page(text).tags:
            for name in ("src", "href", "action", "data", "poster", "srcset", "style"):
                value = attributes.get(name) or ""
                assert not re.match(r"\s*(\w+:)?//", value), (tag, name, value)
            assert tag not in ("iframe", "object", "embed", "base", "form")


# ------------------------------------------------------------------------------------------------------ what it answers


def test_the_questions_stand_in_order(page):
    questions = (
        "Did it work?",
        "How did it train?",
        "What did the teacher give?",
        "Where does the student differ?",
        "Can it be trusted?",
        "What exactly ran?",
    )
    places = [page.text.rindex(question) for question in questions]
    assert places == sorted(places)


def test_the_page_tells_the_run(page, hostile):
    outcome = json.loads((hostile / "outcome.json").read_text())
    manifest = json.loads((hostile / "manifest.json").read_text())
    assert f"{outcome['parameters']['teacher']:,}" in page.text
    assert manifest["environment"]["packages"]["torch"] in page.text
    assert manifest["data"]["source"] in page.text
    assert f"limbeck distill {hostile}/recipe.yaml" in page.text
    assert (hostile / "recipe.yaml").read_text(encoding="utf-8") in page.text
    assert [read["for"][:6] for read in manifest["test_reads"]][:2] == ["final ", "report"]
    for read in manifest["test_reads"][:2]:
        assert f"{read['at']}: {read['for']}" in page.text


@pytest.mark.thorough
def test_repeated_readings_of_the_test_set_are_counted(copy):
    before = len(json.loads((copy / "manifest.json").read_text())["test_reads"])
    for _ in range(2):
        text = Page(build([copy], files=False).read_text(encoding="utf-8")).text
    assert len(json.loads((copy / "manifest.json").read_text())["test_reads"]) == before + 2
    assert "calibration (2 times, last " in text or f"({before + 1} times, last " in text


def test_the_embedded_logits_are_the_teachers(hostile):
    gathered = gather(hostile)
    found = pictures.taught(gathered, 4.0)
    assert len(found["examples"]) == 8
    assert sum(each["unsure"] for each in found["examples"]) == 4
    everything = predict(gathered.run.teacher(0), gathered.run.parts.train)
    known = {tuple(round(float(value), 5) for value in row) for row in everything}
    for each in found["examples"]:
        ordered = [value for _, value in sorted(zip(each["ids"], each["logits"], strict=True))]
        assert tuple(ordered) in known
        assert sum(each["probabilities"]) + each["others"] == pytest.approx(1)
        expected = torch.tensor(each["logits"]).double().div(4.0).softmax(0)
        assert each["probabilities"] == pytest.approx(expected.tolist())
    entropy = [each["entropy"] for example in pictures.taught(gathered, 1.0)["examples"]]
    assert min(entropy[:4]) >= max(entropy[4:])


def test_confusions_add_up_to_the_errors(hostile):
    gathered = gather(hostile)
    for chart, role in zip(panels.confusions(gathered), ("alone", "distilled"), strict=True):
        errors = sum(n for i, row in enumerate(chart.counts) for j, n in enumerate(row) if i != j)
        assert errors == sum(seed.metrics[role].errors for seed in gathered.run.outcome.seeds)


def test_the_largest_disagreements_come_first(hostile):
    found = pictures.disagreements(gather(hostile))
    assert len(found) == 12
    assert [each.divergence for each in found] == sorted((each.divergence for each in found), reverse=True)
    assert {who for who, _, _ in found[0].said} == {"Teacher", "Alone", "Distilled"}


# ----------------------------------------------------------------------------------------------------- what is left out


def test_inputs_that_are_no_pictures_are_left_out(rows, tmp_path):
    page = Page(build([rows], tmp_path / "page.html", files=False).read_text(encoding="utf-8"))
    assert page.of("img") == []
    assert page.of("input") == []
    assert "Where does the student differ?" in page.text
    assert "Reliability" in page.text
    assert "one seed says nothing of other seeds" in page.text
    assert "Confusion matrix" not in page.text


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("missing", "gone", "kept"),
    [
        ("teacher-0.safetensors", "Reliability, teacher", "Reliability, student distilled"),
        ("distilled-0/student.safetensors", "Reliability, student distilled", "Reliability, teacher"),
        ("distilled-0/metrics.jsonl", "term by term", "Errors on held-out training data"),
        ("manifest.json", "Versions", "Can it be trusted?"),
    ],
)
def test_a_missing_piece_is_left_out_and_named(copy, missing, gone, kept):
    (copy / missing).unlink()
    page = Page(build([copy], files=False).read_text(encoding="utf-8"))
    assert gone not in page.text
    assert kept in page.text
    assert "Left out" in page.text


@pytest.mark.thorough
def test_a_further_role_of_the_outcome_is_shown_where_it_belongs(copy):
    def longer(outcome):
        for seed in outcome["seeds"]:
            seed["alone_longer"] = dict(seed["alone"], errors=7)
        outcome["roles"]["alone_longer"] = dict(outcome["roles"]["alone"], label="student alone longer")

    shutil.copytree(copy / "alone-0", copy / "alone_longer-0")
    resealed(copy / "outcome.json", longer)
    gathered = gather(copy)
    assert [model.role for model in gathered.models] == ["teacher", "alone", "alone_longer", "distilled"]
    text = build([copy], files=False).read_text(encoding="utf-8")
    assert "Student alone longer" in Page(text).text


# ------------------------------------------------------------------------------------------------------ what it refuses


def test_a_folder_that_is_no_run_is_one_line(tmp_path, copy):
    with pytest.raises(RunError, match=r"is not a run folder \(it has no recipe.yaml\)"):
        build([tmp_path])
    (copy / "outcome.json").unlink()
    with pytest.raises(RunError, match=r"is not finished \(it has no outcome.json\); resume it with: limbeck distill"):
        build([copy])
    with pytest.raises(InputError, match="found no run folder"):
        build([])


@pytest.mark.thorough
def test_only_a_report_is_overwritten(copy, tmp_path):
    mine = tmp_path / "thesis.html"
    mine.write_text("<html>mine</html>")
    with pytest.raises(RunError, match="exists and is not a report of limbeck"):
        build([copy], mine)
    assert mine.read_text() == "<html>mine</html>"
    first = build([copy], files=False).read_text(encoding="utf-8")
    assert build([copy], files=False).read_text(encoding="utf-8") != first  # the reading of the test set is in it
    assert not list(copy.glob(".report*"))


@pytest.mark.thorough
def test_a_folder_that_cannot_be_written_is_one_line(copy, tmp_path):
    (copy / "figures").write_text("in the way")
    with pytest.raises(RunError, match=r"report: cannot write '.*figures' .*leave the figures out with --no-figures"):
        build([copy])


@pytest.mark.parametrize("out", ["nowhere/page.html", "."])
def test_a_place_that_cannot_hold_the_page_is_named_before_anything_is_computed(copy, tmp_path, out):
    reads = (copy / "manifest.json").read_text()
    with pytest.raises(RunError, match="name a file in a folder that exists with --out"):
        build([copy], tmp_path / out)
    assert (copy / "manifest.json").read_text() == reads


# --------------------------------------------------------------------------------------------------------------- charts


def test_bars_and_lines_stand_where_their_numbers_say():
    axis = charts.Axis("x", 0.0, 10.0)
    line = charts.Line("a", "ink", [(0.0, 0.0), (10.0, 10.0)])
    plane = charts.Plane("k", "t", "alternative", axis, axis, [line], [charts.Bar(0.0, 5.0, 10.0, "note")])
    tree = ElementTree.fromstring(svg.draw(plane))
    [bar] = [node for node in tree.iter("rect") if "bar" in node.get("class", "")]
    [curve] = tree.iter("polyline")
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in curve.get("points").split())
    assert (x0, x1) == pytest.approx((float(bar.get("x")), float(bar.get("x")) + 2 * (float(bar.get("width")) + 1.5)))
    assert (y0 - y1, y1) == pytest.approx((float(bar.get("height")), float(bar.get("y"))))


@over("values", [[], [1.0], [0.0, 0.0], [-3.0, 5.0], [1e-9, 1e9], [float("nan"), 2.0], [float("inf"), 1.0]])
@over("log", [False, True])
def test_an_axis_holds_any_values(values, log):
    axis = charts.spanning("v", values, log=log)
    assert axis.high > axis.low
    assert 2 <= len(axis.ticks()) <= 8
    assert all(0.0 <= axis.place(value) <= 1.0 for value in values if not math.isnan(value))


SIZES = st.floats(-12, 12).map(lambda power: 10**power)


@pytest.mark.thorough
@settings(max_examples=300)
@given(
    low=st.one_of(st.just(0.0), SIZES, SIZES.map(lambda value: -value)),
    length=st.one_of(st.just(0.0), SIZES, st.floats(1e-9, 1.0)),
    log=st.booleans(),
    share=st.booleans(),
    whole=st.booleans(),
)
@example(low=1.1, length=0.8, log=True, share=False, whole=False)  # between 1 and 2 there was no tick
@example(low=1e9, length=1e-9, log=False, share=False, whole=False)
@example(low=1e-12, length=1e-13, log=False, share=False, whole=False)
@example(low=3.0, length=0.0, log=False, share=False, whole=True)
@example(low=1e30, length=0.0, log=False, share=False, whole=True)
@example(low=0.99991, length=0.00002, log=True, share=True, whole=False)
def test_every_axis_has_two_ticks_at_least_within_it_and_no_two_of_one_text(low, length, log, share, whole):
    low = max(low, 1e-12) if log else low
    axis = charts.Axis("a", low, low * (1 + length) if log else low + length, log=log, share=share, whole=whole)
    if length == 0.0:
        assert 0.1 < axis.place(low) < 0.9
    for most in (5, 6, 7):
        found = axis.ticks(most)
        values, texts = zip(*found, strict=True)
        room = 1e-9 * (axis.high - axis.low) + 1e-15 * abs(axis.high)
        assert 2 <= len(found) <= most + 1
        assert axis.low - room <= values[0]
        assert values[-1] <= axis.high + room
        assert list(values) == sorted(set(values))
        assert len(set(texts)) == len(texts)
    drawn = svg.draw(charts.Plane("plane", "", "", axis, charts.Axis("b", 0.0, 1.0)))
    below = [each for each in ElementTree.fromstring(drawn).iter("text") if each.get("y") == "216.0"]
    assert len(below) >= 2


@pytest.mark.miniature(2)
@pytest.mark.parametrize("name", ["x" * 5000, "猫" * 300, "\U0001d518" * 40])
def test_long_and_foreign_names_are_cut_in_charts_and_whole_in_a_tooltip(name):
    names = [f"{name}{i}" for i in range(20)]
    one = charts.DotRange("Student alone", "alone", 0.5, 0.4, 0.6)
    every = [
        charts.DotPlot("rows", "t", "a", charts.Axis("a", 0.0, 1.0), [(each, (one,)) for each in names]),
        charts.Matrix("matrix", "t", "a", names, [[1] * 20 for _ in names], "alone"),
        charts.Heat("heat", "t", "a", names, [[0.1 * i * j for i in range(20)] for j in range(20)]),
    ]
    for chart in every:
        drawn = svg.draw(chart)
        tree = ElementTree.fromstring(drawn)
        shown = [node for node in tree.iter("text") if node.find("title") is not None]
        assert {node.find("title").text for node in shown} == set(names)
        assert all(charts.breadth(node.find("title").tail) <= 27 for node in shown)
        assert all(node.find("title").tail.endswith("…") for node in shown)
        assert len(drawn) < 200_000 + 3 * sum(map(len, names))


def test_every_chart_can_be_drawn_with_hostile_names(tmp_path):
    names = [HOSTILE, "$x_1^{", "ü" * 60]
    one = charts.DotRange(HOSTILE, "alone", 0.5, 0.4, 0.6)
    axis = charts.Axis(HOSTILE, 0.0, 1.0)
    every = [
        charts.DotPlot("rows", HOSTILE, HOSTILE, axis, [(name, (one, one)) for name in names]),
        charts.Matrix("matrix", HOSTILE, HOSTILE, names, [[3, 1, 0], [0, 4, 0], [2, 0, 0]], "alone"),
        charts.Plane("plane", HOSTILE, HOSTILE, axis, axis, dots=[charts.Dot(0.5, 0.5, "alone", HOSTILE, IMAGE)]),
    ]
    for chart in every:
        tree = ElementTree.fromstring(svg.draw(chart))
        assert not list(tree.iter("script"))
        assert tree.get("aria-label") == HOSTILE
    assert len(figures.save(every, tmp_path)) == 3


@over(("shape", "mode"), [((1, 8, 8), "L"), ((3, 9, 5), "RGB"), ((28, 28), "L"), ((3, 200, 100), "RGB")])
@over("dtype", [torch.uint8, torch.float32])
def test_pictures_keep_their_pixels(shape, mode, dtype):
    import base64
    import io

    from PIL import Image

    sample = torch.randint(0, 256, shape, dtype=torch.uint8)
    given = sample if dtype == torch.uint8 else sample.float() / 255
    image = Image.open(io.BytesIO(base64.b64decode(pictures.picture(given).partition(",")[2])))
    assert image.mode == mode
    assert max(image.size) <= 64
    if max(shape) <= 64:
        expected = sample.permute(1, 2, 0).squeeze(-1) if len(shape) == 3 else sample
        assert list(image.tobytes()) == expected.flatten().tolist()


# What axe cannot see, since it knows no background of SVG text: every colour of the page has enough contrast.


def luminance(colour: tuple[float, ...]) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_colours_have_enough_contrast(scheme):
    css = (Path(svg.__file__).parent / "page.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme]
    found = re.findall(r"--([a-z]+): #([0-9a-f]{6});", block)
    colours = {name: tuple(int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, value in found}
    assert len(colours) == 15
    paper, panel = colours.pop("paper"), colours.pop("panel")
    for name in ("rule", "grid"):
        del colours[name]
    for name, colour in colours.items():
        assert contrast(colour, paper) >= 4.5, name
        assert contrast(colour, panel) >= 4.5, name
    for name in ("alone", "distilled", "other"):
        tint = tuple(svg._DEEPEST * a + (1 - svg._DEEPEST) * b for a, b in zip(colours[name], paper, strict=True))
        assert contrast(colours["ink"], tint) >= 4.5, name
