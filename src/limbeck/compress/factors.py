"""Matrices as products of two smaller ones: factors, their signs, and how the rank is chosen."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError

__all__ = [
    "Spectrum",
    "factorise",
    "factorise_by_frequency",
    "factorise_by_inputs",
    "rank_bound",
    "rank_of_energy",
    "ranks_within",
    "spectrum",
]

_RIDGE = 1e-6
"""ε of C + εI, as a share of the mean of C's diagonal."""


@checked
def rank_bound(rows: int, columns: int) -> float:
    """Return the rank below which two factors take less than the matrix: mn/(m + n).

    Args:
        rows: m, 1 or more.
        columns: n, 1 or more.

    Returns:
        The bound; r·(m + n) < m·n exactly for r below it.

    Raises:
        InputError: if a size is below 1.

    Example:
        >>> rank_bound(64, 64)
        32.0
    """
    checks.at_least("rows", rows, 1)
    checks.at_least("columns", columns, 1)
    return rows * columns / (rows + columns)


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a matrix (m, n), σ falling, and the sizes that decide what a rank costs.

    cost: bytes of one element.
    """

    values: Tensor
    rows: int
    columns: int
    cost: int = 4

    @property
    def most(self) -> int:
        """The greatest rank that takes less than the matrix, which may be 0."""
        bound = rank_bound(self.rows, self.columns)
        return int(bound) - (1 if float(bound).is_integer() else 0)

    def size(self, rank: int) -> int:
        """Return the bytes of two factors of a rank."""
        return rank * (self.rows + self.columns) * self.cost

    @property
    def whole(self) -> int:
        """The bytes of the matrix."""
        return self.rows * self.columns * self.cost


@checked
def spectrum(matrix: Tensor) -> Tensor:
    """Return the singular values of a matrix, falling.

    Args:
        matrix: (m, n) floating point.

    Returns:
        (min(m, n),) float64.

    Raises:
        InputError: if it is no matrix of finite numbers.

    Example:
        >>> spectrum(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        tensor([4., 3.], dtype=torch.float64)
    """
    values: Tensor = torch.linalg.svdvals(_matrix(matrix))
    return values


@checked
def factorise(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the two factors of the best approximation of a rank: W ≈ A·B with A = U_r·√Σ_r and B = √Σ_r·V_rᵀ.

    ‖W - A·B‖²_F = Σ_{i>r} σ_i², the least that any two factors reach, and ‖A‖_F = ‖B‖_F.  Of each column of U the
    entry of the largest magnitude is positive, so that two machines agree.

    Args:
        matrix: W (m, n) floating point.
        rank: r, from 1 to min(m, n).

    Returns:
        A (m, r) and B (r, n), float64.

    Raises:
        InputError: if it is no matrix of finite numbers, or the rank is out of range.

    Example:
        >>> left, right = factorise(torch.tensor([[2.0, 0, 1], [0, 1, 1], [1, 1, 2], [3, 0, 2]]), 2)
        >>> left.shape, right.shape
        (torch.Size([4, 2]), torch.Size([2, 3]))

    Reference:
        Eckart & Young (1936), "The approximation of one matrix by another of lower rank", Psychometrika 1.
    """
    left, values, right = _decomposed(_matrix(matrix), rank)
    root = values.sqrt()
    return left * root, root[:, None] * right


@checked
def factorise_by_inputs(matrix: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors that change a layer's answers least: A·B minimises E‖(W - A·B)·x‖².

    With C = E[x·xᵀ] + εI, scaled to a mean diagonal of 1, W·C^½ = U·Σ·Vᵀ, A = U_r·√Σ_r and B = √Σ_r·V_rᵀ·C^(-½).
    For C = c·I these are the factors of `factorise`.

    Args:
        matrix: W (m, n) floating point.
        moment: E[x·xᵀ] (n, n), symmetric and positive semidefinite, of any scale.
        rank: r, from 1 to min(m, n).

    Returns:
        A (m, r) and B (r, n), float64.

    Raises:
        InputError: if the shapes do not fit, or the moment is zero or not finite.

    Example:
        >>> weights, inputs = torch.randn(4, 3), torch.randn(50, 3)
        >>> left, right = factorise_by_inputs(weights, inputs.T @ inputs, 2)
        >>> left.shape, right.shape
        (torch.Size([4, 2]), torch.Size([2, 3]))

    Reference:
        Hsu et al. (2022), "Language model compression with weighted low-rank factorization", arXiv:2207.00112, for
        weighting; the optimum for inputs is that of a generalised SVD.
    """
    weights = _matrix(matrix)
    root, inverse = _roots(moment, weights.shape[1])
    left, values, right = _decomposed(weights @ root, rank)
    scale = values.sqrt()
    return left * scale, scale[:, None] * right @ inverse


@checked
def factorise_by_frequency(matrix: Tensor, shares: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of an embedding that are closest where tokens are frequent: least Σ_x p_x·‖W_x - (A·B)_x‖².

    With D = diag(p), scaled to a mean of 1, D^½·W = U·Σ·Vᵀ, A = D^(-½)·U_r·√Σ_r and B = √Σ_r·V_rᵀ.  For equal shares
    these are the factors of `factorise`.

    Args:
        matrix: W (V, d) floating point.
        shares: p (V,), above 0, of any scale.
        rank: r, from 1 to min(V, d).

    Returns:
        A (V, r) and B (r, d), float64.

    Raises:
        InputError: if the shapes do not fit, or a share is not above 0.

    Example:
        >>> left, right = factorise_by_frequency(torch.randn(5, 3), torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1]), 2)
        >>> left.shape, right.shape
        (torch.Size([5, 2]), torch.Size([2, 3]))

    Reference:
        Chen et al. (2018), "GroupReduce: Block-Wise Low-Rank Approximation for Neural Language Model Shrinking",
        arXiv:1806.06950.
    """
    weights = _matrix(matrix)
    if shares.shape != (weights.shape[0],):
        raise InputError(f"shares: found {tuple(shares.shape)}, expected ({weights.shape[0]},), one for each row")
    given = shares.detach().double().to(weights.device)
    if not bool(given.isfinite().all()) or not bool((given > 0).all()):
        raise InputError("shares: found one that is not above 0, expected numbers above 0; add one to each count")
    root = (given / given.mean()).sqrt()[:, None]
    left, values, right = _decomposed(root * weights, rank)
    scale = values.sqrt()
    return left * scale / root, scale[:, None] * right


@checked
def rank_of_energy(values: Tensor, energy: float) -> int:
    """Return the least rank that keeps a share of the squared singular values: Σ_{i≤r} σ² / Σ σ² ≥ e.

    Args:
        values: σ (k,), falling.
        energy: e in (0, 1].

    Returns:
        The rank, from 1 to k.

    Raises:
        InputError: if the share is out of range, or there are no values.

    Example:
        >>> rank_of_energy(torch.tensor([3.0, 2.0, 1.0]), 0.9)
        2
    """
    if not 0 < energy <= 1:
        raise InputError(f"energy: found {energy!r}, expected a share in (0, 1]")
    if values.dim() != 1 or not len(values):
        raise InputError(f"values: found shape {tuple(values.shape)}, expected (k,) with at least one")
    squares = values.detach().double().square()
    if not float(squares.sum()):
        return 1
    rest = squares.flip(0).cumsum(0).flip(0)  # what the ranks below each leave out, summed from the smallest on
    allowed = max(1 - energy, 1e-24) * float(rest[0])  # what is below is rounding of the singular values
    return int((rest > allowed * (1 + 1e-12)).sum().clamp(min=1))


def ranks_within(spectra: Mapping[str, Spectrum], budget: int) -> dict[str, int | None]:
    """Return the rank of each matrix so that all together take at most a number of bytes; None for one left whole.

    Each matrix begins with rank 1.  The next component is always the one with the greatest σ_i²/(m + n) that still
    fits, which minimises the summed squared error up to the last rank that does not fit.  A matrix whose next rank
    would take more than the matrix itself stays whole where the budget has room for that.
    Raises InputError where the budget is below one component of each.

    >>> spectra = {"a": Spectrum(torch.tensor([3.0, 2.0]), 8, 8), "b": Spectrum(torch.tensor([1.0, 0.1]), 8, 8)}
    >>> ranks_within(spectra, 3 * 16 * 4)
    {'a': 2, 'b': 1}
    """
    least = sum(min(each.size(1), each.whole) for each in spectra.values())
    if budget < least:
        raise InputError(f"bytes: found {budget:,}, expected {least:,} or more, which rank 1 of each layer takes")
    ranks: dict[str, int | None] = {path: 1 if each.most >= 1 else None for path, each in spectra.items()}
    used = least
    while True:
        wanted = []
        for number, (path, each) in enumerate(spectra.items()):
            rank = ranks[path]
            if rank is None or rank >= len(each.values):
                continue
            if rank < each.most:
                gain, more = float(each.values[rank]) ** 2, each.size(1)
            else:
                gain, more = float(each.values[rank:].double().square().sum()), each.whole - each.size(rank)
            if used + more <= budget:
                wanted.append((gain * each.cost / more, -number, path, more, rank < each.most))
        if not wanted:
            return ranks
        _, _, path, more, one = max(wanted)
        ranks[path] = (ranks[path] or 0) + 1 if one else None
        used += more


def _matrix(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or not matrix.is_floating_point() or not matrix.numel():
        raise InputError(f"matrix: found {matrix.dtype} {tuple(matrix.shape)}, expected floating point (m, n)")
    found = matrix.detach().double()
    if not bool(found.isfinite().all()):
        raise InputError("matrix: found NaN or infinity, expected numbers; the weights have diverged")
    return found


def _decomposed(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (m, r), σ (r,) and Vᵀ (r, n), each column of U with its largest entry positive."""
    checks.at_least("rank", rank, 1, at_most=min(matrix.shape))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    largest = left.abs().argmax(0)
    signs = left.gather(0, largest[None]).squeeze(0).sign()
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    return (left * signs)[:, :rank], values[:rank], (signs[:, None] * right)[:rank]


def _roots(moment: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return C^½ and C^(-½) of a second moment, scaled to a mean diagonal of 1, with εI added."""
    if moment.shape != (size, size):
        raise InputError(f"moment: found {tuple(moment.shape)}, expected ({size}, {size}), as the matrix has columns")
    given = moment.detach().double()
    mean = float(given.diagonal().mean())
    if not bool(given.isfinite().all()) or mean <= 0:
        raise InputError("moment: found no finite numbers above 0 on its diagonal, expected E[x·xᵀ] of real inputs")
    scaled = given / mean + _RIDGE * torch.eye(size, dtype=torch.float64, device=given.device)
    values, vectors = torch.linalg.eigh((scaled + scaled.T) / 2 / (1 + _RIDGE))
    values = values.clamp(min=_RIDGE / 2)
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
