"""Whether classes form blocks: groups whose members resemble each other more than they resemble the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck import checks
from limbeck.diagnosis.relations import off_diagonal
from limbeck.errors import InputError
from limbeck.randomness import derive_seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Blocks", "blocks", "found_blocks", "rand_index"]


@dataclass(frozen=True)
class Blocks:
    """How far a matrix of class resemblances falls into blocks.

    groups: the group of each class, counted from 0 in the order of their first class.
    within, between: mean resemblance of two classes of one group, and of two groups.
    score: (within - between) / standard deviation of all resemblances; 0 without blocks.
    p_value: probability of a score at least as large if the groups meant nothing; with the permutations that were drawn
        it cannot be less than 1/(permutations + 1).
    """

    groups: tuple[int, ...]
    within: float
    between: float
    score: float
    p_value: float


def blocks(matrix: Tensor, groups: Sequence[int], *, permutations: int = 999, seed: int = 0) -> Blocks:
    """Score given groups of classes: do classes of one group resemble each other more?

    matrix: (K, K), symmetric, such as `class_correlation` returns.  groups: of each class, K of them; at least one pair
    must share a group and one pair must not.  The p-value is that of the permutation test which deals the same groups
    out to other classes.

    >>> matrix = torch.eye(8) + torch.block_diag(*[torch.ones(2, 2)] * 4)
    >>> found = blocks(matrix, [0, 0, 1, 1, 2, 2, 3, 3])
    >>> found.within, found.between, found.p_value < 0.05
    (1.0, 0.0, True)
    """
    import numpy as np

    checks.at_least("permutations", permutations, 1)
    values = _resemblance(matrix)
    named: dict[int, int] = {}
    own = np.array([named.setdefault(int(group), len(named)) for group in groups])
    if len(own) != len(values):
        raise InputError(f"groups: found {len(own)} for {len(values)} classes, expected one for each class")
    if not 1 < len(named) < len(own):
        raise InputError(
            f"groups: found {len(named)} for {len(own)} classes, expected 2 or more, two of them in one group"
        )
    upper = np.triu_indices(len(own), 1)
    generator = np.random.default_rng(derive_seed(seed, "blocks"))
    observed = _contrast(values[upper], own)
    drawn = [_contrast(values[upper], generator.permutation(own)) for _ in range(permutations)]
    return _scored(values[upper], own, _p_value(observed[0] - observed[1], [one - two for one, two in drawn]))


def found_blocks(matrix: Tensor, *, permutations: int = 199, seed: int = 0) -> Blocks | None:
    """Find the groups of classes that average linkage sees best, and score them; None for K < 4.

    matrix: as for `blocks`.  The tree is cut where the contrast of within and between, weighed by how many pairs share
    a group, is greatest.  The p-value is honest about the search: the same is done to matrices whose resemblances were
    dealt out to other pairs of classes, which have the same values but no blocks.

    >>> matrix = torch.eye(9) + torch.block_diag(*[torch.ones(3, 3)] * 3)
    >>> found_blocks(matrix).groups
    (0, 0, 0, 1, 1, 1, 2, 2, 2)
    """
    import numpy as np

    checks.at_least("permutations", permutations, 1)
    values = _resemblance(matrix)
    size = len(values)
    if size < 4:
        return None
    own, observed = _best_cut(values)
    upper = np.triu_indices(size, 1)
    generator = np.random.default_rng(derive_seed(seed, "found blocks"))
    drawn = []
    for _ in range(permutations):
        dealt = np.zeros_like(values)
        dealt[upper] = generator.permutation(values[upper])
        drawn.append(_best_cut(dealt + dealt.T)[1])
    return _scored(values[upper], own, _p_value(observed, drawn))


def _contrast(pairs: "NDArray[np.float64]", own: "NDArray[np.int64]") -> tuple[float, float]:
    """Return the mean resemblance of two classes of one group, and of two groups.  pairs: above the diagonal."""
    import numpy as np

    upper = np.triu_indices(len(own), 1)
    same = own[upper[0]] == own[upper[1]]
    return float(pairs[same].mean()), float(pairs[~same].mean())


def _scored(pairs: "NDArray[np.float64]", own: "NDArray[np.int64]", p_value: float) -> Blocks:
    (within, between), spread = _contrast(pairs, own), float(pairs.std())
    score = (within - between) / spread if spread > 0 else 0.0
    return Blocks(tuple(own.tolist()), within, between, score, p_value)


def rand_index(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the adjusted Rand index of two groupings (Hubert & Arabie 1985): 1 for the same, 0 as by chance.

    >>> rand_index([0, 0, 1, 1], [5, 5, 3, 3])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    if len(first) != len(second):
        raise InputError(f"groups: found {len(first)} and {len(second)}, expected the same number")
    return float(adjusted_rand_score(list(first), list(second)))


def _resemblance(matrix: Tensor) -> "NDArray[np.float64]":
    """Return a symmetric matrix in float64; a resemblance that is not defined is the mean of the others."""
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError(f"matrix: found shape {tuple(matrix.shape)}, expected (K, K) with K ≥ 2")
    values = matrix.detach().double().cpu()
    if not torch.allclose(values, values.T, equal_nan=True):
        raise InputError("matrix: is not symmetric, expected the similarity of each pair of classes")
    middle = off_diagonal(values).nanmean().nan_to_num(0.0)
    result: NDArray[np.float64] = torch.where(values.isnan(), middle, values).numpy()
    return result


def _best_cut(values: "NDArray[np.float64]") -> tuple["NDArray[np.int64]", float]:
    """Return the groups of the best cut of the average-linkage tree and how good it is.

    The gain of a cut is the share of the resemblances' variance that it explains, where groups resemble themselves.
    """
    import numpy as np
    from scipy.cluster.hierarchy import average, cut_tree

    upper = np.triu_indices(len(values), 1)
    pairs = values[upper]
    tree = average(pairs.max() - pairs)
    cuts = cut_tree(tree)[:, 1:-1]  # from K - 1 groups to 2
    same = cuts[upper[0]] == cuts[upper[1]]  # (pairs, cuts)
    count = same.sum(0)
    within = (pairs[:, None] * same).sum(0) / count
    between = (pairs[:, None] * ~same).sum(0) / (len(pairs) - count)
    share = count / len(pairs)
    gain = np.sign(within - between) * (within - between) ** 2 * share * (1 - share)
    best = int(gain.argmax())
    named: dict[int, int] = {}
    own = np.array([named.setdefault(int(group), len(named)) for group in cuts[:, best]])
    return own, float(gain[best])


def _p_value(observed: float, drawn: Sequence[float]) -> float:
    reached = sum(value >= observed - 1e-12 * abs(observed) for value in drawn)
    return (1 + reached) / (1 + len(drawn))
