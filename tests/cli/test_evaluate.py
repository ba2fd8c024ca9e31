"""limbeck evaluate and limbeck compare, on runs of a second that are made once."""

import json
import re
import shutil
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from scipy import stats

from limbeck.batch import UNLABELLED
from limbeck.cli.distill import run as distill
from limbeck.config import Recipe
from limbeck.errors import RunError
from limbeck.evaluation import fidelity, fit_temperature, measure, predict
from limbeck.results.assessment import assess_run
from limbeck.results.comparison import find_runs
from limbeck.results.finished import FinishedRun
from limbeck.results.naming import flattened, names_of_runs
from limbeck.runs import RunFolder
from sealed import resealed

TINY = {
    "name": "tiny",
    "data": {"kind": "digits", "transfer": {"fraction": 0.5}},
    "teacher": {"model": {"kind": "mlp", "hidden": [32]}, "training": {"epochs": 3, "batch_size": 128}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "method": {"name": "kd", "temperature": 4.0},
    "training": {"epochs": 3, "batch_size": 64},
    "validation": 200,
    "seeds": [0, 1],
}
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs: two seeds; one seed, hotter, with a hostile summary; a refit with a teacher for each seed."""
    place = tmp_path_factory.mktemp("made")
    others = {
        "tiny": {},
        "hot": {"name": "hot", "seeds": [0], "method": {"name": "kd", "temperature": 9.0, "alpha": 0.5}},
        "refit": {"name": "refit", "refit": True, "seeds": [3, 4], "teacher": {**TINY["teacher"], "seed": None}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        for keys in others.values():
            recipe = Recipe.parse({**TINY, **keys})
            distill(recipe, RunFolder.create(place / "runs", recipe.name, recipe.to_yaml(), ["limbeck"]), quiet=True)
    return place / "runs"


@pytest.fixture
def runs(made, tmp_path):
    """Copies that a test may write into, as folders by name."""
    shutil.copytree(made, tmp_path / "runs")
    return {path.parent.name: path for path in (tmp_path / "runs").glob("*/*")}


def evaluated(limbeck, run, *options):
    answer = limbeck("evaluate", run, "--json", "-q", *options)
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


# --------------------------------------------------------------------------------------------------------- evaluate


@pytest.mark.thorough
def test_every_figure_is_that_of_the_models_themselves(limbeck, runs):
    found = evaluated(limbeck, runs["tiny"], "--no-cost")
    run = FinishedRun.read(runs["tiny"])
    parts = run.parts
    sets = {"transfer": parts.alone, "validation": parts.held_out, "test": parts.test}
    assert [(model["role"], model["seed"]) for model in found["models"]] == [
        ("teacher", 0), ("alone", 0), ("distilled", 0), ("alone", 1), ("distilled", 1),
    ]  # fmt: skip
    teacher = run.teacher(0)
    for entry in found["models"]:
        role, seed = entry["role"], entry["seed"]
        model = teacher if role == "teacher" else run.student(role, seed)
        for name, samples in sets.items():
            expected = measure(predict(model, samples), samples.labels)
            given = entry["sets"][name]
            assert (given["examples"], given["errors"]) == (expected.examples, expected.errors)
            assert given["nll"] == pytest.approx(expected.nll)
            if role != "teacher":
                near = fidelity(predict(model, samples), predict(teacher, samples), samples.labels)
                assert entry["fidelity"][name] == pytest.approx(asdict(near))
        fitted = fit_temperature(predict(model, parts.held_out), parts.held_out.labels)
        assert entry["temperature"] == pytest.approx(asdict(fitted))
        scaled = measure(predict(model, parts.test).double() / fitted.temperature, parts.test.labels)
        assert entry["scaled"]["nll"] == pytest.approx(scaled.nll)
        wrong = torch.where(predict(model, parts.test).argmax(1) != parts.test.labels)[0]
        assert entry["test_errors"] == wrong.tolist()
    recorded = {role: [seed.metrics[role].errors for seed in run.outcome.seeds] for role in ("alone", "distilled")}
    for role, errors in recorded.items():
        assert found["summary"][role]["errors"]["mean"] == sum(errors) / 2
        half = stats.t.ppf(0.975, 1) * abs(errors[0] - errors[1]) / 2
        assert found["summary"][role]["errors"]["half_width"] == pytest.approx(half)
    assert found["summary"]["teacher"]["errors"]["half_width"] is None
    gains = [two - one for one, two in zip(recorded["alone"], recorded["distilled"], strict=True)]
    assert found["advantage"]["errors"]["mean"] == sum(gains) / 2
    assert found["difference"]["value"] == pytest.approx(-sum(gains) / 2 / len(parts.test))
    for seed, gain in zip((0, 1), gains, strict=True):
        paired = found["paired"][str(seed)]
        assert paired["first_better"] - paired["second_better"] == gain
        changed = paired["first_better"] + paired["second_better"]
        assert paired["p_value"] == pytest.approx(stats.binomtest(paired["first_better"], changed).pvalue)
    assert sum(gain["examples"] for gain in found["classes"]) == len(parts.test)
    assert found["cost"] == {}


def test_the_tables_are_data_and_the_rest_is_told_on_stderr(limbeck, runs):
    answer = limbeck("evaluate", runs["tiny"])
    assert answer.code == 0
    for said in (
        "top-1",
        "top-5",
        "NLL",
        "Brier",
        "ECE at that temperature",
        "agreement with the teacher",
        "KL(teacher",
    ):
        assert said in answer.out
    for said in ("parameters", "bytes on disk", "FLOPs", "latency at batch 256", "peak memory", "1 thread"):
        assert said in answer.out
    assert "On 359 test examples, the distilled student fixes" in answer.out
    assert re.search(r"McNemar's exact test, p [=<] ", answer.out)
    assert "Classes" in answer.out
    assert answer.lines[0] == "evaluating: teacher (seed 0)"
    assert answer.lines[-1] == f"written to {runs['tiny'] / 'evaluation.json'} · next: limbeck report {runs['tiny']}"


@pytest.mark.thorough
def test_cost_is_measured_for_teacher_and_student(limbeck, runs):
    found = evaluated(limbeck, runs["hot"])["cost"]
    student = found["student"]
    assert student["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert student["flops"] == 2 * (64 * 8 + 8 * 10)
    assert student["bytes"] == (runs["hot"] / "distilled-0" / "student.safetensors").stat().st_size
    assert found["teacher"]["bytes"] == (runs["hot"] / "teacher-0.safetensors").stat().st_size
    assert [timing["batch"] for timing in student["timings"]] == [1, 256]
    assert all(0 < timing["lower"] <= timing["seconds"] <= timing["upper"] for timing in student["timings"])
    assert student["memory"]["256"] == 256 * student["memory"]["1"]


@pytest.mark.thorough
def test_nothing_is_overwritten_and_the_same_is_not_written_twice(limbeck, runs):
    run = runs["hot"]
    for options in ([], ["--no-cost"], []):
        evaluated(limbeck, run, *options)
    first = (run / "evaluation.json").read_bytes()
    assert not (run / "evaluation-2.json").exists()
    (run / "evaluation.json").write_text("{}")
    answer = limbeck("evaluate", run, "--no-cost", "-q")
    assert (run / "evaluation.json").read_text() == "{}"
    kept = json.loads((run / "evaluation-2.json").read_text())
    assert {**kept, "cost": None, "sha256": None} == {**json.loads(first), "cost": None, "sha256": None}
    assert answer.lines == [f"written to {run / 'evaluation-2.json'} · next: limbeck report {run}"]
    assert not list(run.glob(".*.tmp"))


def test_each_reading_of_the_test_set_is_on_record(limbeck, runs):
    def reads():
        return json.loads((runs["hot"] / "manifest.json").read_text())["test_reads"]

    before = reads()
    evaluated(limbeck, runs["hot"], "--no-cost")
    assert len(reads()) == len(before) + 1
    assert reads()[-1]["for"].startswith("evaluation")


def test_a_refit_fits_no_temperature_and_each_seed_has_its_teacher(limbeck, runs):
    answer = limbeck("evaluate", runs["refit"], "--no-cost", "-q")
    assert "No temperature is fitted: the refit left no validation part" in answer.out
    found = json.loads((runs["refit"] / "evaluation.json").read_text())
    assert [model["seed"] for model in found["models"] if model["role"] == "teacher"] == [3, 4]
    assert all(model["temperature"] is None and model["scaled"] == {} for model in found["models"])
    assert set(found["models"][0]["sets"]) == {"transfer", "test"}
    assert found["summary"]["teacher"]["errors"]["half_width"] is not None


def test_a_temperature_that_nothing_tells_is_not_used(runs):
    run = FinishedRun.read(runs["hot"])
    right = run.parts.held_out
    with torch.no_grad():
        labels = predict(run.teacher(0), right).argmax(1)  # a validation part where the teacher is always right
    told = type(right)(**{**vars(right), "labels": labels})
    object.__setattr__(run, "parts", type(run.parts)(**{**vars(run.parts), "held_out": told}))
    teacher = assess_run(run, with_cost=False).of("teacher")[0]
    assert teacher.temperature.at_bound
    assert teacher.scaled == {}
    assert "temperature" not in teacher.figures()


def test_unlabelled_test_samples_are_left_out(runs):
    run = FinishedRun.read(runs["hot"])
    test = run.parts.test
    labels = test.labels.clone()
    labels[::2] = UNLABELLED
    hidden = type(test)(**{**vars(test), "labels": labels})
    object.__setattr__(run, "parts", type(run.parts)(**{**vars(run.parts), "test": hidden}))
    found = assess_run(run, with_cost=False)
    kept = test.subset(torch.arange(1, len(test), 2))
    alone = measure(predict(run.student("alone", 0), kept), kept.labels)
    assert found.of("alone")[0].sets["test"].errors == alone.errors
    assert found.test.examples == len(kept) == len(found.of("alone")[0].correct)
    assert found.of("alone")[0].fidelity["test"].examples == len(test)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "outcome.json").unlink(), "is not finished (it has no outcome.json)"),
        (lambda run: (run / "recipe.yaml").unlink(), "is not a run folder (it has no recipe.yaml)"),
        (lambda run: (run / "outcome.json").write_text("{"), "is damaged"),
        (lambda run: (run / "teacher-0.safetensors").unlink(), "there is no file"),
        (
            lambda run: (run / "teacher-0.safetensors").write_bytes(b"x" * 80),
            "teacher-0.safetensors' is damaged or was changed",
        ),
        (lambda run: (run / "manifest.json").write_text("["), "is damaged"),
    ],
    ids=["unfinished", "no-run", "outcome", "no-teacher", "teacher", "manifest"],
)
def test_a_run_that_cannot_be_evaluated_is_one_line(limbeck, runs, spoil, said):
    spoil(runs["hot"])
    answer = limbeck("evaluate", runs["hot"], "-q", "--no-cost")
    assert (answer.code, answer.out, len(answer.lines)) == (2, "", 1)
    assert said in answer.err
    assert not (runs["hot"] / "evaluation.json").exists()


def test_a_device_that_is_not_there_is_one_line(limbeck, runs):
    answer = limbeck("evaluate", runs["hot"], "-q", "--device", "gpu")
    assert (answer.code, answer.out, len(answer.lines)) == (2, "", 1)
    assert answer.lines[0].startswith("limbeck: device: found 'gpu' (")


# ---------------------------------------------------------------------------------------------------------- compare


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.thorough
def test_runs_are_compared_on_the_same_samples(limbeck, runs):
    for name in ("tiny", "hot"):
        evaluated(limbeck, runs[name], "--no-cost")
    answer = limbeck("compare", runs["tiny"], runs["hot"], "--json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert [run["name"] for run in found["runs"]] == ["tiny", "hot"]
    assert found["differing"]["method.temperature"] == [4.0, 9.0]
    assert found["differing"]["seeds"] == [[0, 1], [0]]
    assert "student.model.kind" not in found["differing"]
    (pair,) = found["pairs"]
    errors = [run["summary"]["distilled"]["errors"]["mean"] for run in found["runs"]]
    assert pair["difference"]["value"] == pytest.approx((errors[0] - errors[1]) / 359)
    assert pair["test"]["second_better"] - pair["test"]["first_better"] == pytest.approx(errors[0] - errors[1])
    assert 0 < pair["test"]["p_value"] <= 1
    models = [
        (
            run["summary"][role]["accuracy"]["mean"],
            run["parameters"]["teacher" if role == "teacher" else "student"],
            f"{run['label']}: {role}",
        )
        for run in found["runs"]
        for role in ("teacher", "alone", "distilled")
    ]
    beaten = {
        name
        for accuracy, size, name in models
        for other, cost, _ in models
        if other >= accuracy and cost <= size and (other, cost) != (accuracy, size)
    }
    assert {point["name"] for point in found["frontier"]} == {name for *_, name in models} - beaten
    assert answer.lines == [f"next: limbeck report {runs['tiny']} {runs['hot']}"]


def test_runs_are_found_in_folders_and_by_globs(runs, tmp_path):
    everything = {path.resolve() for path in runs.values()}
    for named in (["runs"], ["runs/*"], ["runs/*/*"], ["runs/**"], [str(tmp_path / "runs"), "runs/tiny"]):
        found, passed = find_runs(named)
        assert {path.resolve() for path in found} == everything
        assert (len(found), passed) == (3, [])
    (runs["tiny"] / "outcome.json").unlink()
    found, passed = find_runs(["runs"])
    assert (len(found), len(passed)) == (2, 1)
    assert "is not finished" in passed[0]
    with pytest.raises(RunError, match="found no run there"):
        find_runs(["nowhere*"])


@pytest.mark.thorough
def test_the_tables_and_the_page(limbeck, runs):
    text = yaml.safe_load((runs["hot"] / "recipe.yaml").read_text())
    text["teacher"]["training"]["augment"] = {"shift": 1}
    (runs["hot"] / "recipe.yaml").write_text(yaml.safe_dump(text))
    resealed(runs["hot"] / "outcome.json")
    marked = runs["tiny"].with_name(f"stamp-{HOSTILE.replace('/', '')}")
    shutil.copytree(runs["tiny"], marked)  # of the same recipe, so that it is named by its folder
    answer = limbeck("compare", runs["tiny"], marked, runs["hot"], "--html", "page.html")
    assert answer.code == 0, answer.err
    assert "what differs in the recipes" in answer.out
    assert "teacher.training.augment.shift" in answer.out
    assert answer.out.count("McNemar's exact test") == 3
    assert "No other model is both more accurate and smaller: " in answer.out
    assert "is not evaluated yet" in answer.lines[0]
    assert answer.lines[-1].startswith("written to page.html · next: limbeck report ")
    assert not list(Path("runs").rglob("evaluation*.json"))  # only evaluate writes
    page = Page(Path("page.html").read_text())
    assert not [tag for tag, attributes in page.tags if tag in ("link", "img") or "src" in attributes]
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    assert "<script>" in page.text
    assert "Test errors of each run" in page.text
    assert {"html", "title", "h1", "h2", "table", "figure", "svg"} <= {tag for tag, _ in page.tags}
    assert ("html", {"lang": "en"}) in page.tags
    again = limbeck("compare", runs["tiny"], marked, "--html", "page.html")
    assert (again.code, again.lines) == (
        2,
        ["limbeck: compare: 'page.html' exists already; name another file or delete it"],
    )


@pytest.mark.thorough
def test_what_failed_is_said_before_any_difference(limbeck, runs):
    said = "The student alone diverged (its NLL or accuracy is not finite), in 2 of 2 seeds"
    found = evaluated(limbeck, runs["tiny"], "--no-cost")
    assert found["failures"] == json.loads((runs["tiny"] / "outcome.json").read_text())["failures"]
    resealed(runs["tiny"] / "evaluation.json", lambda content: content.update(failures=[said]))
    answer = limbeck("compare", runs["tiny"], runs["hot"], "--html", "page.html")
    assert answer.out.startswith(f"tiny: {said}.\n"), answer.out
    assert Page(Path("page.html").read_text()).text.count(said) == 1


@pytest.mark.thorough
def test_other_test_samples_are_not_paired(limbeck, runs):
    for name in ("tiny", "hot"):
        evaluated(limbeck, runs[name], "--no-cost")
    second = Path(shutil.copy(runs["hot"] / "evaluation.json", runs["hot"] / "evaluation-2.json"))
    resealed(second, lambda content: content["test"].update(digest="another"))
    answer = limbeck("compare", runs["tiny"], runs["hot"])
    assert "McNemar" not in answer.out
    assert "Runs with other test samples are not paired" in answer.out


@pytest.mark.miniature(3)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs/tiny"], "found one finished run, expected two or more"),
        (["nowhere"], "'nowhere': found no run there"),
        (["runs/tiny", "cache"], "'cache': found no run there"),
        (["runs/tiny", "runs/hot", "--html", "nowhere/page.html"], "cannot write 'nowhere/page.html'"),
    ],
)
def test_what_cannot_be_compared_is_one_line(limbeck, runs, arguments, said, tmp_path):
    (tmp_path / "cache").mkdir(exist_ok=True)
    answer = limbeck("compare", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.lines[-1]
    assert sum(line.startswith("limbeck: ") for line in answer.lines) == 1


@pytest.mark.miniature(3)
@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_evaluation_is_one_line(limbeck, runs, text):
    (runs["hot"] / "evaluation.json").write_text(text)
    answer = limbeck("compare", runs["hot"], runs["tiny"])
    assert (answer.code, answer.out) == (2, "")
    assert f"run limbeck evaluate {runs['hot']}" in answer.lines[-1]


def test_an_unfinished_run_that_is_named_is_one_line(limbeck, runs):
    (runs["hot"] / "outcome.json").unlink()
    answer = limbeck("compare", runs["hot"], runs["tiny"])
    assert answer.code == 2
    assert "is not finished" in answer.lines[-1]


def test_runs_are_named_by_the_fewest_keys_that_tell_them_apart():
    def names(*changes):
        recipes = [Recipe.parse({**TINY, "seeds": [0], **each}) for each in changes]
        return names_of_runs([Path(f"runs/tiny/stamp-{number}") for number in range(len(changes))], recipes)

    kd = TINY["method"]
    hotter = [{"method": {**kd, "temperature": t}} for t in (1, 2.5, 20.0)]
    assert names(*hotter) == ["temperature=1", "temperature=2.5", "temperature=20"]
    shorter = {"training": {**TINY["training"], "epochs": 2}}
    assert names({}, shorter) == ["training.epochs=3", "training.epochs=2"]  # the teacher's epochs are another key
    assert names({**hotter[0], "name": "cold"}, {**hotter[1], "name": "warm"}) == ["cold", "warm"]
    both = {**hotter[0], **shorter}
    assert names(hotter[0], hotter[1], both) == [
        "temperature=1, training.epochs=3",
        "temperature=2.5, training.epochs=3",
        "temperature=1, training.epochs=2",
    ]
    assert names({}, {}) == ["tiny/0", "tiny/1"]
    assert names(hotter[0], hotter[1], hotter[1]) == ["temperature=1", "temperature=2.5 (1)", "temperature=2.5 (2)"]
    summaries = [{"summary": "one"}, {"summary": "two"}]
    assert names(*summaries) == ["tiny/0", "tiny/1"]  # a summary does not change what a run is


def test_keys_are_flattened():
    assert flattened({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": []}
    assert flattened(Recipe.parse(TINY).keys)["training.augment.shift"] == 0
