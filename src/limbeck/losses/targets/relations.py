"""Targets made of how classes relate, whatever the sample: by the geometry of a teacher, or by a hierarchy."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.devices import exact
from limbeck.errors import InputError
from limbeck.losses.reduction import compute_dtype
from limbeck.losses.targets.dense import Dense
from limbeck.losses.targets.labels import at_label

__all__ = ["class_cosines", "related_classes", "similar_classes", "unit_rows"]


@checked
def class_cosines(vectors: Tensor) -> Tensor:
    """Return the cosine similarity of each class with each: (K, K), 1 on the diagonal.

    vectors: (K, d), one row a class, as the weights of a last linear layer are.  Computed in float64 and returned in
    at least float32; a row of zeros is similar to nothing but itself.

    >>> class_cosines(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([[1.0000, 0.7071],
            [0.7071, 1.0000]])
    """
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise InputError(f"class vectors: found {vectors.dtype} {tuple(vectors.shape)}, expected floating point (K, d)")
    if not bool(vectors.isfinite().all()):
        raise InputError("class vectors: found NaN or infinity, expected numbers; look at the teacher's last layer")
    rows = unit_rows(exact(vectors.detach()))
    cosines = (rows @ rows.T).clamp(-1.0, 1.0)
    return cosines.fill_diagonal_(1.0).to(compute_dtype(vectors[:0]).dtype).to(vectors.device)


def unit_rows(vectors: Tensor) -> Tensor:
    """Return rows (K, d) of length 1; a row of zeros stays."""
    largest = vectors.abs().amax(1, keepdim=True)  # first, or the squares of small rows would vanish
    return F.normalize(vectors / torch.where(largest == 0, 1.0, largest), dim=1)


@checked
def similar_classes(cosines: Tensor, labels: Tensor, power: float = 0.3, tau: float = 0.5) -> Dense:
    """Spread by similarity to the true class: softmax over i of sign(c_ti)·|c_ti|^a/τ (KD-sim, Tang 2020).

    cosines: (K, K), as `class_cosines` gives them.  labels: (...) int64 in [0, K), or `UNLABELLED`, whose row is
    uniform and is for the caller to mask.  power: a, above 0; below 1 it draws small cosines apart.  tau: τ, above 0;
    small ones sharpen.  The sign is ours: the paper does not say what becomes of negative cosines.

    >>> cosines = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> similar_classes(cosines, torch.tensor([0]), power=1.0, tau=0.5).log_probs.exp()
    tensor([[0.7311, 0.2689]])
    """
    checks.positive("power", power)
    checks.positive("tau", tau)
    cosines = compute_dtype(cosines.detach())
    if cosines.ndim != 2 or cosines.shape[0] != cosines.shape[1]:
        raise InputError(f"cosines: found {tuple(cosines.shape)}, expected (K, K)")
    index, labelled = at_label(labels, cosines[:1].expand(*labels.shape, -1))
    rows = cosines[index.squeeze(-1)]
    log_probs = F.log_softmax(rows.sign() * rows.abs().pow(power) / tau, dim=-1)
    return Dense(torch.where(labelled, log_probs, -math.log(cosines.shape[0])))


@checked
def related_classes(
    labels: Tensor,
    groups: Sequence[int] | Tensor,
    masses: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    dtype: torch.dtype = torch.float32,
) -> Dense:
    """Share out three masses by a hierarchy: β1 to the true class, β2 to its siblings, β3 to the rest (Tang 2020).

    labels: (...) int64 in [0, K), or `UNLABELLED`, whose row is uniform and is for the caller to mask.
    groups: (K,) the group of each class; classes of one group are siblings.  masses: β1, β2, β3, 0 or above, adding up
    to 1; each of the last two is shared evenly.  The true class has β1 whatever its group: where it has no siblings,
    or where there is no rest, the other classes share β2 + β3.

    >>> related_classes(torch.tensor([0, 3]), groups=[0, 0, 1, 2], masses=[0.6, 0.3, 0.1]).log_probs.exp()
    tensor([[0.6000, 0.3000, 0.0500, 0.0500],
            [0.1333, 0.1333, 0.1333, 0.6000]])
    """
    checks.shares("masses", masses, count=3)
    groups = torch.as_tensor(groups, device=labels.device)
    if groups.ndim != 1 or groups.dtype != torch.int64 or len(groups) < 2:
        raise InputError(f"groups: found {groups.dtype} {tuple(groups.shape)}, expected the group of each class, (K,)")
    classes, dtype = len(groups), compute_dtype(torch.empty(0, dtype=dtype)).dtype
    index, labelled = at_label(labels, groups.expand(*labels.shape, -1))
    _, group, sizes = groups.unique(return_inverse=True, return_counts=True)
    siblings = exact(sizes[group]) - 1
    rest = classes - 1 - siblings
    true, near, far = (mass / math.fsum(masses) for mass in masses)
    alone = (siblings == 0) | (rest == 0)
    log_near = torch.where(alone, (near + far) / (classes - 1), near / siblings).log().to(dtype).to(labels.device)
    log_far = torch.where(alone, (near + far) / (classes - 1), far / rest).log().to(dtype).to(labels.device)
    rows = torch.where(group[index] == group, log_near[index], log_far[index])
    rows = rows.scatter(-1, index, math.log(true) if true else -math.inf)
    return Dense(torch.where(labelled, rows, -math.log(classes)))
