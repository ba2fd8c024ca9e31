"""The eager back end: tiles of rows that a processor's cache holds, each read once and its gradient written once."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.devices import on_accelerator
from limbeck.losses.dense import soften
from limbeck.losses.fused.parts import Hard, Part, Soft
from limbeck.losses.fused.threads import shared
from limbeck.losses.sparse import Sampled, TopK

__all__ = ["tiled"]

_TILE = 2**18
"""Elements of a tile on a processor: of two or three in turn, which its outer cache holds."""
_TILE_ELSEWHERE = 2**24
_SQUARINGS = {2.0: 1, 4.0: 2}
"""Temperatures at which q is q̃ squared so many times, but for its normaliser, which costs less than an exponential.

The largest q̃ of K classes is 1/K or more, so that its power is far from what float32 cannot hold.
"""


def tiled(logits: Tensor, parts: Sequence[Part], gradient: Tensor | None) -> list[Tensor]:
    """Return the value (n,) of each part for each row of logits (n, K), 0 where it does not count.

    gradient: (n, K), where that of Σ coefficient · value is written, which may be the memory of the logits; None for
        values alone.
    """
    count, classes = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    here = logits.device.type == "cpu"
    rows = min(count, max(1, (_TILE if here else _TILE_ELSEWHERE) // classes))
    values = [torch.empty(count, dtype=dtype, device=logits.device) for _ in parts]
    order = sorted(range(len(parts)), key=lambda number: isinstance(parts[number], Hard))  # q̃, then q, a power of it
    starts = range(0, count, max(rows, 1))
    threads = max(1, min(torch.get_num_threads(), len(starts))) if here else 1

    def work(thread: int) -> None:
        room = torch.empty(4, rows, classes, dtype=dtype, device=logits.device)
        for start in starts[thread::threads]:
            where = slice(start, min(start + rows, count))
            written = None if gradient is None else gradient[where]
            tile = _tile(logits[where], written, room, dtype)
            for number in order:
                values[number][where] = tile.add(parts[number].rows(where))
            tile.end(written)

    shared(work, threads)
    return values


def _tile(logits: Tensor, written: Tensor | None, room: Tensor, dtype: torch.dtype) -> "_Tile":
    """Return a tile of some rows, whose gradient is made in its place where that is of the right type and free."""
    own = logits if logits.dtype == dtype else logits.to(dtype)
    apart = written is not None and (written.dtype != dtype or written.data_ptr() == logits.data_ptr())
    return _Tile(own, [each[: len(own)] for each in room], torch.empty_like(own) if apart else written)


class _Softened(NamedTuple):
    """Logits less the highest of their row, by a temperature; their softmax, and the logarithm of its normaliser.

    What is common to all logits of a row is taken out first, since rounding grows with it.
    """

    scaled: Tensor
    probs: Tensor
    normaliser: Tensor


def _softened(logits: Tensor, temperature: float, scaled: Tensor, probs: Tensor) -> _Softened:
    """Fill two tiles of memory with the scaled logits and their softmax."""
    torch.sub(logits, logits.amax(-1, keepdim=True), out=scaled)
    if temperature != 1:
        scaled.mul_(1.0 / temperature)
    torch.softmax(scaled, -1, out=probs)
    return _Softened(scaled, probs, -probs.amax(-1).log())


def _finite(value: Tensor) -> bool:
    """Return whether all values (n,) are finite; on an accelerator they are not looked at."""
    return on_accelerator(value) or math.isfinite(float(value.sum()))


class _Tile:
    """Some rows of the student's logits, memory of their size, and the gradient as far as it has been added up."""

    def __init__(self, own: Tensor, room: Sequence[Tensor], slope: Tensor | None) -> None:
        self.own, self.slope, self.written = own, slope, False
        self._scaled, self._probs, self.free, self.more = room
        self._at: tuple[float, _Softened] | None = None

    def student(self, temperature: float) -> _Softened:
        """Return the student's distribution at a temperature, which stays for the parts after."""
        if self._at is None or self._at[0] != temperature:
            self._at = temperature, _softened(self.own, temperature, self._scaled, self._probs)
        return self._at[1]

    def add(self, part: Part) -> Tensor:
        """Return a part's values, and add its gradient."""
        counted = part.mask
        if counted is not None and not on_accelerator(self.own):
            if not bool(counted.any()):
                return self.own.new_zeros(len(self.own))
            if bool(counted.all()):
                counted = None
        value, slope = self._hard(part) if isinstance(part, Hard) else self._soft(part)
        if counted is not None:
            value = torch.where(counted, value, 0.0)
        if slope is not None and self.slope is not None:
            if counted is not None:
                slope = slope.masked_fill_(~counted.unsqueeze(-1), 0.0)
            scale = part.coefficient
            if isinstance(part, Soft):
                scale = scale * (part.factor / part.temperature)
            if isinstance(scale, Tensor) and not on_accelerator(scale):
                scale = float(scale)
            if isinstance(scale, Tensor):
                slope = slope.mul_(scale)
                scale = 1.0
            if self.written:
                self.slope.add_(slope, alpha=scale)
            elif scale == 1.0:
                self.slope.copy_(slope)
            else:
                torch.mul(slope, scale, out=self.slope)
            self.written = True
        return value if isinstance(part, Hard) else value * part.factor

    def end(self, written: Tensor | None) -> None:
        """Leave the gradient in its place, 0 where no part has added any."""
        if self.slope is None or written is None:
            return
        if not self.written:
            self.slope.zero_()
        if self.slope is not written:
            written.copy_(self.slope)

    def _hard(self, part: Hard) -> tuple[Tensor, Tensor | None]:
        """Return -log q_y and q - onehot(y), q at T = 1."""
        labels = part.labels.unsqueeze(-1)
        at = self._at
        of_label = self.own.gather(-1, labels).squeeze(-1) - self.own.amax(-1)
        if at is not None and at[0] in _SQUARINGS:
            q = torch.square(at[1].probs, out=self.free)
            for _ in range(_SQUARINGS[at[0]] - 1):
                q.square_()
            total = q.sum(-1)
            normaliser = at[1].normaliser * at[0] + total.log()
            slope = q.div_(total.unsqueeze(-1))
        elif at is not None and at[0] == 1.0:
            normaliser, slope = at[1].normaliser, self.free.copy_(at[1].probs)
        else:
            found = _softened(self.own, 1.0, self.free, self.free)
            normaliser, slope = found.normaliser, found.probs
        value = normaliser - of_label
        if self.slope is None:
            return value, None
        return value, slope.scatter_add_(-1, labels, slope.new_full((), -1.0).expand(labels.shape))

    def _soft(self, part: Soft) -> tuple[Tensor, Tensor | None]:
        """Return a divergence and its derivative by logits/T."""
        if isinstance(part.target, Tensor):
            value, slope = self._dense(part)
        elif isinstance(part.target, TopK):
            value, slope = self._topk(part, part.target)
        else:
            assert isinstance(part.target, Sampled)
            value, slope = self._sampled(part, part.target)
        if not _finite(value):
            wrong = ~value.isfinite()
            if part.mask is not None:
                wrong &= part.mask
            if bool(wrong.any()):  # a class of probability 0, or a mass that is next to nothing: by the plain formula
                rows = wrong.nonzero().squeeze(-1)
                value[rows], exact = _plainly(self.own[rows], part.rows(rows), slope is not None)
                if slope is not None and exact is not None:
                    slope[rows] = exact
        return value, slope

    def _dense(self, part: Soft) -> tuple[Tensor, Tensor | None]:
        assert isinstance(part.target, Tensor)
        q = self.student(part.temperature)
        teacher = part.target.to(self.own.dtype)
        p = _softened(teacher, part.temperature, self.more, self.free)
        formula = _FORMULAS.get(part.divergence.kind)
        if formula is None:
            return _plainly(self.own, part, self.slope is not None)
        gap = torch.sub(p.scaled, q.scaled, out=self.more)  # log(p/q), but for the normalisers
        shift = p.normaliser - q.normaliser
        return formula(_Pair(q, p, gap, shift, part.divergence.share), self.slope is not None)

    def _topk(self, part: Soft, target: TopK) -> tuple[Tensor, Tensor | None]:
        """Compare the masses of k classes and of the rest, by the formula that compares single classes."""
        q = self.student(part.temperature)
        kept = q.probs.gather(-1, target.ids)
        q.probs.scatter_(-1, target.ids, 0.0)
        rest = q.probs.sum(-1)
        log_q = q.scaled.gather(-1, target.ids) - q.normaliser.unsqueeze(-1)
        own = torch.cat([log_q, rest.log().unsqueeze(-1)], -1)
        log_p = torch.cat([target.log_probs, target.log_tail.unsqueeze(-1)], -1).to(own.dtype)
        assert part.divergence.formula is not None
        value, by_mass = part.divergence.formula(own, log_p, self.slope is not None)
        value = torch.where(rest > 0, value, torch.nan)  # no mass is left, or too little to be seen
        slope = None
        if by_mass is not None:
            slope = torch.mul(q.probs, (by_mass[:, -1] / rest).unsqueeze(-1), out=self.free)
            slope.scatter_(-1, target.ids, by_mass[:, :-1])
        q.probs.scatter_(-1, target.ids, kept)
        return value, slope

    def _sampled(self, part: Soft, target: Sampled) -> tuple[Tensor, Tensor | None]:
        q = self.student(part.temperature)
        value = q.normaliser - q.scaled.gather(-1, target.ids).mean(-1)
        assert part.divergence.entropies is not None
        value = value - part.divergence.entropies * target.entropy.to(value.dtype)
        if self.slope is None:
            return value, None
        slope = self.free.copy_(q.probs)
        share = slope.new_full((), -1.0 / target.ids.shape[-1]).expand(target.ids.shape)
        return value, slope.scatter_add_(-1, target.ids, share)


def _plainly(logits: Tensor, part: Soft, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return a divergence and its derivative by logits/T, by the plain formula."""
    own = logits.detach().clone().requires_grad_(wanted)
    target = soften(part.target, part.temperature) if isinstance(part.target, Tensor) else part.target
    with torch.enable_grad():
        value = part.divergence.per_example(own, target, part.temperature)
        total = value.sum()
    if not wanted:
        return value.detach(), None
    (slope,) = torch.autograd.grad(total, own)
    return value.detach(), slope * part.temperature


class _Pair(NamedTuple):
    """The student's distribution q and the target p, whose logarithms are `scaled - normaliser`.

    gap: p.scaled - q.scaled, (n, K).  shift: p.normaliser - q.normaliser, (n,).  share: the divergence's β or a.
    The memory of p.probs and of gap may be overwritten.
    """

    q: _Softened
    p: _Softened
    gap: Tensor
    shift: Tensor
    share: float


def _kl(pair: _Pair, wanted: bool) -> tuple[Tensor, Tensor | None]:
    q, p, gap = pair.q.probs, pair.p.probs, pair.gap
    value = torch.linalg.vecdot(p, gap) - pair.shift
    if not _finite(value):  # of classes that are ruled out
        value = torch.linalg.vecdot(p, gap.nan_to_num_(0.0, torch.inf, torch.finfo(gap.dtype).min)) - pair.shift
    return value, torch.sub(q, p, out=p) if wanted else None


def _cross_entropy(pair: _Pair, wanted: bool) -> tuple[Tensor, Tensor | None]:
    value = pair.q.normaliser - torch.linalg.vecdot(pair.p.probs, pair.q.scaled)
    return value, torch.sub(pair.q.probs, pair.p.probs, out=pair.p.probs) if wanted else None


def _reverse_kl(pair: _Pair, wanted: bool) -> tuple[Tensor, Tensor | None]:
    mean = torch.linalg.vecdot(pair.q.probs, pair.gap)
    value = pair.shift - mean
    return value, pair.gap.neg_().add_(mean.unsqueeze(-1)).mul_(pair.q.probs) if wanted else None


def _js(pair: _Pair, wanted: bool) -> tuple[Tensor, Tensor | None]:
    share, p, q = pair.share, pair.p.probs, pair.q.probs
    ratio = pair.gap.sub_(pair.shift.unsqueeze(-1))  # log(p/q)
    of_p = torch.linalg.vecdot(p, ratio)
    to_q = ratio.exp_().mul_(share).add_(1.0 - share).log_().neg_()  # log(q/m)
    own = torch.linalg.vecdot(q, to_q)
    value = share * (of_p + torch.linalg.vecdot(p, to_q)) + (1.0 - share) * own
    return value, to_q.sub_(own.unsqueeze(-1)).mul_(q).mul_(1.0 - share) if wanted else None


def _skewed(pair: _Pair, wanted: bool) -> tuple[Tensor, Tensor | None]:
    share, p, q = pair.share, pair.p.probs, pair.q.probs
    mixed = pair.gap.sub_(pair.shift.unsqueeze(-1)).neg_().exp_().mul_(1.0 - share).add_(share)  # m/p
    by_log = (q / mixed).mul_(share - 1.0) if wanted else None
    value = -torch.linalg.vecdot(p, mixed.log_())
    if by_log is None:
        return value, None
    return value, by_log.sub_(q * by_log.sum(-1, keepdim=True))


def _total_variation(pair: _Pair, wanted: bool) -> tuple[Tensor, Tensor | None]:
    difference = torch.sub(pair.q.probs, pair.p.probs, out=pair.p.probs)
    value = 0.5 * torch.linalg.vector_norm(difference, 1, -1)
    if not wanted:
        return value, None
    sign = torch.sub(pair.shift.unsqueeze(-1), pair.gap, out=pair.gap).sign_().mul_(0.5).mul_(pair.q.probs)
    return value, sign.sub_(pair.q.probs * sign.sum(-1, keepdim=True))


_FORMULAS: Mapping[str, Callable[[_Pair, bool], tuple[Tensor, Tensor | None]]] = {
    "kl": _kl,
    "cross_entropy": _cross_entropy,
    "reverse_kl": _reverse_kl,
    "js": _js,
    "skewed_kl": _skewed,
    "total_variation": _total_variation,
}
