"""Losses on what is inside a transformer: attention scores, hidden states, and relations between tokens.

They count real tokens alone, so that padding a batch to any length changes neither value nor gradient.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import both, product, same_shape, unit
from limbeck.losses.reduction import Reduction, check_mask, compute_dtype, reduce

__all__ = ["attention_kl", "attention_mse", "attention_scores", "hidden_cosine", "hidden_mse", "relation_kl"]


@checked
def attention_scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Compute the attention scores before the softmax, A = Q·Kᵀ/√d_h in each head.

    Args:
        query: (N, L, heads·d_h) floating point, what the projection of the queries gives.
        key: (N, L, heads·d_h), or of fewer heads that several query heads share (grouped keys), which are repeated.
        heads: of the queries, 1 or more.

    Returns:
        (N, heads, L, L), in float32 at least; entry (i, j) is query i on key j.

    Raises:
        InputError: if the shapes do not fit, or the width is no multiple of the heads.

    Example:
        >>> attention_scores(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[1.0], [3.0]]]), 1)
        tensor([[[[1., 3.],
                  [2., 6.]]]])

    Reference:
        Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.
    """
    checks.at_least("heads", heads, 1)
    query, key = compute_dtype(query, "query"), compute_dtype(key, "key")
    if query.dim() != 3 or key.dim() != 3 or query.shape[:2] != key.shape[:2]:
        raise InputError(
            f"query has shape {tuple(query.shape)}, key has shape {tuple(key.shape)}; expected (N, L, d) of both"
        )
    width = query.shape[2] // heads
    if query.shape[2] % heads or not width or key.shape[2] % width or heads % max(key.shape[2] // width, 1):
        raise InputError(
            f"heads: found {heads} for queries of width {query.shape[2]} and keys of width {key.shape[2]}, expected a"
            " divisor of both; give the model's own number"
        )
    q, k = (each.unflatten(2, (-1, width)).transpose(1, 2) for each in (query, key.to(query.dtype)))
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], 1)
    return product(q, k.transpose(2, 3)) / math.sqrt(width)


@checked
def attention_mse(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    centre: Literal["none", "rows"] = "none",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the squared error of attention scores, 1/h·Σ_heads (A^S - A^T)², over the pairs of real tokens.

    The published code takes the mean over padded pairs too, so that its value depends on the padding.

    Args:
        student: A^S (N, h, L, L) floating point, scores before the softmax.
        teacher: A^T of the same shape.
        mask: (N, L) bool, True for real tokens; None counts all.
        causal: count a key only up to its query (j <= i).
        centre: "rows" subtracts from each row its mean over the counted keys, which the softmax ignores as well.
        reduction: "mean" over the counted pairs, "sum", or "none".

    Returns:
        A scalar, or (N, L, L) with ``reduction="none"``, 0 where a pair does not count.

    Raises:
        InputError: if the shapes differ, the mask does not fit, or a choice is unknown.

    Example:
        >>> student, teacher = torch.tensor([[[[1.0, 2], [0, 1]]]]), torch.tensor([[[[1.5, 1], [1, 1]]]])
        >>> attention_mse(student, teacher)
        tensor(0.5625)

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """
    checks.choice("centre", centre, ("none", "rows"))
    student, teacher, valid = _scores(student, teacher, mask, causal)
    student, teacher = (torch.where(valid[:, None], each, 0.0) for each in (student, teacher))
    difference = student - teacher
    if centre == "rows":
        keys = valid.sum(-1, keepdim=True).clamp_min(1)[:, None]
        difference = difference - difference.sum(-1, keepdim=True) / keys
    return reduce(difference.square().mean(1), valid, reduction)


@checked
def attention_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the divergence of attention probabilities, 1/h·Σ_heads KL(softmax A^T ‖ softmax A^S) for each real query.

    Args:
        student: A^S (N, h, L, L) floating point, scores before the softmax.
        teacher: A^T of the same shape.
        mask: (N, L) bool, True for real tokens, which alone are keys; None counts all.
        causal: count a key only up to its query (j <= i).
        reduction: "mean" over the real queries, "sum", or "none".

    Returns:
        A scalar in nats, or (N, L) with ``reduction="none"``, 0 where a query is no real token.

    Raises:
        InputError: if the shapes differ or the mask does not fit.

    Example:
        >>> student = torch.zeros(1, 1, 2, 2)
        >>> attention_kl(student, torch.tensor([[[[0.0, 0.0], [1.0, 0.0]]]]))
        tensor(0.0555)

    Reference:
        Sun et al. (2020), "MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices", arXiv:2004.02984.
    """
    student, teacher, valid = _scores(student, teacher, mask, causal)
    queries = valid.any(-1)
    keys = (valid | ~queries[..., None])[:, None]  # a row of padding has all keys, and no part in the result
    known = (torch.where(valid[:, None], each, 0.0) for each in (student, teacher))
    q, p = (each.masked_fill(~keys, -torch.inf).log_softmax(-1) for each in known)
    q, p = (torch.where(keys, each, 0.0) for each in (q, p))
    each = torch.where(keys, p.exp() * (p - q), 0.0).sum(-1).mean(1)
    return reduce(each, queries, reduction)


@checked
def hidden_mse(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, reduction: Reduction = "mean"
) -> Tensor:
    """Compute the squared error of hidden states, the mean over the features of each real token.

    Args:
        student: H^S·W (N, L, d) floating point, after the projection.
        teacher: H^T of the same shape.
        mask: (N, L) bool, True for real tokens; None counts all.
        reduction: "mean" over the real tokens, "sum", or "none".

    Returns:
        A scalar, or (N, L) with ``reduction="none"``, 0 for padding.

    Raises:
        InputError: if the shapes differ or the mask does not fit.

    Example:
        >>> hidden_mse(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]]))
        tensor(5.)

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """
    student, teacher, mask = _tokens(student, teacher, mask)
    return reduce((student - teacher).square().mean(-1), mask, reduction)


@checked
def hidden_cosine(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, reduction: Reduction = "mean"
) -> Tensor:
    """Compute 1 - cos(H^S, H^T) of the hidden states of each real token; a state of zeros counts as 1.

    Args:
        student: H^S (N, L, d) floating point.
        teacher: H^T of the same shape.
        mask: (N, L) bool, True for real tokens; None counts all.
        reduction: "mean" over the real tokens, "sum", or "none".

    Returns:
        A scalar in [0, 2], or (N, L) with ``reduction="none"``, 0 for padding.

    Raises:
        InputError: if the shapes differ or the mask does not fit.

    Example:
        >>> hidden_cosine(torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]), torch.tensor([[[0.0, 3.0], [1.0, 0.0]]]))
        tensor(0.5000)

    Reference:
        Sanh et al. (2019), "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        arXiv:1910.01108.
    """
    student, teacher, mask = _tokens(student, teacher, mask)
    return reduce(1.0 - (unit(student) * unit(teacher)).sum(-1), mask, reduction)


@checked
def relation_kl(
    student: Tensor,
    teacher: Tensor,
    heads: int,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute 1/A·Σ_heads KL(R^T ‖ R^S) of the relations between tokens, R = softmax(X·Xᵀ/√d_r) in each of A heads.

    X are the queries, keys or values of a layer, all heads side by side, cut anew into A relation heads of width d_r.
    So the two networks can have other widths and other numbers of attention heads.

    Args:
        student: X^S (N, L, d) floating point; d is a multiple of the relation heads.
        teacher: X^T (N, L, d'), d' a multiple of them as well.
        heads: A, the number of relation heads, 1 or more.
        mask: (N, L) bool, True for real tokens; None counts all.
        causal: count a token only up to the one that it is related to.
        reduction: "mean" over the real tokens, "sum", or "none".

    Returns:
        A scalar in nats, or (N, L) with ``reduction="none"``, 0 for padding.

    Raises:
        InputError: if the shapes or the heads do not fit.

    Example:
        >>> student = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> relation_kl(student, 2 * student, 1)
        tensor(0.2250)

    Reference:
        Wang et al. (2021), "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
        Transformers", arXiv:2012.15828.
    """
    student, teacher = both(student, teacher)
    if student.dim() != 3 or student.shape[1] != teacher.shape[1]:
        raise InputError(
            f"student has shape {tuple(student.shape)}, teacher has shape {tuple(teacher.shape)}; expected (N, L, d)"
            " and (N, L, d')"
        )
    if mask is not None:
        check_mask(mask, student.shape[:2])
        student, teacher = (torch.where(mask[..., None], each, 0.0) for each in (student, teacher))
    scores = [attention_scores(each, each, heads) for each in (student, teacher)]
    return attention_kl(scores[0], scores[1], mask, causal=causal, reduction=reduction)


def _scores(student: Tensor, teacher: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (N, h, L, L) in the precision of losses, and which pairs count (N, L, L)."""
    student, teacher = same_shape(student, teacher)
    if student.dim() != 4 or student.shape[2] != student.shape[3]:
        raise InputError(f"student: found scores of shape {tuple(student.shape)}, expected (N, heads, L, L)")
    examples, _, length, _ = student.shape
    valid = torch.ones(examples, length, length, dtype=torch.bool, device=student.device)
    if mask is not None:
        check_mask(mask, (examples, length))
        valid = mask[:, :, None] & mask[:, None, :]
    return student, teacher, valid.tril() if causal else valid


def _tokens(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return hidden states (N, L, d) in the precision of losses, 0 where the mask (N, L) is False."""
    student, teacher = same_shape(student, teacher)
    if student.dim() != 3:
        raise InputError(f"student: found shape {tuple(student.shape)}, expected tokens (N, L, d)")
    if mask is not None:
        check_mask(mask, student.shape[:2])
        student, teacher = (torch.where(mask[..., None], each, 0.0) for each in (student, teacher))
    return student, teacher, mask
