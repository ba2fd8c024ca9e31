"""Targets that keep, drop or rearrange classes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.targets.dense import Dense, normalised
from limbeck.randomness import uniform

__all__ = ["label_positions", "permute", "restrict", "share_of_classes", "top_k"]


@checked
def top_k(target: Dense, k: int) -> Dense:
    """Keep the k largest probabilities and spread the rest evenly over the other classes (KD-topk, Tang 2020).

    target: (..., K).  k: from 1 to K; K gives the target itself.  Of equal probabilities the class with the lower
    number is kept.

    >>> top_k(Dense(torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()), k=2).log_probs.exp()
    tensor([[0.1500, 0.4000, 0.1500, 0.3000]])
    """
    log_probs = target.log_probs
    classes = log_probs.shape[-1]
    checks.at_least("k", k, 1)
    if k > classes:
        raise InputError(f"k: found {k}, expected 1 to {classes}, the number of classes")
    if k == classes:
        return target
    least = log_probs.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above, tied = log_probs > least, log_probs == least
    kept = above | (tied & (tied.cumsum(-1) <= k - above.sum(-1, keepdim=True)))
    rest = torch.where(kept, -math.inf, log_probs).logsumexp(-1, keepdim=True) - math.log(classes - k)
    return Dense(torch.where(kept, log_probs, rest))


def share_of_classes(share: float, classes: int) -> int:
    """Return how many classes a share of them is, in (0, 1]: the nearest number, halves rounded up, one at least.

    >>> [share_of_classes(0.25, classes) for classes in (2, 6, 10)]
    [1, 2, 3]
    """
    return max(1, math.floor(round(share * classes, 9) + 0.5))


@checked
def permute(target: Dense, index: Tensor, seed: int = 0) -> Dense:
    """Permute the probabilities of all classes but the most probable (DKPP, Furlanello 2018).

    target: (N, K), or (N, L, K) for sequences.  index: (N,) int64, the samples' places in their set.  The permutation
    is a function of (seed, index) and of the place in a sequence, whatever batch the sample is drawn in.

    >>> target = Dense(torch.tensor([[0.1, 0.6, 0.2, 0.07, 0.03]]).log())
    >>> permute(target, torch.tensor([7])).log_probs.exp()
    tensor([[0.0700, 0.6000, 0.2000, 0.0300, 0.1000]])
    """
    log_probs = target.log_probs
    if log_probs.ndim < 2:
        raise InputError(f"target: found {tuple(log_probs.shape)}, expected (N, K) or (N, L, K)")
    checks.shapes_match("index", index.shape, "the target's first axis", log_probs.shape[:1])
    top = log_probs.argmax(-1, keepdim=True)
    count = math.prod(log_probs.shape[1:])
    draws = uniform(seed, "dkpp", torch.zeros_like(index), index, count).reshape(log_probs.shape)
    source = draws.scatter(-1, top, -1.0).argsort(dim=-1, stable=True)
    others = torch.arange(log_probs.shape[-1] - 1, device=top.device)
    destination = torch.cat([top, others + (others >= top)], dim=-1)
    return Dense(log_probs.scatter(-1, destination, log_probs.gather(-1, source)))


@checked
def restrict(target: Dense, classes: Sequence[int] | Tensor) -> Dense:
    """Keep the classes S alone, renormalised: softmax of v[S]/T, v/T being the target's logits (Wang 2022).

    target: (..., K).  classes: (k,) numbers in [0, K), each once, in the order that the student has them.
    Raises InputError where the target gives all of S the probability 0.

    >>> restrict(Dense(torch.tensor([[0.1, 0.6, 0.3]]).log()), [2, 0]).log_probs.exp()
    tensor([[0.7500, 0.2500]])
    """
    chosen = _checked_classes(classes, target.log_probs.shape[-1]).to(target.log_probs.device)
    return normalised(
        target.log_probs.index_select(-1, chosen),
        f"classes: the teacher gives none of the {len(chosen)} any probability for some sample; leave that sample out",
    )


@checked
def label_positions(labels: Tensor, classes: Sequence[int] | Tensor, total: int) -> Tensor:
    """Return labels as positions in a subset of the classes; `UNLABELLED` where the label is not in it.

    labels: (...) int64 in [0, total), or `UNLABELLED`.  classes: (k,) numbers in [0, total), each once.

    >>> label_positions(torch.tensor([2, 0, 1, -100]), [2, 1], total=3)
    tensor([   0, -100,    1, -100])
    """
    chosen = _checked_classes(classes, total).to(labels.device)
    if labels.dtype != torch.int64:
        raise InputError(f"labels: found {labels.dtype}, expected torch.int64 class indices")
    places = torch.full((total + 1,), UNLABELLED, device=labels.device)
    places[chosen] = torch.arange(len(chosen), device=labels.device)
    return places[torch.where(labels == UNLABELLED, total, labels)]


def _checked_classes(classes: Sequence[int] | Tensor, total: int) -> Tensor:
    """Return class numbers as a tensor, when there are any, all exist and none stands twice."""
    given = classes.tolist() if isinstance(classes, Tensor) else list(classes)
    if not given:
        raise InputError("classes: found none, expected at least one class")
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < total:
            raise InputError(f"classes: found {checks.shown(number)}, expected numbers from 0 to {total - 1}")
    if len(set(given)) < len(given):
        twice = next(number for number in given if given.count(number) > 1)
        raise InputError(f"classes: {twice} stands more than once, expected each class once")
    return torch.tensor(given)
