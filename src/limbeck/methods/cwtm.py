"""CWTM: hard labels, each example weighted by how sure the teacher is."""

from collections.abc import Mapping

from torch import Tensor

from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.losses import confidence_weighted
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.targets import softened
from limbeck.terms import count_labelled

__all__ = ["CARD", "ConfidenceWeighted", "cwtm"]

CARD = Card(
    name="cwtm",
    summary="the hard-label loss, each example weighted by the teacher's largest probability",
    authors="Tommaso Furlanello, Zachary C. Lipton, Michael Tschannen, Laurent Itti, Anima Anandkumar",
    year=2018,
    title="Born-Again Neural Networks",
    source="https://arxiv.org/abs/1805.04770",
    formula="Σ_n w_n·H(y_n, softmax(z_n)), w_n = max p_n / Σ_batch max p",
)


class ConfidenceWeighted(Term):
    """Cross-entropy on hard labels, weighted by max p over its sum in the batch (Furlanello et al. 2018).

    The weights relate the examples of a batch to each other: under accumulation and over ranks each part of a batch
    has weights of its own, and the parts are joined by how many labelled examples they have.
    """

    reads = frozenset({"student", "teacher"})
    relational = True

    def __init__(self, weight: Schedule = 1.0, *, name: str = "hard") -> None:
        super().__init__(name, weight)

    def count(self, batch: Batch) -> Tensor | int:
        return count_labelled(batch)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int) -> Tensor:
        logits = outputs["student"].logits
        if batch.labels is None:
            return logits[:0].float().sum()
        confidence = softened(outputs["teacher"], 1.0).log_probs.amax(-1).exp()
        return self.count(batch) * confidence_weighted(logits, batch.labels, confidence, mask=batch.mask)


def cwtm() -> Objective:
    """Build confidence weighting by the teacher's maximum (Furlanello et al. 2018), with the one term `hard`.

    Of the teacher only the largest probability is read, at T=1.

    >>> sorted(cwtm().reads())
    ['student', 'teacher']
    """
    return Objective([ConfidenceWeighted()])
