"""How generalist and specialists answer together (Hinton, Vinyals & Dean 2015, section 5.5)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck import checks
from limbeck.errors import InputError
from limbeck.teachers.specialists.cells import solve_cells

__all__ = ["Answer", "answer", "covering"]

_FLOOR = 1e-290
"""Probabilities below it count as this much, in examples that a specialist answers."""
_ROWS = 4096
_MOST_CELLS = 256


class Answer(NamedTuple):
    """What generalist and specialists say together.

    log_probs: (N, K) float64, log q.
    gap: (N,) float64, the certificate: the objective at q is at most this much above its minimum (up to rounding).
    """

    log_probs: Tensor
    gap: Tensor


def covering(generalist: Tensor, groups: Sequence[Tensor], *, top: int = 1) -> Tensor:
    """Return which specialists answer: those whose set holds one of the generalist's `top` most probable classes.

    generalist: (N, K) logits or log-probabilities.  groups: for each specialist its classes, int64.
    Returns (N, M) bool.

    >>> logits = torch.tensor([[3.0, 2.0, 0.0], [0.0, 1.0, 4.0]])
    >>> covering(logits, [torch.tensor([0]), torch.tensor([1, 2])])
    tensor([[ True, False],
            [False,  True]])
    """
    member = _members(generalist, groups)
    checks.at_least("top", top, 1)
    if top > generalist.shape[1]:
        raise InputError(f"top: found {top}, expected 1 to {generalist.shape[1]}, the classes of the generalist")
    best = generalist.topk(top, dim=1).indices
    return member[:, best].any(-1).T


@torch.no_grad()
def answer(
    generalist: Tensor, specialists: Sequence[Tensor], groups: Sequence[Tensor], active: Tensor | None = None
) -> Answer:
    """Return the q that minimises KL(p^g, q) + Σ_{m∈A} KL(p^m, q), A being the specialists that are active.

    What q gives the classes outside a specialist's set is compared with its dustbin.  Classes that lie in the same sets
    share their mass in proportion to n_i = p^g_i + Σ_{m∋i} p^m_i, which leaves |A| unknowns (`solve_cells`).  With one
    specialist, q_i = n_i / 2 inside its set; with none, q = p^g; of full softmaxes, q is the arithmetic mean.

    generalist: (N, K) logits or log-probabilities; computed in float64.
    specialists: for each (N, |S|+1), the dustbin last, or (N, K) where its set is all classes.
    groups: for each its classes, int64, in the order of its outputs.
    active: (N, M) bool, as `covering` gives it; None: all.  Outputs of specialists that are not active are not read.
    The answer carries no gradient.
    Raises InputError when shapes, classes or values do not fit.

    >>> p = torch.tensor([[0.6, 0.3, 0.1]])
    >>> told = torch.tensor([[0.2, 0.7, 0.1]])  # of classes 0 and 1, and of the rest
    >>> answer(p.log(), [told.log()], [torch.tensor([0, 1])]).log_probs.exp()
    tensor([[0.4000, 0.5000, 0.1000]], dtype=torch.float64)
    """
    member = _members(generalist, groups)
    size, classes = generalist.shape
    if active is None:
        active = torch.ones(size, len(groups), dtype=torch.bool, device=generalist.device)
    if active.shape != (size, len(groups)) or active.dtype != torch.bool:
        raise InputError(
            f"active: found {active.dtype} {tuple(active.shape)}, expected torch.bool {(size, len(groups))}"
        )
    widths = [len(group) + (len(group) < classes) for group in groups]
    found = [tuple(outputs.shape) for outputs in specialists]
    if found != [(size, width) for width in widths]:
        raise InputError(
            f"specialists: found outputs of shapes {found}, expected {size} rows each and {widths} columns: the classes"
            " of a set and its dustbin"
        )
    log_probs = torch.empty(size, classes, dtype=torch.float64, device=generalist.device)
    gap = torch.zeros(size, dtype=torch.float64, device=generalist.device)
    for first in range(0, size, _ROWS):
        rows = slice(first, first + _ROWS)
        log_probs[rows], gap[rows] = _answer(
            generalist[rows], [outputs[rows] for outputs in specialists], groups, active[rows], member
        )
    return Answer(log_probs, gap)


def _answer(
    generalist: Tensor, specialists: Sequence[Tensor], groups: Sequence[Tensor], active: Tensor, member: Tensor
) -> Answer:
    said = _probabilities("generalist", generalist)
    proper = ~member.all(1)  # outside a set of all classes lies no cell
    place = (active & proper).cumsum(1) - 1
    counts = place[:, -1] + 1
    bits = torch.where(active & proper, 1 << place.clamp(min=0), 0)
    codes = (bits.double() @ member.double()).long() if int(counts.max()) <= 50 else bits @ member.long()
    dustbins = said.new_full((len(said), int(counts.max())), _FLOOR)
    for number, (outputs, group) in enumerate(zip(specialists, groups, strict=True)):
        rows = active[:, number].nonzero().squeeze(1)
        told = _probabilities(f"specialist {number}", outputs[rows])
        said[rows[:, None], group] += told[:, : len(group)]
        if proper[number]:
            dustbins[rows, place[rows, number]] = told[:, -1].clamp(min=_FLOOR)
    log_probs = said.clamp_(min=_FLOOR).log()
    gap = torch.zeros_like(said[:, 0])
    for count in counts.unique().tolist():
        chosen = counts == count
        some = slice(None) if chosen.all() else chosen.nonzero().squeeze(1)
        if count:
            shares, gap[some] = _cells(said[some], dustbins[some, :count], codes[some])
            log_probs[some] += shares
    some = (counts == 0).nonzero().squeeze(1)
    log_probs[some] -= said[some].sum(1, keepdim=True).log()
    alone = (~active.any(1)).nonzero().squeeze(1)
    log_probs[alone] = generalist[alone].double().log_softmax(1)
    return Answer(log_probs, gap)


def _cells(said: Tensor, dustbins: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(q_i / n_i) of each class (n, K), and the gaps (n,).  codes: bit m, whether the m-th set holds it."""
    count = dustbins.shape[1]
    if 2**count <= _MOST_CELLS:
        patterns = torch.arange(2**count, device=codes.device)
    else:
        patterns, codes = torch.cat([torch.zeros_like(codes[:1, :1]).flatten(), codes.flatten()]).unique(
            return_inverse=True
        )
        codes = codes[1:].view(said.shape)
    inside = (patterns[:, None] >> torch.arange(count, device=codes.device)) & 1 == 1
    weights = said.new_zeros(len(said), len(patterns)).scatter_add_(1, codes, said)
    shares, gap = solve_cells(weights.T.contiguous(), dustbins.T.contiguous(), inside)
    return shares.T.gather(1, codes), gap


def _probabilities(name: str, logits: Tensor) -> Tensor:
    if not logits.is_floating_point():
        raise InputError(f"{name}: found {logits.dtype}, expected logits or log-probabilities of a floating type")
    said = logits.double().softmax(1)
    wrong = said[:, 0].isnan()
    if wrong.any():
        raise InputError(f"{name}: a row of its outputs holds NaN, +inf or -inf alone; expected finite logits")
    return said


def _members(generalist: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Return which set holds which class, (M, K) bool."""
    if generalist.dim() != 2:
        raise InputError(f"generalist: found shape {tuple(generalist.shape)}, expected (N, K)")
    classes = generalist.shape[1]
    if not groups:
        raise InputError("groups: found none, expected the classes of at least one specialist")
    member = torch.zeros(len(groups), classes, dtype=torch.bool)
    for number, group in enumerate(groups):
        if group.dtype != torch.int64 or group.dim() != 1 or not len(group):
            raise InputError(
                f"groups: number {number} is {group.dtype} {tuple(group.shape)}, expected its classes, torch.int64 (s,)"
            )
        listed = group.tolist()
        if min(listed) < 0 or max(listed) >= classes:
            raise InputError(f"groups: number {number} holds {listed}, expected classes 0 to {classes - 1}")
        if len(set(listed)) < len(listed):
            raise InputError(f"groups: number {number} holds {listed}, expected each class once")
        member[number, listed] = True
    return member.to(generalist.device)
