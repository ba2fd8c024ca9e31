"""A regression on the page: answers against the truth, students against their teacher, the widest apart in a table."""

from statistics import fmean

import torch
from torch import Tensor

from limbeck.data.selection import evenly
from limbeck.evaluation import figures_of
from limbeck.report.charts import Axis, Line, Plane, short, spanning
from limbeck.report.gather import Gathered, Model
from limbeck.tasks import REGRESSION

__all__ = ["beside_teacher", "faithful", "listed", "taught", "trusted"]

_MOST_POINTS = 400


def taught(gathered: Gathered) -> tuple[Plane, str] | None:
    """Draw the teacher's numbers against the labels of training samples; what it corrects, and what it passes on."""
    if gathered.taught is None:
        return None
    labels = gathered.run.parts.train.labels[gathered.taught.positions].cpu()
    known = REGRESSION.labelled(labels)
    if not bool(known.any()):
        return None
    told, labels = gathered.taught.logits[known], labels[known]
    apart = float((told.double() - labels.double()).square().mean().sqrt())
    note = f"Root mean squared distance {apart:.4g}, on {len(labels):,} training samples."
    said = f"Scatter plot of the teacher's numbers over the labels of training samples: they lie {apart:.4g} apart."
    return _scatter("taught", "The teacher's numbers, in training", said, labels, told, "teacher", "teacher's"), note


def trusted(gathered: Gathered) -> list[tuple[Plane, str]]:
    """Draw each model's answers against the truth on the test set, at the first seed, with its figures over all."""
    answers = gathered.answers
    known = REGRESSION.labelled(answers.labels)
    found = []
    for model in gathered.chief:
        if not bool(known.any()):
            continue
        every = [figures_of(REGRESSION).measure(rows, answers.labels) for rows in answers.logits[model.role]]
        error, explained = fmean(each.errors for each in every) ** 0.5, fmean(each.accuracy for each in every)
        over = [(rows[known].double() - answers.labels[known].double()).mean() for rows in answers.logits[model.role]]
        bias = fmean(map(float, over))
        aside = f"{short(abs(bias))} too {'low' if bias < 0 else 'high'}"
        note = f"Root mean squared error {error:.4g}; R² {explained:.3f}; on average {aside}."
        title = f"TestAnswers and truth, {model.name.lower()}"
        said = f"Scatter plot of the answers of the {model.name.lower()} over the truth on the test set: {note}"
        first = answers.logits[model.role][0][known]
        found.append((_scatter(f"truth-{model.role}", title, said, answers.labels[known], first, model.colour), note))
    return found


def beside_teacher(gathered: Gathered) -> list[tuple[Plane, str]]:
    """Draw each student's answers against its teacher's on the test set, at the first seed."""
    answers = gathered.answers
    if not answers.has("teacher"):
        return []
    found = []
    for model in gathered.students:
        teacher, student = answers.pairs(model.role)[0]
        distance = _distance(gathered, model) ** 0.5
        note = f"Root mean squared distance {distance:.4g}."
        said = f"Scatter plot of the answers of the {model.name.lower()} over its teacher's on the test set: {note}"
        title, key = f"{model.name} and its teacher", f"teacher-and-{model.role}"
        found.append(
            (_scatter(key, title, said, teacher, student, model.colour, "student's", "teacher's number"), note)
        )
    return found


def faithful(gathered: Gathered) -> str:
    """Say how far from their teacher the students are, beside how far the teacher is from the truth."""
    answers = gathered.answers
    if not answers.has("teacher"):
        return ""
    near = "; ".join(f"{_distance(gathered, model):.4g} of the {model.name.lower()}" for model in gathered.students)
    known = REGRESSION.labelled(answers.labels)
    if not near or not bool(known.any()):
        return ""
    own = fmean(
        float((rows[known].double() - answers.labels[known].double()).square().mean())
        for rows in answers.logits["teacher"]
    )
    return (
        f"On the test set, the mean squared distance from the teacher's numbers: {near}. The teacher's own from the"
        f" truth is {own:.4g}: a student that is nearer to its teacher than that shares most of its errors."
    )


def listed(gathered: Gathered, most: int = 10) -> tuple[list[str], list[list[str]]]:
    """Return the test samples on which student distilled and teacher lie farthest apart: head and rows of a table."""
    answers = gathered.answers
    if not answers.has("teacher", "distilled"):
        return [], []
    teacher, distilled = answers.pairs("distilled")[0]
    models = gathered.chief
    wide = teacher.shape[1]
    order = (teacher - distilled).abs().flatten().argsort(descending=True, stable=True)[:most].tolist()
    rows = []
    for row, column in (divmod(place, wide) for place in order):
        said = [answers.labels[row, column], *(answers.logits[model.role][0][row, column] for model in models)]
        texts = ["–" if bool(torch.isnan(value)) else f"{float(value):.4g}".replace("-", "−") for value in said]
        rows.append([f"{row}" if wide == 1 else f"{row}, number {column}", *texts])
    return ["Test sample", "Truth", *(model.name for model in models)], rows


def _distance(gathered: Gathered, model: Model) -> float:
    pairs = gathered.answers.pairs(model.role)
    return fmean(float((student.double() - teacher.double()).square().mean()) for teacher, student in pairs)


def _scatter(
    key: str, title: str, said: str, across: Tensor, up: Tensor, colour: str, whose: str = "", of: str = "truth"
) -> Plane:
    """Draw numbers (n, D) against others, the same of both on the diagonal; of many, evenly spread ones."""
    x, y = across.double().flatten(), up.double().flatten()
    kept = evenly(len(x), _MOST_POINTS)
    span = spanning("", [float(end) for each in (x, y) for end in (each.min(), each.max())])
    low, high = span.low, span.high
    cloud = list(zip(x[kept].tolist(), y[kept].tolist(), strict=True))
    axes = Axis(of, low, high), Axis(f"{whose} number".strip() if whose else "answer", low, high)
    diagonal = Line("", "ink", [(low, low), (high, high)], dash="3 3")
    return Plane(key, title, said, *axes, lines=[diagonal], cloud=cloud, colour=colour)
