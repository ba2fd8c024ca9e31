"""Losses on embeddings of sentences: margins and cosines within a batch, and the axes to which one is reduced."""

from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import both, product, unit
from limbeck.losses.reduction import Reduction, check_mask, compute_dtype, reduce

__all__ = ["batch_margins", "cosine_matrix", "margin_mse", "pool_tokens", "principal_axes"]


@checked
def margin_mse(
    positive: Tensor,
    negative: Tensor,
    teacher_positive: Tensor,
    teacher_negative: Tensor,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute ((s⁺ - s⁻) - (t⁺ - t⁻))² of the scores of pairs: how much better the positive fits than the negative.

    Args:
        positive: s⁺ (N,) floating point, the student's scores of an anchor with its positive.
        negative: s⁻ (N,), with its negative.
        teacher_positive: t⁺ (N,), the teacher's of the same pairs.
        teacher_negative: t⁻ (N,).
        reduction: "mean" over the anchors, "sum", or "none".

    Returns:
        A scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the shapes differ.

    Example:
        >>> margin_mse(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([5.0]), torch.tensor([1.0]))
        tensor(9.)

    Reference:
        Hofstätter et al. (2020), "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
        Distillation", arXiv:2010.02666.
    """
    own = compute_dtype(positive, "positive")
    parts = {"negative": negative, "teacher_positive": teacher_positive, "teacher_negative": teacher_negative}
    for name, each in parts.items():
        checks.shapes_match("positive", own.shape, name, each.shape)
    margin = own - compute_dtype(negative, "negative")
    target = compute_dtype(teacher_positive, "teacher_positive") - compute_dtype(teacher_negative, "teacher_negative")
    return reduce((margin - target.detach().to(margin.dtype)).square(), None, reduction)


@checked
def batch_margins(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the margin loss of all cosines in a batch, the mean of ((s_ij - s_ik) - (t_ij - t_ik))².

    It is over all anchors i and all pairs j ≠ k of other examples.  An embedding of zeros has cosine 0 with all.

    Args:
        student: embeddings (N, d) floating point.
        teacher: embeddings (N, d').

    Returns:
        A scalar; 0 for fewer than three examples.

    Raises:
        InputError: if they are no vectors of as many examples.

    Example:
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> batch_margins(student, torch.ones(3, 2))
        tensor(0.6667)

    Reference:
        Hofstätter et al. (2020), arXiv:2010.02666, with all examples of the batch as positives and negatives.
    """
    difference = _cosine_difference(student, teacher)
    others = len(difference) - 1
    if others < 2:
        return difference.sum() * 0.0
    mean = difference.sum(1, keepdim=True) / others  # the diagonal is 0
    apart = torch.eye(others + 1, dtype=torch.bool, device=difference.device)
    spread = torch.where(apart, 0.0, difference - mean).square()
    return 2.0 * spread.sum(1).mean() / (others - 1)


@checked
def cosine_matrix(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared error of the cosines of all pairs in a batch, the mean over i ≠ j.

    An embedding of zeros has cosine 0 with all.

    Args:
        student: embeddings (N, d) floating point.
        teacher: embeddings (N, d').

    Returns:
        A scalar; 0 for one example.

    Raises:
        InputError: if they are no vectors of as many examples.

    Example:
        >>> cosine_matrix(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [1.0]]))
        tensor(1.)

    Reference:
        Park et al. (2019), "Relational Knowledge Distillation", arXiv:1904.05068, with cosines as the relation.
    """
    difference = _cosine_difference(student, teacher)
    examples = len(difference)
    return difference.square().sum() / max(examples * (examples - 1), 1)


@checked
def principal_axes(features: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Compute the mean of features and the directions in which they vary most (PCA).

    Args:
        features: (n, d) floating point.
        width: how many directions, at most n and d.

    Returns:
        The mean (d,) and the directions (width, d), orthonormal, the first of the largest variance; the entry of each
        with the largest absolute value is positive.  Both in the type of the features, computed in float64.

    Raises:
        InputError: if there are fewer features or examples than directions.

    Example:
        >>> mean, axes = principal_axes(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]), 1)
        >>> mean, axes.abs()
        (tensor([2., 1.]), tensor([[1., 0.]]))

    Reference:
        Pearson (1901), "On Lines and Planes of Closest Fit to Systems of Points in Space".
    """
    checks.at_least("width", width, 1)
    if features.dim() != 2 or not features.is_floating_point() or width > min(features.shape):
        raise InputError(
            f"features: found {tuple(features.shape)} for {width} directions, expected floating-point (n, d) with n and"
            f" d of at least {width}; lower the width or give more examples"
        )
    exact = features.detach().double()
    mean = exact.mean(0)
    _, vectors = torch.linalg.eigh((exact - mean).T @ (exact - mean))
    axes = vectors.flip(1).T[:width]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return mean.to(features.dtype), (axes * largest.sign()).to(features.dtype)


@checked
def pool_tokens(hidden: Tensor, mask: Tensor | None = None, *, pooling: Literal["mean", "first"] = "mean") -> Tensor:
    """Compute one vector for each sentence from the hidden states of its tokens.

    Args:
        hidden: (N, L, d) floating point.
        mask: (N, L) bool, True for real tokens; None for all.
        pooling: the "mean" of the real tokens, or the "first" token.

    Returns:
        (N, d) in float32 at least; 0 for a sentence without real tokens.

    Raises:
        InputError: if the shapes do not fit or the pooling is unknown.

    Example:
        >>> pool_tokens(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])

    Reference:
        Reimers & Gurevych (2019), "Sentence-BERT", arXiv:1908.10084.
    """
    checks.choice("pooling", pooling, ("mean", "first"))
    hidden = compute_dtype(hidden, "hidden")
    if hidden.dim() != 3:
        raise InputError(f"hidden: found shape {tuple(hidden.shape)}, expected tokens (N, L, d)")
    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    check_mask(mask, hidden.shape[:2])
    hidden = torch.where(mask[..., None], hidden, 0.0)
    return hidden[:, 0] if pooling == "first" else hidden.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def _cosine_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the student's cosines of all pairs less the teacher's, (N, N), 0 on the diagonal."""
    student, teacher = both(student, teacher)
    if student.dim() != 2:
        raise InputError(f"student: found shape {tuple(student.shape)}, expected embeddings (N, d)")
    own, other = (unit(each) for each in (student, teacher))
    apart = torch.eye(len(own), dtype=torch.bool, device=own.device)
    return torch.where(apart, 0.0, product(own, own.T) - product(other, other.T))
