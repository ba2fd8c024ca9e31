"""Losses as pure functions: tensors in, a tensor out.

Conventions of every function here: the class axis is last, any number of axes may lead; half-precision input is
computed in float32, float32 and float64 stay what they are; the mean is over examples (or tokens), never over classes;
what the teacher says is a constant, so no gradient flows into it.
"""

from limbeck.losses.distillation import cross_entropy, kd, kl, logit_matching, soft_cross_entropy
from limbeck.losses.divergences import CROSS_ENTROPY, KL, Divergence
from limbeck.losses.reduction import Reduction, reduce
from limbeck.losses.targets import Dense, SoftTarget, smooth_labels, soften, uniform
from limbeck.losses.weights import kd_weights

__all__ = [
    "CROSS_ENTROPY",
    "KL",
    "Dense",
    "Divergence",
    "Reduction",
    "SoftTarget",
    "cross_entropy",
    "kd",
    "kd_weights",
    "kl",
    "logit_matching",
    "reduce",
    "smooth_labels",
    "soft_cross_entropy",
    "soften",
    "uniform",
]
