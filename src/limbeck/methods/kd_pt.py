"""KD-pt: distillation of the teacher's confidence in the true class alone."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.targets import TrueClass

__all__ = ["CARD", "kd_pt"]

CARD = Card(
    name="kd_pt",
    summary="the teacher's confidence in the true class, the other classes alike",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula=("hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(ρ ‖ softmax(z/T)), ρ_t = p̃_t, ρ_i = (1-p̃_t)/(K-1)"),
)


@checked
def kd_pt(
    temperature: Schedule = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
) -> Objective:
    """Build KD-pt (Tang et al. 2020), with the terms `hard` and `soft`; the soft one counts labelled examples.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.

    >>> kd_pt(temperature=2.0).terms["soft"].target
    TrueClass(of=Softmax())
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=TrueClass())
