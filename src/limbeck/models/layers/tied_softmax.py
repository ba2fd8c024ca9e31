"""Vectors of tokens that are both looked up and multiplied with."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck.head import Head

__all__ = ["TiedSoftmax", "TokenEmbedding", "TokenVectors"]


class TokenVectors(Protocol):
    """What a tied softmax needs of an embedding, whatever it is made of: one matrix, or two of low rank."""

    @property
    def vectors(self) -> Tensor:
        """The matrix E (V, d)."""

    def scores(self, hidden: Tensor) -> Tensor:
        """Return E·h: (..., d) to (..., V)."""


class TokenEmbedding(nn.Embedding):
    """An embedding matrix E (V, d), which also gives the scores of a tied softmax.

    >>> embedding = TokenEmbedding(5, 3)
    >>> embedding(torch.tensor([[0, 4]])).shape, embedding.scores(torch.zeros(1, 2, 3)).shape
    (torch.Size([1, 2, 3]), torch.Size([1, 2, 5]))
    """

    @property
    def vectors(self) -> Tensor:
        """The matrix E (V, d)."""
        return self.weight

    def scores(self, hidden: Tensor) -> Tensor:
        """Return E·h: (..., d) to (..., V)."""
        return functional.linear(hidden, self.weight)


class TiedSoftmax(nn.Module):
    """The logits of a model whose softmax has the matrix of its embedding: E·(P·h + b_P) + b.

    The embedding owns the matrix and is given at each call.  The projection P is left out where the hidden state h has
    the size of the embedding.

    Args:
        hidden: the size of h.
        embedding: the size of a token's vector.
        vocabulary: V.

    Example:
        >>> embedding = TokenEmbedding(5, 3)
        >>> TiedSoftmax(4, 3, vocabulary=5)(torch.zeros(1, 2, 4), embedding).shape
        torch.Size([1, 2, 5])
    """

    def __init__(self, hidden: int, embedding: int, vocabulary: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden, embedding) if hidden != embedding else None
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Tensor, embedding: TokenVectors) -> Tensor:
        return embedding.scores(self._projected(hidden)) + self.bias

    def as_head(self, hidden: Tensor, embedding: TokenVectors) -> Head:
        """Return what the logits are made of, for the arguments of `forward`."""
        return Head(self._projected(hidden), embedding.vectors, self.bias)

    def _projected(self, hidden: Tensor) -> Tensor:
        return hidden if self.projection is None else self.projection(hidden)

    def extra_repr(self) -> str:
        """Return the size, which is no module's."""
        return f"vocabulary={len(self.bias)}"
