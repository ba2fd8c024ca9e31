"""Class-specialised distillation: a student for a subset of the teacher's classes."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.targets import Restricted

__all__ = ["CARD", "class_subset"]

CARD = Card(
    name="class_subset",
    summary="a student for a subset S of the classes learns the teacher's probabilities within it",
    authors="Li-Yun Wang, Anthony Rhodes, Wu-chi Feng",
    year=2022,
    title="Class Specialized Knowledge Distillation",
    source="https://openreview.net/forum?id=wjiPAcZqB9z",
    formula="hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(softmax(v[S]/T) ‖ softmax(z/T))",
)


@checked
def class_subset(
    classes: tuple[int, ...],
    temperature: Schedule = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
) -> Objective:
    """Build renormalised distillation on a subset of the classes (Wang et al. 2022), with the terms `hard` and `soft`.

    classes: S, numbers of the teacher's classes in the order of the student's outputs; the data's labels are positions
    in S, as `SampleSet.relabelled` makes them.  temperature, alpha, hard_weight, soft_weight: as for `kd`.

    >>> class_subset([3, 5, 8]).terms["soft"].target.classes
    (3, 5, 8)
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=Restricted(tuple(classes)))
