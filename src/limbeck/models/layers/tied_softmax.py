"""Vectors of tokens that are both looked up and multiplied with: one matrix, whole or as a product of two."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck.errors import InputError

__all__ = ["FactorisedEmbedding", "TiedSoftmax", "TokenEmbedding", "TokenVectors"]


class TokenVectors(Protocol):
    """What a tied softmax needs of an embedding, whatever it is made of."""

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


class FactorisedEmbedding(nn.Module):
    """An embedding matrix E ≈ A·B of rank r: token x has the vector A[x]·B, and a tied softmax the scores A·(B·h).

    Args:
        tokens: A (V, r).
        basis: B (r, d).

    Raises:
        InputError: if the shapes do not fit.

    Example:
        >>> embedding = FactorisedEmbedding(torch.randn(5, 2), torch.randn(2, 3))
        >>> embedding(torch.tensor([[0, 4]])).shape, embedding.scores(torch.zeros(1, 2, 3)).shape
        (torch.Size([1, 2, 3]), torch.Size([1, 2, 5]))
    """

    def __init__(self, tokens: Tensor, basis: Tensor) -> None:
        super().__init__()
        if tokens.ndim != 2 or basis.ndim != 2 or tokens.shape[1] != basis.shape[0]:
            raise InputError(
                f"tokens and basis: found {tuple(tokens.shape)} and {tuple(basis.shape)}, expected (V, r) and (r, d)"
            )
        self.tokens = nn.Parameter(tokens.detach().clone())
        self.basis = nn.Parameter(basis.detach().clone())

    @property
    def vectors(self) -> Tensor:
        """The matrix A·B (V, d)."""
        return self.tokens @ self.basis

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.tokens) @ self.basis

    def scores(self, hidden: Tensor) -> Tensor:
        """Return A·(B·h): (..., d) to (..., V)."""
        return functional.linear(functional.linear(hidden, self.basis), self.tokens)

    def extra_repr(self) -> str:
        """Return the sizes, which are no module's."""
        return f"{self.tokens.shape[0]}, {self.basis.shape[1]}, rank={self.tokens.shape[1]}"


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
        if self.projection is not None:
            hidden = self.projection(hidden)
        return embedding.scores(hidden) + self.bias

    def extra_repr(self) -> str:
        """Return the size, which is no module's."""
        return f"vocabulary={len(self.bias)}"
