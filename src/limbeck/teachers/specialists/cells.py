"""The answering rule on cells: a convex programme of few unknowns, solved by Newton's method and certified.

Classes that lie in the same of k active specialists' sets form a cell b.  With N_b the sum of their n_i, d_m the
dustbin of specialist m, Q_b the mass that q gives the cell and U_m = Σ_{b∌m} Q_b what it leaves outside S_m, the rule
is to maximise Σ_b N_b log Q_b + Σ_m d_m log U_m over the simplex.  At the optimum N_b/Q_b + Σ_{m∌b} d_m/U_m = Λ for
every cell with Q_b > 0, where Λ = 1 + k.

Dividing the dual variables d_m/U_m by the slack of the cell that lies in no set leaves k unknowns x > 0 with

    Q_b ∝ N_b / (1 + Σ_{m∈b} x_m)    and    x_m = T_m(x) = d_m / Σ_{b∌m} N_b / (1 + Σ_{j∈b} x_j).

T is positive, increasing and concave (a harmonic mean of affine functions).  So from any x ≥ T(x) Newton's method on
x = T(x) falls monotonically to the only solution, without a step length; x = d/N_0 is such a start, and for one
specialist it is the solution.  All sums are of positive numbers, and the linear systems are M-matrices, eliminated
without subtraction (Grassmann, Taksar & Heyman 1985), so that tiny probabilities keep their digits.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CERTIFIED", "Cells", "solve_cells"]

CERTIFIED = 1e-9
"""The largest optimality gap of an answer that counts as solved."""

_NOWHERE = 1e-290
"""The weight of the cell outside all sets where no class lies there: too little to be given any mass."""
_SETTLED = 1e-10
_MOST_STEPS = 200
_LEAST = 1e-14
_CLEAR = 1e-3


class Cells(NamedTuple):
    """What the cells of each example got.

    log_shares: (C, n) log(Q_b / N_b), what each n_i of the cell is multiplied by; 0 where no class lies in it.
    gap: (n,) max_b r_b - Λ with r_b = N_b/Q_b + Σ_{m∌b} d_m/U_m: a bound on how far the objective is from its optimum.
    """

    log_shares: Tensor
    gap: Tensor


def solve_cells(weights: Tensor, dustbins: Tensor, inside: Tensor) -> Cells:
    """Return how the mass is shared among the cells, with a certificate.

    weights: (C, n) float64, N_b of each example, at least 1e-290, or 0 where no class lies in the cell; cell 0 is the
    one outside all sets.  dustbins: (k, n) float64, at least 1e-290.  inside: (C, k) bool, which cells a set holds.

    >>> inside = torch.tensor([[False], [True]])
    >>> weights, dustbins = torch.tensor([[0.3], [1.2]]).double(), torch.tensor([[0.5]]).double()
    >>> shares, gap = solve_cells(weights, dustbins, inside)
    >>> weights * shares.exp()
    tensor([[0.4000],
            [0.6000]], dtype=torch.float64)
    """
    outside = (~inside).to(weights.dtype)
    found = _certified(weights, dustbins, outside, _shares(weights, _fixed_point(weights, dustbins, 1 - outside)))
    hard = (~(found.gap <= CERTIFIED / 10)).nonzero().squeeze(1)
    if len(hard):
        weights, dustbins = weights[:, hard], dustbins[:, hard]
        again = _sharpened(weights, dustbins, outside, _interior(weights, dustbins, outside))
        better = ~(again.gap >= found.gap[hard])
        found.log_shares[:, hard[better]] = again.log_shares[:, better]
        found.gap[hard[better]] = again.gap[better]
    return found


def _shares(weights: Tensor, factors: Tensor) -> Tensor:
    """Return log shares (C, n) in the proportions of `factors`, such that the masses sum to 1."""
    exists = weights > 0
    top = torch.where(exists, factors, 0.0).amax(0)
    scaled = torch.where(exists, factors / top, 1.0)
    return torch.where(exists, torch.log(scaled) - torch.log((weights * scaled).sum(0)), 0.0)


def _certified(weights: Tensor, dustbins: Tensor, outside: Tensor, log_shares: Tensor) -> Cells:
    """Add the optimality gap: as Σ q_i r_i = Λ for any q and the objective is convex, no q' gains over max r - Λ."""
    left = outside.T @ (weights * torch.exp(log_shares))
    slopes = torch.exp(-log_shares) + outside @ torch.where(left > 0, dustbins / left, 0.0)
    gap = torch.where(weights > 0, slopes, -torch.inf).amax(0) - (weights.sum(0) + dustbins.sum(0))
    return Cells(log_shares, gap)


# -- Newton's method on the fixed point --------------------------------------------------------------------------------


def _fixed_point(weights: Tensor, dustbins: Tensor, member: Tensor) -> Tensor:
    """Return 1 / (1 + Σ_{m∈b} x_m) (C, n) at the solution; examples that have settled are left behind."""
    weights = torch.cat([weights[:1].clamp(min=_NOWHERE), weights[1:]])
    x = dustbins / weights[0]
    found = x.clone()
    live = torch.arange(x.shape[1], device=x.device)
    for _ in range(_MOST_STEPS if len(dustbins) > 1 else 0):
        ratio = _newton(weights, dustbins, member, x)
        x = x * ratio
        moving = (1 - ratio).amax(0) > _SETTLED
        count = int(moving.sum())
        if count <= 0.8 * len(live):
            found[:, live] = x
            live, x, weights, dustbins = live[moving], x[:, moving], weights[:, moving], dustbins[:, moving]
        if not count:
            break
    found[:, live] = x
    return 1 / (1 + member @ found)


def _newton(weights: Tensor, dustbins: Tensor, member: Tensor, x: Tensor) -> Tensor:
    """Return next x / x (k, n): the solution y of y = τ(e + P y), τ = T(x)/x ≤ 1, row sums of P and e being 1.

    P_mj = ∂log T_m/∂log x_j.
    """
    outside = (1 - member).T
    lengths = 1 + member @ x
    parts = weights / lengths
    sums = outside @ parts
    ratio = (dustbins / sums / x).clamp(max=1.0)
    scale = ratio / sums
    rest = scale * (outside @ (parts / lengths))
    links = [scale * (outside @ (parts * (member[:, j : j + 1] * (x[j] / lengths)))) for j in range(len(x))]
    matrix = [[links[j][m] for j in range(len(x))] for m in range(len(x))]
    return _eliminate(matrix, list((1 - ratio) + rest), list(rest))


def _eliminate(matrix: list[list[Tensor]], excess: list[Tensor], right: list[Tensor]) -> Tensor:
    """Solve (D - A) y = b for many A at once: A ≥ 0 off the diagonal, and D - A has the row sums `excess` > 0.

    The diagonal is never formed: each pivot is the sum of its row's excess and what is left of its row of A.
    """
    size = len(right)
    pivots = []
    for p in range(size):
        pivots.append(sum(matrix[p][p + 1 :], excess[p]))
        for i in range(p + 1, size):
            factor = matrix[i][p] / pivots[p]
            excess[i] = excess[i] + factor * excess[p]
            right[i] = right[i] + factor * right[p]
            for j in range(p + 1, size):
                if j != i:
                    matrix[i][j] = matrix[i][j] + factor * matrix[p][j]
    y: list[Tensor] = list(right)
    for p in reversed(range(size)):
        y[p] = sum((matrix[p][j] * y[j] for j in range(p + 1, size)), right[p]) / pivots[p]
    return torch.stack(y)


# -- where the sets hold all classes, and contradict each other --------------------------------------------------------


def _interior(weights: Tensor, dustbins: Tensor, outside: Tensor) -> Cells:
    """Solve by a primal-dual method, which needs no cell outside all sets.

    Unknowns are the masses Q_b, the prices u_m = d_m/U_m and the slacks s_b = Λ - Σ_{m∌b} u_m.  Newton's method on
    Q_b s_b = N_b and u_m U_m = d_m, whose right sides fall by at most a factor of ten a step and not below 1e-14, so
    that the answer is within (C + k)·1e-14 of the best.
    """
    exists = weights > 0
    prices = torch.ones_like(dustbins)
    slacks = torch.where(exists, 1 + len(dustbins) - outside @ prices, 1.0)
    masses = torch.where(exists, weights.clamp(min=0.1) / slacks, 0.0)
    found = Cells(torch.zeros_like(weights), torch.full_like(weights[0], torch.inf))
    live = torch.arange(weights.shape[1], device=weights.device)
    for _ in range(_MOST_STEPS):
        some, bins = weights[:, live], dustbins[:, live]
        masses, slacks, prices = _ascend(some, bins, outside, masses, slacks, prices)
        best = _certified(some, bins, outside, _shares(some, torch.where(some > 0, masses / some, 0.0)))
        found.log_shares[:, live], found.gap[live] = best
        moving = ~(best.gap <= CERTIFIED / 1000)
        live, masses, slacks, prices = live[moving], masses[:, moving], slacks[:, moving], prices[:, moving]
        if not len(live):
            break
    return found


def _ascend(
    weights: Tensor, dustbins: Tensor, outside: Tensor, masses: Tensor, slacks: Tensor, prices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next masses (C, n), slacks (C, n) and prices (k, n), all positive where a class lies in the cell."""
    exists = weights > 0
    left = outside.T @ masses
    wanted = torch.maximum(weights, 0.1 * masses * slacks).clamp(min=_LEAST) * exists
    bins = torch.maximum(dustbins, 0.1 * prices * left).clamp(min=_LEAST)
    both = (outside[:, :, None] * outside[:, None, :]).flatten(1)
    matrix = ((masses / slacks).T @ both).unflatten(1, (len(prices), -1)) * prices.T[:, :, None] * prices.T[:, None, :]
    matrix = matrix + torch.diag_embed((prices * left).T)
    scale = matrix.diagonal(dim1=1, dim2=2).rsqrt()
    right = (bins - prices * (outside.T @ (wanted / slacks))).T
    relative = scale * torch.linalg.solve(matrix * scale[:, :, None] * scale[:, None, :], scale * right)
    rise = prices * relative.T
    fall = torch.where(exists, -(outside @ rise), 0.0)
    gain = torch.where(exists, (wanted - masses * slacks - masses * fall) / slacks, 0.0)
    length = torch.minimum(_reach(slacks, fall), _reach(prices, rise))
    return masses + _reach(masses, gain) * gain, slacks + length * fall, prices + length * rise


def _reach(values: Tensor, change: Tensor) -> Tensor:
    """Return how much of a change, at most all of it, leaves every value a twentieth of what it was: (n,)."""
    return (0.95 * torch.where(change < 0, -values / change, torch.inf).amin(0)).clamp(max=1.0)


def _sharpened(weights: Tensor, dustbins: Tensor, outside: Tensor, found: Cells) -> Cells:
    """Give tiny cells the mass that a clear slack says, N_b / s_b, where the answer stays certified."""
    left = outside.T @ (weights * torch.exp(found.log_shares))
    slacks = weights.sum(0) + dustbins.sum(0) - outside @ torch.where(left > 0, dustbins / left, 0.0)
    told = (slacks > _CLEAR) & (weights < CERTIFIED)
    shares = torch.where(told, -torch.log(slacks.clamp(min=_CLEAR)), found.log_shares)
    shares = shares - torch.log((weights * torch.exp(shares)).sum(0))
    exact = _certified(weights, dustbins, outside, torch.where(weights > 0, shares, 0.0))
    kept = exact.gap <= CERTIFIED / 10
    return Cells(*(torch.where(kept, new, old) for new, old in zip(exact, found, strict=True)))
