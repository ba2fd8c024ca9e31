"""DKPP: distillation with the dark knowledge shuffled."""

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.targets import Permuted

__all__ = ["CARD", "dkpp"]

CARD = Card(
    name="dkpp",
    summary="dark knowledge with permuted predictions: all but the largest probability shuffled for each sample",
    authors="Tommaso Furlanello, Zachary C. Lipton, Michael Tschannen, Laurent Itti, Anima Anandkumar",
    year=2018,
    title="Born-Again Neural Networks",
    source="https://arxiv.org/abs/1805.04770",
    formula=(
        "hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(ρ ‖ softmax(z/T)), "
        "ρ_max = p̃_max, ρ_i = p̃_π(i), π a permutation of the others by (seed, sample)"
    ),
)


@checked
def dkpp(
    temperature: Schedule = 1.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    seed: int = 0,
) -> Objective:
    """Build DKPP (Furlanello et al. 2018), with the terms `hard` and `soft`.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.  The paper has no temperature.
    seed: of the permutations, one for each sample.

    >>> dkpp(seed=1).terms["soft"].target
    Permuted(seed=1, of=Softmax())
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=Permuted(seed))
