"""The geometry that soft targets ask of a student (Tang et al. 2020, proposition 1)."""

import torch
from torch import Tensor

from limbeck import checks
from limbeck.diagnosis.correlation import spearman_rows
from limbeck.errors import InputError
from limbeck.losses.reduction import check_labels

__all__ = ["nearness_order"]


@torch.no_grad()
def nearness_order(features: Tensor, vectors: Tensor, teacher_logits: Tensor, labels: Tensor) -> float | None:
    """Return how far a student puts the wrong classes in the teacher's order: in [-1, 1], None for K < 3.

    At temperature 1 and the optimum, ‖h - w_i‖² < ‖h - w_j‖² for wrong classes i, j exactly where the teacher has
    p_i > p_j, given class vectors of one length (Tang et al. 2020, proposition 1).  This is the mean over the examples
    of Spearman's rank correlation between -‖h - w_i‖² and p_i over the wrong classes.

    features: h, (n, d), what the student's last linear layer is given.  vectors: w, (K, d), its rows.
    teacher_logits: (n, K).  labels: (n,) int64, each labelled.

    >>> features, vectors = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.5], [-1.0, 0.0]])
    >>> nearness_order(features, vectors, torch.tensor([[5.0, 2.0, 1.0]]), torch.tensor([0]))
    1.0
    """
    if features.dim() != 2 or vectors.dim() != 2:
        shapes = f"{tuple(features.shape)} and {tuple(vectors.shape)}"
        raise InputError(f"features, vectors: found {shapes}, expected (n, d) and (K, d)")
    checks.shapes_match("features", features.shape[1:], "vectors", vectors.shape[1:])
    checks.shapes_match("teacher_logits", teacher_logits.shape, "features by vectors", (len(features), len(vectors)))
    check_labels(labels, features.shape[:1])
    if len(vectors) < 3:
        return None
    distances = torch.cdist(features.double(), vectors.double(), compute_mode="donot_use_mm_for_euclid_dist")
    wrong = torch.ones_like(distances, dtype=torch.bool).scatter_(1, labels[:, None], False)
    near, said = ((-distances)[wrong].view(len(labels), -1), teacher_logits.double()[wrong].view(len(labels), -1))
    value = float(spearman_rows(near, said).nanmean())
    return None if value != value else round(value, 12)
