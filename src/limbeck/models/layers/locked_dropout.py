"""Dropout whose mask is the same at all time steps, and dropout of whole rows of an embedding matrix."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from limbeck import checks
from limbeck.errors import InputError

__all__ = ["LockedDropout", "RowDropout", "call_with_dropped_weights", "check_dropout"]


def check_dropout(name: str, share: float) -> None:
    """Require a share to drop, in [0, 1)."""
    checks.unit_interval(name, share)
    if share == 1:
        raise InputError(f"{name}: found 1, expected a number in [0, 1); with 1 nothing is left")


class LockedDropout(nn.Module):
    """Set features of a sequence (N, T, d) to 0 with probability p, the same ones at each time step of a sample.

    The others are multiplied by 1/(1-p).  In eval mode it changes nothing.

    >>> dropped = LockedDropout(0.5)(torch.ones(2, 3, 8))
    >>> torch.equal(dropped[:, 0], dropped[:, 2])
    True
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training or not self.p:
            return hidden
        return hidden * functional.dropout(torch.ones_like(hidden[:, :1]), self.p)

    def extra_repr(self) -> str:
        """Return the share."""
        return f"p={self.p}"


class RowDropout(nn.Module):
    """Set the vectors (N, T, d) of a share p of the vocabulary to 0, wherever its tokens stand in the batch.

    This is the embedding matrix with whole rows dropped; the others are multiplied by 1/(1-p).  In eval mode it changes
    nothing.

    >>> ids = torch.tensor([[0, 1, 0]])
    >>> dropped = RowDropout(0.5, vocabulary=2)(torch.ones(1, 3, 4), ids)
    >>> torch.equal(dropped[0, 0], dropped[0, 2])
    True
    """

    def __init__(self, p: float, vocabulary: int) -> None:
        super().__init__()
        self.p, self.vocabulary = p, vocabulary

    def forward(self, vectors: Tensor, ids: Tensor) -> Tensor:
        if not self.training or not self.p:
            return vectors
        rows = functional.dropout(vectors.new_ones(self.vocabulary), self.p)
        return vectors * rows[ids].unsqueeze(-1)

    def extra_repr(self) -> str:
        """Return the share."""
        return f"p={self.p}"


def call_with_dropped_weights(layer: nn.Module, p: float, *inputs: object) -> object:
    """Call a recurrent layer with DropConnect on its hidden-to-hidden matrices: one mask for all time steps.

    Single weights W_hh are set to 0 with probability p and the others multiplied by 1/(1-p).  The gradient reaches the
    layer's own weights, which stay as they are.  Outside of train mode nothing is dropped, nor in a layer whose
    hidden-to-hidden matrices are products of others.

    >>> layer = nn.LSTM(3, 4)
    >>> output, state = call_with_dropped_weights(layer, 0.5, torch.zeros(5, 2, 3))
    >>> output.shape
    torch.Size([5, 2, 4])

    Reference:
        Wan et al. (2013), "Regularization of Neural Networks using DropConnect"; Merity et al. (2017),
        arXiv:1708.02182, for recurrent weights.
    """
    if not layer.training or not p:
        return layer(*inputs)
    hidden = {name: each for name, each in layer.named_parameters() if name.rpartition(".")[2].startswith("weight_hh")}
    return functional_call(layer, {name: functional.dropout(each, p) for name, each in hidden.items()}, inputs)
