"""Methods that are `kd` or `hard` with a target and defaults of a paper's own: a row of `CARDS` and a function each.

The card of a method that only sets the target is made from the target's: its paper, and `kd` with its ρ for formula.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from limbeck import targets
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.losses import KL, Divergence
from limbeck.methods.hard import CARD as HARD
from limbeck.methods.hard import hard
from limbeck.methods.kd import kd
from limbeck.objective import Objective
from limbeck.schedules import Schedule
from limbeck.targets import PLAIN, Target

__all__ = [
    "CARDS",
    "class_subset",
    "dkpp",
    "kd_pt",
    "kd_rel",
    "kd_sim",
    "kd_topk",
    "label_smoothing",
    "logit_standardisation",
    "tf_kd",
    "tf_kd_self",
]

_HARD, _SOFT = "hard_weight·H(y, softmax(z))", "soft_weight·T²·KL"


def _taught(name: str, kind: str, **own: Any) -> Card:
    card = targets.card(kind)
    return replace(card, **{"name": name, "formula": f"{_HARD} + {_SOFT}(ρ ‖ softmax(z/T)), {card.formula}", **own})


CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        _taught("class_subset", "subset"),
        _taught("dkpp", "dkpp"),
        _taught("kd_pt", "pt"),
        _taught("kd_rel", "rel"),
        _taught("kd_sim", "sim"),
        _taught("kd_topk", "topk"),
        _taught("tf_kd", "virtual"),
        _taught(
            "tf_kd_self",
            "virtual",
            summary="self-training: the teacher is the student itself, trained before on hard labels",
            formula=f"{_HARD} + {_SOFT}(softmax(v/T) ‖ softmax(z/T)), v of a trained network of the student's kind",
        ),
        replace(
            HARD,
            name="label_smoothing",
            summary="hard labels smoothed by ε, no teacher: distillation from a teacher that knows nothing",
        ),
        Card(
            name="logit_standardisation",
            summary="soft targets of standardised logits, so that student and teacher share no scale",
            authors="Shangquan Sun, Wenqi Ren, Jingzhi Li, Rui Wang, Xiaochun Cao",
            year=2024,
            title="Logit Standardization in Knowledge Distillation",
            source="https://arxiv.org/abs/2403.01427",
            formula=f"{_HARD} + {_SOFT}(softmax(Z(v)/T) ‖ softmax(Z(z)/T)), Z the z-score over the classes",
        ),
    )
}


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
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.Restricted(tuple(classes)))


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
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.Permuted(seed))


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
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.TrueClass())


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
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.RelatedClasses(groups, masses))


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
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.SimilarClasses(power, tau))


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
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.TopK(k, share))


@checked
def label_smoothing(epsilon: float = 0.1) -> Objective:
    """Build cross-entropy on labels smoothed by `epsilon` ε in [0, 1] (Szegedy et al. 2016), with the one term `hard`.

    It equals `kd` with the target `uniform`, divergence cross_entropy, T=1, hard_weight 1-ε and soft_weight ε.

    >>> sorted(label_smoothing(0.1).terms)
    ['hard']
    """
    return hard(label_smoothing=epsilon)


@checked
def logit_standardisation(
    temperature: Schedule = 2.0,
    hard_weight: float = 0.1,
    soft_weight: float = 9.0,
    divergence: Divergence = KL,
    target: Target = PLAIN,
) -> Objective:
    """Build distillation of standardised logits with the weights and the base temperature of Sun et al. (2024).

    temperature: of the z-scores, above 0, a number or schedule.  hard_weight, soft_weight: finite, not negative.
    divergence, target: as for `kd`.

    >>> logit_standardisation().terms["soft"].transform
    Standardise(eps=1e-07)
    """
    return kd(temperature, None, hard_weight, soft_weight, divergence, target, standardise=True)


@checked
def tf_kd(
    temperature: Schedule = 20.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
    confidence: float = 0.99,
    softening: float | None = None,
) -> Objective:
    """Build Tf-KD_reg (Yuan et al. 2020), with the terms `hard` and `soft`; both count labelled examples.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.  confidence: u in [0.9, 1), of the true class.
    softening: None, where the temperature softens virtual teacher and student, as in the paper's text.  Its published
    code softens the probabilities instead of their logarithms, and the student not at all: that is temperature 1,
    softening 20, hard_weight = 1-α and soft_weight = α·m/K with its α and multiplier m (its mean is over the K classes
    too).

    >>> sorted(tf_kd().reads())
    ['student']
    >>> tf_kd(temperature=1.0, softening=20.0).terms["soft"].target
    VirtualTeacher(confidence=0.99, softening=20.0)
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.VirtualTeacher(confidence, softening))


@checked
def tf_kd_self(
    temperature: Schedule = 20.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
) -> Objective:
    """Build Tf-KD_self (Yuan et al. 2020), with the terms `hard` and `soft`.

    temperature, alpha, hard_weight, soft_weight: as for `kd`.  The objective is that of `kd`: what makes it
    self-training is the teacher, which is a network of the student's kind (a recipe without a `teacher` has that one).

    >>> sorted(tf_kd_self().terms)
    ['hard', 'soft']
    """
    return kd(temperature, alpha, hard_weight, soft_weight)
