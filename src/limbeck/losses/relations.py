"""Relations between the examples of a batch: distances, angles, kernels and neighbourhoods (RKD, CC, PKT).

None of these values is the mean over the parts of a batch.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.losses.maps import both, distances, product, same_shape, unit

__all__ = ["correlation_congruence", "neighbour_congruence", "pkt", "rkd_angle", "rkd_distance"]

_EPSILON = 1e-7
"""Of PKT, inside its logarithm."""


@checked
def rkd_distance(student: Tensor, teacher: Tensor, *, distinct: bool = False) -> Tensor:
    """Compute Σ_ij h(ψ(F)_ij - ψ(G)_ij)/N², where ψ_ij = ‖f_i - f_j‖/μ, μ is its mean over i ≠ j, and h is Huber's.

    The value does not change when a feature is moved, rotated, reflected, or multiplied by a number above 0.

    Args:
        student: F, (N, ...) floating point; all axes but the first are one vector.
        teacher: G, (N, ...) with as many axes; other lengths are allowed.
        distinct: divide by N(N-1), the number of pairs of two examples, as in the paper; published code divides by N².

    Returns:
        A scalar; 0 for one example, for two, and where all vectors of a network are equal.

    Raises:
        InputError: if the numbers of examples or axes differ.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> bool(rkd_distance(3.0 * rows + 1.0, rows) < 1e-6)
        True

    Reference:
        Park et al. (2019), "Relational Knowledge Distillation", arXiv:1904.05068.
    """
    f, g = _vectors(student, teacher)
    examples = len(f)
    if examples < 2:
        return 0.0 * f.sum()
    return _huber(_relative(f), _relative(g)).sum() / (examples * (examples - 1 if distinct else examples))


@checked
def rkd_angle(student: Tensor, teacher: Tensor, *, distinct: bool = False, anchors: int | None = None) -> Tensor:
    """Compute Σ_ijk h(cos(F)_ijk - cos(G)_ijk)/N³, the angle at f_j between f_i and f_k, where h is Huber's.

    The value does not change when a feature is moved, rotated, reflected, or multiplied by a number other than 0.
    Time and memory grow with N³; with m anchors, with m·N².

    Args:
        student: F, (N, ...) floating point; all axes but the first are one vector.
        teacher: G, (N, ...) with as many axes; other lengths are allowed.
        distinct: divide by N(N-1)(N-2), the number of triples of three examples, as in the paper; published code
            divides by N³.
        anchors: m, 1 or above: only the first m examples are f_j.  None takes all.

    Returns:
        A scalar; 0 for one example.  An angle between equal vectors has cosine 0 and no gradient.

    Raises:
        InputError: if the numbers of examples or axes differ, or `anchors` is below 1.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> bool(rkd_angle(3.0 * rows + 1.0, rows) < 1e-6)
        True

    Reference:
        Park et al. (2019), "Relational Knowledge Distillation", arXiv:1904.05068.
    """
    f, g = _vectors(student, teacher)
    examples = len(f)
    taken = examples
    if anchors is not None:
        checks.at_least("anchors", anchors, 1)
        taken = min(anchors, examples)
    others = (examples - 1) * (examples - 2) if distinct else examples * examples
    if not taken or not others:
        return 0.0 * f.sum()
    return _huber(_cosines(f, taken), _cosines(g, taken)).sum() / (taken * others)


@checked
def correlation_congruence(
    student: Tensor,
    teacher: Tensor,
    *,
    kernel: Literal["gaussian", "bilinear"] = "gaussian",
    gamma: float = 0.4,
    order: int = 2,
) -> Tensor:
    """Compute Σ_ij (κ(F)_ij - κ(G)_ij)²/N², where κ is a kernel of the vectors over their lengths.

    "gaussian" is Σ_{p ≤ P} e^{-2γ}(2γ)^p/p!·(a·b)^p, the series of exp(-γ·‖a - b‖²) up to its order P; "bilinear" is
    a·b.  What later papers' tables call CC is `neighbour_congruence`.

    Args:
        student: F, (N, ...) floating point; all axes but the first are one vector.
        teacher: G, (N, ...) with as many axes; other lengths are allowed.
        kernel: "gaussian" or "bilinear".
        gamma: γ > 0.
        order: P, 1 or above.

    Returns:
        A scalar; 0 for one example.

    Raises:
        InputError: if the numbers of examples or axes differ, or a setting is out of range.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> correlation_congruence(rows, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), kernel="bilinear")
        tensor(0.5000)

    Reference:
        Peng et al. (2019), "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802.
    """
    checks.choice("kernel", kernel, ("gaussian", "bilinear"))
    checks.positive("gamma", gamma)
    checks.at_least("order", order, 1)
    f, g = _vectors(student, teacher)
    series = [0.0, 1.0]
    if kernel == "gaussian":
        series = [math.exp(-2 * gamma + p * math.log(2 * gamma) - math.lgamma(p + 1)) for p in range(order + 1)]
    of_student, of_teacher = (_polynomial(_products(rows), series) for rows in (f, g))
    return (of_student - of_teacher).square().sum() / max(len(f), 1) ** 2


@checked
def neighbour_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute Σ_n Σ_d |δ_{n,d}|·|δ_{n+1,d}|/(N-1), where δ = f - g, of each two neighbours in the batch.

    Tables of later papers call this CC.  The paper's loss is `correlation_congruence`.

    Args:
        student: f, (N, ...) floating point; all axes but the first are one vector.
        teacher: g, (N, ...) of the same shape.

    Returns:
        A scalar; 0 for one example.

    Raises:
        InputError: if the shapes differ.

    Example:
        >>> neighbour_congruence(torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3, 1))
        tensor(4.)

    Reference:
        Tian et al. (2020), "Contrastive Representation Distillation", arXiv:1910.10699, in its published code.
    """
    student, teacher = same_shape(student, teacher)
    apart = (student - teacher).abs().flatten(1)
    return (apart[:-1] * apart[1:]).sum() / max(len(apart) - 1, 1)


@checked
def pkt(student: Tensor, teacher: Tensor, *, diagonal: bool = True, per: Literal["pair", "anchor"] = "pair") -> Tensor:
    """Compute Σ_ij p_ij·ln((p_ij + ε)/(q_ij + ε))/N², where q_ij = c_ij/Σ_k c_ik, c = (1 + cos(f_i, f_j))/2, ε = 1e-7.

    p is the same of the teacher.  The value does not change when vectors are rotated together, or each is multiplied
    by a number of its own above 0; it does when they are moved.

    Args:
        student: F, (N, ...) floating point; all axes but the first are one vector.
        teacher: G, (N, ...) with as many axes; other lengths are allowed.
        diagonal: include i = j in all sums, as published code does; the paper does not.
        per: "pair" divides by N², as published; "anchor" divides by N.

    Returns:
        A scalar, in nats; 0 for one example.

    Raises:
        InputError: if the numbers of examples or axes differ, or `per` is unknown.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> pkt(torch.tensor([[2.0], [3.0], [4.0]]) * rows, rows)
        tensor(0.)

    Reference:
        Passalis & Tefas (2018), "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV.
    """
    checks.choice("per", per, ("pair", "anchor"))
    f, g = _vectors(student, teacher)
    examples = max(len(f), 1)
    q, p = (_neighbourhood(rows, diagonal) for rows in (f, g))
    total = (p * ((p + _EPSILON) / (q + _EPSILON)).log()).sum()
    return total / (examples * examples if per == "pair" else examples)


def _vectors(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = both(student, teacher)
    return student.flatten(1), teacher.flatten(1)


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    return F.huber_loss(student, teacher, reduction="none")


def _relative(rows: Tensor) -> Tensor:
    """Return the distances of all pairs over their mean; 0 where all are 0."""
    found = distances(rows, rows)
    mean = found.sum() / (len(rows) * (len(rows) - 1))
    return torch.where(mean == 0, 0.0, found / torch.where(mean == 0, 1.0, mean))


def _cosines(rows: Tensor, anchors: int) -> Tensor:
    """Return the cosines (anchors, N, N) at each of the first rows, between the directions to all others."""
    directions = unit(rows.unsqueeze(0) - rows[:anchors].unsqueeze(1))
    return product(directions, directions.transpose(1, 2))


def _products(rows: Tensor) -> Tensor:
    directions = unit(rows)
    return product(directions, directions.t())


def _polynomial(values: Tensor, coefficients: list[float]) -> Tensor:
    """Return Σ_p coefficients[p]·values^p."""
    total = torch.full_like(values, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * values + coefficient
    return total


def _neighbourhood(rows: Tensor, diagonal: bool) -> Tensor:
    """Return PKT's probabilities (N, N) of each row's neighbours; a row without any has zeros."""
    found = (0.5 * (1.0 + _products(rows))).clamp_min(0.0)
    if not diagonal:
        found = found * (1.0 - torch.eye(len(found), dtype=found.dtype, device=found.device))
    total = found.sum(1, keepdim=True)
    return found / torch.where(total == 0, 1.0, total)
