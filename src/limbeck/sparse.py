"""A teacher's answers cut to few classes: its largest logits and what the others add up to, or draws from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from limbeck.arguments import checked_fields
from limbeck.errors import InputError

__all__ = ["Answer", "SampledAnswer", "TopKAnswer"]


@checked_fields
@dataclass(frozen=True)
class TopKAnswer:
    """The k largest logits of a teacher, and what the other classes add up to at each stored temperature.

    The k largest logits and the sum of the others at T = 1 do not determine the distribution at another temperature:
    teachers (.6, .2, .2) and (.6, .39, .01) agree in both for k = 1, and at T = 2 their tails are .54 and .48.  So the
    sum is kept for each temperature that will be asked for.

    Attributes:
        ids: (..., k) int64, classes in [0, classes), each once in a row.
        logits: (..., k) floating point, the teacher's.
        rest: {T: (...) floating point}, logsumexp(v/T) over the classes that are not in `ids`; -inf where none is left.
        classes: K.

    Example:
        >>> answer = TopKAnswer(torch.tensor([[0]]), torch.zeros(1, 1), {1.0: torch.tensor([0.0])}, classes=3)
        >>> log_probs, log_tail = answer.at(1.0)
        >>> log_probs.exp(), log_tail.exp()
        (tensor([[0.5000]]), tensor([0.5000]))
    """

    ids: Tensor
    logits: Tensor
    rest: Mapping[float, Tensor]
    classes: int

    kind: ClassVar[str] = "topk"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that dense logits would have: (..., K)."""
        return (*self.ids.shape[:-1], self.classes)

    def failed(self) -> Tensor:
        """Return where (...) the answer has NaN or +inf: bool."""
        found = self.logits.amax(-1)
        for rest in self.rest.values():
            found = torch.maximum(found, rest.to(found.dtype))
        return found.isnan() | found.isposinf()

    def at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (..., k) at a temperature, and the logarithm of the mass (...) of all other classes.

        Raises InputError for a temperature that the answer was not stored at.
        """
        if temperature not in self.rest:
            known = ", ".join(f"{each:g}" for each in sorted(self.rest))
            raise InputError(
                f"temperature: found {temperature:g}, but the top-k answers were stored at {known}, and cannot be"
                " softened exactly at another; store them at it as well (temperatures)"
            )
        scaled = self.logits.float() / temperature if self.logits.dtype != torch.float64 else self.logits / temperature
        rest = self.rest[temperature].to(scaled.dtype)
        whole = torch.logaddexp(scaled.logsumexp(-1), rest)
        return scaled - whole.unsqueeze(-1), rest - whole


@checked_fields
@dataclass(frozen=True)
class SampledAnswer:
    """Classes drawn from a teacher's softened distribution, each draw with the same weight.

    The share of the draws that a class has is an unbiased estimate of its probability, so the gradient of a
    cross-entropy with it is an unbiased estimate of the dense one.

    Attributes:
        ids: (..., n) int64, independent draws in [0, classes), with repetitions.
        temperature: that of the distribution that they were drawn from.
        entropy: (...) floating point, in nats, of that distribution.
        classes: K.

    Example:
        >>> SampledAnswer(torch.tensor([[0, 0, 2]]), 1.0, torch.tensor([0.6]), classes=3).shape
        (1, 3)

    Reference:
        Anshumann et al. (2025), "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", arXiv:2503.16870.
    """

    ids: Tensor
    temperature: float
    entropy: Tensor
    classes: int

    kind: ClassVar[str] = "sampled"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that dense logits would have: (..., K)."""
        return (*self.ids.shape[:-1], self.classes)

    def failed(self) -> Tensor:
        """Return where (...) the answer has NaN or +inf: bool."""
        return ~self.entropy.isfinite()

    def require(self, temperature: float) -> None:
        """Raise InputError for another temperature than that of the draws."""
        if temperature != self.temperature:
            raise InputError(
                f"temperature: found {temperature:g}, but the stored classes were drawn at {self.temperature:g}; draw"
                " them at the temperature of the method"
            )


Answer = TopKAnswer | SampledAnswer
