"""Distillation of the order in which a teacher ranks the items that a user does not have yet."""

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED, Batch, Legend
from limbeck.card import Card
from limbeck.losses import ranking_distillation as ranking_loss
from limbeck.losses import sampled_log_loss
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule, step_of
from limbeck.tasks import Need, Task
from limbeck.terms import count_labelled

__all__ = ["CARD", "RankingOrder", "SampledItems", "free_items", "ranking_distillation"]

CARD = Card(
    name="ranking_distillation",
    summary="the items that the teacher ranks first, weighted by their place and by how far the student is off",
    authors="Jiaxi Tang, Ke Wang",
    year=2018,
    title="Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender System",
    source="https://arxiv.org/abs/1809.07428",
    formula="(1-α)·L_R + α·L_RD, L_R = -Σ_p log σ(z_p) - Σ_n log σ(-z_n) over positives and sampled items, "
    "L_RD = -Σ_r w_r·log σ(z_{π_r}), w_r ∝ e^{-r/λ}·tanh(μ·max(r̂_r - r, 0)), π the teacher's first new items",
)


class SampledItems(Term):
    """The log loss of the items to be found against others that are drawn; it counts examples with such items.

    An item to be found has `negatives` others, which are drawn from those that are neither to be found nor known, as a
    function of (seed, step, example).
    """

    def __init__(self, weight: Schedule = 1.0, *, negatives: int = 3, name: str = "sampled") -> None:
        super().__init__(name, weight)
        checks.at_least("negatives", negatives, 1)
        self.negatives = negatives

    def settle(self, legend: Legend) -> None:
        _require_items(legend.task, self.name)

    def count(self, batch: Batch) -> Tensor | int:
        return count_labelled(batch)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        _require_items(batch.task, self.name)
        logits = outputs["student"].logits
        scores = logits.flatten(0, -2)
        if batch.labels is None:
            return sampled_log_loss(scores[:0], _none(batch, 0), _none(batch, 0), reduction="sum")
        positives, taken = batch.task.positives(batch.labels), _taken(batch)
        draws = _draws(self, batch, step, "negatives", len(scores), positives.shape[1] * self.negatives)
        negatives = free_items(draws, taken, scores.shape[1]).unflatten(1, (-1, self.negatives))
        negatives = torch.where(positives.unsqueeze(-1) == UNLABELLED, UNLABELLED, negatives).flatten(1)
        mask = None if batch.mask is None else batch.mask.flatten()
        return sampled_log_loss(scores, positives, negatives, mask=mask, reduction="sum")


class RankingOrder(Term):
    """The loss of the teacher's first items, without those that are to be found or known; it counts all examples.

    The items by which the student's places are estimated are drawn as a function of (seed, step, example).
    """

    reads = frozenset({"student", "teacher"})

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        top: int = 10,
        decay: float = 1.0,
        mu: float = 0.1,
        samples: int = 100,
        start: int = 500,
        name: str = "ranking",
    ) -> None:
        super().__init__(name, weight)
        checks.at_least("top", top, 1)
        checks.positive("decay", decay)
        checks.positive("mu", mu)
        checks.at_least("samples", samples, 0)
        checks.at_least("start", start, 0)
        self.top, self.decay, self.mu, self.samples, self.start = top, decay, mu, samples, start

    def settle(self, legend: Legend) -> None:
        _require_items(legend.task, self.name)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        _require_items(batch.task, self.name)
        student, teacher = (outputs[model].logits.flatten(0, -2) for model in ("student", "teacher"))
        drawn = None
        if self.samples and step_of(step, f"start of term '{self.name}'") >= self.start:
            drawn = (_draws(self, batch, step, "samples", len(student), self.samples) * student.shape[1]).long()
        return ranking_loss(
            student,
            teacher,
            top=self.top,
            decay=self.decay,
            mu=self.mu,
            samples=drawn,
            known=None if batch.labels is None else _taken(batch),
            mask=None if batch.mask is None else batch.mask.flatten(),
            reduction="sum",
        )


@checked
def ranking_distillation(
    alpha: float = 0.5,
    top: int = 10,
    decay: float = 1.0,
    mu: float = 0.1,
    samples: int = 100,
    start: int = 500,
    negatives: int = 3,
) -> Objective:
    """Build ranking distillation, with the terms `sampled` (L_R) and `ranking` (L_RD).

    Its examples are users or other queries and its classes are items; of classes and of words it teaches the order too.
    The published code weights L_RD 1 beside L_R, which is alpha 0.5 at half the learning rate, and leaves its hybrid
    weights as they are; here their sum is 1.

    Args:
        alpha: α in [0, 1], weight of the teacher's order; 1 - α is that of the items to be found.
        top: K, how many of the teacher's first items are taught.
        decay: λ > 0.  A small λ teaches the first item only, a large one all alike.
        mu: μ > 0, how fast an item's weight rises with the difference of its places for student and teacher.
        samples: ε, items by which the student's places are estimated; 0 for weights by the teacher's place alone.
        start: optimizer steps after which the student's places count; the paper waits for ten epochs.
        negatives: items that are drawn for each item to be found.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(ranking_distillation(alpha=0.7).terms)
        ['ranking', 'sampled']

    Reference:
        Tang & Wang (2018), "Ranking Distillation: Learning Compact Ranking Models With High Performance for
        Recommender System", arXiv:1809.07428.
    """
    checks.unit_interval("alpha", alpha)
    order = RankingOrder(alpha, top=top, decay=decay, mu=mu, samples=samples, start=start)
    own = SampledItems(1.0 - alpha, negatives=negatives)
    return Objective([term for term in (own, order) if term.weight])


def free_items(draws: Tensor, taken: Tensor, items: int) -> Tensor:
    """Return random items that are not taken, one for each draw.

    draws: (n, S) in [0, 1).  taken: (n, P) int64, each item once, `UNLABELLED` for none.  Returns (n, S) int64 in [0,
    items); `UNLABELLED` where all items are taken.

    >>> free_items(torch.tensor([[0.0, 0.3, 0.99]]), torch.tensor([[1, -100, 0]]), 5)
    tensor([[2, 2, 4]])
    """
    there = taken != UNLABELLED
    ordered = torch.where(there, taken, items + taken.shape[1]).sort(1).values
    free = items - there.sum(1, keepdim=True)
    place = (draws * free).long().clamp_max(free - 1)  # among those that are free
    before = ordered - torch.arange(taken.shape[1], device=taken.device)  # how many free ones come before each
    found = place + torch.searchsorted(before, place, right=True)
    return torch.where(free > 0, found, UNLABELLED)


def _draws(term: Term, batch: Batch, step: int | None, what: str, rows: int, count: int) -> Tensor:
    """Return random numbers for each row of the logits, (rows, count); an example may have several rows."""
    each = rows // max(len(batch), 1)
    return term.draw(batch, step, what, each * count).reshape(rows, count)


def _taken(batch: Batch) -> Tensor:
    """Return the items that are to be found or known, by row of the logits."""
    labels = batch.labels
    if labels is None:
        raise TypeError("a batch without labels has no items")
    return torch.cat([batch.task.positives(labels), batch.task.known(labels)], 1)


def _none(batch: Batch, rows: int) -> Tensor:
    return torch.full((rows, 1), UNLABELLED, device=batch.index.device)


def _require_items(task: Task, name: str) -> None:
    task.require(Need.ITEMS, what=f"term '{name}' teaches an order of", mend="use kd")
