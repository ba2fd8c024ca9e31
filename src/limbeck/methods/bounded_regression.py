"""Regression that learns from labels as long as the teacher is nearer to them."""

from collections.abc import Mapping

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import bounded_squared_error
from limbeck.losses.reduction import compute_dtype
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.tasks import Need
from limbeck.terms import HardLabels

__all__ = ["CARD", "TeacherBound", "bounded_regression"]

CARD = Card(
    name="bounded_regression",
    summary="for numbers to predict: the labels once more, until the student is nearer to them than the teacher",
    authors="Guobin Chen, Wongun Choi, Xiang Yu, Tony Han, Manmohan Chandraker",
    year=2017,
    title="Learning Efficient Object Detection Models with Knowledge Distillation",
    source="https://papers.nips.cc/paper/6676-learning-efficient-object-detection-models-with-knowledge-distillation",
    formula="hard_weight·½·e(z) + soft_weight·½·e(z)·[e(z) + margin > e(v)], e(x) = Σ_d (x_d - y_d)²/D",
)


class TeacherBound(Term):
    """½·e(z) where e(z) + margin > e(v), e being the mean squared error of an example; counts labelled examples."""

    reads = frozenset({"student", "teacher"})

    def __init__(self, weight: Schedule = 1.0, *, margin: float = 0.0, name: str = "bound") -> None:
        super().__init__(name, weight)
        checks.non_negative("margin", margin)
        self.margin = margin

    def settle(self, legend: Legend) -> None:
        legend.task.require(Need.NUMBERS, what=f"term '{self.name}' bounds the error of", mend="use kd")
        if not legend.labelled:
            raise InputError(f"term '{self.name}' needs labels, but no sample has one")

    def count(self, batch: Batch) -> Tensor | int:
        return 0 if batch.labels is None else batch.task.count(batch.labelled())

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        student, teacher = outputs["student"].logits, outputs["teacher"].logits
        if batch.labels is None:
            return compute_dtype(student[:0]).sum()
        return bounded_squared_error(
            student, teacher, batch.labels, margin=self.margin, mask=batch.mask, reduction="sum"
        )


@checked
def bounded_regression(margin: float = 0.0, hard_weight: float = 1.0, soft_weight: Schedule = 0.5) -> Objective:
    """Build teacher-bounded regression, with the terms `hard` and `bound`.

    It is for the task regression.  To take the teacher's answer itself as target, use `logit_matching`.

    Args:
        margin: in squared label units, not negative.  A student that is nearer to the label than the teacher by the
            margin has loss 0 in `bound`.
        hard_weight: weight of the labels; finite, not negative.
        soft_weight: weight of `bound` (ν of the paper); a number or schedule, not negative.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(bounded_regression().terms)
        ['bound', 'hard']

    Reference:
        Chen et al. (2017), "Learning Efficient Object Detection Models with Knowledge Distillation", NeurIPS.
    """
    checks.non_negative("hard_weight", hard_weight)
    terms: list[Term] = [TeacherBound(soft_weight, margin=margin)]
    if hard_weight:
        terms.append(HardLabels(hard_weight))
    return Objective(terms)
