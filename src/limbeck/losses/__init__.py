"""Losses as pure functions: tensors in, a tensor out.

Conventions of every function here: the class axis is last, any number of axes may lead; half-precision input is
computed in float32, float32 and float64 stay what they are; the mean is over examples (or tokens), never over classes;
what the teacher says is a constant, so no gradient flows into it.
"""

from limbeck.losses.confidence import confidence_weighted
from limbeck.losses.correlation import dist, inter_class, intra_class
from limbeck.losses.decoupled import dkd
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
    correlation,
    divergence,
    jensen_shannon,
    skewed,
)
from limbeck.losses.reduction import Reduction, reduce
from limbeck.losses.regression import bounded_squared_error, squared_error
from limbeck.losses.standardisation import standardise
from limbeck.losses.targets import (
    Dense,
    SoftTarget,
    class_cosines,
    geometric_mean,
    label_positions,
    mixture,
    permute,
    related_classes,
    restrict,
    similar_classes,
    smooth_labels,
    soften,
    top_k,
    true_class,
    uniform,
    virtual_teacher,
)
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
    "bounded_squared_error",
    "class_cosines",
    "confidence_weighted",
    "correlation",
    "cross_entropy",
    "dist",
    "divergence",
    "dkd",
    "geometric_mean",
    "inter_class",
    "intra_class",
    "jensen_shannon",
    "js",
    "kd",
    "kd_weights",
    "kl",
    "label_positions",
    "logit_matching",
    "mixture",
    "permute",
    "reduce",
    "related_classes",
    "restrict",
    "reverse_kl",
    "similar_classes",
    "skewed",
    "skewed_kl",
    "smooth_labels",
    "soft_cross_entropy",
    "soften",
    "squared_error",
    "standardise",
    "top_k",
    "total_variation",
    "true_class",
    "uniform",
    "virtual_teacher",
]
