"""DKPP: the teacher's confidence and its most probable class, its dark knowledge shuffled."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.outputs import Outputs
from limbeck.randomness import uniform
from limbeck.targets.softmax import PLAIN
from limbeck.targets.target import Target

__all__ = ["CARD", "Permuted", "permute"]

CARD = Card(
    name="dkpp",
    summary="dark knowledge with permuted predictions: all but the largest probability shuffled for each sample",
    authors="Tommaso Furlanello, Zachary C. Lipton, Michael Tschannen, Laurent Itti, Anima Anandkumar",
    year=2018,
    title="Born-Again Neural Networks",
    source="https://arxiv.org/abs/1805.04770",
    formula="ρ_max = p̃_max, ρ_i = p̃_π(i), π a permutation of the others by (seed, sample)",
)


@checked
def permute(target: Dense, index: Tensor, seed: int = 0) -> Dense:
    """Permute the probabilities of all classes but the most probable one.

    The permutation is a function of the seed, the sample's index and the place in a sequence, and does not depend on
    the batch that the sample is in.

    Args:
        target: log-probabilities (N, K), or (N, L, K) for sequences.
        index: (N,) int64, the positions of the samples in their set.
        seed: of the permutations; 0 or above.

    Returns:
        Log-probabilities of the same shape.

    Raises:
        InputError: if the shapes disagree.

    Example:
        >>> target = Dense(torch.tensor([[0.1, 0.6, 0.2, 0.07, 0.03]]).log())
        >>> permute(target, torch.tensor([7])).log_probs.exp()
        tensor([[0.0700, 0.6000, 0.2000, 0.0300, 0.1000]])

    Reference:
        Furlanello et al. (2018), "Born-Again Neural Networks" (DKPP), arXiv:1805.04770.
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


@checked_fields
@dataclass(frozen=True)
class Permuted(Target):
    """Match a target whose probabilities are permuted among the classes, all but the largest one.

    Attributes:
        seed: of the permutations; 0 or above.  Each sample keeps its permutation during training, in every batch and
            view.
        of: the target that is permuted.

    Raises:
        InputError: if the seed is negative.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3))
        >>> teacher = Outputs(torch.tensor([[0.1, 0.6, 0.2, 0.07, 0.03]]).log())
        >>> Permuted()(teacher, batch, temperature=1.0).log_probs.exp()
        tensor([[0.0700, 0.6000, 0.2000, 0.0300, 0.1000]])

    Reference:
        Furlanello et al. (2018), "Born-Again Neural Networks" (DKPP), arXiv:1805.04770.
    """

    seed: int = 0
    of: Target = PLAIN

    def __post_init__(self) -> None:
        checks.at_least("seed", self.seed, 0)

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return permute(self.of(outputs, batch, temperature), batch.index, self.seed)
