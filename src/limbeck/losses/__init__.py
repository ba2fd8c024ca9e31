"""Losses as pure functions: tensors in, a tensor out.

Conventions of every function here: the class axis is last, any number of axes may lead; half-precision input is
computed in float32, float32 and float64 stay what they are; the mean is over examples (or tokens), never over classes;
what the teacher says is a constant, so no gradient flows into it.
"""

from limbeck.losses.confidence import confidence_weighted
from limbeck.losses.correlation import dist, inter_class, intra_class
from limbeck.losses.decoupled import dkd
from limbeck.losses.dense import Dense, soften
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
from limbeck.losses.ranking import dark_rank, positives_cross_entropy, ranking_distillation, sampled_log_loss
from limbeck.losses.reduction import Reduction, reduce
from limbeck.losses.regression import bounded_squared_error, squared_error
from limbeck.losses.standardisation import Standardise, standardise
from limbeck.losses.weights import kd_weights

__all__ = [
    "CROSS_ENTROPY",
    "KL",
    "REVERSE_KL",
    "TOTAL_VARIATION",
    "Dense",
    "Divergence",
    "Reduction",
    "Standardise",
    "bounded_squared_error",
    "confidence_weighted",
    "correlation",
    "cross_entropy",
    "dark_rank",
    "dist",
    "divergence",
    "dkd",
    "inter_class",
    "intra_class",
    "jensen_shannon",
    "js",
    "kd",
    "kd_weights",
    "kl",
    "logit_matching",
    "positives_cross_entropy",
    "ranking_distillation",
    "reduce",
    "reverse_kl",
    "sampled_log_loss",
    "skewed",
    "skewed_kl",
    "soft_cross_entropy",
    "soften",
    "squared_error",
    "standardise",
    "total_variation",
]
