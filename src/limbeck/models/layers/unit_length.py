"""Classification by angle: features and class weights of unit length (Ranjan 2017, Wang 2017)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks

__all__ = ["NormalisedLinear", "UnitLength"]


class UnitLength(nn.Module):
    """Each sample's features (N, d) divided by their Euclidean norm."""

    def forward(self, features: Tensor) -> Tensor:
        return functional.normalize(features, dim=-1)


class NormalisedLinear(nn.Linear):
    """Logits scale·(w_k/‖w_k‖)·x, without bias: the weights' length does not matter.

    It is an `nn.Linear`, so what looks for a network's last linear layer finds it; `weight` holds the free vectors w_k,
    `class_vectors` the unit ones that the logits are made of.
    scale: above 0; with `learn_scale` it is where a trained parameter starts.

    >>> layer = NormalisedLinear(3, 4, scale=8.0)
    >>> torch.allclose(layer(layer.class_vectors).diagonal(), torch.full((4,), 8.0))
    True
    """

    scale: Tensor

    def __init__(self, inputs: int, classes: int, *, scale: float, learn_scale: bool = False) -> None:
        checks.positive("scale", scale)
        super().__init__(inputs, classes, bias=False)
        if learn_scale:
            self.scale = nn.Parameter(torch.tensor(float(scale)))
        else:
            self.register_buffer("scale", torch.tensor(float(scale)))

    @property
    def class_vectors(self) -> Tensor:
        """The unit vectors of the classes, (K, d)."""
        return functional.normalize(self.weight, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(features, self.class_vectors) * self.scale
