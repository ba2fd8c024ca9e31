"""KD-topk: distillation of the teacher's most probable classes."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.targets import TopK

__all__ = ["CARD", "kd_topk"]

CARD = Card(
    name="kd_topk",
    summary="the k most probable classes of the teacher, the others alike",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula=(
        "hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(ρ ‖ softmax(z/T)), "
        "ρ_i = p̃_i for the k largest, (1-Σ_top p̃)/(K-k) for the others"
    ),
)


@checked
def kd_topk(
    temperature: Schedule = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    k: int | None = None,
    share: float | None = None,
) -> Objective:
    """Build KD-topk (Tang et al. 2020), with the terms `hard` and `soft`.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.  k: how many classes, 1 to K.  share: the share
    of the classes instead, in (0, 1]; the default is 0.25.

    >>> kd_topk(k=3).terms["soft"].target
    TopK(k=3, share=None, of=Softmax())
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=TopK(k, share))
