"""Losses as pure functions: tensors in, a tensor out.

Conventions of every function on logits: the class axis is last, any number of axes may lead; the mean is over examples
(or tokens), never over classes.  Functions on features take the student's first: a vector (N, d), tokens (N, L, d) or a
map (N, C, H, W); each says whether it sums over the features of an example or takes their mean.

Of all: half-precision input is computed in float32, float32 and float64 stay what they are; what the teacher says is a
constant, so no gradient flows into it.
"""

from limbeck.losses.attention import attention_transfer
from limbeck.losses.boundaries import activation_boundary, batch_norm_margins, ofd
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
from limbeck.losses.gaussian import vid
from limbeck.losses.gram import fsp, fsp_matrix, ickd, nst, similarity_preserving
from limbeck.losses.hints import hint
from limbeck.losses.ranking import dark_rank, positives_cross_entropy, ranking_distillation, sampled_log_loss
from limbeck.losses.reduction import Reduction, reduce
from limbeck.losses.regression import bounded_squared_error, squared_error
from limbeck.losses.relations import (
    correlation_congruence,
    neighbour_congruence,
    pkt,
    rkd_angle,
    rkd_distance,
)
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
    "activation_boundary",
    "attention_transfer",
    "batch_norm_margins",
    "bounded_squared_error",
    "confidence_weighted",
    "correlation",
    "correlation_congruence",
    "cross_entropy",
    "dark_rank",
    "dist",
    "divergence",
    "dkd",
    "fsp",
    "fsp_matrix",
    "hint",
    "ickd",
    "inter_class",
    "intra_class",
    "jensen_shannon",
    "js",
    "kd",
    "kd_weights",
    "kl",
    "logit_matching",
    "neighbour_congruence",
    "nst",
    "ofd",
    "pkt",
    "positives_cross_entropy",
    "ranking_distillation",
    "reduce",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "sampled_log_loss",
    "similarity_preserving",
    "skewed",
    "skewed_kl",
    "soft_cross_entropy",
    "soften",
    "squared_error",
    "standardise",
    "total_variation",
    "vid",
]
