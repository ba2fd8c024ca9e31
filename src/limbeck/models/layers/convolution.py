"""Convolutions without bias in front of batch normalisation, initial weights, and the channel shuffle."""

import math

from torch import Tensor, nn

__all__ = ["activated", "convolution", "he_normal", "normal", "normalised", "shuffled"]


def convolution(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps height and width at stride 1.

    >>> convolution(3, 8)(torch.zeros(2, 3, 9, 9)).shape
    torch.Size([2, 8, 9, 9])
    """
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)


def normalised(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution and batch normalisation."""
    return nn.Sequential(convolution(inputs, outputs, size, stride=stride, groups=groups), nn.BatchNorm2d(outputs))


def activated(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution, batch normalisation and ReLU."""
    return normalised(inputs, outputs, size, stride=stride, groups=groups).append(nn.ReLU())


def he_normal(model: nn.Module) -> None:
    """Draw all convolutions' weights from a normal of variance 2 / (size² · outputs) (He 2015, fan-out); biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            normal(module.weight, math.sqrt(2 / (height * width * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def normal(weight: Tensor, deviation: float) -> None:
    """Draw weights from a normal around 0.

    Weights without content, of a model built for its size alone, are left: torch takes a second to get ready to draw
    such normal numbers.
    """
    if not weight.is_meta:
        nn.init.normal_(weight, std=deviation)


def shuffled(maps: Tensor, groups: int) -> Tensor:
    """Deal the channels of (N, C, H, W) out over `groups` in turn, so that groups exchange them (Zhang 2018).

    >>> shuffled(torch.arange(6.0).view(1, 6, 1, 1), 2).flatten().tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    dealt: Tensor = maps.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
    return dealt
