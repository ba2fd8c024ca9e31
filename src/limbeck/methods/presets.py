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
    """Build distillation on a subset of the teacher's classes, renormalised, with the terms `hard` and `soft`.

    Args:
        classes: S, numbers of the teacher's classes in the order of the student's outputs.  The labels are positions in
            S, as `SampleSet.relabelled` makes them.
        temperature: T > 0, a number or schedule.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range, or a class is repeated.

    Example:
        >>> class_subset([3, 5, 8]).terms["soft"].target.classes
        (3, 5, 8)

    Reference:
        Wang, Rhodes & Feng (2022), "Class Specialized Knowledge Distillation", openreview.net/forum?id=wjiPAcZqB9z.
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
    """Build DKPP, soft targets with permuted dark knowledge, with the terms `hard` and `soft`.

    Args:
        temperature: T > 0, a number or schedule.  The paper has none, which is 1.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.
        seed: of the permutations, one for each sample; 0 or above.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> dkpp(seed=1).terms["soft"].target
        Permuted(seed=1, of=Softmax())

    Reference:
        Furlanello et al. (2018), "Born-Again Neural Networks", arXiv:1805.04770.
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.Permuted(seed))


@checked
def kd_pt(
    temperature: Schedule = 4.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
) -> Objective:
    """Build KD-pt, which teaches the confidence in the true class, with the terms `hard` and `soft`.

    The soft term counts labelled examples.

    Args:
        temperature: T > 0, a number or schedule.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> kd_pt(temperature=2.0).terms["soft"].target
        TrueClass(of=Softmax())

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation", arXiv:2002.03532.
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
    """Build KD-rel, which teaches a hierarchy of the classes, with the terms `hard` and `soft`.

    The soft term counts labelled examples.

    Args:
        temperature: T > 0, a number or schedule.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.
        groups: {group: [classes]} by name or number, the group number of each class, or "coarse" for the hierarchy that
            the data set has.
        masses: β1, β2, β3, 0 or above, summing to 1.  The paper tunes them; the defaults are limbeck's.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range, or the groups have another form.

    Example:
        >>> kd_rel(groups=[0, 0, 1, 1], masses=(0.9, 0.08, 0.02)).terms["soft"].target.groups
        (0, 0, 1, 1)

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation", arXiv:2002.03532.
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
    """Build KD-sim, which teaches the similarity of the classes, with the terms `hard` and `soft`.

    The soft term counts labelled examples.  The teacher must have a linear last layer; its rows are the class vectors.

    Args:
        temperature: T > 0, a number or schedule; it softens the student alone.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.
        power: a > 0.  The paper tunes it; the default is limbeck's.
        tau: τ > 0.  The paper tunes it; the default is limbeck's.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> kd_sim(tau=0.3).terms["soft"].target
        SimilarClasses(power=0.3, tau=0.3)

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation", arXiv:2002.03532.
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
    """Build KD-topk, which teaches the k most probable classes, with the terms `hard` and `soft`.

    Args:
        temperature: T > 0, a number or schedule.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.
        k: the number of classes, 1 to K.
        share: the share of the classes instead, in (0, 1]; 0.25 by default.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range, or both k and share are given.

    Example:
        >>> kd_topk(k=3).terms["soft"].target
        TopK(k=3, share=None, of=Softmax())

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation", arXiv:2002.03532.
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.TopK(k, share))


@checked
def label_smoothing(epsilon: float = 0.1) -> Objective:
    """Build cross-entropy on smoothed labels, with the one term `hard`.

    It equals `kd` with the target `uniform`, divergence cross_entropy, T=1, hard_weight 1-ε and soft_weight ε.

    Args:
        epsilon: ε in [0, 1].

    Returns:
        The objective.

    Raises:
        InputError: if ε is not in [0, 1].

    Example:
        >>> sorted(label_smoothing(0.1).terms)
        ['hard']

    Reference:
        Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567.
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
    """Build distillation of standardised logits, with the terms `hard` and `soft` and the paper's weights.

    Args:
        temperature: T > 0 of the z-scores, a number or schedule.
        hard_weight: finite, not negative.
        soft_weight: finite, not negative.
        divergence: between target and student, from `limbeck.losses`.
        target: the distribution to match, from `limbeck.targets`.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> logit_standardisation().terms["soft"].transform
        Standardise(eps=1e-07)

    Reference:
        Sun et al. (2024), "Logit Standardization in Knowledge Distillation", arXiv:2403.01427.
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
    """Build Tf-KD_reg, distillation from a virtual teacher, with the terms `hard` and `soft`.

    Both terms count labelled examples.  The paper's published code is temperature 1, softening 20, hard_weight 1-α and
    soft_weight α·m/K, with its α and multiplier m (it also takes the mean over the K classes).

    Args:
        temperature: T > 0, a number or schedule; it softens virtual teacher and student, as in the paper's text.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.
        confidence: u in [0.9, 1), the probability of the true class.
        softening: s > 0 softens the probabilities instead of their logarithms, as the published code does; None follows
            the paper's text.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(tf_kd().reads())
        ['student']
        >>> tf_kd(temperature=1.0, softening=20.0).terms["soft"].target
        VirtualTeacher(confidence=0.99, softening=20.0)

    Reference:
        Yuan et al. (2020), "Revisiting Knowledge Distillation via Label Smoothing Regularization", arXiv:1909.11723.
    """
    return kd(temperature, alpha, hard_weight, soft_weight, target=targets.VirtualTeacher(confidence, softening))


@checked
def tf_kd_self(
    temperature: Schedule = 20.0,
    alpha: float | None = None,
    hard_weight: float | None = None,
    soft_weight: float | None = None,
) -> Objective:
    """Build Tf-KD_self, self-distillation, with the terms `hard` and `soft`.

    The objective is that of `kd`.  The teacher is a network of the student's kind, trained before on hard labels; a
    recipe without a `teacher` makes one.

    Args:
        temperature: T > 0, a number or schedule.
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if no weight is given.
        hard_weight: instead of `alpha`; finite, not negative.
        soft_weight: instead of `alpha`; finite, not negative.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(tf_kd_self().terms)
        ['hard', 'soft']

    Reference:
        Yuan et al. (2020), "Revisiting Knowledge Distillation via Label Smoothing Regularization", arXiv:1909.11723.
    """
    return kd(temperature, alpha, hard_weight, soft_weight)
