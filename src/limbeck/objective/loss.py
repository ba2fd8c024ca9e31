"""The loss of a batch, and what each term contributed to it."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Loss", "Part"]


@dataclass(frozen=True)
class Part:
    """What one term contributed to a loss.

    Attributes:
        sum: scalar, the sum over examples, cut off from the graph.
        count: the number of examples that the term counted.
        weight: at this step.

    Example:
        >>> import torch
        >>> Part(torch.tensor(3.0), 2, 1.0).mean
        1.5
    """

    sum: Tensor
    count: Tensor | int
    weight: float

    @property
    def mean(self) -> float:
        """The unweighted mean over what the term counted; 0 when it counted nothing."""
        return float(self.sum) / max(float(self.count), 1.0)


@dataclass
class Loss:
    """The loss of a batch.

    Attributes:
        total: scalar to differentiate.
        parts: what each term contributed, by name.

    Example:
        >>> import torch
        >>> Loss(torch.tensor(1.5), {"hard": Part(torch.tensor(3.0), 2, 1.0)}).parts["hard"].mean
        1.5
    """

    total: Tensor
    parts: dict[str, Part]
