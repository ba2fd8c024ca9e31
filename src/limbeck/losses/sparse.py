"""Targets over few classes: the largest probabilities with the mass of all others, and draws from a distribution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.errors import InputError
from limbeck.sparse import Answer, TopKAnswer

__all__ = ["Sampled", "TopK", "buckets", "sparse_target"]


@checked_fields
@dataclass(frozen=True)
class TopK:
    """Hold the k largest probabilities of a distribution, and the mass of all other classes together.

    A divergence with it compares k + 1 masses, those of the k classes and that of the rest.  Merging classes can only
    bring two distributions closer, so the value is a lower bound of the dense one; at k = K it is equal.

    Attributes:
        ids: (..., k) int64, classes in [0, K), each once in a row.
        log_probs: (..., k) floating point, in nats.
        log_tail: (...) floating point, the logarithm of the mass of the other classes; -inf where none is left.

    Raises:
        InputError: if the shapes disagree.

    Example:
        >>> from limbeck.losses import KL
        >>> target = TopK(torch.tensor([[0]]), torch.tensor([[0.5]]).log(), torch.tensor([0.5]).log())
        >>> KL.per_example(torch.zeros(1, 2), target, 1.0)
        tensor([0.])

    Reference:
        Tan et al. (2019), "Multilingual Neural Machine Translation with Knowledge Distillation", arXiv:1902.10461, for
        targets of the k largest probabilities of a teacher; the mass of the rest is limbeck's.
    """

    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor

    def __post_init__(self) -> None:
        checks.shapes_match("ids", self.ids.shape, "log_probs", self.log_probs.shape)
        checks.shapes_match("log_tail", self.log_tail.shape, "ids without the last axis", self.ids.shape[:-1])

    @property
    def places(self) -> tuple[int, ...]:
        """The shape without the class axis: (...)."""
        return tuple(self.log_tail.shape)


@checked_fields
@dataclass(frozen=True)
class Sampled:
    """Hold classes drawn from a distribution, each draw with the same weight.

    The gradient of a cross-entropy with it is an unbiased estimate of the dense one, and so is the value.  Other
    divergences are not linear in the target, so that an estimate of them would be biased; they refuse it.

    Attributes:
        ids: (..., n) int64, independent draws in [0, K), with repetitions.
        entropy: (...) floating point, in nats, of the distribution that they were drawn from.

    Raises:
        InputError: if the shapes disagree.

    Example:
        >>> from limbeck.losses import CROSS_ENTROPY
        >>> target = Sampled(torch.tensor([[0, 0, 1]]), torch.tensor([0.6]))
        >>> CROSS_ENTROPY.per_example(torch.zeros(1, 2), target, 1.0)
        tensor([0.6931])

    Reference:
        Anshumann et al. (2025), "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", arXiv:2503.16870.
    """

    ids: Tensor
    entropy: Tensor

    def __post_init__(self) -> None:
        checks.shapes_match("entropy", self.entropy.shape, "ids without the last axis", self.ids.shape[:-1])

    @property
    def places(self) -> tuple[int, ...]:
        """The shape without the class axis: (...)."""
        return tuple(self.entropy.shape)


def sparse_target(answer: Answer, temperature: float) -> TopK | Sampled:
    """Return a stored answer as a target at a temperature; InputError for one that it was not stored at.

    >>> from limbeck.sparse import SampledAnswer
    >>> answer = SampledAnswer(torch.tensor([[0, 1]]), 2.0, torch.tensor([0.6]), classes=2)
    >>> sparse_target(answer, 2.0).ids
    tensor([[0, 1]])
    """
    if isinstance(answer, TopKAnswer):
        log_probs, log_tail = answer.at(temperature)
        return TopK(answer.ids, log_probs, log_tail)
    answer.require(temperature)
    return Sampled(answer.ids, answer.entropy.float())


def buckets(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the logits (..., k) of the classes `ids`, and after them the logsumexp of all others: (..., k + 1).

    Their softmax is the probabilities of these classes and the mass of the rest.

    >>> buckets(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0]]))
    tensor([[1.0000, 0.6931]])
    """
    check_ids(ids, logits.shape[-1])
    rest = logits.scatter(-1, ids, -torch.inf)
    highest = rest.detach().amax(-1, keepdim=True)
    highest = torch.where(torch.isneginf(highest), 0.0, highest)  # all classes are named: none is left
    total = (rest - highest).exp().sum(-1, keepdim=True)
    left = torch.where(total > 0, total, 1.0).log() + highest
    return torch.cat([logits.gather(-1, ids), torch.where(total > 0, left, -torch.inf)], -1)


def check_ids(ids: Tensor, classes: int, *, repeated: bool = False) -> None:
    """Require class numbers in [0, classes); on an accelerator they are not looked at.  repeated: draws, any number."""
    if ids.dtype != torch.int64:
        raise InputError(f"ids: found {ids.dtype}, expected torch.int64 class numbers")
    if ids.shape[-1] > classes and not repeated:
        raise InputError(f"ids: found {ids.shape[-1]} in a row, expected at most {classes}, the number of classes")
    if ids.device.type == "cpu" and ids.numel():
        low, high = map(int, torch.aminmax(ids))
        if low < 0 or high >= classes:
            raise InputError(f"ids: found {low} to {high}, expected 0 to {classes - 1} for logits of {classes} classes")
