"""CWTM: hard labels, each example weighted by how sure the teacher is."""

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck import ranks
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.losses import confidence_weighted
from limbeck.losses.reduction import compute_dtype
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.targets import softened
from limbeck.terms import count_labelled, counted_outputs, require_classes

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

    It relates the examples of a batch to each other.  The batch is that of all ranks together; where gradients are
    accumulated, it is each part, and the parts are joined by how many labelled examples they have.
    """

    reads = frozenset({"student", "teacher"})
    relates_examples = True

    def __init__(self, weight: Schedule = 1.0, *, name: str = "hard") -> None:
        super().__init__(name, weight)

    def settle(self, legend: Legend) -> None:
        require_classes(legend.task, f"term '{self.name}' weighs", alone=True)

    def count(self, batch: Batch) -> Tensor | int:
        return count_labelled(batch)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        logits = outputs["student"].logits
        if batch.labels is None:
            return compute_dtype(logits[:0]).sum()
        counted = batch.labelled()
        confidence = softened(counted_outputs(outputs["teacher"], counted), 1.0).log_probs.amax(-1).exp()
        here = torch.stack([torch.where(counted, confidence, 0.0).sum(), counted.sum().to(confidence)])
        everywhere = ranks.all_rows(here[None]).sum(0)
        share = here[0] / torch.where(everywhere[0] > 0, everywhere[0], 1.0)
        mean = confidence_weighted(logits, batch.labels, confidence, mask=batch.mask)
        return everywhere[1] * share * mean


def cwtm() -> Objective:
    """Build CWTM, hard labels weighted by the teacher's confidence, with the one term `hard`.

    Of the teacher only the largest probability is read, at T=1.

    Returns:
        The objective.

    Example:
        >>> sorted(cwtm().reads())
        ['student', 'teacher']

    Reference:
        Furlanello et al. (2018), "Born-Again Neural Networks", arXiv:1805.04770.
    """
    return Objective([ConfidenceWeighted()])
