"""The students of the attribution: one objective a target, matched so that two of them differ in one thing alone."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import methods
from limbeck.diagnosis.attribution import TARGETS
from limbeck.diagnosis.inputs import DiagnosisInput, TeacherAnswers
from limbeck.losses import soften
from limbeck.objective import Objective
from limbeck.targets import (
    Mixture,
    SimilarClasses,
    SmoothedLabels,
    Softmax,
    Target,
    TopK,
    TrueClass,
    class_cosines,
    similar_classes,
)

__all__ = ["Matching", "match", "matched_tau", "objectives"]

_COLDEST, _HOTTEST = 1e-3, 1e3  # where KD-sim's τ is looked for
_POWER = 0.3


@dataclass(frozen=True)
class Matching:
    """Settings that give every target the same mean mass on the true class.

    confidence: mean p̃_t of the teacher over the training data, at the temperature of the distillation.
    epsilon: the label smoothing with that mass.  tau: KD-sim's, with that mass on average; None without class vectors.
    """

    confidence: float
    epsilon: float
    tau: float | None


def match(answers: TeacherAnswers, temperature: float) -> Matching:
    """Find the settings with which label smoothing and KD-sim are as sure of the true class as the teacher is.

    So smoothing alone separates hard labels from label smoothing, the example's own confidence alone KD-pt from label
    smoothing, and the classes' relations alone KD-sim from label smoothing.
    """
    labels = answers.train_labels
    classes = answers.train.shape[1]
    own = soften(answers.train.double(), temperature).log_probs.gather(1, labels[:, None]).exp()
    confidence = float(own.mean())
    epsilon = min(1.0, max(0.0, (1.0 - confidence) * classes / (classes - 1)))
    tau = None if answers.vectors is None else matched_tau(answers.vectors, labels, confidence)
    return Matching(confidence, epsilon, tau)


def matched_tau(vectors: Tensor, labels: Tensor, confidence: float) -> float:
    """Return the τ whose mean mass on the true class is `confidence`, from 1e-3 to 1e3: the mass falls as τ rises."""
    from scipy.optimize import brentq

    cosines = class_cosines(vectors.double())
    every = torch.arange(len(vectors))
    share = torch.bincount(labels, minlength=len(vectors)).double() / len(labels)

    def mass(tau: float) -> float:
        own = similar_classes(cosines, every, _POWER, tau).log_probs.diagonal().exp()
        return float((own * share).sum())

    for bound, beyond in ((_COLDEST, 1), (_HOTTEST, -1)):
        if (confidence - mass(bound)) * beyond >= 0:
            return bound
    log_range = math.log(_COLDEST), math.log(_HOTTEST)
    return math.exp(brentq(lambda log: mass(math.exp(log)) - confidence, *log_range, xtol=1e-14))


def objectives(
    subject: DiagnosisInput, matching: Matching
) -> tuple[Mapping[str, Callable[[], Objective]], dict[str, str]]:
    """Return how to build the objective of each arm of `TARGETS`, and why an arm is left out.

    Every arm but the one on hard labels has the subject's temperature, weights and divergence; only the target differs.
    """
    targets: dict[str, Target] = {
        "ls": SmoothedLabels(matching.epsilon),
        "pt": TrueClass(),
        "topk": TopK(),
        "kd": Softmax(),
    }
    left_out = {}
    if matching.tau is None:
        reason = "the teacher has no linear last layer whose rows could be compared"
        left_out = {"sim": reason, "pt+sim": reason}
    else:
        targets["sim"] = SimilarClasses(power=_POWER, tau=matching.tau)
        targets["pt+sim"] = Mixture((targets["pt"], targets["sim"]))

    def distilled(target: Target) -> Callable[[], Objective]:
        return lambda: methods.kd(
            temperature=subject.temperature,
            hard_weight=subject.hard_weight,
            soft_weight=subject.soft_weight,
            divergence=subject.divergence,
            target=target,
        )

    makers = {"hard": methods.hard, **{name: distilled(target) for name, target in targets.items()}}
    return {name: makers[name] for name in TARGETS if name in makers}, left_out
