"""A ranking on the page: how much is found among the first items, how near to the teacher, and the places of items."""

from statistics import fmean

import torch
from torch import Tensor

from limbeck.evaluation import item_ranks
from limbeck.evaluation.ranking import RankedItems
from limbeck.report.charts import Axis, Line, Plane
from limbeck.report.gather import Gathered, Model
from limbeck.tasks import FIRST_ITEMS, RANKING, UNLABELLED

__all__ = ["faithful", "found", "listed"]

_FURTHEST = 50  # first items, up to which a curve goes


def found(gathered: Gathered) -> tuple[Plane, str] | None:
    """Draw how much of what is to be found each model has among its first k items, over k; means over the seeds."""
    answers, models = gathered.answers, gathered.chief
    if not models or not bool(RANKING.labelled(answers.labels).any()):
        return None
    most = min(_FURTHEST, gathered.run.parts.test.classes)
    table = {
        model.role: [_recalls(rows, answers.labels, most) for rows in answers.logits[model.role]] for model in models
    }
    means = {role: [fmean(column) for column in zip(*each, strict=True)] for role, each in table.items()}
    lines = [Line(each.name, each.colour, list(enumerate(means[each.role], 1))) for each in models]
    at = min(FIRST_ITEMS, most)
    said = "; ".join(f"{each.name}: {means[each.role][at - 1]:.1%}" for each in models)
    top = max(max(each) for each in means.values())
    axes = Axis("first items, k", 1.0, float(most)), Axis("recall@k", 0.0, min(1.0, 1.06 * top), share=True)
    alternative = f"Line chart of recall@k over k from 1 to {most}. At k = {at}, {said}."
    return Plane(
        "recall", "What is found among the first items", alternative, *axes, lines=lines
    ), f"At k = {at}: {said}."


def faithful(gathered: Gathered) -> str:
    """Say how many of the teacher's first items are among each student's."""
    answers = gathered.answers
    if not answers.has("teacher") or not gathered.students:
        return ""
    shares = {model.role: fmean(_shared(gathered, model)) for model in gathered.students}
    near = "; ".join(f"{shares[model.role]:.1%} for the {model.name.lower()}" for model in gathered.students)
    return (
        f"Of the teacher's first {FIRST_ITEMS} items for a test user, among the student's first {FIRST_ITEMS}: {near}."
    )


def listed(gathered: Gathered, most: int = 10) -> tuple[list[str], list[list[str]]]:
    """Return the items that distilled student and teacher place farthest apart: head and rows of a table."""
    answers, models, samples = gathered.answers, gathered.chief, gathered.answers.samples
    if not answers.has("teacher", "distilled"):
        return [], []
    positives, known = RANKING.positives(answers.labels), RANKING.known(answers.labels)
    ranks = {each.role: item_ranks(answers.logits[each.role][0], positives, known) for each in models}
    there = positives != UNLABELLED
    apart = torch.where(there, (ranks["teacher"] - ranks["distilled"]).abs(), -1).flatten()
    order = apart.argsort(stable=True, descending=True)[: min(most, int(there.sum()))].tolist()
    users = samples.gather_one(torch.arange(len(samples))).flatten().tolist()
    rows = []
    for row, column in (divmod(place, positives.shape[1]) for place in order):
        user, item = users[row], int(positives[row, column])
        names = [samples.vocabulary[user] if samples.vocabulary else str(user), samples.class_names[item]]
        rows.append([*names, *(f"{int(ranks[each.role][row, column]) + 1:,}" for each in models)])
    return ["User", "Item to be found", *(each.name for each in models)], rows


def _recalls(logits: Tensor, labels: Tensor, most: int) -> list[float]:
    items = RankedItems.of(logits, RANKING.positives(labels), RANKING.known(labels))
    return [float(items.recall(k).mean()) for k in range(1, most + 1)]


def _shared(gathered: Gathered, model: Model) -> list[float]:
    pairs = gathered.answers.pairs(model.role)
    return [gathered.figures.nearness(student, teacher).agreement or 0.0 for teacher, student in pairs]
