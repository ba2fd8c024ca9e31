"""The last linear layer of a network: what its logits are made of, in place of the logits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.errors import InputError

__all__ = ["Head", "head_behind", "head_of", "without_product"]


class Head(NamedTuple):
    """What a model's logits are made of: hidden (..., d), weight (K, d) and bias (K,) or None.

    The product is computed in the type of the hidden states.

    >>> head = Head(torch.zeros(2, 3), torch.zeros(5, 3))
    >>> head.shape, head.logits(slice(0, 2)).shape
    ((2, 5), torch.Size([2, 5]))
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the logits, (..., K)."""
        return (*self.hidden.shape[:-1], len(self.weight))

    def flat(self, name: str) -> "Head":
        """Return it with hidden (n, d); InputError where the shapes disagree."""
        hidden, weight, bias = self
        if weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
            raise InputError(
                f"{name}: found hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}, expected (..., d) and"
                " (K, d)"
            )
        if bias is not None:
            checks.shapes_match(f"{name}'s bias", bias.shape, "the weight's rows", weight.shape[:1])
        return Head(hidden.reshape(-1, hidden.shape[-1]), weight, bias)

    def logits(self, where: slice | Tensor) -> Tensor:
        """Return the logits (n, K) of some rows of a flat one."""
        product = self.hidden[where] @ self.weight.to(self.hidden.dtype).T
        return product if self.bias is None else product.add_(self.bias)

    def detach(self) -> "Head":
        """Return the same cut off from the graph."""
        return Head(self.hidden.detach(), self.weight.detach(), None if self.bias is None else self.bias.detach())

    def failed(self) -> Tensor:
        """Return where (...) the hidden states or the layer itself have NaN or an infinity: bool."""
        layer = ~self.weight.detach().isfinite().all()
        if self.bias is not None:
            layer = layer | self.bias.detach().isnan().any() | self.bias.detach().isposinf().any()
        return ~self.hidden.detach().isfinite().all(-1) | layer

    def placeholder(self) -> Tensor:
        """Return NaN in the shape of the logits, which take no memory; `head_behind` knows the very object."""
        dtype = torch.float64 if self.hidden.dtype == torch.float64 else torch.float32
        logits = torch.full((), torch.nan, dtype=dtype, device=self.hidden.device).expand(self.shape)
        logits.of_head = self  # type: ignore[attr-defined]
        return logits

    def first(self, classes: int) -> "Head":
        """Return the head of the first so many classes."""
        return Head(self.hidden, self.weight[:classes], None if self.bias is None else self.bias[:classes])


def head_behind(logits: object) -> Head | None:
    """Return the head that a placeholder stands for; None for any other tensor, also one made of a placeholder.

    >>> logits = Head(torch.zeros(2, 3), torch.zeros(5, 3)).placeholder()
    >>> head_behind(logits).first(4).shape, head_behind(logits * 2)
    ((2, 4), None)
    """
    head: Head | None = getattr(logits, "of_head", None)
    return head


def head_of(layer: nn.Module) -> Callable[..., Head] | None:
    """Return a function of a layer's inputs that gives its head; None for a layer that is not linear.

    A module that is no `nn.Linear` can be one with a method `as_head` of the arguments of its forward.

    >>> head_of(nn.Linear(3, 5))(torch.zeros(2, 3)).shape, head_of(nn.ReLU())
    ((2, 5), None)
    """
    own: Callable[..., Head] | None = getattr(layer, "as_head", None)
    if own is not None:
        return own
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward or "forward" in vars(layer):
        return None
    return lambda input: Head(input, layer.weight, layer.bias)  # noqa: A006 - as nn.Linear.forward names it


@contextmanager
def without_product(layer: nn.Module) -> Iterator[None]:
    """Let a linear layer answer with placeholders in the scope.

    >>> layer = nn.Linear(3, 5)
    >>> with without_product(layer):
    ...     answer = layer(torch.zeros(2, 3))
    >>> bool(answer.isnan().all()), head_behind(answer).shape
    (True, (2, 5))
    """
    maker = head_of(layer)
    if maker is None:
        raise TypeError(f"{type(layer).__name__} is not a linear layer")

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        hidden, weight, bias = maker(*args, **kwargs)
        device = hidden.device.type
        if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
            hidden = hidden.to(torch.get_autocast_dtype(device))
        return Head(hidden, weight, bias).placeholder()

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
