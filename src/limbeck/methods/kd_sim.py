"""KD-sim: distillation of the similarity of classes in the teacher's last layer alone."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.targets import SimilarClasses

__all__ = ["CARD", "kd_sim"]

CARD = Card(
    name="kd_sim",
    summary="the similarity of the classes in the teacher's last linear layer",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula=(
        "hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(ρ ‖ softmax(z/T)), "
        "ρ = softmax_i(sign(c_ti)·|c_ti|^a/τ), c_ti = cos(w_t, w_i)"
    ),
)


@checked
def kd_sim(
    temperature: Schedule = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    power: float = 0.3,
    tau: float = 0.5,
) -> Objective:
    """Build KD-sim (Tang et al. 2020), with the terms `hard` and `soft`; the soft one counts labelled examples.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.  power: a, above 0.  tau: τ, above 0.  The paper tunes
    both; the defaults are ours.
    The teacher must have a linear last layer, whose rows are the vectors of the classes.

    >>> kd_sim(tau=0.3).terms["soft"].target
    SimilarClasses(power=0.3, tau=0.3)
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=SimilarClasses(power, tau))
