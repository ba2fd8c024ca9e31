"""The charts of a report, each made from what was gathered; None or nothing where a run has not what it needs."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from limbeck.evaluation import Figures, figures_of
from limbeck.evaluation.calibration import Reliability, reliability
from limbeck.evaluation.figures import number
from limbeck.evaluation.pareto import Point, pareto
from limbeck.evaluation.scores import confusion_matrix, per_class_accuracy, score
from limbeck.report.charts import Axis, Bar, Chart, Dot, DotPlot, DotRange, Line, Matrix, Plane, spanning
from limbeck.report.gather import Gathered, Model
from limbeck.report.story import ModelRow
from limbeck.results.comparison import Comparison
from limbeck.tasks import CLASSIFICATION

__all__ = [
    "calibration",
    "class_chart",
    "confusions",
    "cost_plot",
    "errors_chart",
    "errors_of_runs",
    "listed",
    "most_frequent",
    "numbers_in_words",
    "of_each",
    "same_test_set",
]

_CLASSES = figures_of(CLASSIFICATION)
_COMPARED = (
    ("teacher", "Teacher", "teacher"),
    ("alone", "Student alone", "alone"),
    ("alone_budget", "Student alone, equal compute", "other"),
    ("distilled", "Student distilled", "distilled"),
)
_MOST_DRAWN = 24  # classes or labels
_MOST_NAMED = 12  # models that are all named in a plot
_FOOT = 0.1  # of the height of a plot
_MOST_CLASSES = 20  # that a confusion matrix stays legible with


def errors_chart(rows: Sequence[ModelRow], figures: Figures = _CLASSES) -> DotPlot:
    """Draw the errors of the models with their intervals."""
    entries = [
        (row.model.name, [DotRange(row.model.name, row.model.colour, row.model.errors.mean, row.low, row.high)])
        for row in rows
    ]
    said = "; ".join(f"{row.model.name}: {row.errors}" for row in rows)
    kinds = {row.over for row in rows}
    drawn = "both seeds" if kinds == {"two seeds"} else "95 % intervals" if kinds - {"", "two seeds"} else ""
    return _errors("errors", f", with {drawn}" if drawn else "", said, figures, entries)


def errors_of_runs(found: Comparison) -> DotPlot | None:
    """Draw the errors of each run's models with their intervals; None where the runs have other test samples."""
    if len({run.evaluation.test.digest for run in found.runs}) > 1:
        return None
    rows = []
    for run in found.runs:
        entries = []
        for role, name, colour in _COMPARED:
            if (value := run.figure(role, "errors")) is not None:
                low, high = value.ends
                entries.append(DotRange(name, colour, value.mean, max(low, 0.0), high))
        rows.append((run.label, entries))
    said = "; ".join(
        f"{label}: " + ", ".join(f"{entry.series.lower()} {entry.value:.4g}" for entry in entries)
        for label, entries in rows
    )
    return _errors("runs", " of each run", said, figures_of(found.runs[0].task), rows)


def _errors(key: str, of: str, said: str, figures: Figures, rows: Sequence[tuple[str, Sequence[DotRange]]]) -> DotPlot:
    named = f"test {figures.errors}"
    highs = [entry.high for _, entries in rows for entry in entries]
    axis = spanning(f"{named} ({figures.better} is better)", [0.0, *highs], zero=True)
    return DotPlot(key, f"{named.capitalize()}{of}", f"Dot plot of {named}. {said}.", axis, rows)


def class_chart(gathered: Gathered) -> DotPlot | None:
    """Draw the accuracy on each class; with many classes, the ones where the students differ most."""
    table = {role: accuracy.tolist() for role, accuracy in class_accuracies(gathered).items()}
    return of_each(gathered, table, "classes", "accuracy", "on", "class")


def of_each(
    gathered: Gathered, table: Mapping[str, Sequence[float]], key: str, figure: str, of: str, one: str
) -> DotPlot | None:
    """Draw a figure of each class or label; of many, the ones where the students differ most.

    table: by role, NaN where a class has none.  key: of the chart, which is the plural of `one`.
    """
    models, names = gathered.chief, gathered.run.parts.test.class_names
    shown = [label for label in range(len(names)) if all(math.isfinite(table[model.role][label]) for model in models)]
    if not models or not shown:
        return None
    title = f"{figure.capitalize()} {of} each {one}"
    if len(shown) > _MOST_DRAWN and {"alone", "distilled"} <= set(table):
        apart = {label: abs(table["distilled"][label] - table["alone"][label]) for label in shown}
        shown = sorted(sorted(shown, key=lambda label: -apart[label])[:_MOST_DRAWN])
        title = f"{figure.capitalize()} {of} the {_MOST_DRAWN} {key} where the students differ most"
    rows = [
        (names[label], [DotRange.exact(model.name, model.colour, table[model.role][label]) for model in models])
        for label in shown
    ]
    last = models[-1]
    worst = min(shown, key=lambda label: table[last.role][label])
    said = f"the {last.name.lower()} is worst on {names[worst]}, {table[last.role][worst]:.0%}"
    least = min(entry.value for _, entries in rows for entry in entries)
    axis = Axis(figure, max(0.0, math.floor(20 * (least - 0.02)) / 20), 1.0, share=True)
    return DotPlot(key, title, f"Dot plot of the {figure} {of} {len(rows)} {key}: {said}.", axis, rows)


def class_accuracies(gathered: Gathered) -> dict[str, Tensor]:
    """Return the accuracy of each class (K,) by role, over all seeds."""
    return {model.role: per_class_accuracy(confusion(gathered, model.role)) for model in gathered.chief}


def confusion(gathered: Gathered, role: str) -> Tensor:
    """Return the confusion matrix (K, K) of a role, added up over its seeds."""
    answers, classes = gathered.answers, gathered.run.parts.test.classes
    return torch.stack(
        [confusion_matrix(logits.argmax(1), answers.labels, classes) for logits in answers.logits[role]]
    ).sum(0)


def confusions(gathered: Gathered) -> list[Chart]:
    """Draw the confusion matrices of the students, where there are few enough classes."""
    names = gathered.run.parts.test.class_names
    if not 2 <= len(names) <= _MOST_CLASSES:
        return []
    charts: list[Chart] = []
    for model in gathered.students:
        counts = confusion(gathered, model.role)
        wrong = counts.clone().fill_diagonal_(0)
        i, j = divmod(int(wrong.argmax()), len(names))
        said = f"{int(wrong.sum())} errors; most often {names[i]} is taken for {names[j]}, {int(wrong[i, j])} times"
        title = f"Confusions, {model.name.lower()}"
        key, colour = f"confusion-{model.role}", model.colour
        charts.append(Matrix(key, title, f"Confusion matrix: {said}.", names, counts.tolist(), colour))
    return charts


def listed(gathered: Gathered) -> list[list[str]]:
    """Return the students' most frequent confusions: true class, answer, and how often for each student."""
    tables = [confusion(gathered, model.role).fill_diagonal_(0) for model in gathered.students]
    names = gathered.run.parts.test.class_names
    return most_frequent(tables, names, names)


def most_frequent(
    tables: Sequence[Tensor], rows: Sequence[str], columns: Sequence[str], most: int = 10
) -> list[list[str]]:
    """Return the most frequent cells of counts over all students: names of row and column, each student's count."""
    if not tables:
        return []
    whole = torch.stack(list(tables)).sum(0)
    order = whole.flatten().argsort(descending=True, stable=True)[:most].tolist()
    cells = [divmod(place, len(columns)) for place in order]
    return [[rows[i], columns[j], *(f"{int(each[i, j]):,}" for each in tables)] for i, j in cells if whole[i, j]]


def calibration(gathered: Gathered, bins: int = 15) -> list[tuple[Plane, str]]:
    """Draw a reliability diagram of each model, over all its seeds; with each, its expected calibration error."""
    answers = gathered.answers
    found: list[tuple[Plane, str]] = []
    for model in gathered.chief:
        logits, labels = answers.logits[model.role], answers.labels
        diagram = _reliability(logits, labels, bins)
        own = _ece(logits, labels, bins)
        note = f"ECE {own:.4f}"
        fitted = answers.fitted.get(model.role, ())
        if any(each.at_bound for each in fitted):
            note += "; the held-out data does not determine a temperature"
        elif fitted:
            mended = [row / each.temperature for row, each in zip(logits, fitted, strict=True)]
            after, mean = _ece(mended, labels, bins), fmean(each.temperature for each in fitted)
            note += f"; {after:.4f} at T = {mean:.2f}, fitted on held-out data"
        bars = [
            Bar(
                low,
                high,
                accuracy,
                f"confidence {low:.0%} to {high:.0%}: {accuracy:.1%} right of {count:,}",
                # A bin with few examples says little, so it is drawn pale.
                strength=0.25 + 0.6 * min(1.0, count / 30),
            )
            for low, high, count, accuracy in zip(
                diagram.lower, diagram.upper, diagram.count, diagram.accuracy, strict=True
            )
            if accuracy is not None
        ]
        perfect = Line("", "ink", [(0.0, 0.0), (1.0, 1.0)], dash="3 3")
        axes = Axis("confidence", 0.0, 1.0, share=True), Axis("share right", 0.0, 1.0, share=True)
        title, key = f"Reliability, {model.name.lower()}", f"reliability-{model.role}"
        alternative = f"Reliability diagram of the {model.name.lower()}: expected calibration error {own:.4f}."
        chart = Plane(key, title, alternative, *axes, lines=[perfect], bars=bars, colour=model.colour)
        found.append((chart, note))
    return found


def _reliability(logits: Sequence[Tensor], labels: Tensor, bins: int) -> Reliability:
    scores = [score(each, labels) for each in logits]
    confidence, right = (torch.cat([getattr(each, name) for each in scores]) for name in ("confidence", "correct"))
    return reliability(confidence, right, bins=bins)


def _ece(logits: Sequence[Tensor], labels: Tensor, bins: int) -> float:
    """Return the expected calibration error of each seed by itself, the mean over the seeds."""
    return fmean(_reliability([each], labels, bins).ece for each in logits)


def cost_plot(runs: Sequence[Gathered]) -> Plane:
    """Draw accuracy over parameters for all models of all runs, with the front of those worth their cost."""
    many = len(runs) > 1
    called = {gathered.figures.accuracy for gathered in runs}
    measure = called.pop() if len(called) == 1 else "accuracy"
    share = any(gathered.figures.share for gathered in runs)
    scale, unit = (100.0, " %") if share else (1.0, "")
    alike: dict[tuple[str, float, float], tuple[Model, list[int]]] = {}  # a teacher that runs share is one point
    for run, gathered in enumerate(runs, start=1):
        for model in gathered.models:
            key = model.name, scale * model.accuracy.mean, float(model.parameters)
            alike.setdefault(key, (model, []))[1].append(run)
    marks = []
    for (name, accuracy, parameters), (model, found) in alike.items():
        which = f"{name.removeprefix('Student ').capitalize()} ({numbers_in_words(found)})" if many else name
        marks.append((Point(which, accuracy, parameters), model))
    front = pareto([point for point, _ in marks]) if same_test_set(runs) else ()
    worth = {id(point) for point in front}
    dots = [
        Dot(
            point.cost,
            point.accuracy,
            model.colour,
            point.name if id(point) in worth or len(marks) <= _MOST_NAMED else "",
            f"{point.name}: {point.accuracy:.2f}{unit}, {number(point.cost)} parameters",
        )
        for point, model in marks
    ]
    lines = [Line("", "ink", [(point.cost, point.accuracy) for point in front], dash="3 3")] if front else []
    x = spanning("parameters (log scale)", [point.cost for point, _ in marks], log=True)
    x = Axis(x.label, x.low / 1.3, x.high * 1.3, log=True)
    y = spanning(f"test {measure}, %" if share else f"test {measure}", [point.accuracy for point, _ in marks])
    y = Axis(y.label, y.low - _FOOT * (y.high - y.low), y.high)  # for the names of those that lie lowest
    shown = front or [point for point, _ in marks]
    said = "; ".join(f"{point.name}, {point.accuracy:.2f}{unit} at {number(point.cost)} parameters" for point in shown)
    which = "No other model beats: " if front else ""
    alternative = f"Scatter plot of {measure} over parameters. {which}{said}."
    return Plane("cost", "Accuracy and cost", alternative, x, y, lines=lines, dots=dots)


def numbers_in_words(numbers: Sequence[int]) -> str:
    """Return rising whole numbers, neighbours as a range.

    >>> numbers_in_words([1, 2, 3, 5, 7, 8])
    '1–3, 5, 7, 8'
    """
    ranges: list[list[int]] = []
    for each in numbers:
        if ranges and each == ranges[-1][-1] + 1:
            ranges[-1].append(each)
        else:
            ranges.append([each])
    return ", ".join(f"{some[0]}–{some[-1]}" if len(some) > 2 else ", ".join(map(str, some)) for some in ranges)


def same_test_set(runs: Sequence[Gathered]) -> bool:
    """Return whether runs were measured on the same samples, so that their accuracies can be set beside each other."""
    return len({_test_set(gathered) for gathered in runs}) == 1


def _test_set(gathered: Gathered) -> tuple[str, bytes]:
    test = gathered.run.parts.test
    return test.source, test.index.cpu().numpy().tobytes()
