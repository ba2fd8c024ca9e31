"""Losses on rankings: of the items of a query, and of the examples of a batch by their distance from each other."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.maps import unit
from limbeck.losses.reduction import Reduction, check_mask, compute_dtype, only_counted, reduce

__all__ = ["MOST_ORDERED", "dark_rank", "positives_log_loss", "ranking_distillation", "sampled_log_loss"]

MOST_ORDERED = 5
"""Neighbours whose 120 orders are still summed one by one."""


@checked
def ranking_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    top: int = 10,
    decay: float = 1.0,
    mu: float = 0.1,
    samples: Tensor | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute -Σ_r w_r·log σ(z_{π_r}) over the items π_0, π_1, ... that the teacher scores highest.

    The position weights are a_r ∝ e^{-r/λ}, Σ a_r = 1.  With `samples`, the hybrid weights are w_r ∝ a_r·b_r, Σ w_r =
    1, or all 0 where every b_r is 0.  b_r = tanh(μ·max(r̂_r - r, 0)) compares the item's place r in the teacher's order
    with its place r̂_r = ⌊(K-1)·(how many of the ε samples the student scores higher)/ε⌋ in the student's.  Places count
    from 0, so that b_r is 0 for a student that agrees.  Weights are constants: no gradient flows through them.

    Args:
        student_logits: z, scores of the K items (..., K) floating point.
        teacher_logits: (..., K) floating point; only their order matters.  An item with -inf is never taught.
        top: how many items are taught; fewer where there are fewer.
        decay: λ > 0.  A small λ teaches the first item only, a large one all alike.
        mu: μ > 0, how fast the weight of an item rises with the difference of its places.
        samples: (..., ε) int64, numbers of items drawn at random; None for position weights alone.
        known: (..., P) int64, items that are not taught, such as known positives; `UNLABELLED` (-100) for none.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Nats: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or a value or the number of an item is out of range.

    Example:
        >>> teacher = torch.tensor([[9.0, 8.0, 7.0, 0.0]])
        >>> student = torch.tensor([[2.0, 0.5, -1.0, 3.0]])
        >>> ranking_distillation(student, teacher, top=2, decay=2.0)
        tensor(0.2580)

    Reference:
        Tang & Wang (2018), "Ranking Distillation: Learning Compact Ranking Models With High Performance for
        Recommender System", arXiv:1809.07428.
    """
    checks.at_least("top", top, 1)
    checks.positive("decay", decay)
    checks.positive("mu", mu)
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    items = student_logits.shape[-1]
    scores = compute_dtype(only_counted(student_logits, mask))
    teacher = order = compute_dtype(only_counted(teacher_logits.detach(), mask))
    if known is not None:
        order = teacher.masked_fill(_chosen("known", known, teacher), -torch.inf)
    best = order.topk(min(top, items), -1)
    taught = ~torch.isneginf(best.values)
    place = torch.arange(best.indices.shape[-1], device=scores.device, dtype=scores.dtype)
    own = scores.gather(-1, best.indices)
    weights = torch.where(taught, torch.exp(-place / decay), 0.0)
    if samples is not None:
        _check_items("samples", samples, teacher)
        weights = weights * _discrepancy(own, scores, samples, place, mu)
    total = weights.sum(-1, keepdim=True)
    weights = weights / torch.where(total > 0, total, 1.0)
    losses = torch.where(weights > 0, -weights * functional.logsigmoid(own), 0.0)
    return reduce(_unless_bad(losses.sum(-1), scores, teacher), mask, reduction)


def _discrepancy(own: Tensor, scores: Tensor, samples: Tensor, place: Tensor, mu: float) -> Tensor:
    """Return tanh(μ·max(r̂ - r, 0)) of each taught item, r̂ its place among the student's by the samples; a constant."""
    count = samples.shape[-1]
    if not count:
        raise InputError("samples: found none, expected one item or more; leave samples out for position weights alone")
    drawn = scores.gather(-1, samples)
    higher = (drawn.unsqueeze(-2) > own.unsqueeze(-1)).sum(-1)
    estimated = torch.div((scores.shape[-1] - 1) * higher, count, rounding_mode="floor")
    return torch.tanh(mu * (estimated - place).clamp_min(0.0))


@checked
def sampled_log_loss(
    student_logits: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute -(Σ_p log σ(z_p) + Σ_n log σ(-z_n))/P over the P positive and the sampled negative items of an example.

    Args:
        student_logits: z, scores of the K items (..., K) floating point.
        positives: (..., P) int64, numbers of items; `UNLABELLED` (-100) for none.  An example without any is not
            counted.
        negatives: (..., S) int64, numbers of items drawn at random; `UNLABELLED` for none.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Nats for each positive item: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or the number of an item is out of range.

    Example:
        >>> scores = torch.tensor([[2.0, -1.0, 0.0]])
        >>> sampled_log_loss(scores, torch.tensor([[0]]), torch.tensor([[1, 2]]))
        tensor(1.1333)

    Reference:
        Tang & Wang (2018), arXiv:1809.07428, equation 2; Mikolov et al. (2013), "Distributed Representations of Words
        and Phrases and their Compositionality", arXiv:1310.4546.
    """
    counted = _labelled(positives, student_logits, mask)
    scores = compute_dtype(only_counted(student_logits, counted))
    parts = []
    for name, numbers, sign in (("positives", positives, 1.0), ("negatives", negatives, -1.0)):
        _check_items(name, numbers, scores)
        there = numbers != UNLABELLED
        log = functional.logsigmoid(sign * scores.gather(-1, numbers.clamp_min(0)))
        parts.append(-torch.where(there, log, 0.0).sum(-1))
    number = (positives != UNLABELLED).sum(-1).clamp_min(1)
    return reduce(_unless_bad((parts[0] + parts[1]) / number, scores), counted, reduction)


@checked
def positives_log_loss(
    student_logits: Tensor,
    positives: Tensor,
    *,
    known: Tensor | None = None,
    ratio: float = 3.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute -Σ_p log σ(z_p)/P - r·Σ_n log σ(-z_n)/N over the P positive items of an example and its N other ones.

    It is what `sampled_log_loss` comes to on average, where r other items are drawn for each positive one.

    Args:
        student_logits: z, scores of the K items (..., K) floating point.
        positives: (..., P) int64, numbers of items; `UNLABELLED` (-100) for none.  An example without any is not
            counted.
        known: (..., H) int64, items that are no other items either, such as those that a user already has;
            `UNLABELLED` for none.
        ratio: r, weight of the other items; finite, not negative.
        mask: (...) bool, False for padding.
        reduction: "mean" over the counted examples, "sum", or "none".

    Returns:
        Nats for each positive item: a scalar, or (...) with ``reduction="none"``.

    Raises:
        InputError: if shapes disagree, or the number of an item is out of range.

    Example:
        >>> positives_log_loss(torch.zeros(1, 4), torch.tensor([[0, 1]]), known=torch.tensor([[2]]), ratio=1)
        tensor(1.3863)

    Reference:
        Tang & Wang (2018), arXiv:1809.07428, equation 2, with all items in place of sampled ones.
    """
    checks.non_negative("ratio", ratio)
    counted = _labelled(positives, student_logits, mask)
    scores = compute_dtype(only_counted(student_logits, counted))
    _check_items("positives", positives, scores)
    there = positives != UNLABELLED
    own = functional.logsigmoid(scores.gather(-1, positives.clamp_min(0)))
    found = torch.where(there, own, 0.0).sum(-1) / there.sum(-1).clamp_min(1)
    others = ~(_chosen("positives", positives, scores) | torch.isneginf(scores))
    if known is not None and bool((known != UNLABELLED).any()):
        others &= ~_chosen("known", known, scores)
    rejected = torch.where(others, functional.logsigmoid(-scores), 0.0).sum(-1) / others.sum(-1).clamp_min(1)
    return reduce(_unless_bad(-found - ratio * rejected, scores), counted, reduction)


def _unless_bad(losses: Tensor, *scores: Tensor) -> Tensor:
    """Return losses (...), NaN where any score (..., K) is NaN or infinite, even of an item that no loss reads."""
    for each in scores:
        highest = each.detach().amax(-1)  # NaN where any is
        losses = torch.where(highest.isnan() | highest.isposinf(), torch.nan, losses)
    return losses


def _labelled(positives: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return which examples have a positive item and are no padding."""
    checks.shapes_match(
        "positives without the last axis", positives.shape[:-1], "logits without the class axis", logits.shape[:-1]
    )
    labelled = (positives != UNLABELLED).any(-1)
    if mask is None:
        return labelled
    check_mask(mask, labelled.shape)
    return labelled & mask


def _chosen(name: str, numbers: Tensor, scores: Tensor) -> Tensor:
    """Return which items are among some numbers: (..., K) bool."""
    _check_items(name, numbers, scores)
    rows = numbers.reshape(-1, numbers.shape[-1])
    row, place = torch.where(rows != UNLABELLED)
    chosen = torch.zeros(len(rows), scores.shape[-1], dtype=torch.bool, device=scores.device)
    chosen[row, rows[row, place]] = True
    return chosen.view(scores.shape)


def _check_items(name: str, numbers: Tensor, scores: Tensor) -> None:
    """Require numbers of items, or `UNLABELLED`, as many rows of them as of scores."""
    checks.shapes_match(
        f"{name} without the last axis", numbers.shape[:-1], "logits without the class axis", scores.shape[:-1]
    )
    if numbers.dtype != torch.int64:
        raise InputError(f"{name}: found {numbers.dtype}, expected torch.int64 numbers of items")
    if numbers.is_cuda or not numbers.numel():
        return
    items = scores.shape[-1]
    wrong = (numbers != UNLABELLED) & ((numbers < 0) | (numbers >= items))
    if bool(wrong.any()):
        raise InputError(
            f"{name}: found item {int(numbers[wrong][0])}, expected 0 to {items - 1} for {items} scores (or "
            f"{UNLABELLED})"
        )


@checked
def dark_rank(
    student: Tensor,
    teacher: Tensor,
    *,
    n: int = 4,
    alpha: float = 3.0,
    beta: float = 3.0,
    soft: bool = False,
    normalise: bool = True,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compare the order in which student and teacher see the neighbours of each example of a batch.

    S_ij = -α·‖x_i - x_j‖^β is the score of example j for the anchor i, and an order of examples has the Plackett-Luce
    probability Π_k e^{S_ik}/Σ_{l ≥ k} e^{S_il}.  Of the n examples nearest to the anchor for the teacher:

    - hard: -log of the student's probability of the teacher's order, Σ_k (log Σ_{l ≥ k} e^{S_l} - S_k);
    - soft: KL(teacher ‖ student) over all n! orders.

    Args:
        student: x, (N, d) floating point.
        teacher: (N, D) floating point; they receive no gradient.
        n: how many of the nearest examples are ordered; all others where there are fewer, and 0 for a single example.
            At most 5 if soft.
        alpha: α > 0.
        beta: β > 0.
        soft: compare the probabilities of all orders instead of taking the teacher's one.
        normalise: divide each example's features by their length first.
        mask: (N,) bool, False for padding, which is neither anchor nor neighbour.
        reduction: "mean" over the counted anchors, "sum", or "none".

    Returns:
        Nats: a scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the batches differ in size, or a value is out of range.

    Example:
        >>> teacher = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> student = torch.tensor([[0.0], [2.0], [3.0], [4.0]])
        >>> dark_rank(student, teacher, alpha=1.0, beta=1.0, normalise=False, reduction="none")[0]
        tensor(0.7209)

    Reference:
        Chen, Wang & Zhang (2018), "DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer",
        arXiv:1707.01220.
    """
    checks.at_least("n", n, 2)
    checks.positive("alpha", alpha)
    checks.positive("beta", beta)
    if soft and n > MOST_ORDERED:
        raise InputError(f"n: found {n}, expected 2 to {MOST_ORDERED} with soft=True, which sums over all n! orders")
    for name, each in (("student", student), ("teacher", teacher)):
        if each.dim() != 2:
            raise InputError(f"{name}: found shape {tuple(each.shape)}, expected (N, features); flatten it or pool it")
    checks.shapes_match("examples of the student", student.shape[:1], "examples of the teacher", teacher.shape[:1])
    own, other = (compute_dtype(only_counted(each, mask)) for each in (student, teacher.detach()))
    own = own + 0.0 * other.sum(-1, keepdim=True)  # NaN of the teacher, which an order would hide
    if normalise:
        own, other = unit(own), unit(other)
    if not len(own):
        return reduce(own.sum(-1), mask, reduction)
    counted = torch.ones(len(own), dtype=torch.bool, device=own.device) if mask is None else mask
    distances = torch.cdist(other, other, compute_mode="donot_use_mm_for_euclid_dist")
    left_out = torch.eye(len(own), dtype=torch.bool, device=own.device) | ~counted
    distances, order = distances.masked_fill(left_out, torch.inf).sort(dim=-1, stable=True)
    nearest = order[:, : min(n, len(own) - 1)]
    there = ~distances[:, : nearest.shape[1]].isposinf()  # fewer, where the mask leaves fewer
    ours = _scores(own, nearest, alpha, beta).masked_fill(~there, -torch.inf)
    if not soft:
        return reduce(_order_losses(ours), counted, reduction)
    theirs = _scores(other, nearest, alpha, beta).masked_fill(~there, -torch.inf)
    places = torch.arange(nearest.shape[1], device=own.device)
    orders = torch.tensor(list(itertools.permutations(range(nearest.shape[1]))), dtype=torch.int64, device=own.device)
    log_q, log_p = (-_order_losses(each[:, orders]) for each in (ours, theirs))
    distinct = (there[:, orders] | (orders == places)).all(-1)  # what is absent stays behind, in one order
    return reduce(torch.where(distinct, log_p.exp() * (log_p - log_q), 0.0).sum(-1), counted, reduction)


def _scores(features: Tensor, nearest: Tensor, alpha: float, beta: float) -> Tensor:
    """Return -α·‖x_i - x_j‖^β of each example i and its neighbours j: (N, n)."""
    squares = (features.unsqueeze(1) - features[nearest]).square().sum(-1)
    apart = squares != 0  # where two examples coincide, the distance has no gradient
    return -alpha * torch.where(apart, torch.where(apart, squares, 1.0) ** (beta / 2), 0.0)


def _order_losses(scores: Tensor) -> Tensor:
    """Return -log of the Plackett-Luce probability of the order that scores (..., n) are in; -inf scores are absent."""
    there = ~torch.isneginf(scores)
    size = scores.shape[-1]
    behind = torch.ones(size, size, dtype=torch.bool, device=scores.device).triu() & there.unsqueeze(-2)
    own = torch.where(there, scores, 0.0)
    rows = torch.where(there.unsqueeze(-1), behind, True)  # of what is absent, a row that is finite and not used
    remaining = own.unsqueeze(-2).masked_fill(~rows, -torch.inf).logsumexp(-1)
    return torch.where(there, remaining - own, 0.0).sum(-1)
