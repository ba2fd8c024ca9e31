"""How well scores rank the items that are to be found: recall@k, MRR and NDCG@k, each a mean over examples (users)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.errors import DataError, InputError
from limbeck.evaluation.scores import chunks

__all__ = ["RankedItems", "item_ranks", "mean_reciprocal_rank", "ndcg_at_k", "recall_at_k"]


@torch.no_grad()
@checked
def item_ranks(logits: Tensor, positives: Tensor, known: Tensor | None = None) -> Tensor:
    """Return how many items are ranked above each positive item; of equal scores the lower number comes first.

    Args:
        logits: scores of the K items (n, K) floating point.
        positives: (n, P) int64, numbers of the items to be found; `UNLABELLED` (-100) for none.
        known: (n, H) int64, items that are left out of the ranking, such as those that a user already has;
            `UNLABELLED` for none.  A positive item is never left out.

    Returns:
        (n, P) int64, 0 for an item at the top; `UNLABELLED` where there is no positive item.

    Raises:
        InputError: if shapes or numbers are wrong; NaN is never ranked.

    Example:
        >>> item_ranks(torch.tensor([[0.1, 0.9, 0.5, 0.5]]), torch.tensor([[3, 0]]), known=torch.tensor([[1]]))
        tensor([[1, 2]])
    """
    if logits.dim() != 2 or not logits.shape[1] or not logits.is_floating_point():
        raise InputError(f"logits: found {logits.dtype} {tuple(logits.shape)}, expected floating point (n, K)")
    for name, numbers in (("positives", positives), ("known", known)):
        if numbers is not None:
            _check_items(name, numbers, logits)
    if bool(logits.isnan().any()):
        raise InputError("logits: found NaN, expected numbers; look at the model or its data")
    scores = logits
    if known is not None:
        there = known != UNLABELLED
        rows = torch.arange(len(logits), device=logits.device)[:, None].expand_as(known)
        scores = logits.clone()
        scores[rows[there], known[there]] = -torch.inf
    ranks = torch.full_like(positives, UNLABELLED)
    rows, places = torch.where(positives != UNLABELLED)
    for part in chunks(len(rows), logits.shape[1]):
        of, item = rows[part], positives[rows[part], places[part]]
        own, others = logits[of, item][:, None], scores[of]
        others.scatter_(1, item[:, None], own)  # where it is among the known ones
        above = (others > own).sum(1)
        tied = torch.where((others >= own).sum(1) - above > 1)[0]
        if len(tied):
            before = torch.arange(logits.shape[1], device=logits.device) < item[tied, None]
            above[tied] += ((others[tied] == own[tied]) & before).sum(1)
        ranks[of, places[part]] = above
    return ranks


def _check_items(name: str, numbers: Tensor, logits: Tensor) -> None:
    if numbers.dim() != 2 or len(numbers) != len(logits) or numbers.dtype != torch.int64:
        raise InputError(
            f"{name}: found {numbers.dtype} {tuple(numbers.shape)}, expected numbers of items, int64 "
            f"({len(logits)}, ...)"
        )
    wrong = numbers[(numbers != UNLABELLED) & ((numbers < 0) | (numbers >= logits.shape[1]))]
    if len(wrong):
        raise InputError(f"{name}: found item {int(wrong[0])}, expected 0 to {logits.shape[1] - 1}, or {UNLABELLED}")


@dataclass(frozen=True)
class RankedItems:
    """The ranks of the positive items, example by example.  ranks: (m, P) of the m examples that have any.

    >>> items = RankedItems.of(torch.tensor([[0.1, 0.9, 0.5, 0.2]]), torch.tensor([[2, 3]]))
    >>> items.recall(2), items.reciprocal_ranks()
    (tensor([0.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """

    ranks: Tensor

    @classmethod
    def of(cls, logits: Tensor, positives: Tensor, known: Tensor | None = None) -> "RankedItems":
        """Rank the positive items of each example that has any; the arguments are those of `item_ranks`."""
        ranks = item_ranks(logits, positives, known)
        return cls(ranks[(ranks != UNLABELLED).any(1)])

    @property
    def count(self) -> Tensor:
        """How many positive items each example has, (m,)."""
        return (self.ranks != UNLABELLED).sum(1)

    def found(self, k: int) -> Tensor:
        """Return which positive items are among the first k, (m, P) bool."""
        return (self.ranks != UNLABELLED) & (self.ranks < k)

    def recall(self, k: int) -> Tensor:
        """Return the share of each example's positive items that are among the first k, (m,) float64."""
        return self.found(k).sum(1).double() / self.count

    def reciprocal_ranks(self) -> Tensor:
        """Return 1/(1 + rank) of each example's highest positive item, (m,) float64."""
        reciprocal = 1.0 / (1.0 + self.ranks.clamp_min(0).double())
        return torch.where(self.ranks == UNLABELLED, 0.0, reciprocal).amax(1)

    def ndcg(self, k: int) -> Tensor:
        """Return Σ 1/log2(2 + rank) over the positive items among the first k, by the greatest there is, (m,)."""
        gains = torch.where(self.found(k), 1.0 / torch.log2(2.0 + self.ranks.clamp_min(0).double()), 0.0).sum(1)
        ideal = (1.0 / torch.log2(2.0 + torch.arange(k, device=gains.device).double())).cumsum(0)
        return gains / ideal[self.count.clamp_max(k) - 1]


@checked
def recall_at_k(logits: Tensor, positives: Tensor, k: int, known: Tensor | None = None) -> float:
    """Return the share of an example's positive items that are among its k highest scores, as a mean over examples.

    Args:
        logits: scores of the K items (n, K) floating point; of equal scores the lower number of an item comes first.
        positives: (n, P) int64, numbers of the items to be found; `UNLABELLED` (-100) for none.  An example without
            any is not counted.
        k: 1 or more.
        known: (n, H) int64, items that are left out of the ranking; `UNLABELLED` for none.

    Returns:
        A share in [0, 1].

    Raises:
        InputError: if shapes, numbers or k are wrong.
        DataError: if no example has a positive item.

    Example:
        >>> recall_at_k(torch.tensor([[0.1, 0.9, 0.5, 0.2]]), torch.tensor([[2, 0]]), 2)
        0.5
    """
    checks.at_least("k", k, 1)
    return _mean(logits, positives, known, lambda items: items.recall(k))


@checked
def mean_reciprocal_rank(logits: Tensor, positives: Tensor, known: Tensor | None = None) -> float:
    """Return the MRR: 1 divided by the place, from 1 on, of an example's highest positive item; a mean over examples.

    Args:
        logits: scores of the K items (n, K) floating point; of equal scores the lower number of an item comes first.
        positives: (n, P) int64, numbers of the items to be found; `UNLABELLED` (-100) for none.  An example without
            any is not counted.
        known: (n, H) int64, items that are left out of the ranking; `UNLABELLED` for none.

    Returns:
        A number in (0, 1].

    Raises:
        InputError: if shapes or numbers are wrong.
        DataError: if no example has a positive item.

    Example:
        >>> mean_reciprocal_rank(torch.tensor([[0.1, 0.9, 0.5, 0.2]]), torch.tensor([[2, 0]]))
        0.5
    """
    return _mean(logits, positives, known, RankedItems.reciprocal_ranks)


@checked
def ndcg_at_k(logits: Tensor, positives: Tensor, k: int, known: Tensor | None = None) -> float:
    """Return NDCG@k: Σ 1/log2(1 + place) over the positive items among the k highest scores, divided by its maximum.

    Args:
        logits: scores of the K items (n, K) floating point; of equal scores the lower number of an item comes first.
        positives: (n, P) int64, numbers of the items to be found; `UNLABELLED` (-100) for none.  An example without
            any is not counted.
        k: 1 or more.
        known: (n, H) int64, items that are left out of the ranking; `UNLABELLED` for none.

    Returns:
        A number in [0, 1], a mean over examples.

    Raises:
        InputError: if shapes, numbers or k are wrong.
        DataError: if no example has a positive item.

    Example:
        >>> round(ndcg_at_k(torch.tensor([[0.1, 0.9, 0.5, 0.2]]), torch.tensor([[2]]), 10), 4)  # 1/log2(3)
        0.6309

    Reference:
        Järvelin & Kekäläinen (2002), "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 20(4).
    """
    checks.at_least("k", k, 1)
    return _mean(logits, positives, known, lambda items: items.ndcg(k))


def _mean(logits: Tensor, positives: Tensor, known: Tensor | None, figure: Callable[[RankedItems], Tensor]) -> float:
    items = RankedItems.of(logits, positives, known)
    if not len(items.ranks):
        raise DataError("evaluation: the set has no labels, expected at least one labelled sample")
    return float(figure(items).mean())
