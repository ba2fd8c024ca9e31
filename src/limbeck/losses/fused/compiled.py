"""The torch.compile back end: value and gradient of whole logits as one graph, by the formulas of `logspace`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError, one_line
from limbeck.losses.fused.parts import Hard, Part
from limbeck.losses.logspace import Formula
from limbeck.losses.sparse import Sampled, TopK, buckets

__all__ = ["compiled"]


def compiled(logits: Tensor, parts: Sequence[Part], gradient: Tensor | None) -> list[Tensor]:
    """Return the value (n,) of each part for each row of logits (n, K); see `tiles.tiled`."""
    values, total = [], None
    for part in parts:
        value, slope = _run(part, logits, gradient is not None)
        if part.mask is not None:
            value = torch.where(part.mask, value, 0.0)
        if slope is not None:
            if part.mask is not None:
                slope = torch.where(part.mask.unsqueeze(-1), slope, 0.0)
            slope = slope * part.coefficient
            total = slope if total is None else total.add_(slope)
        values.append(value)
    if gradient is not None:
        gradient.copy_(total) if total is not None else gradient.zero_()
    return values


def _run(part: Part, logits: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    value: Tensor
    slope: Tensor | None
    try:
        if isinstance(part, Hard):
            value, slope = _compiled(_hard, wanted)(logits, part.labels)
            return value, slope
        factor, temperature, target = part.factor, part.temperature, part.target
        if isinstance(target, Sampled):
            value, slope = _compiled(_sampled, wanted)(logits, target.ids, temperature)
            value = value - (part.divergence.entropies or 0) * target.entropy
        elif isinstance(target, TopK):
            assert part.divergence.formula is not None
            value, slope = _compiled(_topk, wanted, part.divergence.formula)(
                logits, target.ids, target.log_probs, target.log_tail, temperature
            )
        else:
            assert part.divergence.formula is not None
            value, slope = _compiled(_dense, wanted, part.divergence.formula)(logits, target, temperature)
        return factor * value, None if slope is None else slope.mul_(factor / temperature)
    except (TorchDynamoException, InductorError) as error:
        raise InputError(
            f"backend: found 'compile', which fails here ({one_line(error)}); it needs a C++ compiler. Use eager"
        ) from None


@functools.cache
def _compiled(function: Callable[..., Any], wanted: bool, formula: Formula | None = None) -> Callable[..., Any]:
    given = {"wanted": wanted} if formula is None else {"wanted": wanted, "formula": formula}
    return torch.compile(functools.partial(function, **given), dynamic=False)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _hard(logits: Tensor, labels: Tensor, *, wanted: bool) -> tuple[Tensor, Tensor | None]:
    log_q = F.log_softmax(_wide(logits), -1)
    value = -log_q.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if not wanted:
        return value, None
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return value, log_q.exp() - (classes == labels.unsqueeze(-1)).to(log_q.dtype)


def _dense(
    logits: Tensor, teacher: Tensor, temperature: float, *, formula: Formula, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    own = _wide(logits) / temperature
    return formula(own, F.log_softmax(_wide(teacher) / temperature, -1), wanted)


def _topk(
    logits: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    log_tail: Tensor,
    temperature: float,
    *,
    formula: Formula,
    wanted: bool,
) -> tuple[Tensor, Tensor | None]:
    own = _wide(logits) / temperature
    masses = buckets(own, ids)
    value, by_mass = formula(masses, torch.cat([log_probs, log_tail.unsqueeze(-1)], -1).to(own.dtype), wanted)
    if by_mass is None:
        return value, None
    rest = masses[..., -1:]
    within = torch.where(torch.isneginf(rest), 0.0, (own - rest).exp())
    return value, (by_mass[..., -1:] * within).scatter(-1, ids, by_mass[..., :-1])


def _sampled(logits: Tensor, ids: Tensor, temperature: float, *, wanted: bool) -> tuple[Tensor, Tensor | None]:
    log_q = F.log_softmax(_wide(logits) / temperature, -1)
    value = -log_q.gather(-1, ids).mean(-1)
    if not wanted:
        return value, None
    share = torch.full_like(ids, -1.0 / ids.shape[-1], dtype=log_q.dtype)
    return value, log_q.exp().scatter_add(-1, ids, share)
