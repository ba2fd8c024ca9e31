"""Where the students of a task of several labels differ: label by label, and on whole examples."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from limbeck.evaluation.figures import average_precision
from limbeck.losses import KL, soften
from limbeck.report.charts import Axis, DotPlot, DotRange
from limbeck.report.gather import Gathered, TestAnswers
from limbeck.report.pictures import BARS, Disagreement, chosen, dial, percent, picture, pictured
from limbeck.tasks import UNLABELLED

__all__ = ["disagreements", "explorer", "listed", "named", "precisions"]

_MOST_DRAWN = 24


def precisions(gathered: Gathered) -> DotPlot | None:
    """Draw the average precision of each label; of many, the ones where the students differ most."""
    answers = gathered.answers
    models = [model for model in gathered.chief if answers is not None and answers.has(model.role)]
    if answers is None or not models:
        return None
    names = gathered.run.parts.test.class_names
    table = {model.role: _precisions(answers, model.role) for model in models}
    known = [label for label in range(len(names)) if all(column[label] is not None for column in table.values())]
    if not known:
        return None
    title, shown = "Average precision of each label", known
    if len(known) > _MOST_DRAWN and {"alone", "distilled"} <= set(table):
        apart = {label: abs(_value(table["distilled"][label]) - _value(table["alone"][label])) for label in known}
        shown = sorted(sorted(known, key=lambda label: -apart[label])[:_MOST_DRAWN])
        title = f"Average precision of the {len(shown)} labels where the students differ most"
    rows = [
        (names[label], [_point(model.name, model.colour, _value(table[model.role][label])) for model in models])
        for label in shown
    ]
    last = models[-1]
    worst = min(shown, key=lambda label: _value(table[last.role][label]))
    low = min(entry.value for _, entries in rows for entry in entries)
    said = f"the {last.name.lower()} is worst on {names[worst]}, {_value(table[last.role][worst]):.0%}"
    axis = Axis("average precision", max(0.0, int(20 * (low - 0.02)) / 20), 1.0, share=True)
    return DotPlot("labels", title, f"Dot plot of the average precision of {len(rows)} labels: {said}.", axis, rows)


def _precisions(answers: TestAnswers, role: str) -> list[float | None]:
    """Return each label's average precision, mean over the seeds; None where no sample has it."""
    truth = answers.samples.labels.cpu()
    known, margins = truth != UNLABELLED, [_margins(rows, truth.shape) for rows in answers.logits[role]]
    table = []
    for label in range(truth.shape[1]):
        some = known[:, label]
        found = [average_precision(each[some, label], truth[some, label] == 1) for each in margins]
        kept = [each for each in found if each is not None]
        table.append(fmean(kept) if kept else None)
    return table


def _margins(rows: Tensor, shape: torch.Size) -> Tensor:
    """Return the logits (n, C) of "yes" above "no" from rows of both (n · C, 2)."""
    return (rows[:, 1] - rows[:, 0]).double().view(shape)


def _value(found: float | None) -> float:
    return 0.0 if found is None else found


def _point(name: str, colour: str, value: float) -> DotRange:
    return DotRange(name, colour, value, value, value)


def listed(gathered: Gathered, most: int = 10) -> list[list[str]]:
    """Return the students' most frequent mistakes: the label, whether missed or wrongly given, each student's count."""
    answers = gathered.answers
    students = [model for model in gathered.students if answers is not None and answers.has(model.role)]
    if answers is None or not students:
        return []
    names, truth = gathered.run.parts.test.class_names, answers.samples.labels.cpu()
    tables = []
    for model in students:
        said = torch.stack([_margins(rows, truth.shape) > 0 for rows in answers.logits[model.role]])
        tables.append(torch.stack([((truth == 1) & ~said).sum((0, 1)), ((truth == 0) & said).sum((0, 1))]))
    whole = torch.stack(tables).sum(0)
    order = whole.flatten().argsort(descending=True, stable=True)[:most].tolist()
    pairs = [divmod(place, len(names)) for place in order]
    return [
        [names[label], ("missed", "wrongly given")[how], *(f"{int(each[how, label]):,}" for each in tables)]
        for how, label in pairs
        if whole[how, label]
    ]


def disagreements(gathered: Gathered, count: int = 12) -> list[Disagreement]:
    """Return the test images of the greatest KL(teacher ‖ student distilled) over all labels, at the first seed."""
    answers = gathered.answers
    if answers is None or not answers.has("teacher", "distilled") or not pictured(answers.samples):
        return []
    samples, names = answers.samples, answers.samples.class_names
    teacher, distilled = answers.pairs("distilled")[0]
    divergences = KL.per_example(distilled, soften(teacher), 1.0).view(samples.labels.shape).sum(1)
    found = divergences.argsort(descending=True, stable=True)[:count]
    margins = {
        model.name.removeprefix("Student ").capitalize(): _margins(answers.logits[model.role][0], samples.labels.shape)
        for model in gathered.chief
        if answers.has(model.role)
    }
    shown = []
    for number, image in zip(found.tolist(), samples.gather(found), strict=True):
        said = tuple((who, *_answer(rows[number], names)) for who, rows in margins.items())
        truth = named(torch.where(samples.labels[number] == 1)[0].tolist(), names)
        shown.append(Disagreement(picture(image), truth, float(divergences[number]), said))
    return shown


def _answer(margins: Tensor, names: Sequence[str]) -> tuple[str, float]:
    """Return the labels that a model gives, and the probability of just these."""
    chosen = named(torch.where(margins > 0)[0].tolist(), names)
    return chosen, float(torch.nn.functional.logsigmoid(margins.abs()).sum().exp())


def named(labels: Sequence[int], names: Sequence[str], most: int = 6) -> str:
    """Return labels in words.

    >>> named([0, 2], ["cat", "dog", "hat"]), named([], ["cat"])
    ('cat, hat', 'none')
    """
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(names[label] for label in labels[:most]) + more if labels else "none"


def explorer(gathered: Gathered, temperature: float) -> dict[str, Any] | None:
    """Return what the teacher says of each label of some training images; see `pictures.taught`.

    `logits` are those of "yes" above "no", and `probabilities` their sigmoid: labels do not share a whole.
    """
    samples = gathered.run.parts.train
    if gathered.taught is None or not pictured(samples):
        return None
    some, margins = gathered.taught.positions, gathered.taught.logits.diff(dim=-1).squeeze(-1).double()
    numbers = chosen(_doubt(margins, 1.0))
    examples = [
        {
            "image": picture(image),
            "label": named(truth, samples.class_names),
            "true": truth,
            "unsure": unsure,
            **_sure(margins[number], samples.class_names, temperature),
        }
        for (number, unsure), image, truth in zip(
            numbers,
            samples.gather(some[[number for number, _ in numbers]]),
            [torch.where(samples.labels[some[number]] == 1)[0].tolist() for number, _ in numbers],
            strict=True,
        )
    ]
    return {**dial(temperature), "classes": list(samples.class_names), "apart": True, "examples": examples}


def _doubt(margins: Tensor, temperature: float) -> Tensor:
    """Return the entropy of yes and no in nats, added up over the labels (..., C)."""
    log_yes, log_no = (torch.nn.functional.logsigmoid(sign * margins / temperature) for sign in (1, -1))
    return -(log_yes.exp() * log_yes + log_no.exp() * log_no).sum(-1)


def _sure(row: Tensor, names: Sequence[str], temperature: float) -> dict[str, Any]:
    """Return the labels of the highest logits, and what the page shows of them until its script runs."""
    order = row.argsort(descending=True, stable=True)
    ids = order[:BARS].tolist()
    logits, rest = ([round(float(row[i]), 5) for i in part] for part in (order[:BARS], order[BARS:]))
    kept = torch.tensor(logits + rest, dtype=torch.float64)
    shares = (kept / temperature).sigmoid()
    nats = float(_doubt(kept, temperature))
    top = ", ".join(f"{names[i]} {percent(float(p))}" for i, p in zip(ids[:3], shares, strict=False))
    return {
        "ids": ids,
        "logits": logits,
        "rest": rest,
        "probabilities": shares[: len(ids)].tolist(),
        "entropy": nats,
        "said": f"At temperature {temperature:g}: {top}; entropy {nats:.2f} nats",
    }
