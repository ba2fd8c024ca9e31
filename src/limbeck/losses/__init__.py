"""Losses as pure functions: tensors in, a tensor out.

Conventions of every function here: the class axis is last, any number of axes may lead; half-precision input is
computed in float32, float32 and float64 stay what they are; the mean is over examples (or tokens), never over classes;
what the teacher says is a constant, so no gradient flows into it.
"""

from limbeck.losses.distillation import (
    cross_entropy,
    js,
    kd,
    kl,
    logit_matching,
    reverse_kl,
    skewed_kl,
    soft_cross_entropy,
    total_variation,
)
from limbeck.losses.divergences import (
    CROSS_ENTROPY,
    KL,
    REVERSE_KL,
    TOTAL_VARIATION,
    Divergence,
    divergence,
    jensen_shannon,
    skewed,
)
from limbeck.losses.reduction import Reduction, reduce
from limbeck.losses.targets import Dense, SoftTarget, smooth_labels, soften, uniform
from limbeck.losses.weights import kd_weights

__all__ = [
    "CROSS_ENTROPY",
    "KL",
    "REVERSE_KL",
    "TOTAL_VARIATION",
    "Dense",
    "Divergence",
    "Reduction",
    "SoftTarget",
    "cross_entropy",
    "divergence",
    "jensen_shannon",
    "js",
    "kd",
    "kd_weights",
    "kl",
    "logit_matching",
    "reduce",
    "reverse_kl",
    "skewed",
    "skewed_kl",
    "smooth_labels",
    "soft_cross_entropy",
    "soften",
    "total_variation",
    "uniform",
]
