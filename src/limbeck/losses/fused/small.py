"""The loss of `kd` on small logits in as few calls as it takes: there, calls cost more than arithmetic."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.devices import on_accelerator, without_autocast_on_cpu
from limbeck.losses.fused.parts import Hard, Part, Soft
from limbeck.losses.fused.room import wide_enough
from limbeck.losses.reduction import compute_dtype

__all__ = ["Few", "few"]


class Few(NamedTuple):
    """Hard labels and one target by KL or cross-entropy, where every row counts, and the coefficients of their sums."""

    hard: Hard | None
    soft: Soft | None
    by_hard: float | Tensor
    by_soft: float | Tensor


def few(logits: Tensor, parts: Sequence[Part]) -> Few | None:
    """Return the parts of a loss on small logits (n, K) that few calls compute; None for any others.

    Labels are looked at, so that logits on an accelerator have none.

    >>> labels = torch.tensor([0, 2])
    >>> few(torch.zeros(2, 3), [Hard(labels)]) is None, few(torch.zeros(2, 3), [Hard(labels - 100)]) is None
    (False, True)
    """
    if logits.dim() != 2 or not logits.is_floating_point() or on_accelerator(logits):
        return None
    hard = [part for part in parts if isinstance(part, Hard)]
    soft = [part for part in parts if isinstance(part, Soft)]
    if (
        not parts
        or len(hard) > 1
        or len(soft) > 1
        or any(part.mask is not None for part in parts)
        or not logits.shape[0]
    ):
        return None
    for each in soft:
        target = each.target
        if not isinstance(target, Tensor) or target.shape != logits.shape:
            return None
        if (target.dtype == torch.float64) != (logits.dtype == torch.float64) or not target.is_floating_point():
            return None
        if each.divergence.kind not in ("kl", "cross_entropy"):
            return None
    for part in hard:
        labels = part.labels
        if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
            return None
        low, high = torch.aminmax(labels)
        if int(low) < 0 or int(high) >= logits.shape[1]:
            return None
    by_hard, by_soft = (_coefficient(each[0], logits) if each else 0.0 for each in (hard, soft))
    return Few(hard[0] if hard else None, soft[0] if soft else None, by_hard, by_soft)


def _coefficient(part: Part, logits: Tensor) -> float | Tensor:
    return part.coefficient / logits.shape[0] if part.mean else part.coefficient


class FewCalls(torch.autograd.Function):
    """Value and gradient of such a loss; the sums of soft targets and of labels follow the total."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, parts: Few) -> tuple[Tensor, ...]:
        own, wanted = compute_dtype(logits.detach()), ctx.needs_input_grad[0]
        total, slope, sums = None, None, list[Tensor]()
        with without_autocast_on_cpu():
            if parts.soft is not None:
                value, slope = _soft(own, parts.soft, parts.by_soft, wanted)
                sums.append(value)
                total = value * parts.by_soft
            if parts.hard is not None:
                value, by_label = _hard(own, parts.hard, wanted)
                sums.append(value)
                total = value * parts.by_hard if total is None else torch.add(total, value * parts.by_hard)
                if by_label is not None:
                    slope = by_label.mul_(parts.by_hard) if slope is None else _added(slope, by_label, parts.by_hard)
        assert total is not None
        ctx.mark_non_differentiable(*sums)
        ctx.parts = parts
        if slope is not None:
            ctx.save_for_backward(logits, slope.to(wide_enough(logits.dtype)))
        return (total, *sums)

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        logits, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # of a second derivative: the slope as a function of the logits
            slope = _slope(logits, ctx.parts)
        elif float(by_total) == 1.0:
            return slope.to(logits.dtype), None
        return (slope * by_total.to(slope.dtype)).to(logits.dtype), None


def _added(slope: Tensor, by_label: Tensor, coefficient: float | Tensor) -> Tensor:
    if isinstance(coefficient, Tensor):
        return slope.add_(by_label.mul_(coefficient))
    return slope.add_(by_label, alpha=coefficient)


def _soft(own: Tensor, part: Soft, coefficient: float | Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    assert isinstance(part.target, Tensor)
    scale = 1.0 / part.temperature
    log_q = F.log_softmax(own * scale, -1)
    log_p = F.log_softmax(part.target.detach().to(own.dtype) * scale, -1)
    p = log_p.exp()
    if part.divergence.entropies:
        value = torch.dot(p.view(-1), log_p.sub_(log_q).view(-1))
    else:
        value = torch.dot(p.view(-1), log_q.view(-1)).neg_()
    value = value * part.factor
    return value, log_q.exp_().sub_(p).mul_(coefficient * (part.factor * scale)) if wanted else None


def _hard(own: Tensor, part: Hard, wanted: bool) -> tuple[Tensor, Tensor | None]:
    log_q = F.log_softmax(own, -1)
    value = F.nll_loss(log_q, part.labels, reduction="sum")
    if not wanted:
        return value, None
    labels = part.labels.unsqueeze(1)
    slope = log_q.exp_().scatter_add_(1, labels, log_q.new_full((), -1.0).expand(labels.shape))
    return value, slope


def _slope(logits: Tensor, parts: Few) -> Tensor:
    """Return the derivative of the total by the logits, which can be differentiated again."""
    slope = torch.zeros_like(logits)
    if parts.soft is not None:
        assert isinstance(parts.soft.target, Tensor)
        temperature = parts.soft.temperature
        p = (parts.soft.target.detach() / temperature).softmax(-1)
        slope = ((logits / temperature).softmax(-1) - p) * (parts.by_soft * parts.soft.factor / temperature)
    if parts.hard is not None:
        label = F.one_hot(parts.hard.labels, logits.shape[1]).to(logits.dtype)
        slope = slope + (logits.softmax(-1) - label) * parts.by_hard
    return slope
