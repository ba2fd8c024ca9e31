"""KD-rel: distillation of a given hierarchy of the classes, without a teacher."""

from typing import Any

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.targets import RelatedClasses

__all__ = ["CARD", "kd_rel"]

CARD = Card(
    name="kd_rel",
    summary="a given hierarchy of the classes: siblings of the true class before the rest",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula=(
        "hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(ρ ‖ softmax(z/T)), "
        "ρ_t = β1, β2 shared by the siblings of t, β3 by the others"
    ),
)


@checked
def kd_rel(
    temperature: Schedule = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    groups: Any = "coarse",
    masses: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> Objective:
    """Build KD-rel (Tang et al. 2020), with the terms `hard` and `soft`; the soft one counts labelled examples.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.  groups: {group: [classes]} by name or number,
    the number of the group of each class, or "coarse" for the hierarchy that the data has.  masses: β1, β2, β3, 0 or
    above, adding up to 1; the defaults are ours.

    >>> kd_rel(groups=[0, 0, 1, 1], masses=(0.9, 0.08, 0.02)).terms["soft"].target.groups
    (0, 0, 1, 1)
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=RelatedClasses(groups, masses))
