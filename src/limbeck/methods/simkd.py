"""A student with its teacher's classifier, which learns nothing but the map that this classifier reads."""

from torch import Tensor

from limbeck import losses
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.losses.maps import pooled
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "ProjectedMap", "simkd"]

CARD = Card(
    name="simkd",
    summary="the teacher's last map alone, for a student that ends in its teacher's classifier",
    authors="Defang Chen, Jian-Ping Mei, Hailin Zhang, Can Wang, Yan Feng, Chun Chen",
    year=2022,
    title="Knowledge Distillation with the Reused Teacher Classifier",
    source="https://arxiv.org/abs/2203.14001",
    formula="weight·mean (projector(F) - G)²; the student answers W_T·pool(projector(F)) + b_T",
)


class ProjectedMap(FeatureTerm):
    """Mean (projector(F) - G)² per example, where the projector is a part of the student."""

    axes = frozenset({4})

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        own, other = pooled(student, teacher)
        return losses.simkd(own, other, reduction="none")


@checked
def simkd(
    layers: LayerPairs,
    weight: Schedule = 1.0,
    hard_weight: Schedule = 0.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build the objective of a student with its teacher's classifier, the term `simkd`.

    The student is made by `limbeck.teachers.graft`, or by `student: {graft: {layers: stage3}}` in a recipe.

    Args:
        layers: `{projector: stage3}`, what the student's projector gives and the teacher's last map before the
            pooling.  Of two sizes, the larger map is reduced by average pooling.
        weight: of the mean over the map; a number or schedule.
        hard_weight: of the labels; a number or schedule.  Published: 0, since the classifier is fixed.
        soft_weight: of soft targets beside it; a number or schedule.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(simkd({"projector": "stage3"}).terms)
        ['simkd']

    Reference:
        Chen et al. (2022), "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001.
    """
    return beside_logits([ProjectedMap("simkd", weight, layers)], hard_weight, soft_weight, temperature)
