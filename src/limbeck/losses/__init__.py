"""Losses as pure functions: tensors in, a tensor out.

Conventions of every function on logits: the class axis is last, any number of axes may lead; the mean is over examples
(or tokens), never over classes.  Functions on features take the student's first: a vector (N, d), tokens (N, L, d) or a
map (N, C, H, W); each says whether it sums over the features of an example or takes their mean.

Of all: half-precision input is computed in float32, float32 and float64 stay what they are; what the teacher says is a
constant, so no gradient flows into it.
"""

from limbeck.losses.attention import attention_transfer
from limbeck.losses.boundaries import activation_boundary, batch_norm_margins, ofd
from limbeck.losses.cams import cat_kd, class_activation_maps, grad_cam
from limbeck.losses.confidence import confidence_weighted
from limbeck.losses.contrast import bank_rows, contrast_constant, crd
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
from limbeck.losses.embeddings import batch_margins, cosine_matrix, margin_mse, pool_tokens, principal_axes
from limbeck.losses.encoders import (
    attention_kl,
    attention_mse,
    attention_scores,
    hidden_cosine,
    hidden_mse,
    relation_kl,
)
from limbeck.losses.factors import factor_transfer
from limbeck.losses.fused.linear import fused_linear_kd
from limbeck.losses.gaussian import vid
from limbeck.losses.gram import fsp, fsp_matrix, ickd, nst, similarity_preserving
from limbeck.losses.hints import hint
from limbeck.losses.jacobian import input_gradient, vector_jacobian
from limbeck.losses.matching import weight_matching
from limbeck.losses.pyramid import hcl, review_kd
from limbeck.losses.ranking import dark_rank, positives_log_loss, ranking_distillation, sampled_log_loss
from limbeck.losses.reconstruction import mgd, simkd, srrl, vkd
from limbeck.losses.reduction import Reduction, reduce
from limbeck.losses.regression import bounded_squared_error, squared_error
from limbeck.losses.relations import (
    correlation_congruence,
    neighbour_congruence,
    pkt,
    rkd_angle,
    rkd_distance,
)
from limbeck.losses.sparse import Sampled, TopK
from limbeck.losses.standardisation import Standardise, standardise
from limbeck.losses.support import boundary_samples
from limbeck.losses.transformed import wttm
from limbeck.losses.weights import kd_weights

__all__ = [
    "CROSS_ENTROPY",
    "KL",
    "REVERSE_KL",
    "TOTAL_VARIATION",
    "Dense",
    "Divergence",
    "Reduction",
    "Sampled",
    "Standardise",
    "TopK",
    "activation_boundary",
    "attention_kl",
    "attention_mse",
    "attention_scores",
    "attention_transfer",
    "bank_rows",
    "batch_margins",
    "batch_norm_margins",
    "boundary_samples",
    "bounded_squared_error",
    "cat_kd",
    "class_activation_maps",
    "confidence_weighted",
    "contrast_constant",
    "correlation",
    "correlation_congruence",
    "cosine_matrix",
    "crd",
    "cross_entropy",
    "dark_rank",
    "dist",
    "divergence",
    "dkd",
    "factor_transfer",
    "fsp",
    "fsp_matrix",
    "fused_linear_kd",
    "grad_cam",
    "hcl",
    "hidden_cosine",
    "hidden_mse",
    "hint",
    "ickd",
    "input_gradient",
    "inter_class",
    "intra_class",
    "jensen_shannon",
    "js",
    "kd",
    "kd_weights",
    "kl",
    "logit_matching",
    "margin_mse",
    "mgd",
    "neighbour_congruence",
    "nst",
    "ofd",
    "pkt",
    "pool_tokens",
    "positives_log_loss",
    "principal_axes",
    "ranking_distillation",
    "reduce",
    "relation_kl",
    "reverse_kl",
    "review_kd",
    "rkd_angle",
    "rkd_distance",
    "sampled_log_loss",
    "similarity_preserving",
    "simkd",
    "skewed",
    "skewed_kl",
    "soft_cross_entropy",
    "soften",
    "squared_error",
    "srrl",
    "standardise",
    "total_variation",
    "vector_jacobian",
    "vid",
    "vkd",
    "weight_matching",
    "wttm",
]
