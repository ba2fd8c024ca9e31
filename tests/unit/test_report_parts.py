"""What the report draws and says within its frame: trainings, gain and harm by class, further roles, temperatures."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from limbeck.config import Recipe
from limbeck.errors import RunError
from limbeck.evaluation import Interval, Standing, class_gains, figures_of
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.report import build, charts, curves, gains, page, panels, story, svg
from limbeck.report.gather import Gathered, gather
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.tasks import REGRESSION
from sealed import resealed
from walk import over

COUNTS = (60, 40, 12, 6)
NAMES = ["many", "some", "few <b>", "fewest"]


def finished(root: Path, name: str, **more: object) -> Path:
    keys = {
        "name": name,
        "data": {"kind": "npz", "path": "tail.npz"},
        "teacher": {"model": {"kind": "mlp", "hidden": [16]}, "training": {"epochs": 5, "learning_rate": 0.1}},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "training": {"epochs": 3, "learning_rate": 0.1},
        "validation": 18,
        **more,
    }
    recipe = Recipe.parse(keys, root)
    folder = RunFolder.create(root / "runs", name, recipe.to_yaml(), ["limbeck"])
    keep_outcome(folder, distill(recipe, folder, cache=root / "cache"))
    return folder.path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a set of four classes, two of which are rare in training and as frequent as any in testing."""
    folder = tmp_path_factory.mktemp("parts")
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 6))

    def drawn(counts):
        labels = np.repeat(np.arange(4), counts)
        return (centres[labels] + generator.normal(size=(len(labels), 6))).astype(np.float32), labels

    inputs, labels = drawn(COUNTS)
    test_inputs, test_labels = drawn([30] * 4)
    arrays = {"inputs": inputs, "labels": labels, "test_inputs": test_inputs, "test_labels": test_labels}
    np.savez(folder / "tail.npz", class_names=np.array(NAMES), **arrays)
    return folder


@pytest.fixture(scope="module")
def tail(root):
    return finished(root, "tail", seeds=[0, 1, 2])


@pytest.fixture(scope="module")
def budget(root):
    return finished(root, "budget", seeds=[0, 1], alone_budget={"at_most": 4.0}, method={"name": "hard"})


# ----------------------------------------------------------------------------------------------- the teacher's training


def test_the_history_of_a_teacher_is_kept_with_the_run_whoever_trained_it(root, tail, budget):
    found = [FinishedRun.read(folder) for folder in (tail, budget)]  # the second found the teacher in the cache
    for run in found:
        history = run.history("teacher", run.seeds[-1])
        assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5]
        assert {"errors", "nll"} <= set(history[-1]["validation"])
    files = [(folder / "teacher-0.metrics.jsonl").read_bytes() for folder in (tail, budget)]
    assert files[0] == files[1]
    [kept] = (root / "cache" / "trainings").glob("*/metrics.jsonl")
    assert files[0] == kept.read_bytes()


@pytest.mark.thorough
def test_each_seed_may_have_a_teacher_of_its_own(root):
    teacher = {"model": {"kind": "mlp", "hidden": [8]}, "training": {"epochs": 2}, "seed": None}
    folder = finished(root, "own", seeds=[3, 4], teacher=teacher)
    run = FinishedRun.read(folder)
    assert run.history("teacher", 3) != run.history("teacher", 4)
    curve = gather(folder).curves["teacher"]["validation.errors"]
    ends = [run.history("teacher", seed)[-1]["validation"]["errors"] for seed in (3, 4)]
    assert (curve.mean[-1], curve.low[-1], curve.high[-1]) == (sum(ends) / 2, min(ends), max(ends))


@pytest.mark.thorough
def test_a_teacher_that_was_read_has_no_training_to_show(root, tail):
    teacher = {"model": {"kind": "mlp", "hidden": [16], "checkpoint": str(tail / "teacher-0.safetensors")}}
    folder = finished(root, "read", teacher=teacher)
    assert not list(folder.glob("*.jsonl"))
    gathered = gather(folder)
    assert gathered.curves["teacher"] == {}
    assert gathered.notes == []
    drawn = {chart.key: [line.name for line in chart.lines] for chart in curves.training(gathered)}
    assert drawn["validation-errors"] == ["Student alone", "Student distilled"]


@pytest.mark.thorough
def test_a_damaged_history_of_the_teacher_is_left_out_and_named(tail, tmp_path):
    copy = Path(shutil.copytree(tail, tmp_path / "run"))
    (copy / "teacher-0.metrics.jsonl").write_text('{"epoch": 2}\n')
    with pytest.raises(RunError, match=r"teacher-0\.metrics\.jsonl\' is damaged or was changed"):
        gather(copy)
    resealed(copy / "outcome.json")
    gathered = gather(copy)
    assert gathered.curves["teacher"] == {}
    assert len(gathered.notes) == 1
    assert gathered.notes[0].startswith("The curves of the teacher are left out")


# --------------------------------------------------------------------------------------------------------------- curves


def test_no_two_terms_of_a_loss_look_alike(tail):
    gathered = gather(tail)
    curve = gathered.curves["distilled"]["train.total"]
    gathered.curves["distilled"] |= {f"train.term {number}": curve for number in range(9)}
    lines = next(chart for chart in curves.training(gathered) if chart.key == "terms").lines
    page = (Path(curves.__file__).parent / "page.css").read_text()
    looks = {(re.search(rf"--{line.colour}: (#\w+)", page)[1], line.dash) for line in lines}
    assert len(looks) == len(lines) == 12


def test_trainings_of_other_lengths_are_drawn_over_their_shares(tail):
    charts = {chart.key: chart for chart in curves.training(gather(tail))}
    assert list(charts) == ["terms", "losses", "validation-errors", "validation-loss", "learning-rate"]
    assert [line.name for line in charts["terms"].lines] == ["total", "hard", "soft"]
    assert charts["terms"].x.label == "epoch"
    errors = charts["validation-errors"]
    assert errors.x.label == "share of each training"
    assert [line.name for line in errors.lines] == [
        "Teacher (5 epochs)",
        "Student alone (3 epochs)",
        "Student distilled (3 epochs)",
    ]
    run = FinishedRun.read(tail)
    for line, role in zip(errors.lines, ("teacher", "alone", "distilled"), strict=True):
        seeds = [0] if role == "teacher" else run.seeds
        histories = [run.history(role, seed) for seed in seeds]
        for number, (at, value) in enumerate(line.points):
            assert at == pytest.approx((number + 1) / len(histories[0]))
            found = [history[number]["validation"]["errors"] for history in histories]
            assert value == pytest.approx(sum(found) / len(found))
    assert [line.name for line in charts["losses"].lines] == ["Teacher (5 epochs)", "Student alone (3 epochs)"]
    assert [line.name for line in charts["learning-rate"].lines] == [
        "Teacher (5 epochs)",
        "Student alone, student distilled (3 epochs)",
    ]


@pytest.mark.thorough
def test_trainings_of_one_length_are_drawn_over_their_epochs(root):
    training = {"epochs": 3, "learning_rate": 0.1}
    teacher = {"model": {"kind": "mlp", "hidden": [16]}, "training": training}
    charts = {chart.key: chart for chart in curves.training(gather(finished(root, "alike", teacher=teacher)))}
    assert {chart.x.label for chart in charts.values()} == {"epoch"}
    assert [line.name for line in charts["learning-rate"].lines] == ["Teacher, student alone, student distilled"]
    assert [at for at, _ in charts["losses"].lines[0].points] == [1, 2, 3]


# -------------------------------------------------------------------------------------------------------- gain and harm


@pytest.mark.thorough
def test_gain_and_harm_go_from_the_frequent_to_the_rare(tail):
    gathered = gather(tail)
    found = gains.gains(gathered)
    kept = [int(count) for count in np.bincount(gathered.run.parts.alone.labels.numpy(), minlength=4)]
    order = sorted(range(4), key=lambda label: -kept[label])
    rare = {label for label in range(4) if kept[label] < sum(kept) / 8}
    assert rare == {2, 3}
    assert [row[0] for row in found.rows] == [NAMES[label] + (" (rare)" if label in rare else "") for label in order]
    assert [row[1] for row in found.rows] == [str(kept[label]) for label in order]
    assert [name for name, _ in found.chart.rows] == [f"{NAMES[label]} · {kept[label]}" for label in order]
    right = [np.stack([(each.argmax(1) == gathered.answers.labels).numpy() for each in gathered.answers.logits[role]])
             for role in ("alone", "distilled")]  # fmt: skip
    for (_, (entry,)), label in zip(found.chart.rows, order, strict=True):
        of = gathered.answers.labels.numpy() == label
        assert entry.value == pytest.approx(100 * (right[1][:, of].mean() - right[0][:, of].mean()))
        assert entry.low <= entry.value <= entry.high
    for text in ("few <b>", "fewest", "rare", "On the other classes: "):
        assert text in found.said


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    ("change", "said"),
    [(-0.5, "hurts the rare classes: "), (0.5, "helps the rare classes: "), (0.0, "may be chance: ")],
)
def test_what_distillation_does_to_the_rare_is_said(tail, change, said):
    """The students' answers on the rare classes are set: all right for one of them, half wrong for the other."""
    gathered = gather(tail)
    labels = gathered.answers.labels
    rare = labels >= 2
    for role, worse in (("alone", change > 0), ("distilled", change < 0)):
        for logits in gathered.answers.logits[role]:
            logits[rare] = 0.0
            logits[rare, labels[rare]] = 9.0
            if worse:
                logits[rare.nonzero()[::2, 0]] = logits[rare.nonzero()[::2, 0]].flip(1)
    assert said in gains.gains(gathered).said


@pytest.mark.thorough
def test_of_even_classes_none_is_called_rare(root):
    gathered = gather(finished(root, "even", data={"kind": "digits"}, training={"epochs": 1}))
    found = gains.gains(gathered)
    assert "no class has fewer than half of an even share" in found.said
    assert not any("rare" in row[0] for row in found.rows)


def test_many_classes_are_drawn_where_they_change_most(tail, monkeypatch):
    gathered = gather(tail)
    monkeypatch.setattr(gains, "_MOST_DRAWN", 2)
    found = gains.gains(gathered)
    right = [
        np.stack([(each.argmax(1) == gathered.answers.labels).numpy() for each in gathered.answers.logits[role]])
        for role in ("alone", "distilled")
    ]
    import torch

    each = class_gains(*(torch.from_numpy(rows) for rows in right), gathered.answers.labels, 4)
    most = sorted(each, key=lambda gain: -abs(gain.difference.value))[:2]
    assert {name.split(" · ")[0] for name, _ in found.chart.rows} == {NAMES[gain.label] for gain in most}
    assert "the 2 largest changes" in found.chart.title
    assert len(found.rows) == 4


# ------------------------------------------------------------------------------------------------------- further roles


@pytest.mark.thorough
def test_the_student_alone_at_equal_compute_stands_beside(budget):
    gathered = gather(budget)
    assert [model.role for model in gathered.models] == ["teacher", "alone", "alone_budget", "distilled"]
    model = gathered.model("alone_budget")
    assert model.name == "Student alone, equal compute"
    assert model.compute == pytest.approx(gathered.run.outcome.roles["alone_budget"].relative)
    assert len({each.colour for each in gathered.models}) == 4
    errors = [seed.metrics["alone_budget"].errors - seed.distilled.errors for seed in gathered.run.outcome.seeds]
    verdict = story.verdict(gathered)
    equal = next(sentence for sentence in verdict if sentence.startswith("Trained alone"))
    assert equal.startswith(
        "Trained alone with as much compute as the whole distillation took, the student gets"
        f" {gathered.figures.error_text(model.errors.mean)} wrong."
    )
    assert sum(errors) == 0 or all(f"{abs(each)} " in equal for each in errors)
    assert "±" not in "".join(verdict)  # two seeds
    assert any("cut at 12" in sentence for sentence in verdict[verdict.index(equal) :])  # alone_budget.at_most
    names = [name for name, _ in panels.errors_chart(story.model_rows(gathered)).rows]
    assert names == ["Teacher", "Student alone", "Student alone, equal compute", "Student distilled"]
    text = build([budget], files=False).read_text(encoding="utf-8")
    assert '<th scope="col" class="number">Compute</th>' in text
    assert "Reliability, student alone, equal compute" in text


def test_of_a_regression_the_student_at_equal_compute_comes_to_an_error(budget, monkeypatch):
    monkeypatch.setattr(Gathered, "figures", figures_of(REGRESSION))
    gathered = gather(budget)
    mean = gathered.model("alone_budget").errors.mean
    said = (
        "Trained alone with as much compute as the whole distillation took, the student comes to"
        f" {mean:.4g} (mean squared error). Seed by seed, "
    )
    assert any(sentence.startswith(said) for sentence in story.verdict(gathered))


@pytest.mark.thorough
def test_of_more_than_two_students_the_fidelity_is_a_table(budget, tail):
    several, few = (build([folder], files=False).read_text(encoding="utf-8") for folder in (budget, tail))
    assert '<th scope="row">Student alone, equal compute</th>' in several.split("s answer</th>")[1]
    assert "s answer on" not in several
    assert "s answer</th>" not in few
    assert "the student alone gives the teacher" in few


def test_a_student_above_its_teacher_is_said_to_be_above_it(budget):
    gathered = replace(gather(budget), standing=Standing((), Interval(1.5, None, 2), "The student is better"))
    assert story.verdict(gathered)[0].startswith("The student is better: of ")
    assert story.facts(gathered)[0] == story.Fact("150 %", "of the gap closed")
    gathered = replace(gathered, standing=Standing((), Interval(0.5, 0.25, 3), "Half"))
    assert story.facts(gathered)[0] == story.Fact("50 %", "of the gap closed, ± 25 over the seeds")


@pytest.mark.thorough
def test_a_teacher_that_takes_no_part_is_not_on_the_page(root):
    method = {"name": "kd", "temperature": 1, "hard_weight": 1.0, "soft_weight": 1.0}
    folder = finished(root, "peers", method=method, scheme={"name": "codistillation", "peers": 2})
    gathered = gather(folder)
    assert gathered.run.label("teacher") == "reference, no teacher"
    assert [model.role for model in gathered.models] == ["alone", "peer_1", "peer_2", "ensemble", "distilled"]
    assert gathered.run.outcome.gap_closed() is None
    text = build([folder], files=False).read_text(encoding="utf-8")
    assert "teaches nobody; the distilled student " in text
    assert "the teacher gets" not in text
    assert "What did the teacher give?" not in text
    assert page._overview(gathered, {"number": 1, "name": "peers"})[2] == "–"


@pytest.mark.thorough
def test_what_failed_is_said_first_and_no_share_is_told(budget):
    failed = Standing(("The student alone is no better than one answer",), None, "No share is told")
    gathered = replace(gather(budget), standing=failed)
    said = story.verdict(gathered)
    assert said[0] == "The student alone is no better than one answer."
    assert said[1].startswith("No share is told: of ")
    assert not any("gap" in fact.label for fact in story.facts(gathered))
    section = page.section(gathered, 1, "budget")
    assert page.render([gathered], [section]).count("No share is told") == 1
    assert page._overview(gathered, section)[-1] == "–"


def test_a_run_tells_of_its_student_that_collapsed(tail, tmp_path):
    copy = Path(shutil.copytree(tail, tmp_path / "run"))

    def collapsed(outcome):
        for seed in outcome["seeds"]:
            seed["alone"] |= {"errors": 89, "accuracy": 31 / 120}  # of four equal classes
            seed["distilled"] |= {"errors": 30, "accuracy": 0.75}

    resealed(copy / "outcome.json", collapsed)
    said = story.verdict(gather(copy))
    assert said[0].startswith("The student alone is no better than one answer for all test examples, or hardly (")
    assert said[0].endswith("(accuracy 25.8 %; the most frequent answer alone gives 25.0 %), in 3 of 3 seeds.")


def test_the_names_of_the_lowest_points_stay_off_the_axes():
    x = charts.Axis("size", 100.0, 10_000.0, log=True)
    y = charts.Axis("accuracy, %", 92.0, 98.5)
    places = [(120.0, 92.6), (121.0, 92.5), (9000.0, 98.0), (110.0, 95.0)]
    dots = [charts.Dot(*place, "alone", f"Student number {n}", "") for n, place in enumerate(places)]
    drawn = ElementTree.fromstring(svg.draw(charts.Plane("cost", "Cost", "Of four.", x, y, dots=dots)))
    texts = [each for each in drawn.iter() if each.tag.endswith("text")]
    names = [each for each in texts if each.get("class") == "named"]
    ticks = {label for _, label in x.ticks(7)}
    axis = min(float(each.get("y")) for each in texts if each.text in ticks) - 16
    assert len(names) == 4
    assert all(float(name.get("y")) <= axis for name in names)
    assert [name.get("text-anchor") for name in names if name.text != "Student number 2"] == ["start"] * 3


@pytest.mark.thorough
def test_of_many_models_the_large_charts_show_the_chief(tail, tmp_path):
    copy = Path(shutil.copytree(tail, tmp_path / "run"))

    def joined(outcome):
        for number in range(4):
            outcome["roles"][f"peer_{number}"] = dict(outcome["roles"]["alone"], label=f"peer {number}")
            for seed in outcome["seeds"]:
                seed[f"peer_{number}"] = dict(seed["alone"])
                shutil.copytree(copy / f"alone-{seed['seed']}", copy / f"peer_{number}-{seed['seed']}")

    resealed(copy / "outcome.json", joined)
    gathered = gather(copy)
    assert len(gathered.models) == 7
    assert [model.role for model in gathered.chief] == ["teacher", "alone", "distilled"]
    assert len(panels.errors_chart(story.model_rows(gathered)).rows) == 7
    assert [chart.key for chart in panels.confusions(gathered)] == ["confusion-alone", "confusion-distilled"]
    assert len(panels.calibration(gathered)) == 3


# --------------------------------------------------------------------------------------------------------- temperatures


NONE = "The recipe's method has no temperature of its own."


@over(
    ("method", "chosen", "start", "said"),
    [
        ({"temperature": 4.0}, {}, 4.0, "The recipe distills at T = 4."),
        ({"temperature": 4.0}, {"method.temperature": 2.5}, 2.5, "The search chose T = 2.5."),
        ({"temperature": 4.0}, {"training.epochs": 2}, 4.0, "The recipe distills at T = 4."),
        (
            {"temperature": {"kind": "linear", "start": 8.0, "end": 1.0}},
            {},
            8.0,
            "The recipe's temperature changes as the student trains (kind linear, start 8.0, end 1.0).",
        ),
        ({}, {}, 4.0, NONE),
        (
            {"temperature": 4.0},
            {"method.temperature": "<b>"},
            4.0,
            "The recipe's method has no temperature of its own.",
        ),
    ],
)
def test_the_temperature_that_the_run_distilled_at_is_told(method, chosen, start, said):
    assert story.temperature({"method": {"name": "kd", **method}}, chosen) == (start, said)


@pytest.mark.thorough
def test_a_target_and_a_scheme_are_told_with_their_papers(root):
    folder = finished(root, "topk", method={"name": "kd", "target": {"kind": "topk", "k": 2}})
    text = build([folder], files=False).read_text(encoding="utf-8")
    assert "Target <strong>topk</strong>" in text
    assert "Scheme <strong>" not in text


# ------------------------------------------------------------------------------------------------------- several runs


def test_the_names_of_points_that_lie_close_cover_neither_each_other_nor_the_points():
    axis = charts.Axis("x", 0.0, 10.0)
    places = [(1.0, 2.0), (1.0, 2.6), (1.2, 3.2), (5.0, 5.0), (5.3, 5.4), (9.8, 9.0), (9.8, 9.5)]
    dots = [charts.Dot(x, y, "alone", f"alone, with a name ({i})", "") for i, (x, y) in enumerate(places)]
    tree = ElementTree.fromstring(svg.draw(charts.Plane("k", "t", "alternative", axis, axis, dots=dots)))
    boxes = []
    for text in tree.iter("text"):
        if text.get("class") == "named":
            wide = 6.3 * len(text.text)
            left = float(text.get("x")) - (wide if text.get("text-anchor") == "end" else 0.0)
            boxes.append((left, float(text.get("y")) - 9, left + wide, float(text.get("y")) + 2))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in tree.iter("circle")]
    assert len(boxes) == len(circles) == len(places)
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert right <= 360
        assert not any(left < x + 4 and x - 4 < right and top < y + 4 and y - 4 < bottom for x, y in circles)
        for other in boxes[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@pytest.mark.thorough
def test_models_measured_on_other_samples_are_not_set_against_each_other(root, tail, budget, tmp_path):
    runs = [gather(tail), gather(budget)]
    assert panels.same_test_set(runs)
    assert len(panels.cost_plot(runs).lines) == 1
    other = finished(root, "digits", data={"kind": "digits"}, training={"epochs": 1})
    assert panels.cost_plot([runs[0], gather(other)]).lines == []
    text = build([tail, other], tmp_path / "page.html", files=False).read_text(encoding="utf-8")
    assert "have different test sets, so that their accuracies cannot be compared" in text
