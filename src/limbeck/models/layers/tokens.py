"""What the networks for text share: their inputs checked, and the mean over a sequence's real tokens."""

from collections.abc import Sequence

from torch import Tensor, nn

from limbeck.errors import ModelError

__all__ = ["MeanOfTokens", "check_tokens"]


class MeanOfTokens(nn.Module):
    """The mean of hidden states (N, L, d) over the real tokens, which the mask (N, L) names: (N, d).

    >>> import torch
    >>> hidden = torch.tensor([[[1.0], [3.0], [8.0]]])
    >>> MeanOfTokens()(hidden, torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return hidden.mean(1)
        real = mask.to(hidden.dtype)[..., None]
        return (hidden * real).sum(1) / real.sum(1).clamp(min=1)


def check_tokens(
    kind: str, input_shape: int | Sequence[int], vocabulary: int, max_length: int, *, known: bool = True
) -> int:
    """Return the longest sequence of data of token ids; ModelError for other data.

    known: whether the data has to say how many token ids there are.

    >>> check_tokens("transformer", (16,), 100, 0)
    16
    """
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    if len(shape) != 1 or (known and vocabulary < 1):
        raise ModelError(
            f"kind: {kind} takes token ids (L,), and samples have shape {shape} with {vocabulary} names; use data of"
            " kind sentences or token_stream"
        )
    return max_length or shape[0]
