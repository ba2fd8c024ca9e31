"""The report of several labels, of places and of numbers: what it shows is what the models answered."""

import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import log_expit
from sklearn.metrics import average_precision_score, r2_score

from limbeck.config import Recipe
from limbeck.evaluation import figures_of
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.report import build, figures, items, labels, numbers, panels, places, softness, story
from limbeck.report import gather as gathering
from limbeck.report.gather import gather
from limbeck.report.views import view_of
from limbeck.results.assessment import nearness
from limbeck.runs import RunFolder
from limbeck.tasks import DENSE, RANKING, REGRESSION, UNLABELLED

QUESTIONS = (
    "Did it work?",
    "How did it train?",
    "What did the teacher give?",
    "Where does the student differ?",
    "Can it be trusted?",
    "What exactly ran?",
)
UNSAID = {"What did the teacher give?", "Can it be trusted?"}
"""Of scores that only order items."""
NAMES = ["<b>one</b>", "two", "three"]
TASKS = ("multilabel", "dense", "regression", "ranking")


def archive(path, task):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(120, 1, 4, 4)).astype("float32")
    scores = inputs.reshape(120, -1) @ np.random.default_rng(1).normal(size=(16, 3))
    target = {
        "multilabel": (scores > 0).astype("int16"),
        "dense": (inputs[:, 0] > 0).astype("int16") + (inputs[:, 0] > 1),
        "regression": scores / 4,
    }[task]
    if task != "regression":
        target[:, :1][draw.random(target[:, :1].shape) < 0.1] = UNLABELLED
        np.savez(path, inputs=inputs, labels=target, class_names=np.array(NAMES))
    else:
        np.savez(path, inputs=inputs, labels=target)


MODELS = {"dense": {"kind": "fcn", "channels": [4]}, "ranking": {"kind": "two_tower", "width": 8}}
USERS = {"kind": "synthetic_interactions", "users": 60, "items": 40, "each": 8, "sharpness": 4.0, "test": 2}


def finished(root: Path, task: str, seeds: list[int]) -> Path:
    model = MODELS.get(task, {"kind": "mlp", "hidden": [8]})
    if task != "ranking":
        archive(root / "own.npz", task)
    keys = {
        "name": task,
        "data": USERS if task == "ranking" else {"kind": "npz", "path": "own.npz", "task": task},
        "teacher": {"model": model, "training": {"epochs": 6, "batch_size": 16, "learning_rate": 0.1}},
        "student": {"model": model},
        "method": {"name": "bounded_regression"} if task == "regression" else {"name": "kd", "temperature": 2.0},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.05},
        "seeds": seeds,
    }
    recipe = Recipe.parse(keys, root)
    folder = RunFolder.create(root / "runs", task, recipe.to_yaml(), ["limbeck", "distill"])
    keep_outcome(folder, distill(recipe, folder, cache=root / "cache"))
    return folder.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {task: finished(tmp_path_factory.mktemp(task), task, [0, 1]) for task in TASKS}


@pytest.fixture(scope="module")
def gathered(runs):
    return {task: gather(folder) for task, folder in runs.items()}


def margins(gathered, role, seed=0):
    """Return what a model answers, as it answers it, of the test set: (n, C) logits of yes."""
    run = gathered.run
    model = run.teacher(0) if role == "teacher" else run.student(role, seed)
    inputs = run.parts.test.batch(torch.arange(len(run.parts.test)), augment=None, seed=0, view=0).inputs
    with torch.no_grad():
        return model.eval()(inputs).double().numpy()


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


@pytest.mark.miniature(1)
@pytest.mark.parametrize("task", TASKS)
def test_every_question_is_answered(runs, tmp_path, task):
    text = build([runs[task]], tmp_path / "page.html", files=False).read_text(encoding="utf-8")
    asked = [question for question in QUESTIONS if task != "ranking" or question not in UNSAID]
    assert all(f">{question}</h2>" in text for question in asked)
    assert all(f">{question}</a>" in text for question in asked)
    assert "<b>one</b>" not in text
    assert ("&lt;b&gt;one&lt;/b&gt;" in text) == (task in ("multilabel", "dense"))
    assert ("Temperature <span" in text) == (task == "multilabel")
    assert ("negative log-likelihood, nats" in text) == (task != "regression")


@pytest.mark.miniature(1)
@pytest.mark.parametrize("task", ["multilabel", "dense"])
def test_the_fidelity_is_that_of_an_evaluation(gathered, task):
    found = gathered[task]
    rows = {model.role: (agreement, kl) for model, agreement, kl in story.faithful(found)}
    for role in ("alone", "distilled"):
        each = [nearness(found.run.student(role, s), found.run.teacher(0), found.run.parts.test) for s in (0, 1)]
        expected = [sum(getattr(near, name) for near in each) / 2 for name in ("agreement", "kl")]
        assert rows[role] == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------------- several labels


def test_the_bars_of_labels_are_sigmoids_and_their_entropy_is_added_up(gathered):
    found = gathered["multilabel"]
    shown = labels.explorer(found, 2.0)
    assert shown["apart"]
    train = found.run.parts.train
    with torch.no_grad():
        batch = train.batch(torch.arange(len(train)), augment=None, seed=0, view=0)
        everything = found.run.teacher(0).eval()(batch.inputs).double()
    for example in shown["examples"]:
        in_order = [value for _, value in sorted(zip(example["ids"], example["logits"], strict=True))]
        distance = (everything - torch.tensor(in_order)).abs().amax(1)
        position = int(distance.argmin())
        assert float(distance[position]) < 1e-5
        assert example["true"] == [k for k in range(3) if int(train.labels[position, k]) == 1]
        shares = [1 / (1 + math.exp(-logit / 2.0)) for logit in example["logits"]]
        assert example["probabilities"] == pytest.approx(shares)
        entropy = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in shares)
        assert example["entropy"] == pytest.approx(entropy)
    for logit, line in zip((-10, -5, 0, 5, 10, 15), softness.softening(2.0, two_way=True).lines, strict=True):
        assert line.points[0][1] == pytest.approx(1 / (1 + math.exp(-logit / 0.5)))
        assert line.points[-1][1] == pytest.approx(1 / (1 + math.exp(-logit / 20.0)))


def test_the_precision_of_each_label_is_scikit_learns(gathered):
    found = gathered["multilabel"]
    truth = found.run.parts.test.labels.numpy()
    rows = dict(labels.precisions(found).rows)
    assert list(rows) == NAMES
    for label, name in enumerate(NAMES):
        kept = truth[:, label] != UNLABELLED
        for entry, role in zip(rows[name], ("teacher", "alone", "distilled"), strict=True):
            each = [margins(found, role, seed)[kept, label] for seed in ((0,) if role == "teacher" else (0, 1))]
            expected = [average_precision_score(truth[kept, label], scores) for scores in each]
            assert entry.value == pytest.approx(sum(expected) / len(expected))


def test_mistakes_are_counted_label_by_label(gathered):
    found = gathered["multilabel"]
    truth = found.run.parts.test.labels.tolist()
    counts = {}
    for column, role in enumerate(("alone", "distilled")):
        for seed in (0, 1):
            for row, said in zip(truth, margins(found, role, seed).tolist(), strict=True):
                for label, value in enumerate(row):
                    if value != UNLABELLED and (said[label] > 0) != (value == 1):
                        how = (NAMES[label], "missed" if value == 1 else "wrongly given")
                        counts.setdefault(how, [0, 0])[column] += 1
    listed = {(name, how): [int(each) for each in rest] for name, how, *rest in labels.listed(found)}
    assert listed == counts
    order = [sum(map(int, rest)) for _, _, *rest in labels.listed(found)]
    assert order == sorted(order, reverse=True)


def test_the_largest_disagreements_over_all_labels_come_first(gathered):
    found = gathered["multilabel"]
    teacher, student = margins(found, "teacher"), margins(found, "distilled")
    p = 1 / (1 + np.exp(-teacher))
    kl = p * (log_expit(teacher) - log_expit(student)) + (1 - p) * (log_expit(-teacher) - log_expit(-student))
    shown = labels.disagreements(found)
    assert [each.divergence for each in shown] == pytest.approx(sorted(kl.sum(1), reverse=True)[:12], rel=1e-4)
    worst = int(kl.sum(1).argmax())
    who, said, probability = shown[0].said[0]
    assert who == "Teacher"
    assert said == labels.named(np.flatnonzero(teacher[worst] > 0).tolist(), NAMES)
    assert probability == pytest.approx(float(np.exp(log_expit(np.abs(teacher[worst])).sum())))


def test_one_seed_is_compared_on_whole_examples(tmp_path):
    found = gather(finished(tmp_path, "multilabel", [0]))
    truth = found.run.parts.test.labels.numpy()
    known = truth != UNLABELLED
    right = {
        role: (((margins(found, role) > 0) == (truth == 1)) | ~known).all(1)[known.any(1)]
        for role in ("alone", "distilled")
    }
    mended, spoilt = (right["distilled"] & ~right["alone"]).sum(), (right["alone"] & ~right["distilled"]).sum()
    assert f"distillation fixes {mended} errors and introduces {spoilt} (McNemar" in " ".join(story.verdict(found))


# --------------------------------------------------------------------------------------------------------------- places


def test_maps_show_what_each_model_says_of_each_place(gathered):
    found = gathered["dense"]
    test = found.run.parts.test
    maps = places.differences(found)
    assert maps.head == ("Input", "Labels", "Teacher", "Alone", "Distilled")
    colours = {name: tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for name, colour in maps.key}
    said = {role: margins(found, role).argmax(1) for role in ("teacher", "alone", "distilled")}
    share = (said["teacher"] != said["distilled"]).mean((1, 2))
    order = sorted(range(len(test)), key=lambda number: (-share[number], number))
    for number, (caption, (_, truth, *answers)) in zip(order, maps.rows, strict=False):
        assert f"{share[number]:.1%}".replace("%", " %") in caption
        for drawn, expected in zip(answers, (each[number] for each in said.values()), strict=True):
            assert pixels(drawn).tolist() == [[list(colours[NAMES[k]]) for k in row] for row in expected]
        white = test.labels[number].numpy() == UNLABELLED
        assert ((pixels(truth) == 255).all(-1) == white).all()


def test_the_teachers_doubt_is_its_entropy_at_the_temperature(gathered):
    found = gathered["dense"]
    maps = places.taught(found, 2.0)
    assert maps.head[-1] == "Unsure, T = 2"
    scaled = found.taught.logits.double() / 2
    entropy = -(scaled.log_softmax(-1) * scaled.softmax(-1)).sum(-1)
    for caption, images in maps.rows:
        number = found.taught.positions.tolist().index(int(caption.split()[2].rstrip(":")))
        assert f"mean entropy {float(entropy[number].mean()):.2f} nats" in caption
        expected = (255 * entropy[number] / entropy.max()).round().numpy()
        assert np.abs(pixels(images[-1])[..., 0] - expected).max() <= 1
    assert maps.rows[0][0] != maps.rows[-1][0]


def test_confusions_of_places_add_up_to_the_errors(gathered):
    found = gathered["dense"]
    for chart, role in zip(panels.confusions(found), ("alone", "distilled"), strict=True):
        wrong = sum(n for i, row in enumerate(chart.counts) for j, n in enumerate(row) if i != j)
        assert wrong == sum(seed.metrics[role].errors for seed in found.run.outcome.seeds)


def test_of_very_many_labels_a_part_is_asked_and_that_is_said(runs, monkeypatch):
    monkeypatch.setattr(gathering, "_MOST_LABELS", 16 * 5)
    found = gather(runs["dense"])
    assert len(found.answers.samples) == 5
    assert found.answers.logits["alone"][0].shape == (5 * 16, 3)
    assert found.notes == ["What the models answer is drawn for 5 of 24 test examples, spread evenly."]
    assert view_of(DENSE).differences(found).maps is not None


# -------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_held_against_the_truth_and_the_teacher(gathered):
    found = gathered["regression"]
    truth = found.run.parts.test.labels.double().numpy()
    for (chart, note), role in zip(numbers.trusted(found), ("teacher", "alone", "distilled"), strict=True):
        each = [margins(found, role, seed) for seed in ((0,) if role == "teacher" else (0, 1))]
        error = np.mean([((answers - truth) ** 2).mean() for answers in each]) ** 0.5
        over = np.mean([(answers - truth).mean() for answers in each])
        assert note.startswith(
            f"Root mean squared error {error:.4g}; R² {np.mean([r2_score(truth, a) for a in each]):.3f}"
        )
        assert note.endswith("too low." if over < 0 else "too high.")
        assert np.array(chart.cloud) == pytest.approx(np.stack([truth.ravel(), each[0].ravel()], 1), abs=1e-6)
    teacher = margins(found, "teacher")
    apart = {
        role: np.mean([((margins(found, role, seed) - teacher) ** 2).mean() for seed in (0, 1)])
        for role in ("alone", "distilled")
    }
    said = numbers.faithful(found)
    assert f"{apart['alone']:.4g} of the student alone; {apart['distilled']:.4g} of the student distilled" in said
    assert f"from the truth is {((teacher - truth) ** 2).mean():.4g}" in said
    head, rows = numbers.listed(found)
    assert head == ["Test sample", "Truth", "Teacher", "Student alone", "Student distilled"]
    gaps = np.abs(margins(found, "distilled") - teacher)
    widest = [divmod(int(place), 3) for place in np.argsort(-gaps, axis=None, kind="stable")[:10]]
    assert [row[0] for row in rows] == [f"{i}, number {j}" for i, j in widest]
    assert rows[0][2] == f"{teacher[widest[0]]:.4g}".replace("-", "−")


def test_the_teachers_numbers_stand_where_there_is_no_temperature(gathered, tmp_path):
    found = gathered["regression"]
    told = view_of(REGRESSION).given(found, 4.0, "The recipe's method has no temperature of its own.", None)
    assert "temperature of its own" not in told.said
    assert (told.explorer, told.maps) == (None, None)
    [(chart, note)] = told.charts
    assert len(chart.cloud) == len(found.taught.positions) * 3
    assert note.endswith("training samples.")
    written = figures.save([chart], tmp_path)
    assert [path.name for path in written] == ["taught.svg"]


def test_r2_is_a_number_and_accuracy_a_share(gathered):
    regression, dense = gathered["regression"], gathered["dense"]
    assert story.facts(regression)[-2].value == f"{regression.model('distilled').accuracy.mean:.3f}"
    assert story.facts(dense)[-2].value == f"{100 * dense.model('distilled').accuracy.mean:.1f} %"
    assert panels.cost_plot([regression]).y.label == "test R²"
    assert panels.cost_plot([dense]).y.label == "test accuracy of places, %"
    said, of_places = (" ".join(story.verdict(each)) for each in (regression, dense))
    assert f"mean squared error is {regression.model('distilled').errors.mean:.4g} when distilled" in said
    assert "the mean squared error of the distilled student, against the student alone: " in said
    assert " wrong places when distilled, " in of_places
    assert "the wrong places of the distilled student, against the student alone: " in of_places


# ------------------------------------------------------------------------------------------------------------- rankings


def test_the_curve_of_a_ranking_is_recall_over_k_and_its_table_places_items(gathered):
    found = gathered["ranking"]
    plane, note = items.found(found)
    for line in plane.lines:
        role = {"Teacher": "teacher", "Student alone": "alone", "Student distilled": "distilled"}[line.name]
        figure = figures_of(RANKING)
        points = dict(line.points)
        assert list(points) == list(range(1, 41))
        assert sorted(points.values()) == list(points.values())
        assert points[40] == 1.0
        own = [figure.measure(rows, found.answers.labels).accuracy for rows in found.answers.logits[role]]
        assert points[10] == pytest.approx(sum(own) / len(own))
        assert f"{line.name}: {points[10]:.1%}" in note
    head, rows = items.listed(found)
    assert head == ["User", "Item to be found", "Teacher", "Student alone", "Student distilled"]
    assert len(rows) == 10
    labels, users = found.answers.samples.labels, found.answers.samples.vocabulary
    apart = []
    for user, item, *stands in rows:
        row = users.index(user)
        wanted, left = ([each for each in part.tolist() if each >= 0] for part in labels[row])
        number = found.answers.samples.class_names.index(item)
        assert number in wanted
        for role, place in zip(("teacher", "alone", "distilled"), stands, strict=True):
            scores = found.answers.logits[role][0][row].tolist()
            above = [each for each in range(40) if each not in left and scores[each] > scores[number]]
            assert place == str(len(above) + 1)
        apart.append(abs(int(stands[0]) - int(stands[2])))
    assert apart == sorted(apart, reverse=True)
    said = items.faithful(found)
    pairs = found.answers.pairs("alone")
    both = [
        len(set(one.topk(10).indices.tolist()) & set(two.topk(10).indices.tolist())) / 10
        for teacher, student in pairs
        for one, two in zip(teacher, student, strict=True)
    ]
    share = float(said.partition(": ")[2].partition(" %")[0].partition("%")[0])
    assert share == pytest.approx(100 * sum(both) / len(both), abs=0.0501)
