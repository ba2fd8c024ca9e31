"""Where the students of a task of several labels differ: label by label, and on whole examples."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from limbeck.evaluation.figures import average_precision
from limbeck.report.charts import DotPlot
from limbeck.report.gather import Gathered, TestAnswers
from limbeck.report.panels import most_frequent, of_each
from limbeck.report.pictures import Disagreement, disagreeing, explored, pictured
from limbeck.tasks import UNLABELLED

__all__ = ["disagreements", "explorer", "listed", "named", "precisions"]


def precisions(gathered: Gathered) -> DotPlot | None:
    """Draw the average precision of each label; of many, the ones where the students differ most."""
    table = {model.role: _precisions(gathered.answers, model.role) for model in gathered.chief}
    return of_each(gathered, table, "labels", "average precision", "of", "label")


def _precisions(answers: TestAnswers, role: str) -> list[float]:
    """Return each label's average precision, mean over the seeds; NaN where no sample has it."""
    truth = answers.samples.labels.cpu()
    known, margins = truth != UNLABELLED, [_margins(rows, truth.shape) for rows in answers.logits[role]]
    table = []
    for label in range(truth.shape[1]):
        some = known[:, label]
        found = [average_precision(each[some, label], truth[some, label] == 1) for each in margins]
        kept = [each for each in found if each is not None]
        table.append(fmean(kept) if kept else math.nan)
    return table


def _margins(rows: Tensor, shape: torch.Size) -> Tensor:
    """Return the logits (n, C) of "yes" above "no" from rows of both (n · C, 2)."""
    return (rows[:, 1] - rows[:, 0]).double().view(shape)


def listed(gathered: Gathered) -> list[list[str]]:
    """Return the students' most frequent mistakes: the label, whether missed or wrongly given, each student's count."""
    answers, tables = gathered.answers, []
    truth = answers.samples.labels.cpu()
    for model in gathered.students:
        said = torch.stack([_margins(rows, truth.shape) > 0 for rows in answers.logits[model.role]])
        tables.append(torch.stack([((truth == 1) & ~said).sum((0, 1)), ((truth == 0) & said).sum((0, 1))]))
    rows = most_frequent(tables, ("missed", "wrongly given"), gathered.run.parts.test.class_names)
    return [[label, how, *counts] for how, label, *counts in rows]


def disagreements(gathered: Gathered) -> list[Disagreement]:
    """Return the test images of the greatest KL(teacher ‖ student distilled) over all labels, at the first seed."""
    return disagreeing(gathered, lambda answers, rows: _margins(rows, answers.samples.labels.shape), _answer, _labels)


def _labels(labels: Tensor, names: Sequence[str]) -> str:
    return named(torch.where(labels == 1)[0].tolist(), names)


def _answer(margins: Tensor, names: Sequence[str]) -> tuple[str, float]:
    """Return the labels that a model gives, and the probability of just these."""
    given = named(torch.where(margins > 0)[0].tolist(), names)
    return given, float(torch.nn.functional.logsigmoid(margins.abs()).sum().exp())


def named(labels: Sequence[int], names: Sequence[str], most: int = 6) -> str:
    """Return labels in words.

    >>> named([0, 2], ["cat", "dog", "hat"]), named([], ["cat"])
    ('cat, hat', 'none')
    """
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(names[label] for label in labels[:most]) + more if labels else "none"


def explorer(gathered: Gathered, temperature: float) -> dict[str, Any] | None:
    """Return what the teacher says of each label of some training images; see `pictures.explored`.

    `logits` are those of "yes" above "no", and `probabilities` their sigmoid: labels do not share a whole.
    """
    samples, told = gathered.run.parts.train, gathered.taught
    if told is None or not pictured(samples):
        return None
    margins = told.logits.diff(dim=-1).squeeze(-1).double()
    given = [torch.where(row == 1)[0].tolist() for row in samples.labels[told.positions]]
    truths = [(labels, named(labels, samples.class_names)) for labels in given]
    return explored(samples, told, margins, truths, temperature, _sigmoid, apart=True)


def _sigmoid(margins: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the probabilities of yes, and the entropy of yes and no in nats, added up over the labels (..., C)."""
    log_yes, log_no = (torch.nn.functional.logsigmoid(sign * margins / temperature) for sign in (1, -1))
    return (margins / temperature).sigmoid(), -(log_yes.exp() * log_yes + log_no.exp() * log_no).sum(-1)
